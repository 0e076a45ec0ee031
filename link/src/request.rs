//! One-shot requests: a stream for each, the answer on the same stream.

use std::time::Duration;

use sealcast_proto::frame::{Reply, Request};
use sealcast_proto::limits::SLOWEST_UPLINK;
use tokio::time::timeout;

use crate::connection::Connection;
use crate::error::{LinkError, RequestError};
use crate::framing::{FrameReader, FrameWriter};
use crate::transport::BROKER_STREAM_WINDOW;

/// Longest wait for an answer, and for progress of a write: as long as QUIC waits before it calls a peer dead.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

impl Connection {
    /// Sends the request (and the frames that belong to it: a bundle, a table's chunks) and waits for the one reply. A
    /// refusal that comes before everything was sent ends the sending. Not cancel-safe: the broker may act all the same.
    pub async fn request<I>(&self, requests: I) -> Result<Reply, RequestError>
    where
        I: IntoIterator<Item = Request, IntoIter: Send> + Send,
    {
        let requests = requests.into_iter();
        let (mut writer, mut reader) = self.open_in_time().await?;
        let outcome = exchange(&mut writer, &mut reader, requests).await;
        if outcome.is_err() {
            // The end of a stream stands for a whole request.
            writer.reset();
        }
        outcome
    }

    /// Sends the request and returns the replies as they come, until the broker finishes the stream.
    pub async fn fetch(&self, request: Request) -> Result<Replies, RequestError> {
        let (mut writer, reader) = self.open_in_time().await?;
        writer.send_all_within(&mut [request.encode()], ANSWER_TIMEOUT).await?;
        writer.finish();
        Ok(Replies { reader })
    }

    async fn open_in_time(&self) -> Result<(FrameWriter, FrameReader), LinkError> {
        let opened = timeout(ANSWER_TIMEOUT, self.open()).await;
        opened.map_err(|_| LinkError::Late("permit another stream"))?
    }
}

/// The replies to one request.
#[derive(Debug)]
pub struct Replies {
    reader: FrameReader,
}

impl Replies {
    /// The next reply; `None`: that was all. A refusal is an error. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<Reply>, RequestError> {
        match timeout(ANSWER_TIMEOUT, self.reader.reply()).await {
            Err(_) => Err(LinkError::Late("answer").into()),
            Ok(Ok(Some(Reply::Refused(refusal)))) => Err(RequestError::Refused(refusal)),
            Ok(reply) => Ok(reply?),
        }
    }
}

async fn exchange(
    writer: &mut FrameWriter,
    reader: &mut FrameReader,
    requests: impl Iterator<Item = Request> + Send,
) -> Result<Reply, RequestError> {
    let mut bytes = 0;
    let reply = {
        let send = send_requests(writer, requests, &mut bytes);
        tokio::pin!(send);
        tokio::select! {
            biased;
            reply = reader.reply() => Some(reply),
            sent = &mut send => match sent {
                // A broker that refuses stops reading: its reason is on its way.
                Ok(()) | Err(LinkError::StreamStopped) => None,
                Err(error) => return Err(error.into()),
            },
        }
    };
    let reply = match reply {
        Some(early) => early,
        None => timeout(patience(bytes), reader.reply()).await.map_err(|_| LinkError::Late("answer"))?,
    };
    match reply? {
        Some(Reply::Refused(refusal)) => Err(RequestError::Refused(refusal)),
        Some(reply) => Ok(reply),
        None => Err(RequestError::NoAnswer),
    }
}

async fn send_requests(
    writer: &mut FrameWriter,
    requests: impl Iterator<Item = Request>,
    bytes: &mut u64,
) -> Result<(), LinkError> {
    for request in requests {
        let frame = request.encode();
        *bytes = bytes.saturating_add(frame.len() as u64);
        writer.send_all_within(&mut [frame], ANSWER_TIMEOUT).await?;
    }
    writer.finish();
    Ok(())
}

/// How long the answer to so many bytes is waited for, once they were handed over: a slow uplink has yet to carry them, as far
/// as the broker's window lets them out.
fn patience(bytes: u64) -> Duration {
    ANSWER_TIMEOUT + Duration::from_millis(bytes.min(BROKER_STREAM_WINDOW.into()) * 1000 / SLOWEST_UPLINK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_uplink_is_given_the_time_that_its_bytes_take() {
        assert_eq!(patience(0), ANSWER_TIMEOUT);
        assert_eq!(patience(80_000), ANSWER_TIMEOUT + Duration::from_secs(10));
        // More than the window was carried already.
        assert_eq!(patience(u64::MAX), patience(BROKER_STREAM_WINDOW.into()));
    }
}
