//! A publisher that signs but cannot seal: its ciphertexts are noise, which nobody who follows a log can tell.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use sealcast_proto::accept::BatchClaim;
use sealcast_proto::object::{Batch, Beacon, EpochHeader, Mode, PrevClose};
use sealcast_proto::record::{BatchRecord, Sealed, batch_aad};
use sealcast_proto::roster::RosterChain;
use sealcast_proto::slot::table_hash;
use sealcast_proto::{BatchNo, Epoch, Hash, Identity, PublicKey, Seq, Signed};

use crate::steps::Steps;
use crate::valid;

/// See the module's page.
pub(crate) struct Pen {
    pub(crate) identity: Identity,
    key: SigningKey,
    pub(crate) newest: Option<(Signed<EpochHeader>, EpochHeader)>,
    epoch: u64,
    next: u64,
    last: Hash,
}

impl Pen {
    pub(crate) fn new(n: u8) -> Self {
        Self {
            identity: valid::identity(n),
            key: SigningKey::from_bytes(&[n ^ 0x80; 32]),
            newest: None,
            epoch: 100,
            next: 0,
            last: Hash::ZERO,
        }
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.identity.public()
    }

    /// The next header on this roster, with whatever the fuzzer wants changed; signed by `signer`, else by itself.
    pub(crate) fn header(
        &self,
        on: &RosterChain,
        signer: Option<&Identity>,
        steps: &mut Steps<'_>,
    ) -> Signed<EpochHeader> {
        let close = PrevClose { batches: self.next, last_batch_hash: self.last };
        let mut header = EpochHeader {
            topic: on.topic(),
            publisher: self.public(),
            epoch: Epoch(self.epoch + 1),
            prev_header_hash: self.newest.as_ref().map_or(Hash::ZERO, |(signed, _)| signed.hash()),
            prev_close: self.newest.as_ref().map(|_| close),
            roster_seq: on.seq(),
            roster_hash: on.hash(),
            mode: Mode::Fresh,
            kek_gen: 0,
            enc: [3; 32],
            commitment: [1; 32],
            epoch_vk: PublicKey::from_bytes(self.key.verifying_key().as_bytes())
                .expect("a key of this process"),
            slot_count: 0,
            slots_hash: table_hash(&[]),
            time_ms: self.epoch,
        };
        match steps.byte() {
            1 => header.epoch = Epoch(u64::from(steps.byte()) + 90),
            2 => header.prev_header_hash.0[0] ^= steps.byte(),
            3 => header.prev_close = None,
            4 => header.prev_close = Some(PrevClose { batches: steps.byte().into(), ..close }),
            5 => header.roster_seq.0 = steps.byte().into(),
            6 => header.roster_hash.0[0] ^= steps.byte(),
            7..10 => header.mode = Mode::Advance,
            10 => header.mode = Mode::Rewrap,
            11 => header.topic.0[0] ^= steps.byte(),
            12 => header.commitment[0] ^= steps.byte(),
            13 => header.prev_header_hash = Hash::ZERO,
            _ => {}
        }
        Signed::sign(&header, signer.unwrap_or(&self.identity).signing_key())
    }

    /// It was stored: what follows builds on it.
    pub(crate) fn begun(&mut self, signed: Signed<EpochHeader>) {
        let header = signed.peek().expect("its own header");
        self.epoch = header.epoch.0;
        self.next = 0;
        self.last = signed.hash();
        self.newest = Some((signed, header));
    }

    /// The next batch, with whatever the fuzzer wants changed, and its hash.
    pub(crate) fn batch(&self, steps: &mut Steps<'_>) -> Option<(BatchRecord, Hash)> {
        let (signed, header) = self.newest.as_ref()?;
        let mut body = Batch {
            epoch: header.epoch,
            batch_no: BatchNo(self.next),
            first_seq: Seq(self.next),
            count: 1,
            time_ms: 0,
            end: false,
            prev_batch_hash: self.last,
        };
        let (mut header_hash, mut key) = (signed.hash(), &self.key);
        let other = SigningKey::from_bytes(&[0x55; 32]);
        match steps.byte() {
            1 => body.batch_no = BatchNo(steps.byte().into()),
            2 => body.prev_batch_hash.0[0] ^= steps.byte(),
            3 => body.epoch.0 ^= u64::from(steps.byte()),
            4 => header_hash.0[0] ^= steps.byte(),
            5 => key = &other,
            6..10 => body.end = true,
            10 => body.first_seq = Seq(steps.byte().into()),
            _ => {}
        }
        let body = body.encode();
        let aad = batch_aad(&header_hash, &body);
        Some(BatchRecord::sign(body, &aad, Sealed(Bytes::from(vec![steps.byte(); 48])), key))
    }

    pub(crate) fn sent(&mut self, hash: Hash) {
        self.next += 1;
        self.last = hash;
    }

    /// As a session reads and verifies it.
    pub(crate) fn claim(&self, record: &BatchRecord) -> BatchClaim {
        let mut claim = BatchClaim::read(record).expect("its own batch");
        if let Some((signed, header)) = &self.newest {
            claim.verify(&signed.hash(), &header.epoch_vk);
        }
        claim
    }

    pub(crate) fn beacon(&self, on: &RosterChain, flip: u8) -> Option<Signed<Beacon>> {
        let mut header_hash = self.newest.as_ref()?.0.hash();
        header_hash.0[0] ^= flip;
        let beacon = Beacon {
            header_hash,
            next_batch_no: BatchNo(self.next),
            last_batch_hash: self.last,
            roster_seq: on.seq(),
            roster_hash: on.hash(),
            time_ms: 1,
        };
        Some(Signed::sign(&beacon, &self.key))
    }
}
