//! Links as arguments.

use clap::{Args, value_parser};
use sealcast_link::LinkOptions;
use sealcast_proto::{BrokerLink, TopicLink};

use super::failure::Failure;

/// Which topic.
#[derive(Debug, Args)]
pub(crate) struct TopicArg {
    /// The topic's link: sealcast://HOST:PORT/TOPIC?broker=KEY, in quotes
    #[arg(value_name = "LINK", env = "SEALCAST_LINK")]
    link: Option<String>,
}

impl TopicArg {
    pub(crate) fn read(&self) -> Result<TopicLink, Failure> {
        topic_link(self.link.as_deref())
    }
}

/// Which broker.
#[derive(Debug, Args)]
pub(crate) struct BrokerArg {
    /// The broker's link: sealcast://HOST:PORT?broker=KEY, in quotes
    #[arg(long = "broker", value_name = "LINK", env = "SEALCAST_BROKER")]
    broker: Option<String>,
}

impl BrokerArg {
    pub(crate) fn read(&self) -> Result<BrokerLink, Failure> {
        let text = self.broker.as_deref().ok_or_else(|| {
            Failure::usage("which broker? --broker LINK is missing")
                .hint("`sealcast broker` prints its link; SEALCAST_BROKER can hold it too")
        })?;
        Ok(text.parse()?)
    }
}

/// How to get there.
#[derive(Debug, Args)]
pub(crate) struct PathArg {
    /// Largest UDP payload to try on the way to the broker: 1452 fits Ethernet; more on a jumbo network only, and at the
    /// broker too
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = LinkOptions::default().max_udp_payload,
        value_parser = value_parser!(u16).range(1200..=65_527),
        env = "SEALCAST_MAX_UDP_PAYLOAD"
    )]
    max_udp_payload: u16,
}

impl PathArg {
    pub(crate) fn options(&self) -> LinkOptions {
        LinkOptions { max_udp_payload: self.max_udp_payload, ..LinkOptions::default() }
    }
}

/// Reads a topic's link, or says how to give one.
pub(crate) fn topic_link(text: Option<&str>) -> Result<TopicLink, Failure> {
    let text = text.ok_or_else(|| {
        Failure::usage("which topic? its link is missing")
            .hint("`sealcast topic create` printed it; SEALCAST_LINK can hold it too")
    })?;
    Ok(text.parse()?)
}
