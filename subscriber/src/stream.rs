//! The delivery stream: opening it, and opening it again for as long as it takes.

use std::time::Duration;

use sealcast_link::{Connection, FrameReader, FrameWriter, Link, LinkError, RequestError, backoff};
use sealcast_proto::frame::{EpochDelivery, Reply, Request, Subscribe};
use sealcast_proto::limits::MAX_EPOCHS_FETCHED;
use sealcast_proto::{Epoch, PublicKey, TopicId};
use tokio::time::{sleep, timeout};

/// The longest wait for a broker to permit a stream, or to begin an answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The longest wait for the next of some hundred headers: delivery waits for it.
const FETCH_PATIENCE: Duration = Duration::from_secs(10);

/// A delivery stream.
pub(crate) struct Stream {
    pub(crate) connection: Connection,
    pub(crate) reader: FrameReader,
    /// Kept open: its end would say that the subscriber is done.
    _writer: FrameWriter,
}

/// Asks for a subscription; the answer begins with `Start`, or is a refusal.
pub(crate) async fn open(connection: Connection, subscribe: Subscribe) -> Result<Stream, LinkError> {
    let opened = timeout(PATIENCE, connection.open()).await;
    let (mut writer, reader) = opened.map_err(|_| LinkError::Late("permit another stream"))??;
    writer.send_all_within(&mut [Request::Subscribe(subscribe).encode()], PATIENCE).await?;
    Ok(Stream { connection, reader, _writer: writer })
}

/// Asks again, on a new connection where the old one is gone. `failures` streams in a row came to nothing; the broker asked
/// for `retry_after_ms` before the next.
pub(crate) async fn reopen(
    link: Link,
    subscribe: Subscribe,
    mut failures: u32,
    mut retry_after_ms: u64,
) -> Stream {
    loop {
        let wait = backoff::turn(std::mem::take(&mut retry_after_ms), failures, &mut rand::rng());
        sleep(wait).await;
        let connection = link.connected().await;
        match open(connection, subscribe).await {
            Ok(stream) => return stream,
            Err(error) => tracing::debug!(%error, "the broker took no subscription"),
        }
        failures = failures.saturating_add(1);
    }
}

/// A publisher's headers with our own slots, up to `epoch`: all that the broker has, or an error.
pub(crate) async fn fetch_epochs(
    connection: Connection,
    topic: TopicId,
    publisher: PublicKey,
    epoch: Epoch,
) -> Result<Vec<EpochDelivery>, RequestError> {
    let mut replies = connection.fetch(Request::FetchEpochs { topic, publisher, epoch }).await?;
    let mut epochs = Vec::new();
    loop {
        let next = timeout(FETCH_PATIENCE, replies.next()).await;
        match next.map_err(|_| LinkError::Late("answer"))?? {
            Some(Reply::Epoch(delivery)) if epochs.len() < MAX_EPOCHS_FETCHED => epochs.push(delivery),
            Some(Reply::AtHead { .. }) => return Ok(epochs),
            Some(_) => return Err(LinkError::Protocol("it answered something else").into()),
            None => return Err(RequestError::NoAnswer),
        }
    }
}
