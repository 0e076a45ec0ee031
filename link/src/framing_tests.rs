use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;
use sealcast_proto::frame::frame_header;
use sealcast_proto::limits::MAX_RECORD_FRAME;
use tokio::io::ReadBuf;

use super::*;

/// A stream that delivers these pieces and is not ready once before each.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    ready: bool,
}

impl Pieces {
    fn new(bytes: &[u8], cuts: &[usize]) -> Self {
        let (mut pieces, mut rest) = (VecDeque::new(), bytes);
        for cut in cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            pieces.push_back(piece.to_vec());
            rest = after;
        }
        pieces.push_back(rest.to_vec());
        pieces.retain(|piece| !piece.is_empty());
        Self { pieces, ready: false }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.ready = !this.ready;
        if this.ready {
            return Poll::Pending;
        }
        if let Some(piece) = this.pieces.front_mut() {
            let n = piece.len().min(buf.remaining());
            buf.put_slice(&piece.drain(..n).collect::<Vec<_>>());
            if piece.is_empty() {
                this.pieces.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Reads everything, dropping the future each time it waits: what `select!` does at the worst moments.
fn read_cancelling(frames: &mut Frames<Pieces>) -> (Vec<(FrameKind, Bytes)>, Result<(), LinkError>) {
    let mut read = Vec::new();
    loop {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(frames.next()).poll(&mut context) {
            Poll::Pending => {}
            Poll::Ready(Ok(Some(frame))) => read.push(frame),
            Poll::Ready(Ok(None)) => return (read, Ok(())),
            Poll::Ready(Err(error)) => return (read, Err(error)),
        }
    }
}

fn encode(frames: &[(FrameKind, Bytes)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, payload) in frames {
        bytes.extend_from_slice(&frame_header(*kind, payload.len()));
        bytes.extend_from_slice(payload);
    }
    bytes
}

fn a_frame() -> impl Strategy<Value = (FrameKind, Bytes)> {
    let kind = prop_oneof![
        Just(FrameKind::Control),
        Just(FrameKind::Record),
        Just(FrameKind::Roster),
        Just(FrameKind::Table)
    ];
    let len = prop_oneof![4 => 0..40_usize, 2 => 0..6_000_usize, 1 => 0..16_384_usize];
    (kind, len, any::<u8>()).prop_map(|(kind, len, byte)| {
        let payload: Vec<u8> = (0..len).map(|i| byte.wrapping_add(i as u8)).collect();
        (kind, payload.into())
    })
}

proptest! {
    #[test]
    fn nothing_is_lost_when_a_read_is_dropped(
        frames in prop::collection::vec(a_frame(), 0..12),
        cuts in prop::collection::vec(prop_oneof![0..8_usize, 0..3_000_usize], 0..40),
    ) {
        let mut reader = Frames::new(Pieces::new(&encode(&frames), &cuts));
        prop_assert_eq!(read_cancelling(&mut reader), (frames, Ok(())));
    }

    #[test]
    fn a_cut_stream_is_never_taken_for_a_whole_one(
        frames in prop::collection::vec(a_frame(), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = encode(&frames);
        let end = cut.index(bytes.len());
        let (read, outcome) = read_cancelling(&mut Frames::new(Pieces::new(&bytes[..end], &[])));
        prop_assert!(frames.starts_with(&read) && read.len() < frames.len());
        let whole = encode(&read).len() == end;
        prop_assert_eq!(outcome, if whole { Ok(()) } else { Err(LinkError::Truncated) });
    }

    #[test]
    fn random_bytes_never_panic_and_errors_stay(bytes in prop::collection::vec(any::<u8>(), 0..4_000), cut in 0..50_usize) {
        let mut reader = Frames::new(Pieces::new(&bytes, &[cut]));
        let (_, outcome) = read_cancelling(&mut reader);
        if outcome.is_err() {
            prop_assert_eq!(read_cancelling(&mut reader), (vec![], outcome));
        }
    }
}

#[test]
fn a_frame_over_its_limit_gets_no_buffer() {
    for kind in [FrameKind::Control, FrameKind::Record, FrameKind::Roster, FrameKind::Table] {
        let header = frame_header(kind, kind.max_len() + 1);
        let mut reader = Frames::new(Pieces::new(&header, &[]));
        let (read, outcome) = read_cancelling(&mut reader);
        assert!(read.is_empty() && matches!(outcome, Err(LinkError::Frame(FrameError::TooLong { .. }))));
        assert!(reader.partial.is_none() && reader.ahead.capacity() <= 2 * READ_AHEAD);
    }
}

#[test]
fn an_announced_frame_gets_memory_only_as_it_arrives() {
    // A buffer that holds nothing is given back while it waits; one that holds a little is not.
    for arrived in [0, 100] {
        let header = frame_header(FrameKind::Record, MAX_RECORD_FRAME);
        let mut reader = Frames::new(Pieces::new(&[&header[..], &vec![7; arrived]].concat(), &[]));
        // Until the end of what has arrived: once not ready, once the header, once not ready.
        for _ in 0..2 {
            assert!(pin!(reader.next()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        let partial = reader.partial.as_ref().unwrap();
        assert_eq!((partial.len, partial.payload.len()), (MAX_RECORD_FRAME, arrived));
        assert!(partial.payload.capacity() <= 2 * GROWTH, "{}", partial.payload.capacity());
    }
}

#[test]
fn a_reader_that_waits_holds_no_buffer() {
    let frames = vec![(FrameKind::Control, Bytes::from_static(b"small"))];
    let mut reader = Frames::new(Pieces::new(&encode(&frames), &[]));
    let mut next = || {
        let polled = pin!(reader.next()).poll(&mut Context::from_waker(Waker::noop()));
        let frame = match polled {
            Poll::Pending => None,
            Poll::Ready(next) => next.unwrap(),
        };
        (frame, reader.ahead.capacity())
    };
    assert_eq!(next(), (None, 0));
    let (frame, kept) = next();
    assert_eq!(frame.as_ref(), frames.first());
    assert!(kept > 0, "a frame that follows at once needs no new buffer");
    assert_eq!(next(), (None, 0));
}

#[test]
fn the_largest_frame_arrives_whole() {
    let payload = Bytes::from(vec![7; MAX_RECORD_FRAME]);
    let frames = vec![(FrameKind::Record, payload.clone()), (FrameKind::Record, payload)];
    let mut reader = Frames::new(Pieces::new(&encode(&frames), &[3, 70_000]));
    assert_eq!(read_cancelling(&mut reader), (frames, Ok(())));
}
