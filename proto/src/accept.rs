//! What a log may take up (docs/protocol.md section 8): one deterministic function of the log's order.
//!
//! ```text
//! roster entry   the chain's rules (crate::roster)                    same number, same bytes: Duplicate
//! header         its publisher's, on this roster, after its last      same number, other bytes: Conflict
//! batch          of its publisher's newest epoch, the next one        what the fence forbids: StaleEpoch
//! ```
//! A broker asks before it stores; several readers of one replicated log ask while they read and drop alike. Nothing
//! here reads a clock or a disk: whether a slot table is there is an argument, and what is too old to be remembered
//! comes back as [`Verdict::Compare`] for the caller to look up in the log.

mod batch;
mod lane;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;

use crate::frame::{Code, Refusal};
use crate::identity::PublicKey;
use crate::ids::{BatchNo, Epoch, Hash, Offset, RosterSeq, TopicId};
use crate::object::{Beacon, EpochHeader, Genesis, Mode, ObjectError, RosterEntry, Signed};
use crate::record::BatchDigest;
use crate::roster::{Change, EntryBundle, Role, Roster, RosterChain, RosterError, RosterMatch};

pub use batch::BatchClaim;
pub(crate) use lane::{Known, Seen};
pub use lane::{Lane, LastBatch};

/// Records remembered per publisher, a count: more than a publisher usually has in flight when its connection breaks, at
/// 64 bytes each. Older ones are looked up in the log.
pub const RECENT_RECORDS: usize = 1024;

/// What to do with something that was not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Store it at the offset offered; it counts as stored from now on.
    Store,
    /// The same bytes were stored before: acknowledge them again.
    Duplicate {
        /// Where they were first stored.
        offset: Offset,
    },
    /// Older than what is remembered. If the log holds these bytes under this number: as [`Verdict::Duplicate`];
    /// other bytes: [`Code::Conflict`]; nothing: [`Code::OutOfOrder`]. Never to be stored.
    Compare {
        /// Which epoch.
        epoch: Epoch,
        /// Which batch; `None`: the header.
        batch_no: Option<BatchNo>,
        /// [`BatchClaim::fingerprint`], or the header's hash.
        fingerprint: Hash,
    },
}

/// A log that contradicts itself: it was not written under these rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A roster entry that does not follow.
    #[error("the log's roster does not follow: {0}")]
    Roster(#[from] RosterError),
    /// A malformed object.
    #[error("the log holds a malformed record: {0}")]
    Object(#[from] ObjectError),
}

/// What one topic has accepted so far.
#[derive(Debug, Clone)]
pub struct Acceptor {
    roster: Roster,
    /// Hash and place of every entry, from 1: for ever, so that a retry is recognised for ever.
    entries: Vec<(Hash, Offset)>,
    lanes: BTreeMap<PublicKey, Lane>,
    window: usize,
}

impl Acceptor {
    /// An empty log.
    pub fn new(topic: TopicId, genesis: &Genesis) -> Self {
        Self::with_window(topic, genesis, RECENT_RECORDS)
    }

    /// An empty log that remembers `window` records a publisher.
    pub fn with_window(topic: TopicId, genesis: &Genesis, window: usize) -> Self {
        let roster = Roster::new(topic, genesis);
        Self { roster, entries: Vec::new(), lanes: BTreeMap::new(), window: window.max(1) }
    }

    /// The roster at the head.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Where roster entry `seq` stands, and its hash.
    pub fn entry(&self, seq: RosterSeq) -> Option<(Hash, Offset)> {
        let index = usize::try_from(seq.0.checked_sub(1)?).ok()?;
        self.entries.get(index).copied()
    }

    /// Every publisher's newest epoch.
    pub fn lanes(&self) -> impl ExactSizeIterator<Item = (&PublicKey, &Lane)> {
        self.lanes.iter()
    }

    /// One publisher's newest epoch.
    pub fn lane(&self, publisher: &PublicKey) -> Option<&Lane> {
        self.lanes.get(publisher)
    }

    /// Whether this very entry was accepted, and where.
    pub fn known_entry(&self, entry: &Signed<RosterEntry>) -> Option<Offset> {
        let (hash, offset) = self.entry(entry.peek().ok()?.seq)?;
        (hash == entry.hash()).then_some(offset)
    }

    /// Accepts a roster entry at `at`. With [`Verdict::Store`] comes what it changed.
    pub fn accept_roster(
        &mut self,
        bundle: &EntryBundle,
        at: Offset,
    ) -> Result<(Verdict, Option<Change>), Refusal> {
        let refuse = |error: RosterError| Refusal::new(roster_code(&error), error.to_string());
        let parsed = bundle.entry.peek().map_err(|error| refuse(error.into()))?;
        if let Some((hash, offset)) = self.entry(parsed.seq) {
            if hash == bundle.entry.hash() {
                return Ok((Verdict::Duplicate { offset }, None));
            }
            return Err(Refusal::new(
                Code::RosterConflict,
                format!("entry {} is another one here", parsed.seq),
            ));
        }
        let change = self.roster.apply(&bundle.entry, &bundle.ops).map_err(refuse)?;
        self.entries.push((bundle.entry.hash(), at));
        Ok((Verdict::Store, Some(change)))
    }

    /// Accepts a header that `session` sent at `at`. `table_known`: whether the slot table it names was uploaded whole.
    pub fn accept_header(
        &mut self,
        session: &PublicKey,
        header: &Signed<EpochHeader>,
        table_known: bool,
        at: Offset,
    ) -> Result<Verdict, Refusal> {
        let parsed = header.peek().map_err(|error| Refusal::new(Code::Malformed, error.to_string()))?;
        let refuse =
            |code, detail: &str| Refusal { record: Some((parsed.epoch, None)), ..Refusal::new(code, detail) };
        if parsed.publisher != *session || parsed.topic != self.roster.chain().topic() {
            return Err(refuse(Code::NotAllowed, "a header speaks for its sender and its topic only"));
        }
        let seen = Seen { epoch: parsed.epoch, batch_no: None, fingerprint: header.hash(), offset: at };
        let lane = self.lanes.get(session);
        match lane.map_or(Known::Never, |lane| lane.known(&seen)) {
            Known::Same(offset) => return Ok(Verdict::Duplicate { offset }),
            Known::Other => return Err(refuse(Code::Conflict, "another header has this epoch")),
            Known::TooOld => return Ok(seen.compare()),
            Known::Never => {}
        }
        header.verify(session).map_err(|error| refuse(Code::Malformed, &error.to_string()))?;
        let chain = self.roster.chain();
        check_fence(chain, session, parsed.roster_seq, &parsed.roster_hash, (parsed.epoch, None))?;
        check_follows(lane, &parsed, self.roster.chain().last_removal_seq())
            .map_err(|(code, detail)| refuse(code, detail))?;
        if !table_known {
            return Err(refuse(Code::NoTable, "upload the slot table before its header"));
        }
        let window = self.window;
        match self.lanes.get_mut(session) {
            Some(lane) => lane.begin(header.clone(), parsed, seen, window),
            None => {
                self.lanes.insert(*session, Lane::new(header.clone(), parsed, seen));
            }
        }
        Ok(Verdict::Store)
    }

    /// Accepts a batch that `session` sent at `at`.
    pub fn accept_batch(
        &mut self,
        session: &PublicKey,
        claim: &BatchClaim,
        at: Offset,
    ) -> Result<Verdict, Refusal> {
        let batch = claim.batch();
        let number = (batch.epoch, Some(batch.batch_no));
        let refuse = |code, detail: &str| Refusal { record: Some(number), ..Refusal::new(code, detail) };
        let lane =
            self.lanes.get(session).ok_or_else(|| refuse(Code::OutOfOrder, "no header came before"))?;
        let seen = Seen {
            epoch: batch.epoch,
            batch_no: Some(batch.batch_no),
            fingerprint: claim.fingerprint(),
            offset: at,
        };
        match lane.known(&seen) {
            Known::Same(offset) => return Ok(Verdict::Duplicate { offset }),
            Known::Other => return Err(refuse(Code::Conflict, "another batch has this number")),
            Known::TooOld => return Ok(seen.compare()),
            Known::Never => {}
        }
        if batch.epoch != lane.header().epoch {
            // An older epoch that the fence ended is answered by the fence: its publisher must learn of the removal.
            let stale = batch.epoch < lane.header().epoch
                && lane.header().roster_seq < self.roster.chain().last_removal_seq();
            if !stale {
                return Err(refuse(Code::OutOfOrder, "not of the newest epoch"));
            }
        }
        let header = lane.header();
        check_fence(self.roster.chain(), session, header.roster_seq, &header.roster_hash, number)?;
        if batch.batch_no != lane.next_batch_no() {
            return Err(refuse(Code::OutOfOrder, "not the next batch"));
        }
        let Some((header_hash, hash)) = claim.verified() else {
            return Err(refuse(Code::Malformed, "the batch's signature does not hold"));
        };
        if header_hash != lane.header_hash() {
            return Err(refuse(Code::Malformed, "the batch belongs to another header"));
        }
        if batch.prev_batch_hash != lane.last_hash() {
            return Err(refuse(Code::Conflict, "the batch before it is another one here"));
        }
        let window = self.window;
        if let Some(lane) = self.lanes.get_mut(session) {
            lane.push(
                LastBatch { batch: batch.clone(), digest: claim.digest().clone(), hash, offset: at },
                seen,
                window,
            );
        }
        Ok(Verdict::Store)
    }

    /// Whether a beacon is one of `session`'s newest epoch, signed by its key, and counts no batch that is not held: what is
    /// worth relaying. What was refused (the fence, a full disk) comes again under another number; a member that waited for
    /// it would call it withheld.
    pub fn check_beacon(&self, session: &PublicKey, beacon: &Signed<Beacon>) -> Option<Beacon> {
        let lane = self.lanes.get(session)?;
        self.verify_beacon(session, beacon).filter(|it| it.next_batch_no <= lane.next_batch_no())
    }

    /// Whether a beacon is one of `session`'s newest epoch, signed by its key.
    pub fn verify_beacon(&self, session: &PublicKey, beacon: &Signed<Beacon>) -> Option<Beacon> {
        let lane = self.lanes.get(session).filter(|_| self.roster.chain().may_publish(session))?;
        let parsed = beacon.peek().ok().filter(|beacon| beacon.header_hash == lane.header_hash())?;
        beacon.verify(&lane.header().epoch_vk).ok()?;
        Some(parsed)
    }

    /// Takes up, in order, a roster entry that one's own log holds at `at`.
    pub fn restore_roster(&mut self, bundle: &EntryBundle, at: Offset) -> Result<Change, RestoreError> {
        let change = self.roster.apply(&bundle.entry, &bundle.ops)?;
        self.entries.push((bundle.entry.hash(), at));
        Ok(change)
    }

    /// Takes up a publisher from its newest header in one's own log and that epoch's last batch there. What it sent
    /// before comes back as [`Verdict::Compare`].
    pub fn restore_lane(
        &mut self,
        header: &Signed<EpochHeader>,
        at: Offset,
        last: Option<(BatchDigest, Offset)>,
    ) -> Result<(), RestoreError> {
        let lane = Lane::restored(header, at, last)?;
        self.lanes.insert(lane.header().publisher, lane);
        Ok(())
    }
}

/// The roster rule for headers and batches: the role is held now, and the roster named is one of this log, at or after the
/// last removal.
pub(crate) fn check_fence(
    chain: &RosterChain,
    publisher: &PublicKey,
    seq: RosterSeq,
    hash: &Hash,
    record: (Epoch, Option<BatchNo>),
) -> Result<(), Refusal> {
    let refuse = |code, detail: &str| Err(Refusal { record: Some(record), ..Refusal::new(code, detail) });
    if chain.role_above_reader(publisher).is_none_or(|role| role < Role::Publisher) {
        return refuse(Code::NotAllowed, "publishing needs the role of a publisher");
    }
    match chain.compare(seq, hash) {
        RosterMatch::Holds => Ok(()),
        RosterMatch::Stale => Err(Refusal {
            roster_seq: chain.last_removal_seq(),
            record: Some(record),
            ..Refusal::new(Code::StaleEpoch, "someone was removed since: start an epoch on the newer roster")
        }),
        RosterMatch::Ahead => refuse(Code::OutOfOrder, "it names a roster entry that is not here yet"),
        RosterMatch::Fork | RosterMatch::Unknown => refuse(Code::RosterConflict, "its roster is another one"),
    }
}

/// How a header must follow its publisher's last one.
pub(crate) fn check_follows(
    lane: Option<&Lane>,
    header: &EpochHeader,
    last_removal: RosterSeq,
) -> Result<(), (Code, &'static str)> {
    let advance = header.mode == Mode::Advance;
    let Some(lane) = lane else {
        if !header.prev_header_hash.is_zero() || header.prev_close.is_some() || advance {
            return Err((Code::OutOfOrder, "the epoch before it is not here"));
        }
        return Ok(());
    };
    if header.epoch <= lane.header().epoch {
        return Err((Code::OutOfOrder, "its epoch is not newer than the last"));
    }
    if header.prev_header_hash != lane.header_hash() {
        return Err((Code::OutOfOrder, "the header before it is another one here"));
    }
    if header.prev_close.is_some_and(|close| close != lane.close()) {
        return Err((Code::OutOfOrder, "it closes the epoch before with other batches than are here"));
    }
    if header.roster_seq < lane.header().roster_seq {
        return Err((Code::OutOfOrder, "its roster is older than the last header's"));
    }
    if advance && lane.header().roster_seq < last_removal {
        // The removed member could derive it (G4); every subscriber would refuse it.
        return Err((Code::Malformed, "an advance over a removal"));
    }
    Ok(())
}

fn roster_code(error: &RosterError) -> Code {
    match error {
        RosterError::Signer(_) => Code::NotAllowed,
        RosterError::Missing { .. } | RosterError::Fork(_) | RosterError::Known(_) => Code::RosterConflict,
        RosterError::Malformed(_) | RosterError::Object(_) | RosterError::Topic => Code::Malformed,
        RosterError::Policy(_)
        | RosterError::TooMany(_)
        | RosterError::MissingList(_)
        | RosterError::Derived(_)
        | RosterError::Rule(_) => Code::RosterRule,
    }
}
