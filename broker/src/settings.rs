//! Every setting of the broker: one table, from which the file's keys, the environment's names, the flags, `check` and
//! the page for operators are made.

mod layers;
mod value;

pub(crate) use self::layers::flag;
pub use self::layers::{Effective, Origin, PREFIX, SettingsError, Sources};
pub(crate) use self::value::Value;
pub use self::value::{LogFilter, LogFormat, Size};

use crate::config::Config;
use crate::order::NAMED_WITHIN;

/// One setting.
pub struct Setting {
    /// Its key in the file; in the environment in capitals after [`PREFIX`]; as a flag with hyphens.
    pub key: &'static str,
    /// What it says, and why it is as it is.
    pub what: &'static str,
    /// Whether SIGHUP changes it while the broker runs.
    pub live: bool,
    /// How the broker treats its clients, as opposed to what and where it is.
    pub is_limit: bool,
    pub(crate) name: fn(&Config) -> (&'static str, bool),
    pub(crate) read: fn(&mut Config, &str) -> Result<(), String>,
    pub(crate) show: fn(&Config) -> String,
}

impl Setting {
    /// Its value as a flag would be given it; empty: there is none.
    pub fn value(&self, config: &Config) -> String {
        (self.show)(config)
    }

    /// What kind of value it takes.
    pub fn kind(&self) -> &'static str {
        (self.name)(&Config::new("")).0
    }

    /// Its value in TOML; `None`: there is none.
    pub fn toml(&self, config: &Config) -> Option<String> {
        let text = (self.show)(config);
        let (kind, bare) = (self.name)(config);
        let quoted = |text: &str| toml::Value::String(text.into()).to_string();
        match text.is_empty() {
            true => None,
            false if bare => Some(text),
            false if kind == <Vec<sealcast_proto::PublicKey>>::NAME => {
                let keys: Vec<_> = text.split(',').map(quoted).collect();
                Some(format!("[{}]", keys.join(", ")))
            }
            false => Some(quoted(&text)),
        }
    }
}

impl std::fmt::Debug for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setting").field("key", &self.key).finish_non_exhaustive()
    }
}

fn name_of<T: Value>(_: &T) -> (&'static str, bool) {
    (T::NAME, T::BARE)
}

macro_rules! setting {
    ($key:ident, $($path:ident).+, live: $live:literal, limit: $limit:literal, $what:literal) => {
        Setting {
            key: stringify!($key),
            what: $what,
            live: $live,
            is_limit: $limit,
            name: |config| name_of(&config.$($path).+),
            read: |config, text| {
                config.$($path).+ = Value::read(text)?;
                Ok(())
            },
            show: |config| Value::show(&config.$($path).+),
        }
    };
}

/// What and where the broker is: at the start.
macro_rules! fixed {
    ($key:ident, $what:literal) => {
        setting!($key, $key, live: false, limit: false, $what)
    };
}

/// A limit that SIGHUP changes.
macro_rules! limit {
    ($key:ident, $what:literal) => {
        setting!($key, limits.$key, live: true, limit: true, $what)
    };
}

/// A limit for which something was made at the start.
macro_rules! fixed_limit {
    ($key:ident, $what:literal) => {
        setting!($key, limits.$key, live: false, limit: true, $what)
    };
}

/// All of them, in the order of the page for operators.
pub static SETTINGS: &[Setting] = &[
    fixed!(listen, "Where to listen, UDP. Another address than loopback needs `owners`."),
    fixed!(advertise, "The host and port that the link names; unset: where it listens."),
    fixed!(data, "Where to keep what is published, and the broker's key."),
    fixed!(
        store,
        "NATS JetStream servers that keep the log, shared by several brokers (docs/cluster.md); unset: `data` alone keeps it."
    ),
    fixed!(
        store_replicas,
        "Copies of the log among those servers, a count: 3 survive the loss of one server, 5 of two."
    ),
    fixed!(store_auth, "A file with `user:password` or a token for those servers."),
    fixed!(store_ca, "A file with the certificates that sign those servers', PEM; unset: the system's."),
    fixed!(store_cert, "A file with the broker's own certificate for those servers, PEM. Needs `store_key`."),
    fixed!(store_key, "The key of `store_cert`, PEM."),
    fixed!(link_file, "Write the link to this file too, once the broker listens."),
    setting!(owners, owners, live: true, limit: false, "Who may create topics; unset: anyone, which is allowed on loopback only."),
    fixed!(
        ops,
        "Where to show health, metrics and topics, TCP; unset: nowhere. As a flag without a value: 127.0.0.1:7444."
    ),
    fixed!(
        ops_public,
        "Let `ops` be another address than loopback. It shows who talks to whom, to whoever reaches it."
    ),
    setting!(topic_labels, topic_labels, live: true, limit: false, "Name topics in metrics: their number is then that of the topics, and whoever reads the monitoring learns them."),
    setting!(log, log, live: true, limit: false, "What is logged on stderr: a level, or levels by module as tracing writes them."),
    fixed!(log_format, "How it is logged; auto: for people on a terminal, else an object a line."),
    limit!(retain_time, "Cap on the time that topics keep records, over their own policies; 0: none."),
    limit!(retain_bytes, "Cap on the bytes of records that a topic keeps, over its own policy; 0: none."),
    limit!(retention_every, "How often retention is applied."),
    Setting {
        read: |config, text| {
            let wait = Value::read(text)?;
            // What may still be named must not be taken away.
            let least = NAMED_WITHIN + NAMED_WITHIN / 2;
            if wait < least {
                return Err(format!("below {} it could take what is still being written", least.show()));
            }
            config.limits.parts_wait = wait;
            Ok(())
        },
        ..limit!(
            parts_wait,
            "With `store`: how long a part of a table or a large record stands there though no record names it, `45m` or more."
        )
    },
    fixed_limit!(
        disk_reserve,
        "What stays free on the disk: below, nothing is taken any more. Room for the journals to move to files, and for retention to work."
    ),
    limit!(connections, "Connections, a count: some 48 kB each."),
    limit!(
        connections_per_identity,
        "Connections of one identity: an application on several machines uses an identity each."
    ),
    limit!(
        unauthenticated,
        "Connections that have not said hello yet: each may hold a connection's memory for `hello`, known or not."
    ),
    limit!(
        handshakes_per_second,
        "Handshakes begun a second, refused beyond: each costs a signature and an ML-KEM exchange."
    ),
    fixed_limit!(handshakes, "Handshakes under way at once, refused beyond."),
    fixed_limit!(
        handshakes_per_source,
        "Of these from one IPv4 address or IPv6 /64, so that one host cannot take all."
    ),
    fixed_limit!(
        retry_above,
        "Handshakes under way from which on a client must first prove its address (QUIC Retry): forged addresses get no further."
    ),
    fixed_limit!(
        handshake,
        "From the first packet to the proven key: a client that lost two packets needs 3 s."
    ),
    limit!(hello, "From there to the hello: a client that lost two packets needs no more."),
    limit!(
        first_request,
        "From the hello to the first stream: a connection that asks for nothing is for nothing."
    ),
    limit!(
        first_frame,
        "From a stream's opening to its first whole frame: one round trip, and time for a loss."
    ),
    limit!(
        next_frame,
        "Progress deadline of a writer: within this time the frame it began must be whole or 16 KiB longer, and the next one of a sequence it owes must be there."
    ),
    limit!(
        stall,
        "Progress deadline of a reader: a write without any progress for this long ends its stream. It may resume."
    ),
    limit!(
        refusal,
        "How long \"not allowed\" takes to be said: always the same, so that \"no such topic\" and \"not a member\" look alike."
    ),
    limit!(
        streams,
        "Streams a connection may have open at first: some 85 bytes each, used or not; more are permitted as they are used."
    ),
    limit!(max_streams, "Streams a connection may have open at most."),
    limit!(
        subscriptions_per_identity,
        "Subscriptions of one identity, over all its connections: each is a task and may read from the disk."
    ),
    limit!(topics_per_owner, "Topics one owner may create: each costs a task and a roster."),
    limit!(
        publish_rate,
        "Bytes a second that one identity may publish, slot tables included; beyond, the broker reads no faster, and nothing is lost. 0: no limit."
    ),
    limit!(
        uploads_per_identity,
        "Slot tables one identity may be uploading: one, and what broken connections still hold."
    ),
    limit!(table_slots, "Slots in a table: 56 bytes each, of a member each."),
    limit!(upload, "How long the upload of a slot table may take."),
    fixed_limit!(receive_window, "What a client can make the broker hold unread, a connection."),
    fixed_limit!(
        send_window,
        "What is written and not acknowledged, a connection: what a reader that stopped can pin."
    ),
    fixed_limit!(
        max_udp_payload,
        "The largest UDP payload tried on a path. More than Ethernet carries on a jumbo network only, and at the clients too; above 6500B it is slower."
    ),
    fixed_limit!(
        commit_bytes,
        "What may wait to be synced: beyond, publishers wait. More adds latency, not throughput."
    ),
    fixed_limit!(
        ring_bytes,
        "Recent records that a topic holds ready for live readers: what they may be behind before they read from the disk."
    ),
    limit!(
        drain,
        "How long each step of a shutdown may take: one slow fsync, and round trips for the answers."
    ),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_setting_is_shown_as_it_is_read() {
        let config = Config::new("/data");
        let mut keys = BTreeSet::new();
        for setting in SETTINGS {
            assert!(keys.insert(setting.key), "{} stands there twice", setting.key);
            let text = setting.value(&config);
            let mut again = Config::new("/data");
            if !text.is_empty() {
                (setting.read)(&mut again, &text).unwrap();
            }
            assert_eq!(setting.value(&again), text, "{}", setting.key);
            assert!(setting.what.ends_with('.') && !setting.kind().is_empty(), "{}", setting.key);
        }
    }

    #[test]
    fn parts_that_may_still_be_named_are_not_taken_away() {
        let parts_wait = SETTINGS.iter().find(|setting| setting.key == "parts_wait").unwrap();
        let mut config = Config::new("/data");
        let error = (parts_wait.read)(&mut config, "44m").unwrap_err();
        assert_eq!(error, "below 45m it could take what is still being written");
        (parts_wait.read)(&mut config, "45m").unwrap();
        assert!(config.limits.parts_wait > NAMED_WITHIN);
    }

    #[test]
    fn every_limit_is_a_setting() {
        // The names of the struct's fields, as it prints itself.
        let printed = format!("{:#?}", crate::Limits::default());
        let fields: BTreeSet<_> = printed
            .lines()
            .filter_map(|line| line.strip_prefix("    ")?.split_once(": ").map(|(name, _)| name.to_owned()))
            .filter(|name| !name.starts_with(' '))
            .collect();
        let limits: BTreeSet<_> = SETTINGS
            .iter()
            .filter(|setting| setting.is_limit)
            .map(|setting| setting.key.to_owned())
            .collect();
        assert_eq!(fields, limits);
    }
}
