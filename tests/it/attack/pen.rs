//! A publisher that signs and seals whatever it is told to, honest or not.

use bytes::Bytes;
use sealcast_envelope::{EpochPlan, EpochSender, Keks, Message, advance, fresh, rewrap};
use sealcast_proto::frame::Reply;
use sealcast_proto::object::{EpochHeader, PrevClose};
use sealcast_proto::record::{BatchRecord, Record, batch_aad};
use sealcast_proto::{Epoch, Hash, Identity, Offset, PublicKey, Seq, Signed};

use super::world::{Stored, World, identity, key};

/// A publisher.
pub(crate) struct Pen {
    pub(crate) identity: Identity,
    pub(crate) sender: Option<EpochSender>,
    pub(crate) keks: Option<Keks>,
    pub(crate) next_seq: u64,
    last_epoch: u64,
}

impl Pen {
    pub(crate) fn new(n: u8) -> Self {
        Self { identity: identity(n), sender: None, keks: None, next_seq: 0, last_epoch: 0 }
    }

    pub(crate) fn public(&self) -> PublicKey {
        self.identity.public()
    }

    pub(crate) fn sender(&self) -> &EpochSender {
        self.sender.as_ref().unwrap()
    }

    pub(crate) fn plan(&mut self, world: &World) -> EpochPlan {
        self.last_epoch = (self.last_epoch + 1).max(world.now);
        EpochPlan {
            topic: world.topic,
            publisher: self.public(),
            epoch: Epoch(self.last_epoch),
            prev_header_hash: self.sender.as_ref().map_or(Hash::ZERO, EpochSender::header_hash),
            roster_seq: world.roster.chain().seq(),
            roster_hash: world.roster.chain().hash(),
        }
    }

    pub(crate) fn close(&self) -> Option<PrevClose> {
        let sender = self.sender.as_ref()?;
        Some(PrevClose { batches: sender.next_batch_no().0, last_batch_hash: sender.last_hash() })
    }

    /// A fresh epoch for all members.
    pub(crate) fn begin(&mut self, world: &mut World) {
        let plan = self.plan(world);
        let close = self.close();
        self.begin_as(world, &plan, close, &[]);
    }

    /// A fresh epoch for all members but these, as planned.
    pub(crate) fn begin_as(
        &mut self,
        world: &mut World,
        plan: &EpochPlan,
        close: Option<PrevClose>,
        without: &[u8],
    ) {
        let out: Vec<_> = without.iter().map(|n| key(*n)).collect();
        let targets = world.targets(|identity| !out.contains(identity));
        let epoch = fresh(plan, &targets, &mut rand::rng()).unwrap();
        let table = epoch.table();
        let (header, sender, keks) = epoch.finish(close, world.now, &self.identity);
        self.sender = Some(sender);
        self.keks = keks.accepted(self.keks.take());
        world.log.push(Stored::Epoch { header, table });
    }

    /// An advance, with slots for these newcomers.
    pub(crate) fn advance(&mut self, world: &mut World, newcomers: &[u8]) {
        let plan = self.plan(world);
        let keys: Vec<_> = newcomers.iter().map(|n| key(*n)).collect();
        let targets = world.targets(|identity| keys.contains(identity));
        let from = self.sender.take().unwrap();
        let close = Some(PrevClose { batches: from.next_batch_no().0, last_batch_hash: from.last_hash() });
        let epoch = advance(&plan, &from.advance_from(), &targets, &mut rand::rng()).unwrap();
        let table = epoch.table();
        let (header, sender, keks) = epoch.finish(close, world.now, &self.identity);
        self.sender = Some(sender);
        self.keks = keks.accepted(self.keks.take());
        world.log.push(Stored::Epoch { header, table });
    }

    /// A rewrap for all members but these.
    pub(crate) fn rewrap(&mut self, world: &mut World, without: &[u8]) {
        let plan = self.plan(world);
        let out: Vec<_> = without.iter().map(|n| key(*n)).collect();
        let targets = world.targets(|identity| !out.contains(identity));
        let epoch = rewrap(&plan, self.keks.as_ref().unwrap(), &targets, &mut rand::rng()).unwrap();
        let table = epoch.table();
        let (header, sender, keks) = epoch.finish(self.close(), world.now, &self.identity);
        self.sender = Some(sender);
        self.keks = keks.accepted(self.keks.take());
        world.log.push(Stored::Epoch { header, table });
    }

    /// A batch of these messages, unpublished.
    pub(crate) fn seal(&mut self, world: &World, messages: &[&str], end: bool) -> BatchRecord {
        let encoded: Vec<Bytes> =
            messages.iter().map(|text| Message::from(*text).encode().unwrap()).collect();
        self.seal_raw(world, &encoded, end)
    }

    pub(crate) fn seal_raw(&mut self, world: &World, messages: &[Bytes], end: bool) -> BatchRecord {
        let first = Seq(self.next_seq);
        self.next_seq += messages.len() as u64;
        self.sender.as_mut().unwrap().seal(messages, first, world.now, end).unwrap()
    }

    pub(crate) fn publish(&mut self, world: &mut World, messages: &[&str]) {
        let batch = self.seal(world, messages, false);
        world.log.push(Stored::Batch { publisher: self.public(), batch });
    }

    pub(crate) fn end(&mut self, world: &mut World) {
        let batch = self.seal(world, &[], true);
        world.log.push(Stored::Batch { publisher: self.public(), batch });
    }

    pub(crate) fn beacon(&self, world: &World) -> Reply {
        let chain = world.roster.chain();
        Reply::Beacon(self.public(), self.sender().beacon(chain.seq(), chain.hash(), world.now))
    }
}

/// Signs a header with changes that the real publisher would not make.
pub(crate) fn resign(
    header: &Signed<EpochHeader>,
    signer: &Identity,
    change: impl FnOnce(&mut EpochHeader),
) -> Signed<EpochHeader> {
    let mut parsed = header.peek().unwrap();
    change(&mut parsed);
    Signed::sign(&parsed, signer.signing_key())
}

/// A batch's body: what stands between the record's lengths and its signature.
pub(crate) fn body(batch: &BatchRecord) -> Vec<u8> {
    let record = Record::Batch(batch.clone()).encode();
    let len = usize::from(u16::from_be_bytes([record[1], record[2]]));
    record[3..3 + len].to_vec()
}

/// What a member can make of a batch that its publisher sealed: the same key, associated data and ciphertext, but signed
/// with a key of the member's own.
pub(crate) fn forged(batch: &BatchRecord, header_hash: &Hash, signer: &Identity) -> BatchRecord {
    let body = body(batch);
    let aad = batch_aad(header_hash, &body);
    BatchRecord::sign(body, &aad, batch.ciphertext().clone(), signer.signing_key()).0
}

/// As a broker delivers it.
pub(crate) fn record(at: u64, batch: BatchRecord) -> Reply {
    Reply::Record(Offset(at), Record::Batch(batch).encode())
}
