//! Frames on their way to QUIC: small ones are put together, for which QUIC's send buffer thanks; large ones go as they are.

use bytes::{BufMut, Bytes, BytesMut};
use sealcast_proto::frame::Reply;

/// Frames up to this size are copied together, bytes: below, a copy costs less than QUIC's handling of one more piece.
const COPY: usize = 8 << 10;

/// Frames in order.
#[derive(Default)]
pub struct Outgoing {
    pieces: Vec<Bytes>,
    open: BytesMut,
}

impl Outgoing {
    /// Adds whole frames.
    pub fn push(&mut self, frames: Bytes) {
        if frames.len() <= COPY {
            self.open.put_slice(&frames);
        } else {
            self.close();
            self.pieces.push(frames);
        }
    }

    pub fn reply(&mut self, reply: &Reply) {
        self.push(reply.encode());
    }

    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.open.is_empty()
    }

    /// What to hand to QUIC in one call.
    pub fn take(&mut self) -> Vec<Bytes> {
        self.close();
        std::mem::take(&mut self.pieces)
    }

    /// The same, of the first `most` bytes, which may end within a frame; the rest stays.
    pub fn take_first(&mut self, most: usize) -> Vec<Bytes> {
        self.close();
        let mut rest = std::mem::take(&mut self.pieces).into_iter();
        let (mut out, mut left) = (Vec::new(), most);
        while left > 0
            && let Some(mut piece) = rest.next()
        {
            let first = piece.split_to(piece.len().min(left));
            left -= first.len();
            out.push(first);
            if !piece.is_empty() {
                self.pieces.push(piece);
            }
        }
        self.pieces.extend(rest);
        out
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push(self.open.split().freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_holds_and_small_frames_share_a_piece() {
        let mut out = Outgoing::default();
        for (fill, len) in [(1, 10), (2, 20), (3, COPY + 1), (4, 1), (5, 2)] {
            out.push(Bytes::from(vec![fill; len]));
        }
        let pieces = out.take();
        assert_eq!(pieces.iter().map(Bytes::len).collect::<Vec<_>>(), [30, COPY + 1, 3]);
        assert_eq!((pieces[0][0], pieces[0][10], pieces[2][0], pieces[2][1]), (1, 2, 4, 5));
        assert!(out.is_empty());
    }

    #[test]
    fn a_part_is_taken_without_regard_to_frames() {
        let mut out = Outgoing::default();
        for (fill, len) in [(1, 10), (2, COPY + 1), (3, COPY + 2)] {
            out.push(Bytes::from(vec![fill; len]));
        }
        let whole: Vec<u8> =
            [(1, 10), (2, COPY + 1), (3, COPY + 2)].iter().flat_map(|(n, len)| vec![*n; *len]).collect();
        let mut taken = vec![];
        for most in [5, 5, COPY, 2, COPY, 100] {
            let first = out.take_first(most).concat();
            assert!(first.len() == most || out.is_empty());
            taken.extend(first);
        }
        assert_eq!(taken, whole);
    }
}
