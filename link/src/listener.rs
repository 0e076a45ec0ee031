//! A broker's socket: takes connections, and only as many at once as it can afford.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, Incoming, ServerConfig, TokioRuntime, ValidationTokenConfig, VarInt};
use sealcast_proto::Identity;

use crate::admission::{Admission, Counted, Verdict};
use crate::connection::Connection;
use crate::error::{CLOSE_DONE, LinkError};
use crate::{tls, transport};

/// Bytes kept of a connection attempt before it is accepted: two packets of a first flight with an ML-KEM share, twice.
const ATTEMPT_BUFFER: u64 = 8 << 10;

/// A listener's limits.
#[derive(Debug, Clone)]
pub struct ListenOptions {
    /// Connection attempts that wait for [`Listener::accept`], a count; further ones are refused.
    pub max_incoming: usize,
    /// Handshakes under way at once, a count; further attempts are refused. Each costs a signature and an ML-KEM
    /// exchange, some 0.2 ms, so that this many are well within their timeout.
    pub max_handshakes: usize,
    /// The same from one source (an IPv4 address or an IPv6 /64), so that one host cannot take all of them.
    pub max_handshakes_per_source: usize,
    /// Handshakes under way from which on a client must first prove its address (QUIC Retry, one more round trip): whoever
    /// forges source addresses then gets no further than a stateless answer.
    pub retry_above: usize,
    /// From the first packet to the proven key. A client that lost two packets needs 3 s.
    pub handshake_timeout: Duration,
    /// Upper bound of MTU discovery, bytes of UDP payload. Raise it on jumbo networks only, on both sides.
    pub max_udp_payload: u16,
    /// Bytes in flight toward the broker on one connection: what an authenticated client can make it buffer unread. No less
    /// than a largest record.
    pub receive_window: u32,
    /// Bytes written but not acknowledged, per connection: what a stalled client can pin at the broker.
    pub send_window: u64,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            max_incoming: 1024,
            max_handshakes: 1024,
            max_handshakes_per_source: 64,
            retry_above: 64,
            handshake_timeout: Duration::from_secs(5),
            max_udp_payload: transport::MAX_UDP_PAYLOAD,
            receive_window: 4 << 20,
            send_window: 4 << 20,
        }
    }
}

/// A broker's open UDP port.
#[derive(Debug)]
pub struct Listener {
    endpoint: Endpoint,
    admission: Arc<Admission>,
    options: ListenOptions,
}

impl Listener {
    /// Opens the port. Must be called inside a tokio runtime.
    pub fn bind(addr: SocketAddr, identity: &Identity, options: ListenOptions) -> io::Result<Self> {
        let crypto = tls::server_config(identity).map_err(io::Error::other)?;
        let mut config = ServerConfig::with_crypto(Arc::new(crypto));
        // Tokens for later connections would let an observer link them; one round trip under load is all they save.
        let mut tokens = ValidationTokenConfig::default();
        tokens.sent(0);
        config
            .transport_config(Arc::new(transport::broker(&options)))
            .validation_token_config(tokens)
            .max_incoming(options.max_incoming)
            .incoming_buffer_size(ATTEMPT_BUFFER)
            .incoming_buffer_size_total(ATTEMPT_BUFFER.saturating_mul(options.max_incoming as u64))
            // Laptops and phones change networks; the key stays proven.
            .migration(true);
        let socket = transport::bind(addr)?;
        let port = socket.local_addr()?.port();
        let endpoint_config = transport::broker_endpoint(identity, port, options.max_udp_payload);
        let endpoint = Endpoint::new(endpoint_config, Some(config), socket, Arc::new(TokioRuntime))?;
        Ok(Self { endpoint, admission: Arc::default(), options })
    }

    /// The next connection attempt; `None` once the listener is closed. Cancel-safe. Cheap: the work is in
    /// [`Handshake::establish`], to be spawned.
    pub async fn accept(&self) -> Option<Handshake> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let (source, validated) = (incoming.remote_address().ip(), incoming.remote_address_validated());
            match self.admission.ask(source, validated, &self.options) {
                Verdict::Admit(counted) => {
                    return Some(Handshake { incoming, counted, limit: self.options.handshake_timeout });
                }
                // Fails only for an address that is validated.
                Verdict::ProveAddress => drop(incoming.retry()),
                Verdict::Refuse => incoming.refuse(),
            }
        }
    }

    /// The address with the port that was opened.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Connections that exist now, those in handshakes counted.
    pub fn connections(&self) -> usize {
        self.endpoint.open_connections()
    }

    /// Closes every connection at once, with the reason, and takes no more. Tell clients on their control streams first
    /// and give them time.
    pub fn close(&self, reason: &str) {
        self.endpoint.close(VarInt::from_u32(CLOSE_DONE), reason.as_bytes());
    }

    /// After [`Listener::close`]: waits until the peers were told, for three round trips at most each.
    pub async fn closed(&self) {
        self.endpoint.wait_idle().await;
    }
}

/// A connection attempt.
#[derive(Debug)]
pub struct Handshake {
    incoming: Incoming,
    counted: Counted,
    limit: Duration,
}

impl Handshake {
    /// Where it comes from; perhaps forged, until the handshake is done.
    pub fn remote_addr(&self) -> SocketAddr {
        self.incoming.remote_address()
    }

    /// Turns it away without any work.
    pub fn refuse(self) {
        self.incoming.refuse();
    }

    /// The TLS handshake: afterwards the peer's key is proven.
    pub async fn establish(self) -> Result<Connection, LinkError> {
        let connecting = self.incoming.accept()?;
        let quic = match tokio::time::timeout(self.limit, connecting).await {
            Ok(quic) => quic?,
            Err(_) => return Err(LinkError::Late("finish the handshake")),
        };
        drop(self.counted);
        Connection::new(quic)
    }
}
