//! The rules by which a broker took up what it holds, applied again to all of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use sealcast_proto::accept::{Acceptor, BatchClaim, Verdict};
use sealcast_proto::frame::Refusal;
use sealcast_proto::object::{EpochHeader, Genesis, Prekey, PrevClose, RosterHead};
use sealcast_proto::record::{BatchDigest, BatchRecord, Record};
use sealcast_proto::roster::{Change, EntryBundle, RosterError};
use sealcast_proto::slot::TableCheck;
use sealcast_proto::{BatchNo, Epoch, Hash, MemberIndex, Offset, PublicKey, RosterSeq, Signed, TopicId};

use super::ArchiveError;
use super::format::Item;
use crate::load;
use crate::topic::RosterItem;

/// One topic on its way through.
pub(super) struct Check {
    topic: TopicId,
    first: Offset,
    next: Offset,
    acceptor: Acceptor,
    /// Where each publisher stands before `first`; empty once the log has begun.
    before: BTreeMap<PublicKey, Before>,
    /// Whose header came last before `first`: its batches follow.
    current: Option<PublicKey>,
    in_log: bool,
    /// The entry whose record comes next, and where.
    bundle: Option<(Offset, EntryBundle)>,
    table: Option<TableCheck>,
    /// The lowest offset and time that a next record may have.
    at: Offset,
    stored_ms: u64,
}

struct Before {
    signed: Signed<EpochHeader>,
    header: EpochHeader,
    at: Offset,
    last: Option<(BatchDigest, Offset)>,
    batches: u64,
    last_hash: Hash,
}

/// What an item is, once it was found in order: what there is to store.
pub(super) enum Found {
    Nothing,
    Entry { seq: RosterSeq, offset: Offset, bundle: Bytes },
    Header { publisher: PublicKey, epoch: Epoch, offset: Offset, record: Bytes },
    Slots { first_member: MemberIndex, slots: Bytes },
    Batch { publisher: PublicKey, epoch: Epoch, batch_no: BatchNo, offset: Offset, digest: Bytes },
    Head(Bytes),
    Prekey { owner: PublicKey, prekey: Bytes },
    Done,
}

impl Check {
    /// Begins with the first item of a topic.
    pub(super) fn begin(first: Offset, next: Offset, genesis: &Bytes) -> Result<Self, ArchiveError> {
        let damaged = |why: String| ArchiveError::DamagedFile(format!("a genesis: {why}"));
        let signed: Signed<Genesis> = load::kept(genesis)?;
        let topic = signed.topic_id();
        let genesis = signed.verify_topic(&topic).map_err(|error| damaged(error.to_string()))?;
        let acceptor = Acceptor::new(topic, &genesis);
        Ok(Self {
            topic,
            first,
            next,
            acceptor,
            before: BTreeMap::new(),
            current: None,
            in_log: false,
            bundle: None,
            table: None,
            at: first,
            stored_ms: 0,
        })
    }

    pub(super) fn topic(&self) -> TopicId {
        self.topic
    }

    pub(super) fn first(&self) -> Offset {
        self.first
    }

    pub(super) fn next(&self) -> Offset {
        self.next
    }

    /// Takes the next item; says what it is.
    pub(super) fn take(&mut self, item: Item) -> Result<Found, ArchiveError> {
        let at = self.at;
        let offset = match &item {
            Item::Entry { offset, .. } | Item::Header { offset, .. } | Item::Digest { offset, .. } => *offset,
            Item::Record { offset, .. } => *offset,
            _ => at,
        };
        self.judge(item).map_err(|why| self.damaged(offset, why))
    }

    pub(super) fn damaged(&self, at: Offset, why: impl Into<String>) -> ArchiveError {
        ArchiveError::Damaged { topic: self.topic.short(), at, why: why.into() }
    }

    fn judge(&mut self, item: Item) -> Result<Found, String> {
        if !matches!(item, Item::Slots(_))
            && let Some(table) = self.table.take()
        {
            table.finish().map_err(|error| error.to_string())?;
        }
        if self.bundle.is_some() && !matches!(item, Item::Record { .. }) {
            return Err("a roster entry without its record".into());
        }
        match item {
            Item::Topic { .. } => Err("a topic within a topic".into()),
            Item::Entry { offset, bundle } => self.entry(offset, bundle),
            Item::Header { offset, record } => self.header_before(offset, record),
            Item::Slots(slots) => {
                let table = self.table.as_mut().ok_or("slots of no header")?;
                let first = table.feed(&slots).map_err(|error| error.to_string())?;
                Ok(Found::Slots { first_member: first.ok_or("no slots")?, slots })
            }
            Item::Digest { offset, digest } => self.digest(offset, digest),
            Item::Record { offset, stored_ms, record } => self.record(offset, stored_ms, record),
            Item::Head(kept) => {
                self.begin_log()?;
                let head: Signed<RosterHead> = load::kept(&kept).map_err(|error| error.to_string())?;
                match self.acceptor.roster().chain().verify_head(&head) {
                    // Of an older entry, its signature holds: what a broker keeps until there is a newer one.
                    Ok(_) | Err(RosterError::Known(_)) => Ok(Found::Head(kept)),
                    Err(error) => Err(format!("its roster head: {error}")),
                }
            }
            Item::Prekey(kept) => {
                let prekey: Signed<Prekey> = load::kept(&kept).map_err(|error| error.to_string())?;
                let owner = prekey.verify_own().map_err(|error| error.to_string())?.owner;
                self.acceptor.roster().find(&owner).ok_or("a prekey of no member")?;
                Ok(Found::Prekey { owner, prekey: kept })
            }
            Item::Done => {
                self.begin_log()?;
                if self.at != self.next {
                    return Err(format!("its log ends here, not at {}", self.next));
                }
                Ok(Found::Done)
            }
        }
    }

    fn entry(&mut self, offset: Offset, bytes: Bytes) -> Result<Found, String> {
        let bundle = EntryBundle::decode(bytes.clone()).map_err(|error| error.to_string())?;
        let seq = bundle.entry.peek().map_err(|error| error.to_string())?.seq;
        if bundle.encode() != bytes {
            return Err("a roster entry in other bytes than its own".into());
        }
        if offset < self.first {
            if self.in_log || !self.before.is_empty() {
                return Err("a roster entry out of its place".into());
            }
            let change = self.acceptor.restore_roster(&bundle, offset).map_err(|error| error.to_string())?;
            self.is_as_stored(offset, &bundle, &change)?;
        } else {
            self.begin_log()?;
            self.bundle = Some((offset, bundle));
        }
        Ok(Found::Entry { seq, offset, bundle: bytes })
    }

    /// The lists beside an entry are what a broker derives from its operations.
    fn is_as_stored(&self, at: Offset, bundle: &EntryBundle, change: &Change) -> Result<(), String> {
        let derived = RosterItem::new(at, bundle, change, self.acceptor.roster().chain());
        match derived.bundle().encode() == bundle.encode() {
            true => Ok(()),
            false => Err("the lists beside a roster entry are not those it makes".into()),
        }
    }

    /// A header whose record retention took.
    fn header_before(&mut self, offset: Offset, record: Bytes) -> Result<Found, String> {
        let Ok(Record::Header(signed)) = Record::decode(record.clone()) else {
            return Err("a header that is none".into());
        };
        let publisher = signed.peek().map_err(|error| error.to_string())?.publisher;
        let header = signed.verify(&publisher).map_err(|error| error.to_string())?;
        if self.in_log || offset >= self.first || header.topic != self.topic {
            return Err("a header out of its place".into());
        }
        let named = match header.roster_seq.0 {
            0 => Some(Hash(*self.topic.as_bytes())),
            _ => self.acceptor.entry(header.roster_seq).map(|(hash, _)| hash),
        };
        if named != Some(header.roster_hash) {
            return Err("a header on another roster".into());
        }
        if let Some(last) = self.before.get(&publisher) {
            let follows = header.epoch > last.header.epoch && header.prev_header_hash == last.signed.hash();
            let close = PrevClose { batches: last.batches, last_batch_hash: last.last_hash };
            if !follows || offset <= last.at || header.prev_close.is_some_and(|said| said != close) {
                return Err("a header that does not follow the one before".into());
            }
        }
        self.expect_table(&header);
        let (epoch, last_hash) = (header.epoch, signed.hash());
        let before = Before { signed, header, at: offset, last: None, batches: 0, last_hash };
        self.before.insert(publisher, before);
        self.current = Some(publisher);
        Ok(Found::Header { publisher, epoch, offset, record })
    }

    /// A batch of it whose record retention took.
    fn digest(&mut self, offset: Offset, bytes: Bytes) -> Result<Found, String> {
        let digest = BatchDigest::decode(&bytes).ok_or("a batch's digest")?;
        let publisher = self.current.ok_or("a batch of no header")?;
        let lane = self.before.get_mut(&publisher).ok_or("a batch of no header")?;
        let verified = digest.verify(&lane.signed.hash(), &lane.header.epoch_vk);
        let (batch, hash) = verified.map_err(|error| error.to_string())?;
        let in_order = batch.epoch == lane.header.epoch
            && batch.batch_no.0 == lane.batches
            && batch.prev_batch_hash == lane.last_hash
            && offset > lane.last.as_ref().map_or(lane.at, |(_, at)| *at);
        if !in_order || offset >= self.first {
            return Err(format!("batch {} does not follow the one before", batch.batch_no));
        }
        (lane.batches, lane.last_hash) = (lane.batches.saturating_add(1), hash);
        lane.last = Some((digest, offset));
        let (epoch, batch_no) = (batch.epoch, batch.batch_no);
        Ok(Found::Batch { publisher, epoch, batch_no, offset, digest: bytes })
    }

    /// What was before is known: from here on the log's own order counts.
    fn begin_log(&mut self) -> Result<(), String> {
        self.in_log = true;
        for before in std::mem::take(&mut self.before).into_values() {
            let restored = self.acceptor.restore_lane(&before.signed, before.at, before.last);
            restored.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn record(&mut self, offset: Offset, stored_ms: u64, bytes: Bytes) -> Result<Found, String> {
        self.begin_log()?;
        if offset < self.at || offset >= self.next || stored_ms < self.stored_ms {
            return Err("a record out of its place".into());
        }
        let after = offset.next().ok_or("the last offset is taken")?;
        (self.at, self.stored_ms) = (after, stored_ms);
        let record = Record::decode(bytes.clone()).map_err(|error| error.to_string())?;
        let bundle = self.bundle.take();
        if bundle.as_ref().map(|(at, _)| *at) != matches!(record, Record::Roster(_)).then_some(offset) {
            return Err("a roster entry without its operations, or these without it".into());
        }
        match record {
            Record::Roster(entry) => {
                let (_, bundle) = bundle.ok_or("a roster entry without its operations")?;
                // Signatures are not hashed.
                if bundle.entry.body() != entry.body() || bundle.entry.signature() != entry.signature() {
                    return Err("another roster entry than its operations are of".into());
                }
                let accepted = self.acceptor.accept_roster(&bundle, offset);
                let change = accepted.map_err(|refusal| refusal.detail)?.1.ok_or("it stands there twice")?;
                self.is_as_stored(offset, &bundle, &change)?;
                Ok(Found::Nothing)
            }
            Record::Header(signed) => {
                let header = signed.peek().map_err(|error| error.to_string())?;
                stored(self.acceptor.accept_header(&header.publisher, &signed, true, offset))?;
                self.expect_table(&header);
                let (publisher, epoch) = (header.publisher, header.epoch);
                Ok(Found::Header { publisher, epoch, offset, record: bytes })
            }
            Record::Batch(batch) => self.batch(offset, &batch),
        }
    }

    fn batch(&mut self, offset: Offset, record: &BatchRecord) -> Result<Found, String> {
        let mut claim = BatchClaim::read(record).map_err(|error| error.to_string())?;
        let (epoch, batch_no) = (claim.batch().epoch, claim.batch().batch_no);
        // A batch does not say whose it is; epochs of two publishers may have one number, but never one key.
        let of = self.acceptor.lanes().find_map(|(publisher, lane)| {
            let same = lane.header().epoch == epoch;
            (same && claim.verify(&lane.header_hash(), &lane.header().epoch_vk)).then_some(*publisher)
        });
        let publisher = of.ok_or_else(|| format!("batch {batch_no} of epoch {epoch} is nobody's"))?;
        stored(self.acceptor.accept_batch(&publisher, &claim, offset))?;
        Ok(Found::Batch { publisher, epoch, batch_no, offset, digest: claim.digest().encode() })
    }

    fn expect_table(&mut self, header: &EpochHeader) {
        self.table = Some(TableCheck::new(header.slot_count, header.slots_hash));
    }

    /// The members at the end: whose prekeys belong to the topic.
    pub(super) fn members(&self) -> impl Iterator<Item = PublicKey> {
        self.acceptor.roster().members().map(|(_, member)| member.identity)
    }
}

/// What a log holds was stored once, and would be stored again.
fn stored(verdict: Result<Verdict, Refusal>) -> Result<(), String> {
    match verdict {
        Ok(Verdict::Store) => Ok(()),
        Ok(_) => Err("it stands there twice".into()),
        Err(refusal) => Err(refusal.detail),
    }
}
