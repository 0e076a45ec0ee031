//! First words, on the control stream.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sealcast_proto::frame::{Code, Hello, Refusal, Reply, Request};
use sealcast_proto::limits::PROTOCOL_VERSION;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::error::LinkError;
use crate::framing::{FrameReader, FrameWriter};

/// How long a broker waits for a client's hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Streams a broker permits after the hello unless it has a reason for another number: some 0.23 MB a connection, and
/// about sixty subscriptions or thirty publishing topics. [`Connection::set_max_streams`] raises it later.
pub const STREAMS_AFTER_HELLO: u32 = 64;
/// Longest wait for a refusal to arrive before the connection is closed.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The broker's end of a connection's control stream. To be kept as long as the connection: when it is dropped, the
/// client closes.
#[derive(Debug)]
pub struct Control {
    /// What the client said of itself; the agent is safe to print.
    pub hello: Hello,
    /// For [`Reply::Refused`] with [`Code::Draining`], when the broker goes away.
    pub writer: FrameWriter,
    /// The client says nothing more here; it ends with the connection.
    pub reader: FrameReader,
}

impl Connection {
    /// The broker's side of the hello: takes the first stream, reads the client's hello, answers, and only then permits
    /// `max_streams` streams (the control stream counted). Whatever else happens within `limit`, the connection is closed.
    pub async fn accept_hello(
        &self,
        agent: &str,
        limit: Duration,
        max_streams: u32,
    ) -> Result<Control, LinkError> {
        let outcome = match timeout(limit, self.hear_hello(agent)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(LinkError::Late("say hello")),
        };
        match &outcome {
            Ok(_) => self.set_max_streams(max_streams),
            Err(LinkError::Late(_)) => self.close("no hello in time"),
            Err(LinkError::Version) => self.refuse(&version_detail()),
            Err(_) => self.refuse("the first frame must be a hello"),
        }
        outcome
    }

    /// Instead of [`Connection::accept_hello`]: answers the client's hello with `refusal`, so that it knows why and when to
    /// come back, and closes the connection. Whatever happens within `limit`, it is closed.
    pub async fn turn_away(&self, refusal: Refusal, limit: Duration) {
        let telling = async {
            let (mut writer, mut reader) = self.accept().await?;
            reader.request().await?;
            writer.send(Reply::Refused(refusal).encode()).await?;
            writer.finish();
            // Closing would overtake the refusal.
            let _ = timeout(LAST_WORDS, writer.stopped()).await;
            Ok::<_, LinkError>(())
        };
        // Whoever cannot be told is closed all the same.
        let _ = timeout(limit, telling).await;
        self.close("turned away");
    }

    async fn hear_hello(&self, agent: &str) -> Result<Control, LinkError> {
        let (mut writer, mut reader) = self.accept().await?;
        let hello = match reader.request().await? {
            Some(Request::Hello(hello)) => hello,
            _ => return Err(LinkError::Protocol("its first frame was not a hello")),
        };
        if hello.version != PROTOCOL_VERSION {
            writer.send(Reply::Refused(Refusal::new(Code::Version, version_detail())).encode()).await?;
            writer.finish();
            // Closing would overtake the refusal.
            let _ = timeout(LAST_WORDS, writer.stopped()).await;
            return Err(LinkError::Version);
        }
        writer.send(Reply::Hello(own(agent)).encode()).await?;
        self.set_hello(hello.clone());
        Ok(Control { hello, writer, reader })
    }

    /// The client's side of the hello; keeps the control stream and listens on it for the broker's notice.
    pub(crate) async fn say_hello(&self, agent: &str) -> Result<(), HelloError> {
        let (send, recv) = self.quic().open_bi().await.map_err(LinkError::from)?;
        // No handle of the connection in these two: the task below must not keep it open.
        let (mut writer, mut reader) = (FrameWriter::new(send, None), FrameReader::new(recv, None));
        writer.send(Request::Hello(own(agent)).encode()).await?;
        match reader.reply().await? {
            Some(Reply::Hello(hello)) if hello.version == PROTOCOL_VERSION => self.set_hello(hello),
            Some(Reply::Hello(_)) => return Err(LinkError::Version.into()),
            Some(Reply::Refused(refusal)) => return Err(HelloError::Refused(refusal)),
            _ => return Err(LinkError::Protocol("its first frame was not a hello").into()),
        }
        let (notice, quic) = (self.notice(), self.quic().clone());
        tokio::spawn(async move {
            match reader.reply().await {
                Ok(Some(Reply::Refused(refusal))) => {
                    notice.send_replace(Some(refusal));
                    quic.closed().await;
                }
                // The connection is gone: everybody has been told.
                Err(_) if quic.close_reason().is_some() => {}
                _ => quic.close(crate::error::CLOSE_DONE.into(), b"the control stream ended"),
            }
            drop(writer);
        });
        Ok(())
    }
}

/// A client's hello was not answered by a hello.
#[derive(Debug)]
pub(crate) enum HelloError {
    /// The broker said why.
    Refused(Refusal),
    /// The connection failed.
    Link(LinkError),
}

impl From<LinkError> for HelloError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

fn own(agent: &str) -> Hello {
    let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    Hello {
        version: PROTOCOL_VERSION,
        agent: agent.to_owned(),
        time_ms: u64::try_from(time_ms).unwrap_or(u64::MAX),
    }
}

pub(crate) fn version_detail() -> String {
    format!("this side speaks version {PROTOCOL_VERSION}: update the older of the two")
}
