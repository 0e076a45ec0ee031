//! What is shown of a broker's answer: a row a topic, rates from two answers.

use std::cmp::Reverse;
use std::collections::HashMap;

use sealcast_broker::ops::{BrokerStatus, TopicStatus};
use serde::Serialize;

use crate::cli::say::{bytes, clean, count, grouped};
use crate::cli::times::span;

/// Above the columns of [`Row::cells`].
pub(super) const HEADINGS: [&str; 11] = [
    "topic",
    "name",
    " records/s",
    " in/s",
    " out/s",
    " records",
    " size",
    " members",
    " publishers",
    " subscribers",
    " max lag",
];

/// What topics are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    Traffic,
    Lag,
    Subscribers,
    Size,
    Name,
}

impl Sort {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::Lag => "lag",
            Self::Subscribers => "subscribers",
            Self::Size => "size",
            Self::Name => "name",
        }
    }
}

/// One topic. Rates are per second; `None`: there was nothing to compare with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) records_per_s: Option<f64>,
    pub(super) in_bytes_per_s: Option<f64>,
    pub(super) out_bytes_per_s: Option<f64>,
    /// Records retained, a count.
    pub(super) records: u64,
    /// Bytes of them.
    pub(super) bytes: u64,
    pub(super) members: usize,
    /// With a stream open now, a count.
    pub(super) publishing: usize,
    pub(super) subscribers: usize,
    /// The greatest lag, records.
    pub(super) max_lag: u64,
}

/// The rows of an answer, sorted.
pub(super) fn topics(
    now: &BrokerStatus,
    before: Option<&BrokerStatus>,
    sort: Sort,
    reversed: bool,
) -> Vec<Row> {
    // After a restart the counters began anew.
    let before = before.filter(|before| before.started_ms == now.started_ms && before.time_ms < now.time_ms);
    #[allow(clippy::cast_precision_loss)] // A rate of more than 2⁵³ a second is not to be expected.
    let seconds = before.map(|before| (now.time_ms - before.time_ms) as f64 / 1000.0);
    let held: HashMap<&str, &TopicStatus> =
        before.iter().flat_map(|before| &before.topics).map(|topic| (topic.id.as_str(), topic)).collect();
    let mut rows: Vec<Row> = now
        .topics
        .iter()
        .map(|topic| {
            let held = held.get(topic.id.as_str());
            // A topic that was not there had none; one that was not listed, of thousands, had the least.
            #[allow(clippy::cast_precision_loss)]
            let rate = |of: fn(&TopicStatus) -> u64| {
                let more = of(topic).saturating_sub(held.map_or(0, |held| of(held)));
                seconds.map(|seconds| more as f64 / seconds)
            };
            Row {
                id: topic.id.clone(),
                name: topic.name.clone(),
                records_per_s: rate(|topic| topic.records_total),
                in_bytes_per_s: rate(|topic| topic.bytes_total),
                out_bytes_per_s: rate(|topic| topic.delivered_bytes_total),
                records: topic.head.saturating_sub(topic.first),
                bytes: topic.bytes,
                members: topic.members,
                publishing: topic.publishers.iter().filter(|publisher| publisher.streams > 0).count(),
                subscribers: topic.subscribers_total,
                max_lag: topic.subscribers.iter().map(|subscriber| subscriber.lag).max().unwrap_or(0),
            }
        })
        .collect();
    rows.sort_by(|one, other| one.name.cmp(&other.name).then_with(|| one.id.cmp(&other.id)));
    match sort {
        Sort::Traffic => {
            let traffic = |row: &Row| row.in_bytes_per_s.unwrap_or(0.0) + row.out_bytes_per_s.unwrap_or(0.0);
            rows.sort_by(|one, other| traffic(other).total_cmp(&traffic(one)));
        }
        Sort::Lag => rows.sort_by_key(|row| Reverse(row.max_lag)),
        Sort::Subscribers => rows.sort_by_key(|row| Reverse(row.subscribers)),
        Sort::Size => rows.sort_by_key(|row| Reverse(row.bytes)),
        Sort::Name => {}
    }
    if reversed {
        rows.reverse();
    }
    rows
}

impl Row {
    /// As under [`HEADINGS`].
    pub(super) fn cells(&self) -> Vec<String> {
        let n = |n: usize| grouped(u64::try_from(n).unwrap_or(u64::MAX));
        vec![
            self.id.chars().take(8).collect(),
            clean(&self.name),
            rate(self.records_per_s),
            byte_rate(self.in_bytes_per_s),
            byte_rate(self.out_bytes_per_s),
            grouped(self.records),
            bytes(self.bytes),
            n(self.members),
            n(self.publishing),
            n(self.subscribers),
            grouped(self.max_lag),
        ]
    }
}

/// All topics together.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Totals {
    records_per_s: Option<f64>,
    in_bytes_per_s: Option<f64>,
    out_bytes_per_s: Option<f64>,
}

impl Totals {
    pub(super) fn of(rows: &[Row]) -> Self {
        let sum = |of: fn(&Row) -> Option<f64>| rows.iter().map(of).sum::<Option<f64>>();
        Self {
            records_per_s: sum(|row| row.records_per_s),
            in_bytes_per_s: sum(|row| row.in_bytes_per_s),
            out_bytes_per_s: sum(|row| row.out_bytes_per_s),
        }
    }

    pub(super) fn line(&self) -> String {
        let (records, into) = (rate(self.records_per_s), byte_rate(self.in_bytes_per_s));
        format!("{records} records/s, {into}/s in, {}/s out", byte_rate(self.out_bytes_per_s))
    }
}

/// The broker in a line.
pub(super) fn headline(now: &BrokerStatus) -> String {
    let ready = match &now.why_not_ready {
        None => "ready".to_owned(),
        Some(why) => format!("NOT READY: {}", clean(why)),
    };
    let up_s = now.time_ms.saturating_sub(now.started_ms) / 1000;
    let n = |n: usize, one| count(u64::try_from(n).unwrap_or(u64::MAX), one);
    let key: String = clean(&now.key).chars().take(12).collect();
    format!(
        "sealcast {} {key}, {ready}, up {}, {}, {}",
        clean(&now.version),
        span(up_s.saturating_mul(1000)),
        n(now.connections_total, "connection"),
        n(now.topics_total, "topic"),
    )
}

/// `0.5`, `12.3`, `1,234`; `–` where it is not known.
fn rate(rate: Option<f64>) -> String {
    match rate {
        None => "–".into(),
        Some(rate) if rate < 100.0 => format!("{rate:.1}"),
        Some(rate) => grouped(whole(rate)),
    }
}

fn byte_rate(rate: Option<f64>) -> String {
    rate.map_or("–".into(), |rate| bytes(whole(rate)))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Saturates, and rates are not negative.
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

/// `--json`: the broker's answer, and what follows from two of them.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    #[serde(flatten)]
    now: &'a BrokerStatus,
    rates: &'a [Row],
}

impl<'a> Shown<'a> {
    pub(super) fn new(now: &'a BrokerStatus, rates: &'a [Row]) -> Self {
        Self { now, rates }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use sealcast_broker::ops::{ConnectionStatus, PublisherStatus, SubscriberStatus};

    use super::*;

    pub(crate) fn topic(id: &str, name: &str, total: u64, lag: u64) -> TopicStatus {
        let publisher = PublisherStatus {
            identity: "seal1publisher".into(),
            epoch: Some(7),
            epoch_offset: Some(1),
            epoch_time_ms: Some(60_000),
            batches: 3,
            last_offset: Some(9),
            streams: 1,
        };
        let subscriber = SubscriberStatus {
            identity: "seal1reader".into(),
            since_ms: 60_000,
            position: 10 - lag,
            lag,
            delivered_bytes: 5_000,
        };
        TopicStatus {
            id: id.into(),
            name: name.into(),
            owner: "seal1owner".into(),
            head: 10,
            first: 2,
            bytes: total,
            records_total: total / 100,
            bytes_total: total,
            delivered_bytes_total: 2 * total,
            roster_seq: 1,
            members: 3,
            publishers: vec![publisher],
            subscribers_total: 1,
            subscribers: vec![subscriber],
        }
    }

    pub(crate) fn broker(time_ms: u64, topics: Vec<TopicStatus>) -> BrokerStatus {
        let connection = ConnectionStatus {
            identity: "seal1reader".into(),
            from: "127.0.0.1:5000".into(),
            agent: "sealcast/0.1.0".into(),
            since_ms: 60_000,
            streams: 2,
            rtt_us: 250,
        };
        BrokerStatus {
            time_ms,
            started_ms: 60_000,
            version: "0.1.0".into(),
            key: "seal1brokerkey".into(),
            ready: true,
            why_not_ready: None,
            connections_total: 1,
            connections: vec![connection],
            topics_total: topics.len(),
            topics,
        }
    }

    #[test]
    fn rates_are_differences_over_the_brokers_time() {
        let before = broker(100_000, vec![topic("aa", "old", 1_000, 0)]);
        let now = broker(102_000, vec![topic("aa", "old", 5_000, 4), topic("bb", "new", 200, 0)]);
        let rows = topics(&now, Some(&before), Sort::Name, false);
        let rates: Vec<_> = rows
            .iter()
            .map(|row| (row.id.as_str(), row.records_per_s, row.in_bytes_per_s, row.out_bytes_per_s))
            .collect();
        assert_eq!(
            rates,
            [("bb", Some(1.0), Some(100.0), Some(200.0)), ("aa", Some(20.0), Some(2_000.0), Some(4_000.0))]
        );
        assert_eq!((rows[1].records, rows[1].publishing, rows[1].max_lag), (8, 1, 4));
        assert_eq!(Totals::of(&rows).line(), "21.0 records/s, 2.1 KiB/s in, 4.1 KiB/s out");
        // Nothing to compare with, the same instant, or another start: no rates.
        let restarted = BrokerStatus { started_ms: 101_000, ..now.clone() };
        for (now, before) in [(&now, None), (&now, Some(&now)), (&restarted, Some(&before))] {
            let rows = topics(now, before, Sort::Name, false);
            assert!(rows.iter().all(|row| row.records_per_s.is_none()));
            assert_eq!(Totals::of(&rows).line(), "– records/s, –/s in, –/s out");
        }
    }

    #[test]
    fn topics_are_sorted() {
        let before = broker(100_000, vec![]);
        let all = vec![topic("aa", "x", 900, 1), topic("bb", "z", 300, 5), topic("cc", "y", 600, 0)];
        let now = broker(101_000, all);
        let order = |sort, reversed| {
            let rows = topics(&now, Some(&before), sort, reversed);
            rows.into_iter().map(|row| row.id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(Sort::Traffic, false), "aa cc bb");
        assert_eq!(order(Sort::Traffic, true), "bb cc aa");
        assert_eq!(order(Sort::Lag, false), "bb aa cc");
        assert_eq!(order(Sort::Size, false), "aa cc bb");
        assert_eq!(order(Sort::Name, false), "aa cc bb");
        assert_eq!(order(Sort::Subscribers, false), "aa cc bb");
    }

    #[test]
    fn a_broker_in_a_line() {
        let mut now = broker(3_720_000 + 60_000, vec![topic("aa", "a\u{1b}[2J", 0, 0)]);
        assert_eq!(headline(&now), "sealcast 0.1.0 seal1brokerk, ready, up 1h2m, 1 connection, 1 topic");
        now.why_not_ready = Some("disk full".into());
        assert!(headline(&now).contains("NOT READY: disk full"));
        // No escape sequence of a topic's owner reaches the terminal.
        let rows = topics(&now, None, Sort::Name, false);
        assert_eq!(rows[0].cells()[1], "a [2J");
    }
}
