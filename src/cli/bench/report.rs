//! What came out, for people and for programs.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::load::Plan;
use super::stage::name;
use crate::cli::say::{bytes, count, grouped};
use crate::cli::table::table;

/// The percentiles shown: their names, and per cent.
const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99_9", 99.9), ("max", 100.0)];

/// See the module.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) plan: Plan,
    /// From the first measured message to the last one's arrival at the last subscriber.
    pub(super) took: Duration,
    /// From the first message of all, and the wrapping of its key, to its arrival at the last subscriber.
    pub(super) first_message: Duration,
    pub(super) published: u64,
    pub(super) delivered: u64,
    /// Microseconds.
    pub(super) latencies: Histogram<u64>,
    /// Of acknowledgements, where a rate was kept; microseconds.
    pub(super) acknowledged: Option<Histogram<u64>>,
    pub(super) stalls: u64,
    pub(super) broker: Option<Process>,
    /// This process: publishers and subscribers.
    pub(super) clients: Option<Process>,
}

/// What a process took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Process {
    pub(super) cpu: Duration,
    /// At most, bytes.
    pub(super) resident: u64,
}

impl Report {
    fn per_s(&self, messages: u64) -> f64 {
        messages as f64 / self.took.as_secs_f64().max(1e-6)
    }

    fn cpu_per_million(&self, process: Process) -> f64 {
        process.cpu.as_secs_f64() * 1e6 / (self.delivered.max(1)) as f64
    }

    pub(super) fn table(&self) -> String {
        let plan = &self.plan;
        let rate = plan.rate.map_or_else(
            || "as fast as it goes".to_owned(),
            |rate| format!("{} a second", grouped(rate.into())),
        );
        let mut lines = vec![
            format!(
                "{}, {}, {}; messages of {}, {rate}; {}",
                count(plan.publishers as u64, "publisher"),
                count(plan.subscribers as u64, "subscriber"),
                count(plan.members as u64, "member"),
                count(plan.size as u64, "byte"),
                name(plan.durability),
            ),
            String::new(),
        ];
        let flow = |what: &str, messages: u64| {
            let per_s = self.per_s(messages);
            let byte_rate = bytes((per_s * plan.size as f64) as u64);
            vec![what.to_owned(), grouped(messages), grouped(per_s as u64), format!("{byte_rate}/s")]
        };
        let flows = [flow("published", self.published), flow("delivered", self.delivered)];
        lines.extend(table(&["", " messages", " a second", " payload"], &flows));
        lines.push(format!(
            "in {:.1} s; every delivery was checked: none lost, repeated or out of order",
            self.took.as_secs_f64()
        ));
        lines.push(String::new());
        let latency = |what: &str, latencies: &Histogram<u64>| {
            let percentiles = PERCENTILES.map(|(_, of)| time(latencies.value_at_percentile(of)));
            [vec![what.to_owned()], percentiles.to_vec()].concat()
        };
        let mut latencies = vec![latency("publish to open", &self.latencies)];
        latencies.extend(self.acknowledged.as_ref().map(|of| latency("publish to acknowledged", of)));
        lines.extend(table(&["latency", " p50", " p90", " p99", " p99.9", " max"], &latencies));
        let first = time(u64::try_from(self.first_message.as_micros()).unwrap_or(u64::MAX));
        lines.push(format!(
            "first message, its key wrapped for {}: {first}",
            count(plan.members as u64, "member")
        ));
        if self.stalls > 0 {
            lines.push(format!(
                "subscribers missed a publisher's sign of life {}",
                count(self.stalls, "time")
            ));
        }
        lines.push(String::new());
        let process = |what: &str, process: Option<Process>| {
            let cells = match process {
                Some(process) => [
                    format!("{:.2} s", process.cpu.as_secs_f64()),
                    format!("{:.3} s", self.cpu_per_million(process)),
                    bytes(process.resident),
                ],
                None => ["not known", "not known", "not known"].map(str::to_owned),
            };
            [vec![what.to_owned()], cells.to_vec()].concat()
        };
        let headings = ["process", " CPU", " CPU per million deliveries", " memory at most"];
        let processes = [process("broker", self.broker), process("publishers and subscribers", self.clients)];
        lines.extend(table(&headings, &processes));
        if self.broker.is_none() {
            lines.push(
                "the broker's process is known with --broker-pid, on this machine and on Linux only".into(),
            );
        }
        lines.push(String::new());
        lines.join("\n")
    }

    pub(super) fn json(&self) -> String {
        let plan = &self.plan;
        let flow = |messages: u64| {
            let per_s = self.per_s(messages);
            json!({ "messages": messages, "per_s": per_s, "bytes_per_s": per_s * plan.size as f64 })
        };
        let process = |process: Option<Process>| match process {
            Some(used) => json!({
                "cpu_s": used.cpu.as_secs_f64(),
                "cpu_s_per_million_deliveries": self.cpu_per_million(used),
                "resident_bytes": used.resident,
            }),
            None => Value::Null,
        };
        let latency = |latencies: &Histogram<u64>| {
            let mut out: serde_json::Map<String, Value> = PERCENTILES
                .iter()
                .map(|(name, of)| ((*name).to_owned(), latencies.value_at_percentile(*of).into()))
                .collect();
            out.insert("mean".into(), latencies.mean().into());
            out
        };
        let object = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "publishers": plan.publishers,
            "subscribers": plan.subscribers,
            "size": plan.size,
            "rate": plan.rate,
            "members": plan.members,
            "durability": name(plan.durability),
            "seconds": self.took.as_secs_f64(),
            "published": flow(self.published),
            "delivered": flow(self.delivered),
            "latency_us": latency(&self.latencies),
            "acknowledged_us": self.acknowledged.as_ref().map(latency),
            "first_message_ms": self.first_message.as_secs_f64() * 1e3,
            "stalls": self.stalls,
            "broker": process(self.broker),
            "clients": process(self.clients),
        });
        format!("{object}\n")
    }
}

/// `840 µs`, `12.3 ms`, `4.56 s`.
fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sealcast_proto::policy::Durability;

    fn report() -> Report {
        let mut latencies = Histogram::new(3).unwrap();
        for us in 1..=1000 {
            latencies.record(us).unwrap();
        }
        Report {
            plan: Plan {
                publishers: 1,
                subscribers: 10,
                size: 100,
                rate: Some(1000),
                members: 12,
                durability: Durability::Memory,
                duration: Duration::from_secs(2),
            },
            took: Duration::from_secs(2),
            first_message: Duration::from_millis(12),
            published: 2_000,
            delivered: 20_000,
            acknowledged: Some(latencies.clone()),
            latencies,
            stalls: 0,
            broker: Some(Process { cpu: Duration::from_millis(50), resident: 3 << 20 }),
            clients: None,
        }
    }

    #[test]
    fn people_read_rates_and_programs_numbers() {
        let report = report();
        let table = report.table();
        for wanted in [
            "1 publisher, 10 subscribers, 12 members; messages of 100 bytes, 1,000 a second; memory",
            "delivered    20,000    10,000  976.6 KiB/s",
            "publish to open          500 µs  900 µs  990 µs  1.0 ms  1.0 ms",
            "publish to acknowledged  500 µs  900 µs  990 µs  1.0 ms  1.0 ms",
            "broker                         0.05 s                     2.500 s         3.0 MiB",
            "publishers and subscribers  not known",
        ] {
            assert!(table.contains(wanted), "{wanted} in\n{table}");
        }
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["delivered"]["per_s"], 10_000.0);
        assert_eq!(json["broker"]["cpu_s_per_million_deliveries"], 2.5);
        assert_eq!((&json["latency_us"]["p99"], &json["acknowledged_us"]["p50"]), (&990.into(), &500.into()));
        assert!(json["clients"].is_null());
    }

    #[test]
    fn times_are_written_for_people() {
        assert_eq!([time(840), time(12_300), time(4_560_000)], ["840 µs", "12.3 ms", "4.56 s"]);
    }
}
