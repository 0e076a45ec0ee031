//! How a broker is started, and why it cannot be.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use sealcast_proto::PublicKey;
use sealcast_proto::limits::DEFAULT_PORT;

use crate::edge::MarksError;
use crate::key::KeyFileError;
use crate::limits::{self, Limits};
use crate::load::LoadError;
use crate::order::{OrderError, Servers};
use crate::settings::{LogFilter, LogFormat, SettingsError};
use crate::store::LogError;

/// How a broker is started.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it listens, UDP.
    pub listen: SocketAddr,
    /// Where it keeps what it is given, and its own key.
    pub data: PathBuf,
    /// The cluster whose order this broker shares with others; `None`: it keeps its own.
    pub store: Option<Servers>,
    /// Copies the cluster keeps, a count.
    pub store_replicas: u32,
    /// A file with what the cluster's servers want to know: `user:password`, or a token.
    pub store_auth: Option<PathBuf>,
    /// A file with the certificates that sign the servers', PEM; the system's unless given.
    pub store_ca: Option<PathBuf>,
    /// Files with one's own certificate
    pub store_cert: Option<PathBuf>,
    /// and its key, PEM.
    pub store_key: Option<PathBuf>,
    /// Who may create topics. Empty: anyone, which is allowed on loopback only.
    pub owners: Vec<PublicKey>,
    /// The host and port its link names; the address it listens on unless given.
    pub advertise: Option<(String, u16)>,
    /// Where to write its link, once it listens.
    pub link_file: Option<PathBuf>,
    /// Where the operations listener is, TCP; `None`: there is none.
    pub ops: Option<SocketAddr>,
    /// Whether that may be another address than loopback.
    pub ops_public: bool,
    /// Whether metrics name topics.
    pub topic_labels: bool,
    /// What is logged.
    pub log: LogFilter,
    /// How it is logged.
    pub log_format: LogFormat,
    /// How it treats its clients.
    pub limits: Limits,
}

impl Config {
    /// A broker on loopback that keeps its data in `data`.
    pub fn new(data: impl Into<PathBuf>) -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
            data: data.into(),
            store: None,
            store_replicas: 3,
            store_auth: None,
            store_ca: None,
            store_cert: None,
            store_key: None,
            owners: Vec::new(),
            advertise: None,
            link_file: None,
            ops: None,
            ops_public: false,
            topic_labels: false,
            log: LogFilter::default(),
            log_format: LogFormat::default(),
            limits: Limits::default(),
        }
    }

    /// Refuses what could not work, or what somebody should know about first.
    pub fn check(&self) -> Result<(), StartError> {
        if self.owners.is_empty() && !self.listen.ip().is_loopback() {
            return Err(StartError::Open { listen: self.listen });
        }
        if let Some(ops) = self.ops.filter(|ops| !ops.ip().is_loopback() && !self.ops_public) {
            return Err(StartError::OpsPublic { ops });
        }
        let limits = &self.limits;
        let times = [
            ("handshake", limits.handshake),
            ("hello", limits.hello),
            ("first_request", limits.first_request),
            ("first_frame", limits.first_frame),
            ("next_frame", limits.next_frame),
            ("stall", limits.stall),
            ("upload", limits.upload),
            ("drain", limits.drain),
            ("retention_every", limits.retention_every),
        ];
        if let Some((key, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(StartError::Limit { key, why: "it is more than nothing" });
        }
        if !(1..=5).contains(&self.store_replicas) {
            return Err(StartError::Limit { key: "store_replicas", why: "it is 1, 3 or 5" });
        }
        if self.store_cert.is_some() != self.store_key.is_some() {
            return Err(StartError::Limit {
                key: "store_cert",
                why: "it needs `store_key`, and that one it",
            });
        }
        let most = sealcast_proto::limits::MAX_RECORD_FRAME as u64;
        let rate = limits.publish_rate.0;
        let wrong = [
            ("streams", limits.streams < 2, "a client needs two: one to say hello, one to ask"),
            ("max_streams", limits.max_streams < limits.streams, "it is at least `streams`"),
            ("publish_rate", rate > 0 && rate < limits::MIN_PUBLISH_RATE, "it is at least 512KiB, or 0"),
            ("table_slots", limits.table_slots > sealcast_proto::limits::MAX_SLOTS, "it is at most 4000000"),
            (
                "receive_window",
                !(most..=u64::from(u32::MAX)).contains(&limits.receive_window.0),
                "it is at least 2MiB, for the largest record must fit, and below 4GiB",
            ),
            ("send_window", limits.send_window.0 < most, "it is at least 2MiB: the largest record must fit"),
            (
                "max_udp_payload",
                !(1200..=65_527).contains(&limits.max_udp_payload.0),
                "it is at least 1200B (RFC 9000), and at most 65527B",
            ),
            (
                "commit_bytes",
                limits.commit_bytes.0 < most,
                "it is at least 2MiB: the largest record must fit",
            ),
            ("ring_bytes", limits.ring_bytes.0 < most, "it is at least 2MiB: the largest record must fit"),
        ];
        match wrong.iter().find(|(_, wrong, _)| *wrong) {
            Some((key, _, why)) => Err(StartError::Limit { key, why }),
            None => Ok(()),
        }
    }
}

/// A broker that did not start, or did not run to its end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartError {
    /// The settings cannot be read.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// No thread can be started.
    #[error("cannot start the runtime: {error}")]
    Runtime {
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// A limit with which the broker could not work.
    #[error("{key} cannot be so: {why}")]
    Limit {
        /// Which setting.
        key: &'static str,
        /// What it must be.
        why: &'static str,
    },
    /// Anyone who reaches it could create topics.
    #[error("without owners a broker listens on this machine only, not on {listen}")]
    Open {
        /// Where it was to listen.
        listen: SocketAddr,
    },
    /// Another program has the port.
    #[error("the UDP port {listen} is in use")]
    PortInUse {
        /// Where it was to listen.
        listen: SocketAddr,
    },
    /// Everybody on the network could look on.
    #[error("the operations listener shows who talks to whom: it is for this machine only, not for {ops}")]
    OpsPublic {
        /// Where it was to listen.
        ops: SocketAddr,
    },
    /// The operations listener's port cannot be opened.
    #[error("cannot listen on {ops} for operations: {error}")]
    Ops {
        /// Where it was to listen.
        ops: SocketAddr,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The port cannot be opened.
    #[error("cannot listen on {listen}: {error}")]
    Listen {
        /// Where it was to listen.
        listen: SocketAddr,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// Another broker has the data directory.
    #[error("the data directory {} is in use by another broker", dir.display())]
    DataInUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}: {doing}: {error}", dir.display())]
    Data {
        /// The data directory.
        dir: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// The store.
    #[error(transparent)]
    Store(LogError),
    /// The cluster.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The view of a cluster's order.
    #[error(transparent)]
    Marks(#[from] MarksError),
    /// What the store holds.
    #[error(transparent)]
    Load(LoadError),
    /// The broker's key.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The link file cannot be written.
    #[error("cannot write the link to {}: {error}", path.display())]
    LinkFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: Arc<std::io::Error>,
    },
    /// No link can be made of what is advertised.
    #[error("cannot advertise {0:?}: a link names HOST:PORT")]
    Advertise(String),
}

impl StartError {
    /// What to do about it, one line.
    pub fn hint(&self) -> Option<String> {
        if let Self::Settings(error) = self {
            return Some(error.hint());
        }
        self.fixed_hint().map(Into::into)
    }

    fn fixed_hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Open { .. } => {
                "--owners KEY… says who may create topics; --listen 127.0.0.1:7443 needs none"
            }
            Self::OpsPublic { .. } => {
                "--ops 127.0.0.1:7444; or --ops-public, if a firewall lets only your monitoring reach it"
            }
            Self::Ops { .. } => "give another address with --ops, or none",
            Self::PortInUse { .. } => "another broker? stop it, or choose another port with --listen",
            Self::Listen { .. } => "give an address of this machine with --listen",
            Self::DataInUse { .. } => "stop that one, or choose another directory with --data",
            Self::Data { .. } => "make it writable for this account, or choose another with --data",
            Self::Key(KeyFileError::Content { .. }) => {
                "restore it from a copy; if there is none, move it away: the broker makes a new key, and all its links change"
            }
            Self::Key(_) => "the broker's account alone needs to read and write it",
            Self::LinkFile { .. } => "choose another file with --link-file",
            Self::Order(OrderError::Away { .. }) => {
                "are the servers up, is JetStream on, do they ask for a certificate (--store-cert)? see docs/cluster.md"
            }
            Self::Order(OrderError::Denied(_)) => {
                "--store-auth names a file with `user:password` or a token, --store-cert and --store-key a certificate: what do the servers ask for, and let it do? see docs/cluster.md"
            }
            Self::Order(OrderError::Tls(_)) => {
                "--store-ca names the certificate of who signed the servers'; theirs must be for the hosts that --store names"
            }
            Self::Order(OrderError::File { .. }) => "the broker's account needs to read it",
            Self::Order(OrderError::Useless { .. }) => {
                "--store-auth is for `user:password` or a token; with --store-cert and --store-key a certificate says who this is"
            }
            Self::Order(_) => "docs/cluster.md says what the servers must be like",
            Self::Marks(MarksError::Foreign { .. }) => {
                "a view can be made anew: move `view` and `view.marks` away, or choose another directory with --data"
            }
            Self::Marks(_) => "the broker's account needs to read and write it",
            Self::Advertise(_) => "--advertise broker.example:7443",
            Self::Limit { .. } => "`sealcast-broker check` shows where it comes from",
            Self::Settings(_) | Self::Runtime { .. } | Self::Store(_) | Self::Load(_) => return None,
        })
    }

    /// What the process exits with: 2 where the command line is at fault, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_)
            | Self::Limit { .. }
            | Self::Open { .. }
            | Self::OpsPublic { .. }
            | Self::Advertise(_) => 2,
            _ => 1,
        }
    }

    pub(crate) fn store(dir: PathBuf, error: LogError) -> Self {
        match error {
            LogError::Busy { dir } => Self::DataInUse { dir },
            LogError::Io { doing, error } => Self::Data { dir, doing, error },
            error => Self::Store(error),
        }
    }
}

impl From<LoadError> for StartError {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Log(error) => Self::Store(error),
            error => Self::Load(error),
        }
    }
}
