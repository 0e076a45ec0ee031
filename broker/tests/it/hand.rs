//! A publisher by hand: it signs but cannot seal. Its ciphertexts are noise, which no broker can tell.
#![allow(dead_code, unreachable_pub, missing_docs)]

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use sealcast_proto::object::{Batch, Beacon, EpochHeader, Genesis, Mode, PrevClose, RosterHead};
use sealcast_proto::record::{BatchRecord, Record, Sealed, batch_aad};
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster};
use sealcast_proto::slot::{Slot, table_hash};
use sealcast_proto::{
    BatchNo, Epoch, Hash, Identity, MemberIndex, PublicKey, RosterSeq, Seq, Signed, SlotSource, TopicId,
};

pub fn identity(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

pub fn key(n: u8) -> PublicKey {
    identity(n).public()
}

/// A topic whose owner is identity 1.
pub fn genesis(nonce: u8) -> (TopicId, Genesis, Signed<Genesis>) {
    let owner = identity(1);
    let genesis = Genesis { suite: 1, name: "test".into(), owner: owner.public(), nonce: [nonce; 32] };
    let signed = Signed::sign(&genesis, owner.signing_key());
    (signed.topic_id(), genesis, signed)
}

/// The owner's view of the roster: signs entries and takes them up.
pub struct Admin {
    pub roster: Roster,
    pub owner: Identity,
    pub now_ms: u64,
}

impl Admin {
    pub fn new(topic: TopicId, genesis: &Genesis) -> Self {
        Self { roster: Roster::new(topic, genesis), owner: identity(1), now_ms: 1 }
    }

    pub fn entry(&mut self, ops: &[Op]) -> EntryBundle {
        self.entry_by(1, ops)
    }

    /// As another admin signs it.
    pub fn entry_by(&mut self, n: u8, ops: &[Op]) -> EntryBundle {
        self.now_ms += 1;
        let bundle = self.roster.sign(ops, &identity(n), self.now_ms).unwrap();
        self.roster.apply(&bundle.entry, &bundle.ops).unwrap();
        bundle
    }

    /// Admin `n` re-asserts the head.
    pub fn head_by(&self, n: u8, time_ms: u64) -> Signed<RosterHead> {
        let chain = self.roster.chain();
        let (topic, seq, hash) = (chain.topic(), chain.seq(), chain.hash());
        let head = RosterHead { topic, seq, hash, signer: key(n), time_ms };
        Signed::sign(&head, identity(n).signing_key())
    }

    pub fn add(&mut self, members: &[(u8, Role)]) -> EntryBundle {
        let ops: Vec<_> =
            members.iter().map(|(n, role)| Op::Add { identity: key(*n), role: *role }).collect();
        self.entry(&ops)
    }

    pub fn remove(&mut self, n: u8) -> EntryBundle {
        let (member, _) = self.roster.find(&key(n)).unwrap();
        self.entry(&[Op::Remove { member, identity: key(n) }])
    }

    pub fn index(&self, n: u8) -> MemberIndex {
        self.roster.find(&key(n)).unwrap().0
    }
}

pub struct Hand {
    pub id: Identity,
    pub key: SigningKey,
    pub newest: Option<Signed<EpochHeader>>,
    pub epoch: u64,
    pub next: u64,
    pub seq: u64,
    pub last: Hash,
    /// How the next epoch claims to come to be.
    pub mode: Mode,
}

impl Hand {
    pub fn new(n: u8) -> Self {
        let key = SigningKey::from_bytes(&[n ^ 0x80; 32]);
        Self {
            id: identity(n),
            key,
            newest: None,
            epoch: 100,
            next: 0,
            seq: 0,
            last: Hash::ZERO,
            mode: Mode::Fresh,
        }
    }

    /// The next epoch, on `roster`, with a slot for each of `members`; what follows builds on it.
    pub fn begin(&mut self, roster: &Roster, members: &[MemberIndex]) -> (Signed<EpochHeader>, Bytes) {
        self.epoch += 1;
        let table = table(members, self.epoch as u8);
        let header = EpochHeader {
            topic: roster.chain().topic(),
            publisher: self.id.public(),
            epoch: Epoch(self.epoch),
            prev_header_hash: self.newest.as_ref().map_or(Hash::ZERO, |header| header.hash()),
            prev_close: self
                .newest
                .as_ref()
                .map(|_| PrevClose { batches: self.next, last_batch_hash: self.last }),
            roster_seq: roster.chain().seq(),
            roster_hash: roster.chain().hash(),
            mode: self.mode,
            kek_gen: 0,
            enc: [3; 32],
            commitment: [1; 32],
            epoch_vk: PublicKey::from_bytes(self.key.verifying_key().as_bytes()).unwrap(),
            slot_count: members.len() as u32,
            slots_hash: table_hash(&table),
            time_ms: self.epoch,
        };
        let header = Signed::sign(&header, self.id.signing_key());
        self.last = header.hash();
        self.next = 0;
        self.newest = Some(header.clone());
        (header, table)
    }

    /// The next batch; what follows builds on it.
    pub fn batch(&mut self, ciphertext: &[u8]) -> BatchRecord {
        self.sealed(ciphertext, 1, false)
    }

    pub fn end(&mut self) -> BatchRecord {
        self.sealed(&[0; 32], 0, true)
    }

    pub fn sealed(&mut self, ciphertext: &[u8], count: u32, end: bool) -> BatchRecord {
        let header = self.newest.as_ref().unwrap();
        let body = Batch {
            epoch: Epoch(self.epoch),
            batch_no: BatchNo(self.next),
            first_seq: Seq(self.seq),
            count,
            time_ms: self.epoch,
            end,
            prev_batch_hash: self.last,
        };
        let body = body.encode();
        let aad = batch_aad(&header.hash(), &body);
        let ciphertext = Sealed(Bytes::copy_from_slice(ciphertext));
        let (record, hash) = BatchRecord::sign(body, &aad, ciphertext, &self.key);
        self.next += 1;
        self.seq += u64::from(count);
        self.last = hash;
        record
    }

    pub fn beacon(&self, roster: &Roster) -> Signed<Beacon> {
        let beacon = Beacon {
            header_hash: self.newest.as_ref().unwrap().hash(),
            next_batch_no: BatchNo(self.next),
            last_batch_hash: self.last,
            roster_seq: roster.chain().seq(),
            roster_hash: roster.chain().hash(),
            time_ms: 1,
        };
        Signed::sign(&beacon, &self.key)
    }
}

pub fn header_record(header: &Signed<EpochHeader>) -> Bytes {
    Record::Header(header.clone()).encode()
}

pub fn batch_record(batch: &BatchRecord) -> Bytes {
    Record::Batch(batch.clone()).encode()
}

/// A slot table whose slots say whose they are.
pub fn table(members: &[MemberIndex], fill: u8) -> Bytes {
    let mut out = Vec::new();
    for member in members {
        let mut ct = [fill; 48];
        ct[..4].copy_from_slice(&member.0.to_be_bytes());
        out.extend_from_slice(&Slot { member: *member, source: SlotSource::Static, ct }.encode());
    }
    out.into()
}

pub const FIRST: RosterSeq = RosterSeq(1);
