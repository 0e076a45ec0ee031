//! Where things stand in the cluster: addresses, streams, subjects.

use std::path::PathBuf;

use sealcast_proto::{PublicKey, TopicId};

use super::{Kind, PARTITIONS};

/// The servers of a cluster: `nats://HOST:PORT`, several with commas; `tls://` where the hop is to be encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Servers(Vec<String>);

impl Servers {
    /// Reads them; else says what they should be.
    pub fn read(text: &str) -> Result<Self, String> {
        let bad = || "a cluster is written nats://10.0.0.1:4222,10.0.0.2:4222 or tls://…".to_owned();
        let mut scheme = None;
        let mut servers = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (own, host) = match part.split_once("://") {
                Some((own, host)) => (Some(own), host),
                None => (None, part),
            };
            // The first one's scheme holds for those after it that name none.
            scheme = own.or(scheme);
            let scheme = scheme.filter(|scheme| matches!(*scheme, "nats" | "tls")).ok_or_else(bad)?;
            if host.contains('@') {
                return Err("credentials stand in a file: store_auth".into());
            }
            let may = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
            if host.is_empty() || !host.chars().all(may) {
                return Err(bad());
            }
            servers.push(format!("{scheme}://{host}"));
        }
        Ok(Self(servers))
    }

    /// One URL each.
    pub fn urls(&self) -> &[String] {
        &self.0
    }
}

impl std::fmt::Display for Servers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// How to reach a cluster, and what is asked of it.
#[derive(Debug, Clone)]
pub(crate) struct StoreOptions {
    pub(crate) servers: Servers,
    /// Copies of each stream, a count.
    pub(crate) replicas: u32,
    /// `user:password`, or a token.
    pub(crate) auth: Option<PathBuf>,
    /// Certificates of the authority that signs the servers', PEM; the system's unless given.
    pub(crate) ca: Option<PathBuf>,
    /// One's own certificate and its key, PEM.
    pub(crate) certificate: Option<(PathBuf, PathBuf)>,
}

impl StoreOptions {
    /// Whether nobody on the way may listen: whoever names a certificate does not mean to talk in the clear.
    pub(super) fn is_encrypted(&self) -> bool {
        let tls = self.servers.urls().iter().any(|url| url.starts_with("tls://"));
        tls || self.ca.is_some() || self.certificate.is_some()
    }
}

/// Where an owner's prekeys stand: they belong to no topic.
pub(crate) fn prekeys_of(owner: &PublicKey) -> TopicId {
    TopicId(*owner.as_bytes())
}

/// In which stream a topic stands.
pub(crate) fn partition(topic: &TopicId) -> u16 {
    // A topic's id is a hash: its first byte is as good as all.
    u16::from(topic.as_bytes().first().copied().unwrap_or_default()) % PARTITIONS
}

/// The stream of a partition's log.
pub(super) fn log_stream(partition: u16) -> String {
    format!("SEALCAST_{partition}")
}

/// The stream of its parts.
pub(super) fn part_stream(partition: u16) -> String {
    format!("SEALCAST_PARTS_{partition}")
}

/// All that stands in a partition's log.
pub(super) fn log_subjects(partition: u16) -> String {
    format!("sealcast.{partition}.*.*")
}

/// All that stands among its parts.
pub(super) fn part_subjects(partition: u16) -> String {
    format!("sealcast-parts.{partition}.*.*")
}

/// Where a topic's records of a kind stand.
pub(super) fn log_subject(topic: &TopicId, kind: Kind) -> String {
    format!("sealcast.{}.{topic}.{}", partition(topic), kind.token())
}

/// Where their parts stand.
pub(super) fn part_subject(topic: &TopicId, kind: Kind) -> String {
    format!("sealcast-parts.{}.{topic}.{}", partition(topic), kind.token())
}

/// Which topic a subject names.
pub(super) fn topic_of(subject: &str) -> Option<TopicId> {
    subject.split('.').nth(2)?.parse().ok()
}

/// Which kind.
pub(super) fn kind_of(subject: &str) -> Option<Kind> {
    let token = subject.split('.').nth(3)?;
    Kind::ALL.into_iter().find(|kind| kind.token() == token)
}

/// All signs of life.
pub(super) const SIGNS: &str = "sealcast-signs.*";

/// Where signs of life are told, to whoever listens now.
pub(super) fn sign_subject(topic: &TopicId) -> String {
    format!("sealcast-signs.{topic}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_they_are_shown() {
        let servers = Servers::read("tls://a:4222, b:4222,[::1]:4223").unwrap();
        assert_eq!(servers.urls(), ["tls://a:4222", "tls://b:4222", "tls://[::1]:4223"]);
        assert_eq!(Servers::read(&servers.to_string()), Ok(servers));
        for wrong in ["", "a:4222", "http://a", "nats://", "nats://a,,b", "nats://a/b"] {
            assert!(Servers::read(wrong).is_err(), "{wrong}");
        }
        assert!(Servers::read("nats://me:secret@a").unwrap_err().contains("store_auth"));
    }

    #[test]
    fn a_subject_names_its_topic() {
        let topic = TopicId([0x5a; 32]);
        let subject = log_subject(&topic, Kind::Batch);
        assert!(subject.starts_with("sealcast.2."), "{subject}");
        assert_eq!(topic_of(&subject), Some(topic));
        assert_eq!(topic_of(&part_subject(&topic, Kind::Kept)), Some(topic));
        assert_eq!(topic_of("sealcast.2.nonsense.batch"), None);
        for kind in Kind::ALL {
            assert_eq!(kind_of(&part_subject(&topic, kind)), Some(kind));
        }
    }
}
