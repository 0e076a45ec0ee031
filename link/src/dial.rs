//! From a broker's link to a connection: one try over its hosts and their addresses.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quinn::{Endpoint, TokioRuntime, TransportConfig, VarInt};
use sealcast_proto::frame::{Code, Refusal};
use sealcast_proto::{BrokerLink, Identity};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::Connection;
use crate::error::{CLOSE_DONE, ConnectError, LinkError};
use crate::hello::{HelloError, version_detail};
use crate::link::LinkOptions;
use crate::race::race;
use crate::{tls, transport};

/// What QUIC wants for a server's name. Never sent, never compared: keys authenticate.
const NAME: &str = "sealcast.invalid";
/// The head start of one host over the next.
const HOST_STAGGER: Duration = Duration::from_millis(500);
/// The head start of one address over the next of the same host (RFC 8305 section 5).
const ADDRESS_STAGGER: Duration = Duration::from_millis(250);
/// Longest wait for the close frames to be sent and for late packets to be answered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes connections to the broker of one link.
pub(crate) struct Dialer {
    broker: BrokerLink,
    identity: Arc<Identity>,
    options: LinkOptions,
    transport: Arc<TransportConfig>,
    sockets: Mutex<Sockets>,
}

/// One socket an address family, opened when first needed.
#[derive(Default)]
struct Sockets {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
    closed: bool,
}

impl Dialer {
    pub(crate) fn new(broker: BrokerLink, identity: Arc<Identity>, options: LinkOptions) -> Self {
        let transport =
            Arc::new(transport::client(options.max_udp_payload, options.keep_alive, broker.hosts().len()));
        Self { broker, identity, options, transport, sockets: Mutex::default() }
    }

    pub(crate) fn broker(&self) -> &BrokerLink {
        &self.broker
    }

    pub(crate) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// One try over all hosts, hello included. Of several failures the most telling is reported.
    pub(crate) async fn dial(self: &Arc<Self>) -> Result<Connection, ConnectError> {
        let deadline = Instant::now() + self.options.connect_timeout;
        let hosts = self.broker.hosts();
        let attempts: Vec<_> =
            hosts.iter().map(|(host, port)| self.clone().dial_host(host.clone(), *port, deadline)).collect();
        // Even the last host starts with half of the time left.
        let share = self.options.connect_timeout / 2 / u32::try_from(hosts.len()).unwrap_or(u32::MAX).max(1);
        match race(attempts, HOST_STAGGER.min(share), deadline).await {
            Ok(connection) => Ok(connection),
            Err(_) if self.lock().closed => Err(ConnectError::Closed),
            Err(errors) => Err(most_telling(errors).unwrap_or_else(|| {
                let names: Vec<_> = hosts.iter().map(|(host, port)| label(host, *port)).collect();
                ConnectError::Unreachable { host: names.join(", "), why: "no answer".into() }
            })),
        }
    }

    async fn dial_host(
        self: Arc<Self>,
        host: String,
        port: u16,
        deadline: Instant,
    ) -> Result<Connection, ConnectError> {
        let label = label(&host, port);
        let why = match timeout_at(deadline, tokio::net::lookup_host((host.as_str(), port))).await {
            Ok(Ok(found)) => {
                let attempts: Vec<_> =
                    found.map(|addr| self.clone().dial_addr(label.clone(), addr)).collect();
                if !attempts.is_empty() {
                    let outcome = race(attempts, ADDRESS_STAGGER, deadline).await;
                    return outcome.map_err(|errors| {
                        let silent =
                            || ConnectError::Unreachable { host: label.clone(), why: "no answer".into() };
                        most_telling(errors).unwrap_or_else(silent)
                    });
                }
                "the name has no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the name service did not answer in time".to_owned(),
        };
        Err(ConnectError::Resolve { host: label, why })
    }

    async fn dial_addr(self: Arc<Self>, label: String, addr: SocketAddr) -> Result<Connection, ConnectError> {
        let unreachable = |why: String| ConnectError::Unreachable { host: label.clone(), why };
        let limit = self.options.address_timeout;
        match timeout(limit, self.handshake(&label, addr)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(unreachable(format!("no answer from {addr} within {:.1} s", limit.as_secs_f32()))),
        }
    }

    async fn handshake(&self, label: &str, addr: SocketAddr) -> Result<Connection, ConnectError> {
        let keys = self.broker.keys().into();
        // A configuration of its own for each attempt: the flag says which attempt met a wrong key.
        let (crypto, wrong_key) = tls::client_config(&self.identity, keys)
            .map_err(|error| ConnectError::Socket(format!("TLS cannot be set up: {error}")))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(self.transport.clone());
        let unreachable = |why: String| ConnectError::Unreachable { host: label.to_owned(), why };
        let connecting = self.socket(addr)?.connect_with(config, addr, NAME).map_err(|error| {
            if error == quinn::ConnectError::EndpointStopping {
                // The runtime that drove the socket is gone: the next attempt opens another.
                self.forget_sockets();
            }
            unreachable(error.to_string())
        })?;
        let quic = tokio::select! {
            quic = connecting => quic,
            () = nothing_listens(addr) => return Err(unreachable(format!("nothing listens at {addr}"))),
        };
        let outcome = match quic.map_err(LinkError::from).and_then(Connection::new) {
            Ok(connection) => connection.say_hello(&self.options.agent).await.map(|()| connection),
            Err(error) => Err(error.into()),
        };
        outcome.map_err(|error| match error {
            _ if wrong_key.load(Ordering::Acquire) => ConnectError::WrongKey { host: label.to_owned() },
            HelloError::Refused(refusal) => ConnectError::Refused(refusal),
            HelloError::Link(LinkError::Version) => {
                ConnectError::Refused(Refusal::new(Code::Version, version_detail()))
            }
            HelloError::Link(LinkError::Closed { reason, refused: true }) => {
                ConnectError::Refused(Refusal::new(Code::NotAllowed, reason))
            }
            HelloError::Link(error) => unreachable(error.to_string()),
        })
    }

    fn socket(&self, addr: SocketAddr) -> Result<Endpoint, ConnectError> {
        let mut sockets = self.lock();
        if sockets.closed {
            return Err(ConnectError::Closed);
        }
        let (slot, any) = match addr {
            SocketAddr::V4(_) => (&mut sockets.v4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (&mut sockets.v6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        if let Some(endpoint) = slot {
            return Ok(endpoint.clone());
        }
        let config = transport::client_endpoint(self.options.max_udp_payload);
        let endpoint = transport::bind(any)
            .and_then(|socket| Endpoint::new(config, None, socket, Arc::new(TokioRuntime)))
            .map_err(|error| ConnectError::Socket(error.to_string()))?;
        Ok(slot.insert(endpoint).clone())
    }

    fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_sockets(&self) {
        let mut sockets = self.lock();
        (sockets.v4, sockets.v6) = (None, None);
    }

    /// Closes every connection, tells the broker, and makes none afterwards.
    pub(crate) async fn close(&self, reason: &str) {
        let endpoints: Vec<_> = {
            let mut sockets = self.lock();
            sockets.closed = true;
            [sockets.v4.take(), sockets.v6.take()].into_iter().flatten().collect()
        };
        for endpoint in &endpoints {
            endpoint.close(VarInt::from_u32(CLOSE_DONE), reason.as_bytes());
        }
        let _ = timeout(CLOSE_TIMEOUT, async {
            for endpoint in &endpoints {
                endpoint.wait_idle().await;
            }
        })
        .await;
    }
}

/// Completes when the network says that nothing listens there (ICMP port unreachable); else never. QUIC ignores such
/// messages because they can be forged; here a forged one spoils one attempt out of many, and an honest one saves the
/// whole timeout after a mistyped port or during a broker's restart.
async fn nothing_listens(addr: SocketAddr) {
    let any: SocketAddr = match addr {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    if let Ok(socket) = tokio::net::UdpSocket::bind(any).await
        && socket.connect(addr).await.is_ok()
        // A packet that no QUIC endpoint answers: too short, and the fixed bit is not set (RFC 9000 section 17.3).
        && socket.send(&[0]).await.is_ok()
        && let Err(error) = socket.recv(&mut [0; 16]).await
        // Windows says it the second way.
        && matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset)
    {
        return;
    }
    std::future::pending().await
}

fn label(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A wrong key is what a person must know first; then what a broker said; then that nobody answered.
fn most_telling(errors: Vec<ConnectError>) -> Option<ConnectError> {
    errors.into_iter().min_by_key(|error| match error {
        ConnectError::Closed => 0,
        ConnectError::WrongKey { .. } => 1,
        ConnectError::Refused(_) => 2,
        ConnectError::Unreachable { .. } => 3,
        ConnectError::Resolve { .. } => 4,
        ConnectError::Socket(_) => 5,
    })
}
