//! Random operations: the store on disk and the one in memory cannot be told apart.

use bytes::Bytes;
use proptest::prelude::*;
use sealcast_proto::{BatchNo, Epoch, MemberIndex, Offset, RosterSeq};

use super::conformance::{Backend, publisher, record, slot, topic};
use super::fjall::tests::OnDisk;
use super::memory::tests::InMemory;
use super::{Log, TableId, Write};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<Small>, bool),
    Trim(u8, u64),
    DropEpochs(u8, u8, u64),
    Reopen,
}

/// A write over few topics, publishers and numbers, so that they meet.
#[derive(Clone, Debug)]
enum Small {
    Create(u8),
    Append { topic: u8, ahead: u64, later: u64, len: usize },
    Roster { topic: u8, len: usize },
    Head(u8, u8),
    Reserve(u8, u64),
    Snapshot(u8, u8, u8),
    Epoch { topic: u8, publisher: u8, table: Option<u8> },
    Batch { topic: u8, publisher: u8, skip: u64 },
    Prekey(u8, u8),
    Chunk { table: u8, first: u32, count: u32 },
    DropTable(u8),
}

fn small() -> impl Strategy<Value = Small> {
    let (topic, publisher, table) = (0..3_u8, 0..2_u8, 0..4_u8);
    prop_oneof![
        2 => topic.clone().prop_map(Small::Create),
        // Now and then an offset that breaks the rule.
        8 => (topic.clone(), prop_oneof![9 => Just(0), 2 => 1..5_u64, 1 => Just(u64::MAX)], 0..3_u64, 0..1500_usize)
            .prop_map(|(topic, ahead, later, len)| Small::Append { topic, ahead, later, len }),
        2 => (topic.clone(), 0..1500_usize).prop_map(|(topic, len)| Small::Roster { topic, len }),
        1 => (topic.clone(), any::<u8>()).prop_map(|(topic, n)| Small::Head(topic, n)),
        1 => (topic.clone(), any::<u64>()).prop_map(|(topic, below)| Small::Reserve(topic, below)),
        2 => (topic.clone(), publisher.clone(), any::<u8>()).prop_map(|(t, p, n)| Small::Snapshot(t, p, n)),
        3 => (topic.clone(), publisher.clone(), proptest::option::of(table.clone()))
            .prop_map(|(topic, publisher, table)| Small::Epoch { topic, publisher, table }),
        4 => (topic, publisher.clone(), 0..2_u64)
            .prop_map(|(topic, publisher, skip)| Small::Batch { topic, publisher, skip }),
        1 => (publisher, any::<u8>()).prop_map(|(p, n)| Small::Prekey(p, n)),
        4 => (table.clone(), 0..20_u32, 1..5_u32)
            .prop_map(|(table, first, count)| Small::Chunk { table, first, count }),
        1 => table.prop_map(Small::DropTable),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (proptest::collection::vec(small(), 1..8), any::<bool>()).prop_map(|(w, sync)| Step::Write(w, sync)),
        2 => (0..3_u8, 0..30_u64).prop_map(|(topic, before)| Step::Trim(topic, before)),
        1 => (0..3_u8, 0..2_u8, 0..30_u64).prop_map(|(t, p, before)| Step::DropEpochs(t, p, before)),
        1 => Just(Step::Reopen),
    ]
}

/// What gives the writes their rising numbers.
#[derive(Default)]
struct Numbers {
    /// Per topic: offset, clock, roster entry, epoch.
    topics: [[u64; 4]; 3],
    batch_no: u64,
    /// Tables of this round; a named or dropped one is replaced, for nobody writes to it again.
    tables: Vec<TableId>,
}

impl Numbers {
    fn write(&mut self, log: &impl Log, small: &Small) -> Write {
        match small.clone() {
            Small::Create(t) => Write::CreateTopic { topic: topic(t), genesis: record(t, 20) },
            Small::Append { topic: t, ahead, later, len } => {
                let [offset, clock, ..] = &mut self.topics[usize::from(t)];
                *clock += later;
                let at = offset.wrapping_add(ahead);
                *offset = (*offset).max(at.saturating_add(1).min(1 << 40));
                Write::Append {
                    topic: topic(t),
                    offset: Offset(at),
                    stored_ms: *clock,
                    record: record(t, len),
                }
            }
            Small::Roster { topic: t, len } => {
                let [offset, _, seq, _] = &mut self.topics[usize::from(t)];
                *seq += 1;
                let (seq, offset) = (RosterSeq(*seq), Offset(*offset));
                Write::Roster { topic: topic(t), seq, offset, bundle: record(t, len) }
            }
            Small::Head(t, n) => Write::Head { topic: topic(t), head: record(n, 9) },
            Small::Reserve(t, below) => Write::Reserve { topic: topic(t), below: Offset(below) },
            Small::Snapshot(t, p, n) => {
                Write::Publisher { topic: topic(t), publisher: publisher(p), state: record(n, 9) }
            }
            Small::Epoch { topic: t, publisher: p, table } => {
                let [offset, _, _, epoch] = &mut self.topics[usize::from(t)];
                *epoch += 1;
                let (epoch, offset) = (Epoch(*epoch), Offset(*offset));
                let table = table.map(|at| self.take(log, at));
                let header = record(t, 30);
                Write::Epoch { topic: topic(t), publisher: publisher(p), epoch, offset, header, table }
            }
            Small::Batch { topic: t, publisher: p, skip } => {
                let [offset, _, _, epoch] = self.topics[usize::from(t)];
                self.batch_no += 1 + skip;
                let (epoch, batch_no, offset) = (Epoch(epoch), BatchNo(self.batch_no), Offset(offset));
                let digest = Bytes::from_static(b"digest");
                Write::Batch { topic: topic(t), publisher: publisher(p), epoch, batch_no, offset, digest }
            }
            Small::Prekey(p, n) => Write::Prekey { owner: publisher(p), prekey: record(n, 9) },
            Small::Chunk { table, first, count } => {
                let slots: Vec<u8> =
                    (first..first + count).flat_map(|member| slot(member).encode()).collect();
                let first_member = MemberIndex(first);
                Write::TableChunk {
                    table: self.tables[usize::from(table)],
                    first_member,
                    slots: slots.into(),
                }
            }
            Small::DropTable(table) => Write::DropTable { table: self.take(log, table) },
        }
    }

    fn take(&mut self, log: &impl Log, at: u8) -> TableId {
        std::mem::replace(&mut self.tables[usize::from(at)], log.new_table())
    }
}

/// Everything a reader can see.
fn seen(log: &impl Log) -> String {
    let mut seen = format!("{:?}", log.topics());
    for t in (0..3).map(topic) {
        seen += &format!("\n{:?} {:?} {:?}", t, log.topic(&t), log.bounds(&t));
        seen += &format!(" {:?} {:?}", log.head(&t), log.publishers(&t));
        seen += &format!(" {:?}", log.reserved(&t));
        for at in [0, 3, 9, u64::MAX] {
            seen += &format!(" {:?} {:?}", log.read(&t, Offset(at), 1000), log.read_back(&t, Offset(at), 2));
            seen += &format!(
                " {:?} {:?}",
                log.rosters(&t, RosterSeq(at), 1000),
                log.roster_before(&t, Offset(at))
            );
        }
        for at in [0, 1, 5, 20, 1000, 3000] {
            seen += &format!(" {:?} {:?}", log.seek_time(&t, at), log.seek_bytes(&t, at));
        }
        for p in (0..2).map(publisher) {
            seen += &format!("\n {:?}", log.epochs_back(&t, &p, Epoch(u64::MAX), 9));
            for epoch in (0..12).map(Epoch) {
                seen += &format!(" {:?}", log.epoch(&t, &p, epoch));
                for at in [0, 3, 9, u64::MAX] {
                    let batch = log.batch(&t, &p, epoch, BatchNo(at));
                    seen += &format!(" {batch:?} {:?}", log.batch_before(&t, &p, epoch, Offset(at)));
                }
            }
        }
    }
    for table in (0..40).map(TableId) {
        seen += &format!("\n{:?}", [0, 5, 10, 20].map(|member| log.slot(table, MemberIndex(member)).ok()));
    }
    seen + &format!("\n{:?}", [0, 1].map(|p| log.prekey(&publisher(p)).ok()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn they_agree(steps in proptest::collection::vec(step(), 1..25)) {
        let (mut on_disk, mut in_memory) = (OnDisk::default(), InMemory);
        let (mut disk, mut memory) = (on_disk.fresh(), in_memory.fresh());
        let mut numbers = Numbers { tables: (0..4).map(|_| memory.new_table()).collect(), ..Numbers::default() };
        for step in steps {
            match step {
                Step::Write(small, sync) => {
                    let writes: Vec<Write> = small.iter().map(|small| numbers.write(&memory, small)).collect();
                    let (one, two) = (disk.write(&writes, sync), memory.write(&writes, sync));
                    prop_assert_eq!(one.map_err(|error| error.to_string()), two.map_err(|error| error.to_string()));
                }
                Step::Trim(t, before) => {
                    let before = Offset(before);
                    prop_assert_eq!(disk.trim(&topic(t), before).ok(), memory.trim(&topic(t), before).ok());
                }
                Step::DropEpochs(t, p, before) => {
                    let (t, p, before) = (topic(t), publisher(p), Epoch(before));
                    prop_assert_eq!(disk.drop_epochs(&t, &p, before).ok(), memory.drop_epochs(&t, &p, before).ok());
                }
                Step::Reopen => {
                    disk.write(&[], true).unwrap();
                    (disk, memory) = (on_disk.reopen(disk), in_memory.reopen(memory));
                    numbers.tables = (0..4).map(|_| memory.new_table()).collect();
                }
            }
        }
        // Line by line: the first difference is enough to read.
        for (disk, memory) in seen(&disk).lines().zip(seen(&memory).lines()) {
            prop_assert_eq!(disk, memory);
        }
    }
}
