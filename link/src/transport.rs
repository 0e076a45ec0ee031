//! Every QUIC setting that matters, named, with its unit and its reason.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig,
    VarInt,
};
use rand::Rng as _;
use sealcast_proto::Identity;

use crate::listener::ListenOptions;

/// Silence after which a connection is dead, milliseconds: RFC 9308 section 3.2 recommends no less than 30 s.
pub(crate) const IDLE_TIMEOUT_MS: u32 = 30_000;
/// How often an idle client says that it is there: keeps NAT bindings (UDP: some only 15 s), and finds a restarted broker
/// within this time. Only the client does: a broker's own keep-alive would hold dead clients' connections alive.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Bytes in flight toward the broker on one stream: a largest record, so that one record never waits for a round trip.
pub(crate) const BROKER_STREAM_WINDOW: u32 = 1_280 << 10;
/// Bytes in flight toward a client on one stream: 40 MB/s at 100 ms of round trip.
const CLIENT_STREAM_WINDOW: u32 = 4 << 20;
/// Bytes in flight toward a client on one connection: several subscriptions side by side.
const CLIENT_WINDOW: u32 = 16 << 20;
/// Bytes written but not acknowledged at a client: about what the broker's window lets it have in flight.
const CLIENT_SEND_WINDOW: u64 = 8 << 20;
/// Bidirectional streams before the hello: the control stream. quinn notes every permitted stream at once
/// (1,024 cost 85 KB a connection), so that permission is memory given away.
const STREAMS_BEFORE_HELLO: u32 = 1;
/// Bytes of handshake messages out of order, per level: ours (an ML-KEM share, a raw key) are below 4 KiB.
const CRYPTO_BUFFER: usize = 16 << 10;
/// The first guess of the round trip time, milliseconds (RFC 9002 section 6.2.2): a lost first packet is repeated
/// after three of them.
const INITIAL_RTT: Duration = Duration::from_millis(333);
/// Bytes of a UDP payload that every QUIC path carries (RFC 9000 section 14).
const MIN_UDP_PAYLOAD: u16 = 1200;
/// Bytes of the largest UDP payload that fits Ethernet with IPv6. Raise it on a jumbo network only; above some 6,500
/// bytes segmentation offload no longer fits a batch into one call and quinn falls back to 1,200.
pub(crate) const MAX_UDP_PAYLOAD: u16 = 1452;
/// Milliseconds between two stateless resets: after a restart every old connection needs one; they never amplify.
const RESET_INTERVAL: Duration = Duration::from_millis(1);
/// Bytes of the socket's own buffers, as far as the system allows (Linux: `net.core.rmem_max`, `wmem_max`): some 50 ms of
/// packets at 100 MB/s, so that a busy moment does not become loss.
const SOCKET_BUFFER: usize = 4 << 20;
/// Bytes of a connection id: 2^64 cannot be guessed usefully by someone off the path.
const CONNECTION_ID: usize = 8;

/// A broker's side of a connection.
pub(crate) fn broker(options: &ListenOptions) -> TransportConfig {
    let mut config = both(options.max_udp_payload);
    config
        .max_concurrent_bidi_streams(STREAMS_BEFORE_HELLO.into())
        .stream_receive_window(BROKER_STREAM_WINDOW.into())
        .receive_window(options.receive_window.max(BROKER_STREAM_WINDOW).into())
        .send_window(options.send_window)
        .keep_alive_interval(None);
    config
}

/// A client's side of a connection to the broker of a link with so many hosts.
pub(crate) fn client(max_udp_payload: u16, keep_alive: Duration, hosts: usize) -> TransportConfig {
    let mut config = both(max_udp_payload);
    config
        // The broker opens no stream.
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .stream_receive_window(CLIENT_STREAM_WINDOW.into())
        .receive_window(CLIENT_WINDOW.into())
        .send_window(CLIENT_SEND_WINDOW)
        // The smaller of both sides' holds (RFC 9000 section 10.1).
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(patience_ms(keep_alive, hosts)))))
        .keep_alive_interval(Some(keep_alive));
    config
}

/// How long a client hears nothing before it calls its broker dead, milliseconds. With nowhere else to go, as long as
/// the broker waits for it. With other hosts in the link, twice the time between keep-alives, counted from the first that is
/// not answered and sent again and again meanwhile: when a machine dies, messages stand still for three times that long.
fn patience_ms(keep_alive: Duration, hosts: usize) -> u32 {
    if hosts < 2 {
        return IDLE_TIMEOUT_MS;
    }
    let twice = u32::try_from(keep_alive.as_millis().saturating_mul(2)).unwrap_or(u32::MAX);
    twice.clamp(IDLE_TIMEOUT_MS / 3, IDLE_TIMEOUT_MS)
}

fn both(max_udp_payload: u16) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(max_udp_payload.max(MIN_UDP_PAYLOAD));
    let mut config = TransportConfig::default();
    config
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(MIN_UDP_PAYLOAD)
        .mtu_discovery_config(Some(mtu))
        .crypto_buffer_size(CRYPTO_BUFFER)
        // Streams of one connection take turns: an upload must not stand in front of acknowledgements.
        .send_fairness(true)
        // Datagrams are not used: no buffer for them.
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        // Tells observers the round trip time, and us nothing.
        .allow_spin(false)
        // Three to five times the throughput.
        .enable_segmentation_offload(true);
    config
}

/// Opens a UDP port.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(addr)?;
    let options = socket2::SockRef::from(&socket);
    if options.set_recv_buffer_size(SOCKET_BUFFER).and(options.set_send_buffer_size(SOCKET_BUFFER)).is_err() {
        tracing::debug!("kept the default UDP buffers");
    }
    Ok(socket)
}

/// A broker's endpoint. Its reset key is made of the identity and the port, so that a broker that was restarted can tell
/// its former clients at once that their connections are gone; with a random key they would wait for the idle timeout.
pub(crate) fn broker_endpoint(identity: &Identity, port: u16, max_udp_payload: u16) -> EndpointConfig {
    // An Ed25519 signature is deterministic (RFC 8032) and secret as long as nobody else asks for this text's. No signed
    // object and no TLS transcript begins like it.
    let mut text = b"sealcast/1 stateless reset key".to_vec();
    text.extend_from_slice(&port.to_be_bytes());
    let secret = ed25519_dalek::Signer::sign(identity.signing_key(), &text).to_bytes();
    endpoint(&secret, max_udp_payload)
}

/// A client's endpoint: it takes no connection, so that nobody asks it for a reset.
pub(crate) fn client_endpoint(max_udp_payload: u16) -> EndpointConfig {
    let mut secret = [0; 64];
    rand::rng().fill_bytes(&mut secret);
    endpoint(&secret, max_udp_payload)
}

fn endpoint(reset_secret: &[u8; 64], max_udp_payload: u16) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, reset_secret)));
    config.cid_generator(|| Box::new(RandomIds)).min_reset_interval(RESET_INTERVAL);
    // Cannot fail for a value of at least 1,200; the default (1,472) stays otherwise.
    if config.max_udp_payload_size(max_udp_payload.max(1472)).is_err() {
        tracing::debug!(max_udp_payload, "kept the default UDP payload size");
    }
    config
}

/// Random connection ids. quinn's own are marked with a key of the process, so that a restarted broker would not answer
/// packets of connections that it had before.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID];
        rand::rng().fill_bytes(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_broker_is_given_up_sooner_where_there_is_another() {
        let patience = |seconds, hosts| patience_ms(Duration::from_secs(seconds), hosts);
        assert_eq!(patience(5, 1), 30_000);
        assert_eq!((patience(5, 2), patience(7, 2)), (10_000, 14_000));
        // Within reason.
        assert_eq!((patience(1, 2), patience(60, 2)), (10_000, 30_000));
        assert_eq!(patience(u64::MAX, 2), 30_000);
    }
}
