//! The frame codec: what is written is read, and no bytes make it panic or allocate beyond its limits.

use bytes::Bytes;
use ed25519_dalek::Signer as _;
use proptest::prelude::*;
use sealcast_proto::frame::{
    Ack, Code, Context, EpochDelivery, FRAME_HEADER, FrameError, FrameKind, From, Hello, HoleReason, Level,
    Refusal, Reply, Request, RosterDelivery, Start, Subscribe, TopicInfo, frame_header,
};
use sealcast_proto::hash::{SignLabel, sha256, sign, verify};
use sealcast_proto::object::{
    Batch, Beacon, EpochHeader, Genesis, Mode, Prekey, PrevClose, RosterEntry, RosterHead, SUITE,
};
use sealcast_proto::record::{BatchRecord, Record, Sealed, batch_aad};
use sealcast_proto::roster::{Op, Role, Roster};
use sealcast_proto::slot::Slot;
use sealcast_proto::{
    BatchNo, Epoch, Hash, Identity, MemberIndex, Offset, RosterSeq, Seq, Signed, SlotSource, TopicId, limits,
};

fn id(n: u8) -> Identity {
    Identity::from_seed(&[n; 32])
}

fn genesis() -> (Genesis, Signed<Genesis>) {
    let genesis = Genesis { suite: SUITE, name: "prices".into(), owner: id(1).public(), nonce: [2; 32] };
    let signed = Signed::sign(&genesis, id(1).signing_key());
    (genesis, signed)
}

fn header(topic: TopicId) -> Signed<EpochHeader> {
    let header = EpochHeader {
        topic,
        publisher: id(1).public(),
        epoch: Epoch(5),
        prev_header_hash: Hash([1; 32]),
        prev_close: Some(PrevClose { batches: 3, last_batch_hash: Hash([4; 32]) }),
        roster_seq: RosterSeq(2),
        roster_hash: Hash([5; 32]),
        mode: Mode::Advance,
        kek_gen: 0,
        enc: [6; 32],
        commitment: [7; 32],
        epoch_vk: id(2).public(),
        slot_count: 9,
        slots_hash: Hash([8; 32]),
        time_ms: 1,
    };
    Signed::sign(&header, id(1).signing_key())
}

fn beacon() -> Signed<Beacon> {
    let beacon = Beacon {
        header_hash: Hash([1; 32]),
        next_batch_no: BatchNo(3),
        last_batch_hash: Hash([2; 32]),
        roster_seq: RosterSeq(1),
        roster_hash: Hash([3; 32]),
        time_ms: 77,
    };
    Signed::sign(&beacon, id(2).signing_key())
}

fn batch() -> BatchRecord {
    let body = Batch {
        epoch: Epoch(5),
        batch_no: BatchNo(0),
        first_seq: Seq(10),
        count: 2,
        time_ms: 3,
        end: false,
        prev_batch_hash: Hash([1; 32]),
    }
    .encode();
    let aad = batch_aad(&Hash([1; 32]), &body);
    BatchRecord::sign(body, &aad, Sealed(Bytes::from_static(b"ciphertext")), id(2).signing_key()).0
}

fn prekey() -> Signed<Prekey> {
    let prekey = Prekey {
        owner: id(3).public(),
        prekey_id: 1_800_000_000,
        x25519: [9; 32],
        not_before_ms: 1_800_000_000_123,
        not_after_ms: 1_900_000_000_000,
    };
    Signed::sign(&prekey, id(3).signing_key())
}

fn requests() -> Vec<Request> {
    let (genesis, signed) = genesis();
    let topic = signed.topic_id();
    let roster = Roster::new(topic, &genesis);
    let bundle = roster.sign(&[Op::Add { identity: id(4).public(), role: Role::Admin }], &id(1), 5).unwrap();
    let head =
        RosterHead { topic, seq: RosterSeq(0), hash: Hash(topic.0), signer: id(1).public(), time_ms: 4 };
    let mut requests = vec![
        Request::Hello(Hello { version: 1, agent: "test/1".into(), time_ms: 5 }),
        Request::CreateTopic(signed),
        Request::FetchTopic(topic),
        Request::AppendRoster(topic),
        Request::Bundle(bundle),
        Request::PutHead(topic, Signed::sign(&head, id(1).signing_key())),
        Request::FetchRoster(topic, RosterSeq(3)),
        Request::PutPrekey(topic, prekey()),
        Request::UploadTable { topic, slot_count: 2, slots_hash: Hash([1; 32]) },
        Request::Table(Bytes::from(vec![1; 112])),
        Request::FetchEpochs { topic, publisher: id(1).public(), epoch: Epoch(4) },
        Request::Publish(topic),
        Request::Record(Record::Batch(batch()).encode()),
        Request::Beacon(beacon()),
        Request::Watch(topic, RosterSeq(0)),
    ];
    for from in [From::Earliest, From::Latest, From::Offset(Offset(7)), From::Time(9)] {
        for roster_seq in [None, Some(RosterSeq(0)), Some(RosterSeq(8))] {
            requests.push(Request::Subscribe(Subscribe {
                topic,
                from,
                roster_seq,
                until_head: roster_seq.is_some(),
            }));
        }
    }
    requests
}

fn replies() -> Vec<Reply> {
    let (genesis, signed) = genesis();
    let topic = signed.topic_id();
    let roster = Roster::new(topic, &genesis);
    let bundle = roster.sign(&[Op::Rotate], &id(1), 5).unwrap();
    let slot = Slot { member: MemberIndex(3), source: SlotSource::Prekey(8), ct: [7; 48] };
    let epoch = EpochDelivery { offset: Offset(3), header: header(topic), slot: Some(slot) };
    let bare = EpochDelivery { slot: None, ..epoch.clone() };
    let ack = Ack { epoch: Epoch(3), batch_no: None, offset: Offset(0), level: Level::Durable };
    let refusal = Refusal {
        roster_seq: RosterSeq(4),
        retry_after_ms: 7,
        record: Some((Epoch(1), Some(BatchNo(0)))),
        ..Refusal::new(Code::StaleEpoch, "no")
    };
    vec![
        Reply::Hello(Hello { version: 1, agent: "test/1".into(), time_ms: 5 }),
        Reply::Done(Offset(4)),
        Reply::Refused(refusal),
        Reply::Refused(Refusal::new(Code::Draining, "bye")),
        Reply::Topic(TopicInfo {
            genesis: signed.clone(),
            roster_seq: RosterSeq(1),
            first_offset: Offset(2),
            next_offset: Offset(3),
            level: Level::Replicated,
        }),
        Reply::Ack(ack),
        Reply::Ack(Ack { batch_no: Some(BatchNo(0)), level: Level::Memory, ..ack }),
        Reply::Start(Start {
            genesis: signed,
            start_offset: Offset(1),
            next_offset: Offset(2),
            roster_seq: RosterSeq(3),
            level: Level::Durable,
        }),
        Reply::Context(Context { epoch: epoch.clone(), batch: Some((batch().digest(), Offset(6))) }),
        Reply::Context(Context { epoch: bare.clone(), batch: None }),
        Reply::Roster(RosterDelivery {
            offset: Offset(1),
            entry: bundle.entry,
            ops: Some(bundle.ops),
            roles: None,
            policy: Some(Bytes::new()),
        }),
        Reply::Epoch(epoch),
        Reply::Epoch(bare),
        Reply::Record(Offset(9), Record::Batch(batch()).encode()),
        Reply::Beacon(id(1).public(), beacon()),
        Reply::Prekey(prekey()),
        Reply::Hole(Offset(1), Offset(2), HoleReason::Retention),
        Reply::Hole(Offset(1), Offset(2), HoleReason::Corruption),
        Reply::AtHead { next_offset: Offset(4), end_of_stream: true },
    ]
}

fn parts(frame: &Bytes) -> (FrameKind, Bytes) {
    let (kind, len) = FrameKind::parse(*frame.first_chunk().unwrap()).unwrap();
    assert_eq!(frame.len(), FRAME_HEADER + len);
    (kind, frame.slice(FRAME_HEADER..))
}

#[test]
fn every_frame_is_read_as_it_was_written() {
    for request in requests() {
        let (kind, payload) = parts(&request.encode());
        assert_eq!(Request::decode(kind, payload), Ok(request));
    }
    for reply in replies() {
        let (kind, payload) = parts(&reply.encode());
        assert_eq!(Reply::decode(kind, payload), Ok(reply));
    }
}

#[test]
fn a_cut_or_bent_frame_is_refused_or_is_another_frame_but_never_a_panic() {
    let frames =
        requests().iter().map(Request::encode).chain(replies().iter().map(Reply::encode)).collect::<Vec<_>>();
    for frame in frames {
        let (kind, payload) = parts(&frame);
        for cut in 0..payload.len() {
            let _ = Request::decode(kind, payload.slice(..cut));
            let _ = Reply::decode(kind, payload.slice(..cut));
            let mut bent = payload.to_vec();
            bent[cut] ^= 1 << (cut % 8);
            let _ = Request::decode(kind, bent.clone().into());
            let _ = Reply::decode(kind, bent.into());
        }
    }
}

#[test]
fn a_length_over_the_limit_is_refused_by_its_header_alone() {
    for kind in [FrameKind::Control, FrameKind::Record, FrameKind::Roster, FrameKind::Table] {
        assert_eq!(FrameKind::parse(frame_header(kind, kind.max_len())), Ok((kind, kind.max_len())));
        let over = FrameKind::parse(frame_header(kind, kind.max_len() + 1));
        assert!(matches!(over, Err(FrameError::TooLong { .. })), "{over:?}");
    }
    assert_eq!(FrameKind::parse([0, 0, 0, 0, 9]), Err(FrameError::Kind(9)));
    assert!(FrameKind::parse([0xff, 0xff, 0xff, 0xff, 0]).is_err());
}

#[test]
fn the_largest_roster_entry_fits_its_frame() {
    let (genesis, signed) = genesis();
    let mut roster = Roster::new(signed.topic_id(), &genesis);
    let mut rng = rand::rng();
    let ops: Vec<Op> = (0..limits::MAX_OPS)
        .map(|n| Op::Add {
            identity: Identity::generate(&mut rng).public(),
            role: if n < limits::MAX_ROLES - 1 { Role::Admin } else { Role::Reader },
        })
        .collect();
    let bundle = roster.sign(&ops, &id(1), 5).unwrap();
    let (kind, payload) = parts(&Request::Bundle(bundle.clone()).encode());
    assert_eq!(Request::decode(kind, payload), Ok(Request::Bundle(bundle.clone())));
    roster.apply(&bundle.entry, &bundle.ops).unwrap();
    // Taking them all away again names index and identity: the longest operations there are.
    let ops: Vec<Op> = roster
        .members()
        .filter(|(index, _)| index.0 != 0)
        .map(|(index, member)| Op::SetRole { member: index, identity: member.identity, role: Role::Reader })
        .collect();
    let bundle = roster.sign(&ops, &id(1), 5).unwrap();
    let (kind, payload) = parts(&Request::Bundle(bundle.clone()).encode());
    assert_eq!(Request::decode(kind, payload), Ok(Request::Bundle(bundle)));
}

#[test]
fn words_of_a_broker_reach_a_terminal_without_control_characters() {
    let nasty = Refusal::new(Code::Busy, "\x1b[2Jhello\nworld");
    let (kind, payload) = parts(&Reply::Refused(nasty).encode());
    let Ok(Reply::Refused(read)) = Reply::decode(kind, payload) else { panic!() };
    assert_eq!(read.detail, "[2Jhelloworld");
}

#[test]
fn one_label_is_never_taken_for_another() {
    // Bodies that happen to parse as another kind are refused by the signature's label.
    let (_, signed) = genesis();
    let as_entry = Signed::<RosterEntry>::from_parts(signed.body().clone(), signed.signature()).unwrap();
    assert!(as_entry.verify(&id(1).public()).is_err());
    let as_genesis = Signed::<Genesis>::from_parts(prekey().body().clone(), prekey().signature()).unwrap();
    assert!(as_genesis.verify(&id(3).public()).is_err());
}

#[test]
fn what_is_signed_begins_with_the_protocols_name_and_its_label() {
    const LABELS: [(SignLabel, &str); 7] = [
        (SignLabel::Genesis, "genesis"),
        (SignLabel::RosterEntry, "roster entry"),
        (SignLabel::RosterHead, "roster head"),
        (SignLabel::Prekey, "prekey"),
        (SignLabel::EpochHeader, "epoch header"),
        (SignLabel::Batch, "batch"),
        (SignLabel::Beacon, "beacon"),
    ];
    let lp = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let (me, body) = (id(1), b"a body of any kind");
    for (label, name) in LABELS {
        let input = [b"sealcast/1 sign".as_slice(), &lp(name.as_bytes()), &lp(body)].concat();
        let signature = me.signing_key().sign(&input).to_bytes();
        assert_eq!(sign(me.signing_key(), label, body), signature, "{name}");
        for (other, _) in LABELS {
            assert_eq!(verify(&me.public(), other, body, &signature), other == label, "{name}");
        }
    }
}

#[test]
fn every_bit_of_a_signed_object_and_of_a_batch_counts() {
    let (_, signed) = genesis();
    for bit in 0..signed.body().len() * 8 {
        let mut body = signed.body().to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        let bent = Signed::<Genesis>::from_parts(body.into(), signed.signature()).unwrap();
        assert!(bent.verify(&id(1).public()).is_err());
    }
    for bit in 0..512 {
        let mut signature = *signed.signature();
        signature[bit / 8] ^= 1 << (bit % 8);
        let bent = Signed::<Genesis>::from_parts(signed.body().clone(), &signature).unwrap();
        assert!(bent.verify(&id(1).public()).is_err());
    }
    let record = Record::Batch(batch()).encode();
    for bit in 24..record.len() * 8 {
        let mut bytes = record.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        if let Ok(Record::Batch(bent)) = Record::decode(bytes.into()) {
            assert!(bent.verify(&Hash([1; 32]), &id(2).public()).is_err());
        }
    }
    assert_eq!(sha256(b"").to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(kind in 0u8..4, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (kind, _) = FrameKind::parse([0, 0, 0, 0, kind]).unwrap();
        let bytes = Bytes::from(bytes);
        let _ = Request::decode(kind, bytes.clone());
        let _ = Reply::decode(kind, bytes.clone());
        let _ = Record::decode(bytes);
    }
}
