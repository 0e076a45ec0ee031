//! What `GET /metrics` answers: counters that the broker keeps as it works, and what is read off when somebody asks.
//!
//! Each broker has a recorder of its own, so that two in one process do not add up. Topic ids, identities and addresses
//! are no labels: they would tell whoever reads the monitoring who talks to whom, and their number has no bound. Topic
//! ids may be switched on (`topic_labels`).

use std::time::Duration;

use metrics::{Counter, Key, Label, Level, Metadata, Recorder as _, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use sealcast_proto::frame::Code;

use crate::clock::now_ms;
use crate::shared::Shared;

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Whether it only rises while the broker runs.
    pub is_counter: bool,
    /// Its label and that label's values; empty: it has none. `topic`: any topic id.
    pub label: Option<(&'static str, &'static [&'static str])>,
    /// What it says, with its unit.
    pub help: &'static str,
}

const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, is_counter: true, label: None, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, is_counter: false, label: None, help }
}

/// What a stream is for.
pub(crate) const STREAMS: [&str; 5] = ["publish", "subscribe", "watch", "upload", "request"];
/// How a connection attempt ended.
pub(crate) const ATTEMPTS: [&str; 5] = ["established", "failed", "refused", "no_hello", "turned_away"];
/// Refusals by code.
pub(crate) const CODES: [(Code, &str); 13] = [
    (Code::Malformed, "malformed"),
    (Code::NotAllowed, "not_allowed"),
    (Code::StaleEpoch, "stale_epoch"),
    (Code::Conflict, "conflict"),
    (Code::OutOfOrder, "out_of_order"),
    (Code::Superseded, "superseded"),
    (Code::RosterConflict, "roster_conflict"),
    (Code::RosterRule, "roster_rule"),
    (Code::NoTable, "no_table"),
    (Code::Busy, "busy"),
    (Code::ReadOnly, "read_only"),
    (Code::Draining, "draining"),
    (Code::Version, "version"),
];
const CODE_NAMES: [&str; 13] = {
    let mut names = [""; 13];
    let mut at = 0;
    #[allow(clippy::indexing_slicing)] // Evaluated when the broker is built.
    while at < names.len() {
        names[at] = CODES[at].1;
        at += 1;
    }
    names
};

/// Every metric.
pub const METRICS: &[Metric] = &[
    Metric {
        label: Some(("version", &[env!("CARGO_PKG_VERSION")])),
        ..gauge("sealcast_broker_info", "1; the label says which version runs.")
    },
    gauge("sealcast_ready", "1 if /readyz says yes, else 0."),
    gauge("sealcast_start_time_seconds", "When the broker started, seconds since 1970."),
    gauge("sealcast_resident_memory_bytes", "Memory of the process, bytes."),
    gauge("sealcast_disk_free_bytes", "Bytes free for the broker on the disk of its data directory."),
    gauge("sealcast_connections", "Clients connected, a count."),
    Metric {
        label: Some(("result", &ATTEMPTS)),
        ..counter("sealcast_connection_attempts_total", "Connection attempts by how they ended, a count.")
    },
    Metric {
        label: Some(("kind", &STREAMS)),
        ..counter("sealcast_streams_total", "Streams opened by what they are for, a count.")
    },
    Metric {
        label: Some(("code", &CODE_NAMES)),
        ..counter("sealcast_refusals_total", "Streams and connections refused by code, a count.")
    },
    counter(
        "sealcast_stalled_total",
        "Streams cut off because their reader took nothing for `stall`, a count.",
    ),
    counter(
        "sealcast_throttled_microseconds_total",
        "Time for which publishers were made to wait by publish_rate, microseconds.",
    ),
    gauge("sealcast_topics", "Topics, a count."),
    gauge("sealcast_subscriptions", "Subscriptions open, a count."),
    gauge("sealcast_publish_streams", "Publish streams open, a count."),
    gauge("sealcast_max_lag_records", "The greatest lag of a subscription, records."),
    gauge("sealcast_log_bytes", "Bytes of records retained, all topics."),
    gauge(
        "sealcast_log_records",
        "Records retained, all topics, a count (offsets from the first to the head).",
    ),
    counter(
        "sealcast_records_total",
        "Records taken, a count; a record is a batch of messages, a header or a roster entry.",
    ),
    counter("sealcast_record_bytes_total", "Bytes of the batches among them."),
    counter("sealcast_delivered_bytes_total", "Bytes delivered to subscribers, frames included."),
    counter("sealcast_commit_groups_total", "Groups written to the log, a count; each is one fsync."),
    counter("sealcast_commit_submissions_total", "Submissions in them, a count."),
    counter("sealcast_commit_bytes_total", "Bytes in them."),
    counter("sealcast_commit_busy_microseconds_total", "Time spent writing and syncing, microseconds."),
    counter("sealcast_retention_records_total", "Records removed by retention, a count."),
    Metric {
        label: Some(("topic", &[])),
        ..counter("sealcast_topic_records_total", "Records taken by topic, a count; with topic_labels only.")
    },
    Metric {
        label: Some(("topic", &[])),
        ..counter("sealcast_topic_record_bytes_total", "Their bytes by topic; with topic_labels only.")
    },
    Metric {
        label: Some(("topic", &[])),
        ..gauge("sealcast_topic_log_bytes", "Bytes of records retained by topic; with topic_labels only.")
    },
    Metric {
        label: Some(("topic", &[])),
        ..gauge(
            "sealcast_topic_max_lag_records",
            "The greatest lag of a subscription by topic, records; with topic_labels only.",
        )
    },
];

/// A broker's metrics.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    started_ms: u64,
    stalled: Counter,
    throttled: Counter,
    trimmed: Counter,
    attempts: [Counter; ATTEMPTS.len()],
    streams: [Counter; STREAMS.len()],
    refusals: [Counter; CODES.len()],
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for metric in METRICS {
            let unit: Option<Unit> = None;
            match metric.is_counter {
                true => recorder.describe_counter(metric.name.into(), unit, metric.help.into()),
                false => recorder.describe_gauge(metric.name.into(), unit, metric.help.into()),
            }
        }
        let one = |name| count(&recorder, name, None);
        let by = |name, label, value| count(&recorder, name, Some((label, value)));
        Self {
            started_ms: now_ms(),
            throttled: one("sealcast_throttled_microseconds_total"),
            stalled: one("sealcast_stalled_total"),
            trimmed: one("sealcast_retention_records_total"),
            attempts: ATTEMPTS.map(|result| by("sealcast_connection_attempts_total", "result", result)),
            streams: STREAMS.map(|kind| by("sealcast_streams_total", "kind", kind)),
            refusals: CODES.map(|(_, name)| by("sealcast_refusals_total", "code", name)),
            recorder,
        }
    }

    /// When the broker started, milliseconds since 1970.
    pub(crate) fn started_ms(&self) -> u64 {
        self.started_ms
    }

    pub(crate) fn stalled(&self) {
        self.stalled.increment(1);
    }

    pub(crate) fn throttled(&self, wait: Duration) {
        self.throttled.increment(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn trimmed(&self, records: u64) {
        self.trimmed.increment(records);
    }

    /// One of [`ATTEMPTS`].
    pub(crate) fn attempt(&self, result: &str) {
        add(&ATTEMPTS, &self.attempts, result);
    }

    /// One of [`STREAMS`].
    pub(crate) fn stream(&self, kind: &str) {
        add(&STREAMS, &self.streams, kind);
    }

    pub(crate) fn refused(&self, code: Code) {
        if let Some((_, name)) = CODES.iter().find(|(known, _)| *known == code) {
            add(&CODE_NAMES, &self.refusals, name);
        }
    }

    /// Everything in Prometheus' text format. May wait for the disk's directory, not for its data.
    pub(crate) fn render(&self, shared: &Shared) -> String {
        let set = |name, value: f64| gauge_of(&self.recorder, name, None, value);
        let read = |name, value| count(&self.recorder, name, None).absolute(value);
        let version = Some(("version", env!("CARGO_PKG_VERSION")));
        gauge_of(&self.recorder, "sealcast_broker_info", version, 1.0);
        set("sealcast_ready", if shared.why_not_ready().is_none() { 1.0 } else { 0.0 });
        #[allow(clippy::cast_precision_loss)] // Prometheus' numbers are 64-bit floats.
        let float = |n: u64| n as f64;
        let size = |n: usize| float(u64::try_from(n).unwrap_or(u64::MAX));
        set("sealcast_start_time_seconds", float(self.started_ms) / 1000.0);
        if let Some(bytes) = resident_bytes() {
            set("sealcast_resident_memory_bytes", float(bytes));
        }
        if let Some(bytes) = shared.disk_free() {
            set("sealcast_disk_free_bytes", float(bytes));
        }
        set("sealcast_connections", size(shared.clients.len()));
        let (mut sum, mut records, mut bytes, mut delivered) = (Sum::default(), 0, 0, 0);
        let topics = shared.registry.topics();
        for topic in &topics {
            let one = Sum::of(topic, shared);
            let (taken, taken_bytes) = topic.taken();
            records += taken;
            bytes += taken_bytes;
            delivered += topic.delivered();
            if shared.topic_labels() {
                let id = topic.id().to_string();
                let label = Some(("topic", id.as_str()));
                count(&self.recorder, "sealcast_topic_records_total", label).absolute(taken);
                count(&self.recorder, "sealcast_topic_record_bytes_total", label).absolute(taken_bytes);
                gauge_of(&self.recorder, "sealcast_topic_log_bytes", label, float(one.bytes));
                gauge_of(&self.recorder, "sealcast_topic_max_lag_records", label, float(one.max_lag));
            }
            sum.add(&one);
        }
        set("sealcast_topics", size(topics.len()));
        set("sealcast_subscriptions", size(sum.subscriptions));
        set("sealcast_publish_streams", size(sum.publish_streams));
        set("sealcast_max_lag_records", float(sum.max_lag));
        set("sealcast_log_bytes", float(sum.bytes));
        set("sealcast_log_records", float(sum.records));
        read("sealcast_records_total", records);
        read("sealcast_record_bytes_total", bytes);
        read("sealcast_delivered_bytes_total", delivered);
        let commit = shared.storage.commit.stats();
        read("sealcast_commit_groups_total", commit.groups);
        read("sealcast_commit_submissions_total", commit.submissions);
        read("sealcast_commit_bytes_total", commit.bytes);
        read("sealcast_commit_busy_microseconds_total", commit.busy_us);
        self.recorder.handle().render()
    }
}

#[derive(Default)]
struct Sum {
    subscriptions: usize,
    publish_streams: usize,
    max_lag: u64,
    bytes: u64,
    records: u64,
}

impl Sum {
    fn of(topic: &crate::handle::Topic, shared: &Shared) -> Self {
        let head = topic.head();
        let followers = topic.followers.all();
        let bounds = shared.storage.reads.log().bounds(&topic.id()).unwrap_or_default();
        Self {
            subscriptions: followers.len(),
            publish_streams: topic.feeds.len(),
            max_lag: followers.iter().map(|follower| follower.lag(head)).max().unwrap_or(0),
            bytes: bounds.bytes,
            records: head.0.saturating_sub(bounds.first.0),
        }
    }

    fn add(&mut self, one: &Self) {
        self.subscriptions += one.subscriptions;
        self.publish_streams += one.publish_streams;
        self.max_lag = self.max_lag.max(one.max_lag);
        self.bytes += one.bytes;
        self.records += one.records;
    }
}

fn add(names: &[&str], counters: &[Counter], name: &str) {
    let found = names.iter().zip(counters).find(|(known, _)| **known == name);
    if let Some((_, counter)) = found {
        counter.increment(1);
    }
}

fn count(recorder: &PrometheusRecorder, name: &'static str, label: Option<(&'static str, &str)>) -> Counter {
    recorder.register_counter(&key(name, label), &METADATA)
}

fn gauge_of(
    recorder: &PrometheusRecorder,
    name: &'static str,
    label: Option<(&'static str, &str)>,
    value: f64,
) {
    recorder.register_gauge(&key(name, label), &METADATA).set(value);
}

fn key(name: &'static str, label: Option<(&'static str, &str)>) -> Key {
    let labels = label.map(|(label, value)| Label::new(label, value.to_owned()));
    Key::from_parts(name, labels.into_iter().collect::<Vec<_>>())
}

static METADATA: Metadata<'static> = Metadata::new("sealcast_broker", Level::INFO, None);

/// From Linux's `/proc`; elsewhere nothing.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
