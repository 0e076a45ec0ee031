//! A log whose disk fails when it is told to.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use sealcast_proto::frame::Level;
use sealcast_proto::slot::Slot;
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, PublicKey, RosterSeq, TopicId};

use crate::store::{
    Bounds, Log, LogError, Stored, StoredBatch, StoredEpoch, StoredRoster, TableId, Trimmed, Write,
};

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Disk {
    Well,
    Full,
    /// Says that it is full, and has stored what was written.
    Unsure,
    Broken,
}

pub(crate) struct Faulty {
    inner: Box<dyn Log>,
    disk: AtomicU8,
    pub(crate) syncs: AtomicUsize,
    /// Records that cannot be read any more.
    damaged: Mutex<BTreeSet<Offset>>,
    /// The topic whose genesis cannot be read any more.
    lost: Mutex<Option<TopicId>>,
    /// Called after each write that was synced, before anybody hears of it.
    synced: Mutex<Option<Box<dyn FnMut() + Send>>>,
}

impl Faulty {
    pub(crate) fn new(inner: impl Log) -> Arc<Self> {
        Arc::new(Self {
            inner: Box::new(inner),
            disk: AtomicU8::new(Disk::Well as u8),
            syncs: AtomicUsize::new(0),
            damaged: Mutex::default(),
            lost: Mutex::default(),
            synced: Mutex::default(),
        })
    }

    pub(crate) fn damages(&self, lost: impl IntoIterator<Item = u64>) {
        self.damaged.lock().unwrap().extend(lost.into_iter().map(Offset));
    }

    pub(crate) fn loses(&self, topic: TopicId) {
        *self.lost.lock().unwrap() = Some(topic);
    }

    pub(crate) fn when_synced(&self, then: impl FnMut() + Send + 'static) {
        *self.synced.lock().unwrap() = Some(Box::new(then));
    }

    pub(crate) fn becomes(&self, disk: Disk) {
        self.disk.store(disk as u8, Ordering::SeqCst);
    }
}

type Result<T> = std::result::Result<T, LogError>;

impl Log for Faulty {
    fn write(&self, writes: &[Write], sync: bool) -> Result<()> {
        if self.disk.load(Ordering::SeqCst) == Disk::Unsure as u8 {
            self.inner.write(writes, sync)?;
        }
        self.room()?;
        self.syncs.fetch_add(usize::from(sync), Ordering::SeqCst);
        self.inner.write(writes, sync)?;
        if sync && let Some(then) = &mut *self.synced.lock().unwrap() {
            then();
        }
        Ok(())
    }

    fn room(&self) -> Result<()> {
        match self.disk.load(Ordering::SeqCst) {
            disk if disk == Disk::Full as u8 || disk == Disk::Unsure as u8 => {
                Err(LogError::Full { dir: PathBuf::from("/full"), free: 0, reserve: 1 })
            }
            disk if disk == Disk::Broken as u8 => {
                Err(LogError::Io { doing: "testing", error: Arc::new(std::io::Error::other("broken")) })
            }
            _ => Ok(()),
        }
    }

    fn level(&self) -> Level {
        self.inner.level()
    }
    fn topics(&self) -> Result<Vec<TopicId>> {
        self.inner.topics()
    }
    fn topic(&self, topic: &TopicId) -> Result<Option<Bytes>> {
        match *self.lost.lock().unwrap() {
            Some(lost) if lost == *topic => Err(LogError::Corrupt("as a test wants it".into())),
            _ => self.inner.topic(topic),
        }
    }
    fn bounds(&self, topic: &TopicId) -> Result<Bounds> {
        self.inner.bounds(topic)
    }
    fn reserved(&self, topic: &TopicId) -> Result<Offset> {
        self.inner.reserved(topic)
    }
    fn read(&self, topic: &TopicId, from: Offset, max_bytes: usize) -> Result<Vec<Stored>> {
        let mut read = self.inner.read(topic, from, max_bytes)?;
        let damaged = self.damaged.lock().unwrap();
        let whole = read.iter().take_while(|stored| !damaged.contains(&stored.offset)).count();
        if whole == 0 && !read.is_empty() {
            return Err(LogError::Corrupt("as a test wants it".into()));
        }
        read.truncate(whole);
        Ok(read)
    }
    fn read_back(&self, topic: &TopicId, before: Offset, max_records: usize) -> Result<Vec<Stored>> {
        self.inner.read_back(topic, before, max_records)
    }
    fn seek_time(&self, topic: &TopicId, ms: u64) -> Result<Offset> {
        self.inner.seek_time(topic, ms)
    }
    fn seek_bytes(&self, topic: &TopicId, max_bytes: u64) -> Result<Offset> {
        self.inner.seek_bytes(topic, max_bytes)
    }
    fn rosters(&self, topic: &TopicId, from: RosterSeq, max_bytes: usize) -> Result<Vec<StoredRoster>> {
        self.inner.rosters(topic, from, max_bytes)
    }
    fn roster_before(&self, topic: &TopicId, before: Offset) -> Result<Option<RosterSeq>> {
        self.inner.roster_before(topic, before)
    }
    fn head(&self, topic: &TopicId) -> Result<Option<Bytes>> {
        self.inner.head(topic)
    }
    fn publishers(&self, topic: &TopicId) -> Result<Vec<(PublicKey, Bytes)>> {
        self.inner.publishers(topic)
    }
    fn epochs_back(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        up_to: Epoch,
        max: usize,
    ) -> Result<Vec<StoredEpoch>> {
        self.inner.epochs_back(topic, publisher, up_to, max)
    }
    fn batch(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        batch_no: BatchNo,
    ) -> Result<Option<StoredBatch>> {
        self.inner.batch(topic, publisher, epoch, batch_no)
    }
    fn batch_before(
        &self,
        topic: &TopicId,
        publisher: &PublicKey,
        epoch: Epoch,
        before: Offset,
    ) -> Result<Option<StoredBatch>> {
        self.inner.batch_before(topic, publisher, epoch, before)
    }
    fn new_table(&self) -> TableId {
        self.inner.new_table()
    }
    fn slot(&self, table: TableId, member: MemberIndex) -> Result<Option<Slot>> {
        self.inner.slot(table, member)
    }
    fn prekey(&self, owner: &PublicKey) -> Result<Option<Bytes>> {
        self.inner.prekey(owner)
    }
    fn trim(&self, topic: &TopicId, before: Offset) -> Result<Trimmed> {
        self.inner.trim(topic, before)
    }
    fn drop_epochs(&self, topic: &TopicId, publisher: &PublicKey, before: Epoch) -> Result<u64> {
        self.inner.drop_epochs(topic, publisher, before)
    }
}
