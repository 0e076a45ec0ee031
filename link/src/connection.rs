//! An established connection, the same type on both sides.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quinn::VarInt;
use sealcast_proto::PublicKey;
use sealcast_proto::frame::{Hello, Refusal};
use tokio::sync::watch;

use crate::error::{CLOSE_DONE, CLOSE_REFUSED, LinkError};
use crate::framing::{FrameReader, FrameWriter};
use crate::tls;

/// A QUIC connection whose peer has proven its key. Clones share it; it closes when the last clone and the last of its
/// streams are dropped, at once: wait for the answers first.
#[derive(Debug, Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    quic: quinn::Connection,
    peer: PublicKey,
    hello: OnceLock<Hello>,
    notice: watch::Sender<Option<Refusal>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // quinn's own handles may live on in the task that reads the control stream.
        self.quic.close(VarInt::from_u32(CLOSE_DONE), b"");
    }
}

impl Connection {
    pub(crate) fn new(quic: quinn::Connection) -> Result<Self, LinkError> {
        let Some(peer) = tls::peer_key(&quic) else {
            quic.close(VarInt::from_u32(CLOSE_REFUSED), b"no usable key");
            return Err(LinkError::NoKey);
        };
        let shared = Shared { quic, peer, hello: OnceLock::new(), notice: watch::Sender::new(None) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The key that the peer proved to hold.
    pub fn peer(&self) -> PublicKey {
        self.shared.peer
    }

    /// Where the peer is now; it may move.
    pub fn remote_addr(&self) -> SocketAddr {
        self.shared.quic.remote_address()
    }

    /// The peer's first words, once they came: its program and its clock then. The program's name is safe to print.
    pub fn hello(&self) -> Option<&Hello> {
        self.shared.hello.get()
    }

    /// The round trip time, as measured.
    pub fn rtt(&self) -> Duration {
        self.shared.quic.rtt()
    }

    /// Bytes of UDP payload that the path carries, as far as was found out yet.
    pub fn udp_payload(&self) -> u16 {
        self.shared.quic.stats().path.current_mtu
    }

    /// Opens a stream (the client does). Waits while the peer permits no more, which is until another stream ends.
    pub async fn open(&self) -> Result<(FrameWriter, FrameReader), LinkError> {
        let (send, recv) = self.shared.quic.open_bi().await?;
        Ok((FrameWriter::new(send, Some(self.clone())), FrameReader::new(recv, Some(self.clone()))))
    }

    /// The next stream that the peer opens (the broker waits for them). Cancel-safe.
    pub async fn accept(&self) -> Result<(FrameWriter, FrameReader), LinkError> {
        let (send, recv) = self.shared.quic.accept_bi().await?;
        Ok((FrameWriter::new(send, Some(self.clone())), FrameReader::new(recv, Some(self.clone()))))
    }

    /// How many streams the peer may have open at once, the control stream counted. Some 85 bytes each, in use or not.
    pub fn set_max_streams(&self, n: u32) {
        self.shared.quic.set_max_concurrent_bi_streams(n.into());
    }

    /// Closes it at once: what is not acknowledged yet may be lost. The peer is told the reason and may come back.
    pub fn close(&self, reason: &str) {
        self.shared.quic.close(VarInt::from_u32(CLOSE_DONE), reason.as_bytes());
    }

    /// Closes it as [`Connection::close`], telling the peer that coming back unchanged is useless.
    pub fn refuse(&self, reason: &str) {
        self.shared.quic.close(VarInt::from_u32(CLOSE_REFUSED), reason.as_bytes());
    }

    /// Waits until it is closed by either side or lost.
    pub async fn closed(&self) -> LinkError {
        self.shared.quic.closed().await.into()
    }

    /// Why it is closed, if it is.
    pub fn close_reason(&self) -> Option<LinkError> {
        self.shared.quic.close_reason().map(LinkError::from)
    }

    /// Whether it can carry new work: neither closed nor about to be.
    pub fn is_usable(&self) -> bool {
        self.shared.quic.close_reason().is_none() && self.shared.notice.borrow().is_none()
    }

    /// Waits for the broker's notice that it is going away (client side). Work in hand may be finished; new work belongs on
    /// a new connection, which the link makes. Waits for ever if the connection ends without one.
    pub async fn noticed(&self) -> Refusal {
        let mut notice = self.shared.notice.subscribe();
        match notice.wait_for(Option::is_some).await.map(|notice| notice.clone()) {
            Ok(Some(refusal)) => refusal,
            _ => std::future::pending().await,
        }
    }

    pub(crate) fn set_hello(&self, hello: Hello) {
        // The first one stays.
        let _ = self.shared.hello.set(hello);
    }

    pub(crate) fn notice(&self) -> watch::Sender<Option<Refusal>> {
        self.shared.notice.clone()
    }

    /// Streams that do not keep the connection open.
    pub(crate) fn quic(&self) -> &quinn::Connection {
        &self.shared.quic
    }
}
