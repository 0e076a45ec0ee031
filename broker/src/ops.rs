//! The operations listener: HTTP on an address of its own, for those who run the broker.
//!
//! ```text
//! GET /healthz   200 while the process lives
//! GET /readyz    200 if everything is taken, else 503 and why: starting, draining, disk full, storage failed
//! GET /metrics   Prometheus' text format              (METRICS)
//! GET /topics    topics, publishers, subscribers, connections, in JSON  (BrokerStatus)
//! ```
//! Off unless it is asked for: it shows who talks to whom, and on loopback every account of the machine may ask. It never
//! shows a payload or a key: the broker has neither.

mod http;
pub(crate) mod metrics;
pub(crate) mod report;
mod socket;
mod status;

pub use self::metrics::{METRICS, Metric};
pub use self::status::{
    BrokerStatus, ConnectionStatus, MOST, PublisherStatus, SubscriberStatus, TopicStatus,
};
pub(crate) use http::Ops;
