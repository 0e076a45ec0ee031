//! From a data directory into a file.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sealcast_proto::object::EpochHeader;
use sealcast_proto::record::Record;
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

use super::check::Check;
use super::format::{Item, Writer};
use super::{ArchiveError, Counts, file_error};
use crate::store::{FjallLog, FjallOptions, Log, StoredEpoch, StoredRoster, TableId};

/// Bytes read from the store at a time.
const READ: usize = 1 << 20;
/// Headers looked at in one step back, a count.
const STEP: usize = 64;

/// Writes `topics` (all, if none is named) of the broker that keeps its data in `data` into a new file. The broker must not
/// be running.
pub fn export(data: &Path, topics: &[TopicId], file: &Path) -> Result<Counts, ArchiveError> {
    if !data.join("format").exists() {
        return Err(ArchiveError::NoData(data.into()));
    }
    if file.exists() {
        return Err(ArchiveError::Exists(file.into()));
    }
    let (log, _) = FjallLog::open(data, FjallOptions { reserve_bytes: 0, ..FjallOptions::default() })?;
    let known = log.topics()?;
    if let Some(unknown) = topics.iter().find(|topic| !known.contains(topic)) {
        return Err(ArchiveError::NoTopic(*unknown));
    }
    let new = PathBuf::from(format!("{}.new", file.display()));
    let written = write(&log, &known, topics, file, &new);
    if written.is_err() {
        // If it stays, the next export writes over it.
        let _ = std::fs::remove_file(&new);
    }
    written
}

fn write(
    log: &FjallLog,
    known: &[TopicId],
    topics: &[TopicId],
    file: &Path,
    new: &Path,
) -> Result<Counts, ArchiveError> {
    let failed = file_error(file, "write");
    let out = BufWriter::with_capacity(READ, File::create(new).map_err(&failed)?);
    let mut exporting =
        Exporting { log, out: Writer::new(out).map_err(&failed)?, file, counts: Counts::default() };
    for topic in known.iter().filter(|id| topics.is_empty() || topics.contains(id)) {
        let genesis = log.topic(topic)?.ok_or(ArchiveError::NoTopic(*topic))?;
        exporting.topic(*topic, genesis)?;
    }
    let Exporting { out, mut counts, .. } = exporting;
    let (out, bytes) = out.end().map_err(&failed)?;
    counts.bytes = bytes;
    let out = out.into_inner().map_err(|error| failed(error.into_error()))?;
    out.sync_all().and_then(|()| std::fs::rename(new, file)).map_err(&failed)?;
    let dir = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(&failed)?;
    Ok(counts)
}

struct Exporting<'a, W> {
    log: &'a FjallLog,
    out: Writer<W>,
    file: &'a Path,
    counts: Counts,
}

impl<W: Write> Exporting<'_, W> {
    fn topic(&mut self, topic: TopicId, genesis: bytes::Bytes) -> Result<(), ArchiveError> {
        let bounds = self.log.bounds(&topic)?;
        let mut check = Check::begin(bounds.first, bounds.next, &genesis)?;
        if check.topic() != topic {
            return Err(check.damaged(Offset(0), "its genesis is another topic's"));
        }
        self.plain(&Item::Topic { first: bounds.first, next: bounds.next, genesis })?;
        let mut rosters = self.entries(&mut check)?;
        for (publisher, _) in self.log.publishers(&topic)? {
            self.epochs(&mut check, publisher)?;
        }
        let mut from = bounds.first;
        loop {
            let stored = self.log.read(&topic, from, READ);
            let stored = stored.map_err(|error| self.lost(&check, from, error))?;
            let Some(last) = stored.last().map(|stored| stored.offset) else { break };
            for stored in stored {
                self.record(&mut check, stored, &mut rosters)?;
            }
            from = Offset(last.0.saturating_add(1));
        }
        if let Some(head) = self.log.head(&topic)? {
            self.item(&mut check, Item::Head(head))?;
        }
        let members: Vec<PublicKey> = check.members().collect();
        for member in members {
            if let Some(prekey) = self.log.prekey(&member)? {
                self.item(&mut check, Item::Prekey(prekey))?;
            }
        }
        self.item(&mut check, Item::Done)?;
        self.counts.topics += 1;
        Ok(())
    }

    fn lost(&self, check: &Check, at: Offset, error: crate::store::LogError) -> ArchiveError {
        if error.is_damage() { check.damaged(at, error.to_string()) } else { error.into() }
    }

    /// The roster entries that stand before the log; returns where the others begin.
    fn entries(&mut self, check: &mut Check) -> Result<RosterSeq, ArchiveError> {
        let mut seq = RosterSeq(1);
        loop {
            let stored = self.log.rosters(&check.topic(), seq, READ);
            let stored = stored.map_err(|error| self.lost(check, Offset(0), error))?;
            if stored.is_empty() {
                return Ok(seq);
            }
            for StoredRoster { seq: this, offset, bundle } in stored {
                if offset >= check.first() {
                    return Ok(this);
                }
                self.item(check, Item::Entry { offset, bundle })?;
                seq = RosterSeq(this.0.saturating_add(1));
            }
        }
    }

    /// A publisher's headers that stand before the log, with their tables and the digests of their batches there.
    fn epochs(&mut self, check: &mut Check, publisher: PublicKey) -> Result<(), ArchiveError> {
        let topic = check.topic();
        let mut epochs = Vec::new();
        let mut up_to = Some(Epoch(u64::MAX));
        while let Some(epoch) = up_to {
            let step = self.log.epochs_back(&topic, &publisher, epoch, STEP);
            let step = step.map_err(|error| self.lost(check, Offset(0), error))?;
            up_to = step.last().and_then(|oldest| oldest.epoch.0.checked_sub(1)).map(Epoch);
            epochs.extend(step.into_iter().filter(|it| it.offset < check.first()).map(|it| it.epoch));
        }
        for epoch in epochs.into_iter().rev() {
            let Some(StoredEpoch { offset, header, table, .. }) =
                self.log.epoch(&topic, &publisher, epoch)?
            else {
                return Err(check.damaged(Offset(0), "a header is lost"));
            };
            self.item(check, Item::Header { offset, record: header })?;
            self.slots(check, table)?;
            let last = self.log.batch_before(&topic, &publisher, epoch, check.first())?;
            for no in 0..last.map_or(0, |last| last.batch_no.0.saturating_add(1)) {
                let batch = self.log.batch(&topic, &publisher, epoch, BatchNo(no))?;
                let batch = batch.ok_or_else(|| check.damaged(offset, format!("batch {no} is lost")))?;
                self.item(check, Item::Digest { offset: batch.offset, digest: batch.digest })?;
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        check: &mut Check,
        stored: crate::store::Stored,
        seq: &mut RosterSeq,
    ) -> Result<(), ArchiveError> {
        let crate::store::Stored { offset, stored_ms, record } = stored;
        let topic = check.topic();
        let parsed = Record::decode(record.clone());
        if let Ok(Record::Roster(_)) = &parsed {
            let bundle =
                self.log.rosters(&topic, *seq, 1).map_err(|error| self.lost(check, offset, error))?;
            let Some(StoredRoster { bundle, .. }) = bundle.into_iter().find(|it| it.offset == offset) else {
                return Err(check.damaged(offset, "what belongs to a roster entry is lost"));
            };
            self.item(check, Item::Entry { offset, bundle })?;
            *seq = RosterSeq(seq.0.saturating_add(1));
        }
        self.item(check, Item::Record { offset, stored_ms, record })?;
        self.counts.records += 1;
        if let Ok(Record::Header(header)) = parsed
            && let Ok(EpochHeader { publisher, epoch, .. }) = header.peek()
        {
            let found = self.log.epoch(&topic, &publisher, epoch)?;
            let found = found.ok_or_else(|| check.damaged(offset, "a header is not in the index"))?;
            self.slots(check, found.table)?;
        }
        Ok(())
    }

    fn slots(&mut self, check: &mut Check, table: Option<TableId>) -> Result<(), ArchiveError> {
        let Some(table) = table else { return Ok(()) };
        let mut from = Some(MemberIndex(0));
        while let Some(member) = from {
            let chunks =
                self.log.chunks(table, member).map_err(|error| self.lost(check, Offset(0), error))?;
            from = chunks.last().and_then(|(first, _)| first.0.checked_add(1)).map(MemberIndex);
            for (_, slots) in chunks {
                self.item(check, Item::Slots(slots))?;
            }
        }
        Ok(())
    }

    /// Checked, then written.
    fn item(&mut self, check: &mut Check, item: Item) -> Result<(), ArchiveError> {
        check.take(item.clone())?;
        self.plain(&item)
    }

    fn plain(&mut self, item: &Item) -> Result<(), ArchiveError> {
        self.out.item(item).map_err(file_error(self.file, "write"))
    }
}
