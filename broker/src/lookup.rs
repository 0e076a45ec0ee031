//! What sessions read from a log besides its records: own slots, contexts, epochs, roster entries. All of it may wait for
//! the disk: to be called within [`crate::reads::Reads::run`].

use std::collections::HashSet;

use sealcast_proto::frame::{Code, Context, EpochDelivery, Refusal, RosterDelivery};
use sealcast_proto::limits::MAX_EPOCHS_FETCHED;
use sealcast_proto::object::{Genesis, Mode};
use sealcast_proto::record::BatchDigest;
use sealcast_proto::roster::{EntryBundle, Op, RosterChain, decode_ops};
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Epoch, Hash, MemberIndex, Offset, PublicKey, RosterSeq, SlotSource, TopicId};

use crate::damage;
use crate::handle::Origin;
use crate::limits;
use crate::load;
use crate::roster_index::Opening;
use crate::store::{Log, LogError, StoredEpoch, TableId};
use crate::topic::RosterItem;

/// Headers looked at in one step back, a count.
const STEP: usize = 16;

/// What a record that came again must be.
pub struct Wanted {
    pub publisher: PublicKey,
    pub number: (Epoch, Option<BatchNo>),
    pub fingerprint: Hash,
}

/// Where the log holds the very bytes that came again; or why not.
pub fn compare(log: &dyn Log, topic: TopicId, wanted: &Wanted) -> Result<Result<Offset, Refusal>, LogError> {
    let (epoch, batch_no) = wanted.number;
    let found = match batch_no {
        Some(batch_no) => log.batch(&topic, &wanted.publisher, epoch, batch_no)?.map(|batch| {
            (BatchDigest::decode(&batch.digest).map(|digest| digest.fingerprint()), batch.offset)
        }),
        None => log
            .epoch(&topic, &wanted.publisher, epoch)?
            .map(|found| (load::header(found.header).ok().map(|header| header.hash()), found.offset)),
    };
    Ok(match found {
        Some((Some(fingerprint), offset)) if fingerprint == wanted.fingerprint => Ok(offset),
        Some(_) => Err(Refusal::new(Code::Conflict, "other bytes are stored under this number")),
        None => Err(Refusal::new(Code::OutOfOrder, "not of the newest epoch")),
    })
}

/// One's own slot in a table: under whichever of one's indexes it is. Indexes are never used again, so that what is found
/// is one's own.
pub fn own_slot(
    log: &dyn Log,
    table: Option<TableId>,
    indexes: &[MemberIndex],
) -> Result<Option<Slot>, LogError> {
    let Some(table) = table else { return Ok(None) };
    for index in indexes {
        match log.slot(table, *index) {
            Ok(None) => {}
            // A lost slot locks one epoch; a header that does not come locks all that follow.
            Err(error) if error.is_damage() => damage::say(&format!("a slot is lost: {error}")),
            slot => return slot,
        }
    }
    Ok(None)
}

fn delivery(log: &dyn Log, epoch: StoredEpoch, indexes: &[MemberIndex]) -> Result<EpochDelivery, LogError> {
    let header = load::header(epoch.header).map_err(|error| LogError::Corrupt(error.to_string()))?;
    Ok(EpochDelivery { offset: epoch.offset, header, slot: own_slot(log, epoch.table, indexes)? })
}

/// Every publisher's newest epoch before `at`, with the slot under `indexes`, and that epoch's last batch there.
pub fn contexts(
    log: &dyn Log,
    topic: TopicId,
    at: Offset,
    indexes: &[MemberIndex],
) -> Result<Vec<Context>, LogError> {
    contexts_of(log, topic, at, indexes).map_err(|error| lost(topic, "the headers", error))
}

fn contexts_of(
    log: &dyn Log,
    topic: TopicId,
    at: Offset,
    indexes: &[MemberIndex],
) -> Result<Vec<Context>, LogError> {
    let mut out = Vec::new();
    for (publisher, _) in log.publishers(&topic)? {
        let Some(epoch) = epoch_before(log, topic, &publisher, at)? else { continue };
        let batch = match log.batch_before(&topic, &publisher, epoch.epoch, at)? {
            None => None,
            Some(batch) => {
                let digest = BatchDigest::decode(&batch.digest);
                Some((digest.ok_or_else(|| LogError::Corrupt("a batch's index".into()))?, batch.offset))
            }
        };
        out.push(Context { epoch: delivery(log, epoch, indexes)?, batch });
    }
    Ok(out)
}

/// A publisher's newest header standing before `at`.
pub(crate) fn epoch_before(
    log: &dyn Log,
    topic: TopicId,
    publisher: &PublicKey,
    at: Offset,
) -> Result<Option<StoredEpoch>, LogError> {
    let mut up_to = Epoch(u64::MAX);
    loop {
        let step = log.epochs_back(&topic, publisher, up_to, STEP)?;
        let Some(oldest) = step.last().map(|oldest| oldest.epoch) else { return Ok(None) };
        if let Some(found) = step.into_iter().find(|found| found.offset < at) {
            return Ok(Some(found));
        }
        let Some(before) = oldest.0.checked_sub(1) else { return Ok(None) };
        up_to = Epoch(before);
    }
}

/// A publisher's epochs through `epoch` that stand before `head`, from the newest whose DH slot for `indexes` opens the
/// rest; oldest first. If no slot does: the header of `epoch` alone.
pub fn epochs(
    log: &dyn Log,
    topic: TopicId,
    publisher: &PublicKey,
    epoch: Epoch,
    head: Offset,
    indexes: &[MemberIndex],
) -> Result<Vec<EpochDelivery>, LogError> {
    let mut out: Vec<EpochDelivery> = Vec::new();
    let mut up_to = epoch;
    while out.len() < MAX_EPOCHS_FETCHED {
        let step = log.epochs_back(&topic, publisher, up_to, STEP);
        let step = step.map_err(|error| lost(topic, "the headers", error))?;
        let Some(oldest) = step.last().map(|oldest| oldest.epoch) else { break };
        for found in step {
            if found.offset >= head {
                continue;
            }
            let found = delivery(log, found, indexes)?;
            let opens = found.slot.is_some_and(|slot| slot.source != SlotSource::Kek);
            let ends = found.header.peek().is_ok_and(|header| header.mode == Mode::Fresh);
            out.push(found);
            if opens {
                out.reverse();
                return Ok(out);
            }
            if ends {
                // What came before a fresh epoch opens nothing after it.
                out.truncate(1);
                return Ok(out);
            }
        }
        let Some(before) = oldest.0.checked_sub(1) else { break };
        up_to = Epoch(before);
    }
    out.truncate(1);
    Ok(out)
}

/// One roster entry.
pub(crate) fn roster_entry(
    log: &dyn Log,
    topic: TopicId,
    seq: RosterSeq,
) -> Result<Option<RosterItem>, LogError> {
    Ok(rosters(log, topic, seq, seq, 1)?.pop())
}

/// Roster entries `from ..= through`, some at a time.
pub fn rosters(
    log: &dyn Log,
    topic: TopicId,
    from: RosterSeq,
    through: RosterSeq,
    max_bytes: usize,
) -> Result<Vec<RosterItem>, LogError> {
    if from > through {
        return Ok(Vec::new());
    }
    let lost = |error| lost(topic, "the roster", error);
    let stored = log.rosters(&topic, from, max_bytes).map_err(lost)?;
    let mut out = Vec::with_capacity(stored.len());
    for stored in stored.into_iter().take_while(|stored| stored.seq <= through) {
        let item = EntryBundle::decode(stored.bundle)
            .and_then(|bundle| RosterItem::from_bundle(stored.offset, bundle))
            .map_err(|error| lost(LogError::Corrupt(error.to_string())))?;
        out.push(item);
    }
    Ok(out)
}

/// The first entry of an opening, with its whole roles list and policy if it needs them.
pub fn first_entry(
    log: &dyn Log,
    origin: &Origin,
    opening: Opening,
    ops: bool,
) -> Result<Option<RosterDelivery>, LogError> {
    let Some((roles, policy)) = opening.lists else { return Ok(None) };
    let Some(item) = roster_entry(log, origin.id, opening.from)? else { return Ok(None) };
    let born = RosterChain::new(origin.id, &origin.genesis);
    let roles = match roster_entry(log, origin.id, roles)?.and_then(|item| item.roles) {
        Some(roles) => roles,
        None => born.roles_bytes(),
    };
    let policy = match roster_entry(log, origin.id, policy)?.and_then(|item| item.policy) {
        Some(policy) => policy,
        None => born.policy_bytes().clone(),
    };
    Ok(Some(RosterDelivery { roles: Some(roles), policy: Some(policy), ..item.delivery(ops) }))
}

/// Everybody named in what can still be read of a damaged topic: its owner, and who signed or was ever added.
pub(crate) fn named(log: &dyn Log, topic: TopicId) -> HashSet<PublicKey> {
    let genesis = log.topic(&topic).ok().flatten().and_then(|genesis| load::kept::<Genesis>(&genesis).ok());
    let genesis = genesis.and_then(|genesis| genesis.verify_topic(&topic).ok());
    let mut named: HashSet<PublicKey> = genesis.iter().map(|genesis| genesis.owner).collect();
    let mut from = RosterSeq(1);
    while let Ok(stored) = log.rosters(&topic, from, limits::ROSTER_READ_BYTES)
        && let Some(last) = stored.last()
    {
        from = RosterSeq(last.seq.0.saturating_add(1));
        for bundle in stored.into_iter().filter_map(|stored| EntryBundle::decode(stored.bundle).ok()) {
            named.extend(bundle.entry.peek().map(|entry| entry.signer));
            let ops = decode_ops(&bundle.ops).unwrap_or_default();
            named.extend(ops.iter().filter_map(|op| match op {
                Op::Add { identity, .. } => Some(*identity),
                _ => None,
            }));
        }
    }
    named
}

/// Damage beside the log, without which a stream cannot go on, says whose it is.
fn lost(topic: TopicId, what: &str, error: LogError) -> LogError {
    match error {
        LogError::Corrupt(why) => LogError::Corrupt(format!("{what} of topic {}: {why}", topic.short())),
        error if error.is_damage() => {
            LogError::Corrupt(format!("{what} of topic {}: {error}", topic.short()))
        }
        error => error,
    }
}

/// A limit was reached; later it may not be.
pub(crate) fn busy(detail: &str) -> Refusal {
    Refusal { retry_after_ms: limits::BUSY_RETRY_MS, ..Refusal::new(Code::Busy, detail) }
}

/// What a client is told when the store fails it.
pub(crate) fn refusal(error: &LogError) -> Refusal {
    let (code, detail) = match error {
        LogError::Closed => (Code::Draining, "the broker is going away"),
        LogError::Full { .. } => (Code::ReadOnly, "the broker's disk is full"),
        LogError::Corrupt(_) => (Code::ReadOnly, "the broker's data is damaged"),
        _ => (Code::ReadOnly, "the broker's storage failed"),
    };
    Refusal { retry_after_ms: limits::READ_ONLY_RETRY_MS, ..Refusal::new(code, detail) }
}
