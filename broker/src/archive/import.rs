//! From a file into a data directory. The file is read more than once: nothing is written before all of it was found good.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use bytes::Bytes;
use sealcast_proto::object::Prekey;
use sealcast_proto::{Epoch, Offset, PublicKey, Signed, TopicId};

use super::check::{Check, Found};
use super::format::{Item, Reader};
use super::{ArchiveError, Counts, file_error};
use crate::load;
use crate::store::{FjallLog, FjallOptions, Log, TableId, Write};

/// Bytes written to the store at a time.
const WRITE: usize = 4 << 20;

/// Takes the topics in `file` up into the data directory `data`, which is made if need be. The broker must not be running.
/// All of them, or none: an import that was cut short left nothing.
pub fn import(file: &Path, data: &Path) -> Result<Counts, ArchiveError> {
    // Before the directory is touched.
    let mut topics = BTreeSet::new();
    let mut counts = walk(file, |check, step| {
        if matches!(step, Step::Begin(_)) && !topics.insert(check.topic()) {
            return Err(check.damaged(check.first(), "the file holds it twice"));
        }
        Ok(())
    })?;
    let (log, _) = FjallLog::open(data, FjallOptions::default())?;
    let mut here = BTreeSet::new();
    for topic in topics {
        here.extend(log.topic(&topic)?.map(|_| topic));
    }
    if !here.is_empty() {
        walk(
            file,
            |check, step| {
                if here.contains(&check.topic()) { compare(&log, check, step) } else { Ok(()) }
            },
        )?;
    }
    let mut importing = Importing::new(&log);
    let written =
        walk(
            file,
            |check, step| {
                if here.contains(&check.topic()) { Ok(()) } else { importing.step(check, step) }
            },
        );
    let topics = std::mem::take(&mut importing.topics);
    match written.and_then(|_| importing.flush()).and_then(|()| Ok(log.end_import(&topics)?)) {
        Ok(()) => {}
        Err(error) => {
            for (topic, _) in &topics {
                // What cannot be cleared away now is when the directory is next opened.
                let _ = log.clear_import(topic);
            }
            return Err(error);
        }
    }
    counts.known = here.len() as u64;
    Ok(counts)
}

enum Step {
    /// A topic's genesis.
    Begin(Bytes),
    /// What came; its record, if it stands in the log.
    Found(Found, Option<(Offset, u64, Bytes)>),
}

/// Reads and checks a file from end to end.
fn walk(
    file: &Path,
    mut step: impl FnMut(&Check, Step) -> Result<(), ArchiveError>,
) -> Result<Counts, ArchiveError> {
    let from = File::open(file).map_err(file_error(file, "read"))?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, from))?;
    let mut counts = Counts::default();
    let mut current: Option<Check> = None;
    while let Some(item) = reader.item()? {
        let Some(check) = &mut current else {
            let Item::Topic { first, next, genesis } = item else {
                return Err(ArchiveError::DamagedFile("an item of no topic".into()));
            };
            let check = Check::begin(first, next, &genesis)?;
            step(&check, Step::Begin(genesis))?;
            current = Some(check);
            continue;
        };
        let record = match &item {
            Item::Record { offset, stored_ms, record } => Some((*offset, *stored_ms, record.clone())),
            _ => None,
        };
        let found = check.take(item)?;
        counts.records += u64::from(record.is_some());
        let done = matches!(found, Found::Done);
        step(check, Step::Found(found, record))?;
        if done {
            counts.topics += 1;
            current = None;
        }
    }
    if current.is_some() {
        return Err(ArchiveError::DamagedFile("its last topic is not whole".into()));
    }
    counts.bytes = reader.bytes;
    Ok(counts)
}

/// Whether a topic that is here already has this very history.
fn compare(log: &FjallLog, check: &Check, step: Step) -> Result<(), ArchiveError> {
    let topic = check.topic();
    let bounds = log.bounds(&topic)?;
    let fork = |at| ArchiveError::Fork { topic, at };
    let Step::Found(found, record) = step else { return Ok(()) };
    if let Found::Entry { seq, offset, bundle } = &found {
        let here = log.rosters(&topic, *seq, 1)?.into_iter().find(|here| here.seq == *seq);
        match here {
            Some(here) if here.bundle == *bundle && here.offset == *offset => {}
            None if *offset >= bounds.next => {}
            _ => return Err(fork(*offset)),
        }
    }
    if let Some((offset, _, record)) = record
        && offset >= bounds.first
        && offset < bounds.next
    {
        let here = log.read(&topic, offset, 1)?.into_iter().find(|here| here.offset == offset);
        if here.is_none_or(|here| here.record != record) {
            return Err(fork(offset));
        }
    }
    if matches!(found, Found::Done) && check.next() > bounds.next {
        return Err(ArchiveError::Behind { topic, here: bounds.next, file: check.next() });
    }
    Ok(())
}

/// What is written, a group at a time.
struct Importing<'a> {
    log: &'a FjallLog,
    writes: Vec<Write>,
    size: usize,
    /// A header whose slots still come: it is written after them.
    header: Option<(TopicId, PublicKey, Epoch, Offset, Bytes)>,
    table: Option<TableId>,
    topics: Vec<(TopicId, Bytes)>,
}

impl<'a> Importing<'a> {
    fn new(log: &'a FjallLog) -> Self {
        Self { log, writes: Vec::new(), size: 0, header: None, table: None, topics: Vec::new() }
    }

    fn step(&mut self, check: &Check, step: Step) -> Result<(), ArchiveError> {
        let topic = check.topic();
        let (found, record) = match step {
            Step::Begin(genesis) => {
                self.flush()?;
                self.log.begin_import(&topic, check.first())?;
                // Only now: whatever is in this list is cleared away if the import fails.
                self.topics.push((topic, genesis));
                return Ok(());
            }
            Step::Found(found, record) => (found, record),
        };
        if !matches!(found, Found::Slots { .. }) {
            self.finish_header()?;
        }
        if let Some((offset, stored_ms, record)) = record {
            self.write(Write::Append { topic, offset, stored_ms, record })?;
        }
        match found {
            Found::Nothing | Found::Done => Ok(()),
            Found::Entry { seq, offset, bundle } => self.write(Write::Roster { topic, seq, offset, bundle }),
            Found::Header { publisher, epoch, offset, record } => {
                self.header = Some((topic, publisher, epoch, offset, record));
                Ok(())
            }
            Found::Slots { first_member, slots } => {
                let table = *self.table.get_or_insert_with(|| self.log.new_table());
                self.write(Write::TableChunk { table, first_member, slots })
            }
            Found::Batch { publisher, epoch, batch_no, offset, digest } => {
                self.write(Write::Batch { topic, publisher, epoch, batch_no, offset, digest })
            }
            Found::Head(head) => self.write(Write::Head { topic, head }),
            Found::Prekey { owner, prekey } => self.prekey(owner, prekey),
        }
    }

    /// A prekey that this broker has a newer one for stays behind.
    fn prekey(&mut self, owner: PublicKey, prekey: Bytes) -> Result<(), ArchiveError> {
        let id = |kept: &Bytes| {
            let signed: Option<Signed<Prekey>> = load::kept(kept).ok();
            signed.and_then(|signed| signed.peek().ok()).map(|prekey| prekey.prekey_id)
        };
        let here = self.log.prekey(&owner)?;
        if here.as_ref().and_then(id) >= id(&prekey) {
            return Ok(());
        }
        self.write(Write::Prekey { owner, prekey })
    }

    fn finish_header(&mut self) -> Result<(), ArchiveError> {
        let Some((topic, publisher, epoch, offset, header)) = self.header.take() else { return Ok(()) };
        let table = self.table.take();
        self.write(Write::Epoch { topic, publisher, epoch, offset, header, table })?;
        self.write(Write::Publisher { topic, publisher, state: Bytes::new() })
    }

    fn write(&mut self, write: Write) -> Result<(), ArchiveError> {
        self.size = self.size.saturating_add(write.size());
        self.writes.push(write);
        if self.size >= WRITE { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ArchiveError> {
        self.size = 0;
        Ok(self.log.write(&std::mem::take(&mut self.writes), false)?)
    }
}
