//! Frames on a stream: `len u32 ‖ kind u8 ‖ payload`.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quinn::{RecvStream, SendStream, VarInt};
use sealcast_proto::frame::{FRAME_HEADER, FrameError, FrameKind, Reply, Request};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::{Instant, timeout_at};

use crate::connection::Connection;
use crate::error::{LinkError, STREAM_ABANDONED, STREAM_STALLED, from_read};

/// Bytes read ahead of the frame at hand, so that small frames (acknowledgements) do not cost two calls each. Every
/// stream that is being read holds such a buffer.
const READ_AHEAD: usize = 2 << 10;
/// Bytes that a reader must take within a progress deadline, unless it takes all there is: 500 a second at 30 s. A link
/// that is slower carries no QUIC; a reader that takes a byte now and then would hold its windows for ever.
const PROGRESS: usize = 16 << 10;
/// Bytes by which a payload's buffer grows ahead of what has arrived: a peer that announces a large frame and sends
/// nothing gets no more memory than this.
const GROWTH: usize = 64 << 10;

/// The reading half of a stream.
#[derive(Debug)]
pub struct FrameReader {
    frames: Frames<RecvStream>,
    /// Keeps the connection open as long as one of its streams is in use.
    _connection: Option<Connection>,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream, connection: Option<Connection>) -> Self {
        Self { frames: Frames::new(stream), _connection: connection }
    }

    /// The next frame; `None`: the peer finished the stream after a whole frame. The length was checked against the kind's
    /// limit before a buffer was made, and the payload is a buffer of its own (it pins no network buffer).
    ///
    /// Cancel-safe: dropping the future loses nothing. After an error every further call returns the same error.
    pub async fn next(&mut self) -> Result<Option<(FrameKind, Bytes)>, LinkError> {
        let next = self.frames.next().await;
        if let Err(LinkError::Frame(_)) = next {
            self.stop();
        }
        next
    }

    /// The next frame as a broker reads it. Cancel-safe.
    pub async fn request(&mut self) -> Result<Option<Request>, LinkError> {
        match self.next().await? {
            Some((kind, payload)) => Request::decode(kind, payload).map(Some).map_err(|e| self.malformed(e)),
            None => Ok(None),
        }
    }

    /// The next frame as a client reads it. Cancel-safe.
    pub async fn reply(&mut self) -> Result<Option<Reply>, LinkError> {
        match self.next().await? {
            Some((kind, payload)) => Reply::decode(kind, payload).map(Some).map_err(|e| self.malformed(e)),
            None => Ok(None),
        }
    }

    /// Bytes that were read of a frame which is not whole yet: between two looks it grows, or the peer is stuck.
    pub fn begun(&self) -> usize {
        let frames = &self.frames;
        frames.ahead.len() + frames.partial.as_ref().map_or(0, |partial| partial.payload.len().max(1))
    }

    /// Reads no further: what the peer still sends is dropped, and its writes fail with
    /// [`LinkError::StreamStopped`]. Dropping the reader does the same.
    pub fn stop(&mut self) {
        // Fails only where there is nothing left to stop.
        let _ = self.frames.stream.stop(VarInt::from_u32(STREAM_ABANDONED));
    }

    fn malformed(&mut self, error: FrameError) -> LinkError {
        self.stop();
        let error = LinkError::Frame(error);
        self.frames.failed = Some(error.clone());
        error
    }
}

/// The writing half of a stream.
///
/// Dropping it finishes the stream: call [`FrameWriter::reset`] where the end would be taken for a complete answer.
#[derive(Debug)]
pub struct FrameWriter {
    stream: SendStream,
    _connection: Option<Connection>,
}

impl FrameWriter {
    pub(crate) fn new(stream: SendStream, connection: Option<Connection>) -> Self {
        Self { stream, _connection: connection }
    }

    /// Writes one whole frame (as [`Request::encode`] and [`Reply::encode`] make it), waiting where the peer does not read.
    ///
    /// Not cancel-safe: dropped half-way, part of the frame is written; then only [`FrameWriter::reset`] is right.
    pub async fn send(&mut self, frame: Bytes) -> Result<(), LinkError> {
        self.send_all(&mut [frame]).await
    }

    /// Writes whole frames without copying them. One call with everything that is new is best; many frames that were
    /// encoded into one slab of some 64 KiB are far cheaper than a `Bytes` for each small frame.
    ///
    /// Resumable: what was written is taken out of `frames` (written ones become empty), so that a dropped call goes on
    /// where it stopped if the *same slice* is passed again. Otherwise only [`FrameWriter::reset`] is right.
    pub async fn send_all(&mut self, frames: &mut [Bytes]) -> Result<(), LinkError> {
        let mut rest = frames;
        while !rest.is_empty() {
            let written = self.stream.write_chunks(rest).await?;
            rest = rest.get_mut(written.chunks..).unwrap_or_default();
        }
        Ok(())
    }

    /// As [`FrameWriter::send_all`], with a deadline for progress: when within `stall` the peer takes neither 16 KiB nor all
    /// there is, the stream is reset, which the peer sees as [`LinkError::CutOff`], and the answer is
    /// [`LinkError::Stalled`]. A slow peer is served; one that stopped reading is not waited for.
    pub async fn send_all_within(&mut self, frames: &mut [Bytes], stall: Duration) -> Result<(), LinkError> {
        let mut rest = frames;
        let mut deadline = Instant::now() + stall;
        let mut taken = 0;
        while !rest.is_empty() {
            let Ok(written) = timeout_at(deadline, self.stream.write_chunks(rest)).await else {
                let _ = self.stream.reset(VarInt::from_u32(STREAM_STALLED));
                return Err(LinkError::Stalled);
            };
            let written = written?;
            rest = rest.get_mut(written.chunks..).unwrap_or_default();
            taken += written.bytes;
            if taken >= PROGRESS {
                (taken, deadline) = (0, Instant::now() + stall);
            }
        }
        Ok(())
    }

    /// No more frames: the peer reads what was written and then the end.
    pub fn finish(&mut self) {
        // Fails only where the stream is finished or reset already.
        let _ = self.stream.finish();
    }

    /// Gives the stream up: the peer's reads fail with [`LinkError::StreamReset`], even for what was written.
    pub fn reset(&mut self) {
        let _ = self.stream.reset(VarInt::from_u32(STREAM_ABANDONED));
    }

    /// Streams with a higher priority are written first; 0 unless set.
    pub fn set_priority(&self, priority: i32) {
        let _ = self.stream.set_priority(priority);
    }

    /// Waits until the peer's QUIC has acknowledged everything up to [`FrameWriter::finish`], or stops reading
    /// ([`LinkError::StreamStopped`]). The future does not borrow the writer, so that it can run beside writes.
    pub fn stopped(&self) -> impl Future<Output = Result<(), LinkError>> + Send + Sync + use<> {
        let stopped = self.stream.stopped();
        async move {
            match stopped.await.map_err(quinn::WriteError::from)? {
                None => Ok(()),
                Some(_) => Err(LinkError::StreamStopped),
            }
        }
    }
}

/// The state between two polls: whatever was read is either in `ahead` or in `partial`, never in a future.
#[derive(Debug)]
struct Frames<R> {
    stream: R,
    ahead: BytesMut,
    partial: Option<Partial>,
    failed: Option<LinkError>,
}

#[derive(Debug)]
struct Partial {
    kind: FrameKind,
    len: usize,
    payload: BytesMut,
}

impl Partial {
    fn missing(&self) -> usize {
        self.len.saturating_sub(self.payload.len())
    }
}

impl<R: AsyncRead + Unpin> Frames<R> {
    fn new(stream: R) -> Self {
        Self { stream, ahead: BytesMut::new(), partial: None, failed: None }
    }

    async fn next(&mut self) -> Result<Option<(FrameKind, Bytes)>, LinkError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = self.advance().await;
        if let Err(error) = &next {
            self.failed = Some(error.clone());
        }
        next
    }

    async fn advance(&mut self) -> Result<Option<(FrameKind, Bytes)>, LinkError> {
        loop {
            if let Some(frame) = self.take_whole()? {
                return Ok(Some(frame));
            }
            let ended = match &mut self.partial {
                // A large rest goes straight into its buffer, a small one is read together with what follows it.
                Some(partial) if partial.missing() >= READ_AHEAD => {
                    let most = partial.missing().min(GROWTH);
                    read(&mut self.stream, &mut partial.payload, most).await?
                }
                _ => read(&mut self.stream, &mut self.ahead, READ_AHEAD).await?,
            };
            if ended {
                return match self.partial.is_none() && self.ahead.is_empty() {
                    true => Ok(None),
                    false => Err(LinkError::Truncated),
                };
            }
        }
    }

    /// A frame, if all of it has been read.
    fn take_whole(&mut self) -> Result<Option<(FrameKind, Bytes)>, FrameError> {
        let mut partial = match self.partial.take() {
            Some(partial) => partial,
            None => {
                let Some(header) = self.ahead.first_chunk::<FRAME_HEADER>() else { return Ok(None) };
                let (kind, len) = FrameKind::parse(*header)?;
                self.ahead.advance(FRAME_HEADER);
                Partial { kind, len, payload: BytesMut::new() }
            }
        };
        let here = self.ahead.split_to(partial.missing().min(self.ahead.len()));
        partial.payload.extend_from_slice(&here);
        if partial.missing() == 0 {
            return Ok(Some((partial.kind, partial.payload.freeze())));
        }
        self.partial = Some(partial);
        Ok(None)
    }
}

/// Reads at most `most` bytes to the end of `into`; true: there were no more.
///
/// While nothing comes, an empty buffer is given back: a broker has two such readers an idle subscriber.
async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
    into: &mut BytesMut,
    most: usize,
) -> Result<bool, LinkError> {
    let read = poll_fn(|context| {
        into.reserve(most);
        let mut room = (&mut *into).limit(most);
        // It keeps nothing between two polls, so that each may be one of its own.
        let read = pin!(stream.read_buf(&mut room)).poll(context);
        if read.is_pending() && into.is_empty() {
            *into = BytesMut::new();
        }
        read
    });
    Ok(read.await.map_err(from_read)? == 0)
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
