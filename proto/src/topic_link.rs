//! Links: where a broker is and which key it has, and which topic.
//!
//! ```text
//! sealcast://host[:port][,host[:port]…]?broker=<seal1…>[&broker=<seal1…>]               a broker
//! sealcast://host[:port][,host[:port]…]/<topic id>?broker=<seal1…>[&broker=<seal1…>]    a topic
//! ```
//! Several hosts are tried in turn; each must prove to hold one of the keys. IPv6 addresses stand in brackets.

use std::fmt;
use std::str::FromStr;

use crate::identity::{KeyError, PublicKey};
use crate::ids::{IdError, TopicId};
use crate::limits::DEFAULT_PORT;

const SCHEME: &str = "sealcast://";
const MAX_HOSTS: usize = 64;

/// A link that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// Another scheme, or no link at all.
    #[error("a link begins with sealcast://")]
    Scheme,
    /// No host, a bad port, or too many hosts.
    #[error("the link's host {0:?} is not host[:port]")]
    Host(String),
    /// No `broker=` key.
    #[error("the link names no broker key (…?broker=seal1…): was it cut off?")]
    NoKey,
    /// Something else after `?`.
    #[error("the link has an unknown part {0:?}")]
    Parameter(String),
    /// A broker key that cannot be read.
    #[error("the link's broker key cannot be read: {0}")]
    Key(#[from] KeyError),
    /// A topic id that cannot be read.
    #[error("the link's topic id cannot be read: {0}")]
    Topic(#[from] IdError),
    /// A topic link was needed.
    #[error("this link names a broker but no topic")]
    NoTopic,
    /// A broker link was needed.
    #[error("this link names a topic; a broker's link is needed here")]
    HasTopic,
}

/// Where a broker is and which keys prove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerLink {
    hosts: Vec<(String, u16)>,
    keys: Vec<PublicKey>,
}

impl BrokerLink {
    /// A link of at least one host and one key.
    pub fn new(hosts: Vec<(String, u16)>, keys: Vec<PublicKey>) -> Result<Self, LinkError> {
        if hosts.is_empty() || hosts.len() > MAX_HOSTS {
            return Err(LinkError::Host(String::new()));
        }
        if keys.is_empty() || keys.len() > MAX_HOSTS {
            return Err(LinkError::NoKey);
        }
        Ok(Self { hosts, keys })
    }

    /// Hosts (names or addresses, IPv6 without brackets) and ports, to be tried in turn.
    pub fn hosts(&self) -> &[(String, u16)] {
        &self.hosts
    }

    /// The keys of which a host must hold one.
    pub fn keys(&self) -> &[PublicKey] {
        &self.keys
    }

    fn parse(text: &str) -> Result<(Self, Option<TopicId>), LinkError> {
        let rest = text.trim().strip_prefix(SCHEME).ok_or(LinkError::Scheme)?;
        let (path, query) = rest.split_once('?').ok_or(LinkError::NoKey)?;
        let (hosts, topic) = match path.split_once('/') {
            None | Some((_, "")) => (path.trim_end_matches('/'), None),
            Some((hosts, topic)) => (hosts, Some(topic.parse()?)),
        };
        let hosts = hosts.split(',').map(parse_host).collect::<Result<Vec<_>, _>>()?;
        let mut keys = Vec::new();
        for part in query.split('&') {
            match part.split_once('=') {
                Some(("broker", key)) => keys.push(key.parse()?),
                _ => return Err(LinkError::Parameter(part.into())),
            }
        }
        Ok((Self::new(hosts, keys)?, topic))
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, topic: Option<&TopicId>) -> fmt::Result {
        f.write_str(SCHEME)?;
        for (i, (host, port)) in self.hosts.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "," })?;
            if host.contains(':') {
                write!(f, "[{host}]")?
            } else {
                f.write_str(host)?
            }
            write!(f, ":{port}")?;
        }
        if let Some(topic) = topic {
            write!(f, "/{topic}")?;
        }
        for (i, key) in self.keys.iter().enumerate() {
            write!(f, "{}broker={key}", if i == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

fn parse_host(text: &str) -> Result<(String, u16), LinkError> {
    let bad = || LinkError::Host(text.into());
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(bad)?;
        (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(bad)?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(bad());
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?,
    };
    Ok((host.into(), port))
}

impl fmt::Display for BrokerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, None)
    }
}

impl FromStr for BrokerLink {
    type Err = LinkError;
    fn from_str(text: &str) -> Result<Self, LinkError> {
        match Self::parse(text)? {
            (link, None) => Ok(link),
            (_, Some(_)) => Err(LinkError::HasTopic),
        }
    }
}

/// A broker and a topic: with a private key, enough to subscribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicLink {
    /// Where its broker is.
    pub broker: BrokerLink,
    /// Which topic.
    pub topic: TopicId,
}

impl fmt::Display for TopicLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.broker.write(f, Some(&self.topic))
    }
}

impl FromStr for TopicLink {
    type Err = LinkError;
    fn from_str(text: &str) -> Result<Self, LinkError> {
        match BrokerLink::parse(text)? {
            (broker, Some(topic)) => Ok(Self { broker, topic }),
            (_, None) => Err(LinkError::NoTopic),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[test]
    fn links_round_trip() {
        let key = Identity::from_seed(&[1; 32]).public();
        let hosts = vec![("a.example".into(), 7443), ("::1".into(), 9)];
        let broker = BrokerLink::new(hosts, vec![key]).unwrap();
        assert_eq!(broker.to_string().parse::<BrokerLink>().unwrap(), broker);
        let topic = TopicLink { broker, topic: TopicId([7; 32]) };
        assert_eq!(topic.to_string().parse::<TopicLink>().unwrap(), topic);
    }

    #[test]
    fn a_missing_port_is_the_default() {
        let key = Identity::from_seed(&[1; 32]).public();
        let link: BrokerLink = format!("sealcast://[::1],host?broker={key}").parse().unwrap();
        assert_eq!(link.hosts(), [("::1".into(), 7443), ("host".into(), 7443)]);
    }

    #[test]
    fn truncated_links_are_refused() {
        let key = Identity::from_seed(&[1; 32]).public();
        let link = TopicLink {
            broker: BrokerLink::new(vec![("h".into(), 1)], vec![key]).unwrap(),
            topic: TopicId([7; 32]),
        };
        let text = link.to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<TopicLink>().is_err(), "{}", &text[..end]);
        }
    }
}
