//! Frames as they come from the network, and all that stands in them.
//!
//! ```text
//! input = side u8 ‖ frame …        side: even, from a client to its broker; odd, from a broker to its client
//! ```
//! What must hold: a length beyond its kind's limit is refused from the five bytes that say it; what was read is written
//! again, and that is read as the same; a record is written exactly as it was read.

use bytes::Bytes;
use sealcast_proto::accept::BatchClaim;
use sealcast_proto::frame::{
    Ack, Code, Context, EpochDelivery, FRAME_HEADER, FrameKind, From, Hello, HoleReason, Level, Refusal,
    Reply, Request, RosterDelivery, Start, Subscribe, TopicInfo, frame_header,
};
use sealcast_proto::limits::SLOT_BYTES;
use sealcast_proto::object::{EpochHeader, RosterEntry};
use sealcast_proto::policy::{Policy, policy_hash};
use sealcast_proto::record::{BatchDigest, BatchRecord, Record};
use sealcast_proto::roster::{EntryBundle, decode_ops, encode_ops, removes};
use sealcast_proto::slot::{Slot, TableCheck, find_slot, table_hash};
use sealcast_proto::{BatchNo, Epoch, Hash, MemberIndex, Offset, RosterSeq, Signed, SlotSource};

use crate::{Reached, Target, valid};

/// See the module's page.
pub const TARGET: Target = Target { name: "wire", run, stages: STAGES, heap: (64 << 10, 128), seeds };

const STAGES: &[&str] = &[
    "request",
    "reply",
    "roster record",
    "header record",
    "batch record",
    "batch claim",
    "table",
    "slot",
    "bundle",
    "ops",
    "policy",
    "delivery",
];

fn run(input: &[u8], reached: &mut Reached) {
    let Some((side, mut rest)) = input.split_first() else { return };
    while let Some((header, after)) = rest.split_first_chunk::<FRAME_HEADER>() {
        let Ok((kind, len)) = FrameKind::parse(*header) else { return };
        assert!(len <= kind.max_len());
        assert_eq!(frame_header(kind, len), *header);
        let Some((payload, after)) = after.split_at_checked(len) else { return };
        let payload = Bytes::copy_from_slice(payload);
        match side % 2 {
            0 => request(kind, payload, reached),
            _ => reply(kind, payload, reached),
        }
        rest = after;
    }
}

fn request(kind: FrameKind, payload: Bytes, reached: &mut Reached) {
    let Some(request) = reached.ok("request", Request::decode(kind, payload.clone())) else { return };
    let (kind, again) = unframe(&request.encode(), payload.len());
    assert_eq!(Request::decode(kind, again).as_ref(), Ok(&request));
    match request {
        Request::Record(bytes) => record(bytes, reached),
        Request::Table(bytes) => table(&bytes, reached),
        Request::Bundle(bundle) => {
            reached.mark("bundle");
            assert_eq!(EntryBundle::decode(bundle.encode()).as_ref(), Ok(&bundle));
            beside(&bundle.entry, Some(&bundle.ops), bundle.policy.as_ref(), reached);
        }
        _ => {}
    }
}

fn reply(kind: FrameKind, payload: Bytes, reached: &mut Reached) {
    let Some(reply) = reached.ok("reply", Reply::decode(kind, payload.clone())) else { return };
    let (kind, again) = unframe(&reply.encode(), payload.len());
    assert_eq!(Reply::decode(kind, again).as_ref(), Ok(&reply));
    match reply {
        Reply::Record(_, bytes) => {
            let batch = Reply::batch(bytes.clone());
            assert_eq!(batch.is_ok(), matches!(Record::decode(bytes.clone()), Ok(Record::Batch(_))));
            record(bytes, reached);
        }
        Reply::Roster(delivery) => {
            reached.mark("delivery");
            beside(&delivery.entry, delivery.ops.as_ref(), delivery.policy.as_ref(), reached);
        }
        Reply::Epoch(epoch) => header(&epoch.header),
        Reply::Context(context) => {
            header(&context.epoch.header);
            if let Some((digest, _)) = context.batch {
                digested(&digest);
            }
        }
        Reply::Refused(refusal) => assert!(!refusal.detail.chars().any(char::is_control)),
        _ => {}
    }
}

/// The payload of a frame that was read and written again: never longer than it was.
fn unframe(frame: &Bytes, was: usize) -> (FrameKind, Bytes) {
    let header = frame.first_chunk::<FRAME_HEADER>().expect("a whole frame");
    let (kind, len) = FrameKind::parse(*header).expect("its own frame");
    assert_eq!(frame.len(), FRAME_HEADER + len);
    assert!(len <= was, "{was} bytes became {len}");
    (kind, frame.slice(FRAME_HEADER..))
}

fn record(bytes: Bytes, reached: &mut Reached) {
    let Ok(record) = Record::decode(bytes.clone()) else { return };
    assert_eq!(record.encode(), bytes);
    match record {
        Record::Roster(entry) => {
            reached.mark("roster record");
            foreign(&entry);
        }
        Record::Header(signed) => {
            reached.mark("header record");
            header(&signed);
        }
        Record::Batch(batch) => {
            reached.mark("batch record");
            self::batch(&batch, reached);
        }
    }
}

fn header(signed: &Signed<EpochHeader>) {
    assert!(signed.verify(&valid::identity(99).public()).is_err());
    let _ = signed.peek();
}

fn foreign(signed: &Signed<RosterEntry>) {
    assert!(signed.verify(&valid::identity(99).public()).is_err());
    let _ = signed.peek();
}

fn batch(batch: &BatchRecord, reached: &mut Reached) {
    let header_hash = valid::header().hash();
    digested(&batch.digest());
    let Ok(mut claim) = BatchClaim::read(batch) else { return };
    reached.mark("batch claim");
    assert_eq!(claim.batch(), &batch.peek().expect("read before"));
    assert_eq!(claim.fingerprint(), batch.digest().fingerprint());
    assert!(!claim.verify(&header_hash, &valid::identity(99).public()));
    assert!(batch.clone().verify(&header_hash, &valid::identity(99).public()).is_err());
}

fn digested(digest: &BatchDigest) {
    assert_eq!(BatchDigest::decode(&digest.encode()).as_ref(), Some(digest));
    assert_eq!(digest.hash(&Hash::ZERO), digest.hash(&Hash::ZERO));
    let _ = digest.peek();
}

/// What travels beside a roster entry.
fn beside(entry: &Signed<RosterEntry>, ops: Option<&Bytes>, policy: Option<&Bytes>, reached: &mut Reached) {
    foreign(entry);
    if let Some(decoded) = ops.and_then(|ops| reached.ok("ops", decode_ops(ops))) {
        assert_eq!(decode_ops(&encode_ops(&decoded)), Ok(decoded));
    }
    if let (Some(ops), Ok(parsed)) = (ops, entry.peek()) {
        // Never taken where they are not the entry's own.
        let named =
            sealcast_proto::hash::hash(sealcast_proto::hash::HashLabel::Ops, &[ops]) == parsed.ops_hash;
        assert!(named || removes(&parsed, ops, &parsed.signer).is_err());
    }
    if let Some(policy) = policy.and_then(|bytes| reached.ok("policy", Policy::decode(bytes))) {
        assert_eq!(policy.check(), Ok(()));
        let again = policy.encode();
        assert_eq!(policy_hash(&again), policy_hash(&policy.encode()));
        assert_eq!(Policy::decode(&again), Ok(policy));
    }
}

/// A table is judged alike however it is cut, and each of its slots is found.
fn table(bytes: &[u8], reached: &mut Reached) {
    let Ok(count) = u32::try_from(bytes.len() / SLOT_BYTES) else { return };
    let verdict = |cut: usize| {
        let mut check = TableCheck::new(count, table_hash(bytes));
        bytes.chunks(cut * SLOT_BYTES).try_for_each(|chunk| check.feed(chunk).map(drop))?;
        check.finish()
    };
    let whole = verdict(1024);
    // Where two things are wrong, what is said first depends on the cut.
    assert_eq!(verdict(1).is_ok(), whole.is_ok());
    if whole.is_err() {
        let _ = find_slot(bytes, MemberIndex(0));
        return;
    }
    reached.mark("table");
    assert!(TableCheck::new(count, Hash::ZERO).finish().is_err());
    for slot in bytes.chunks_exact(SLOT_BYTES) {
        reached.mark("slot");
        let slot = Slot::decode(slot).expect("56 bytes");
        assert_eq!(find_slot(bytes, slot.member), Some(slot));
        assert_eq!(SlotSource::from_u32(slot.source.to_u32()), slot.source);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let bundle = valid::bundle();
    let (genesis, topic) = (valid::genesis().1, valid::genesis().2);
    let hello = || Hello { version: 1, agent: "sealcast/0.1".into(), time_ms: valid::NOW };
    let records = [
        Record::Roster(bundle.entry.clone()),
        Record::Header(valid::header()),
        Record::Batch(valid::batch()),
    ];
    let subscribe = |from| Subscribe { topic, from, roster_seq: Some(RosterSeq(1)), until_head: true };
    let mut requests = vec![
        Request::Hello(hello()),
        Request::CreateTopic(genesis.clone()),
        Request::FetchTopic(topic),
        Request::AppendRoster(topic),
        Request::Bundle(bundle.clone()),
        Request::PutHead(topic, valid::head()),
        Request::FetchRoster(topic, RosterSeq(1)),
        Request::PutPrekey(topic, valid::prekey()),
        Request::UploadTable { topic, slot_count: 3, slots_hash: table_hash(&valid::table()) },
        Request::Table(valid::table()),
        Request::FetchEpochs { topic, publisher: valid::identity(2).public(), epoch: Epoch(5) },
        Request::Publish(topic),
        Request::Beacon(valid::beacon()),
        Request::Subscribe(subscribe(From::Earliest)),
        Request::Subscribe(subscribe(From::Latest)),
        Request::Subscribe(subscribe(From::Offset(Offset(4)))),
        Request::Subscribe(subscribe(From::Time(valid::NOW))),
        Request::Watch(topic, RosterSeq(1)),
    ];
    requests.extend(records.iter().map(|record| Request::Record(record.encode())));
    let slot = Slot::decode(valid::table().get(..SLOT_BYTES).unwrap_or_default());
    let epoch = || EpochDelivery { offset: Offset(7), header: valid::header(), slot };
    let refused = Refusal {
        roster_seq: RosterSeq(1),
        retry_after_ms: 50,
        record: Some((Epoch(5), Some(BatchNo(6)))),
        ..Refusal::new(Code::StaleEpoch, "someone was removed")
    };
    let mut replies = vec![
        Reply::Hello(hello()),
        Reply::Done(Offset(9)),
        Reply::Refused(refused),
        Reply::Topic(TopicInfo {
            genesis: genesis.clone(),
            roster_seq: RosterSeq(1),
            first_offset: Offset(0),
            next_offset: Offset(9),
            level: Level::Durable,
        }),
        Reply::Ack(Ack { epoch: Epoch(5), batch_no: None, offset: Offset(9), level: Level::Memory }),
        Reply::Start(Start {
            genesis,
            start_offset: Offset(3),
            next_offset: Offset(9),
            roster_seq: RosterSeq(1),
            level: Level::Replicated,
        }),
        Reply::Context(Context { epoch: epoch(), batch: Some((valid::batch().digest(), Offset(8))) }),
        Reply::Roster(RosterDelivery {
            offset: Offset(1),
            entry: bundle.entry.clone(),
            ops: Some(bundle.ops.clone()),
            roles: bundle.roles.clone(),
            policy: bundle.policy.clone(),
        }),
        Reply::Epoch(epoch()),
        Reply::Beacon(valid::identity(2).public(), valid::beacon()),
        Reply::Prekey(valid::prekey()),
        Reply::Head(valid::head()),
        Reply::Hole(Offset(1), Offset(2), HoleReason::Retention),
        Reply::AtHead { next_offset: Offset(9), end_of_stream: true },
    ];
    replies.extend(records.iter().map(|record| Reply::Record(Offset(9), record.encode())));
    let requests = requests.iter().map(|request| [&[0], request.encode().as_ref()].concat());
    requests.chain(replies.iter().map(|reply| [&[1], reply.encode().as_ref()].concat())).collect()
}
