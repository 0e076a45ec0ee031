//! Cases of negative.json, by kind, and the names of our errors.

use sealcast_envelope::epoch::EpochPlan;
use sealcast_envelope::{EpochReceiver, Message, MessageError, OpenError, SlotError, WrapTarget, fresh};
use sealcast_proto::identity::KeyError;
use sealcast_proto::object::{Beacon, EpochHeader, Genesis, ObjectError, Prekey, RosterHead};
use sealcast_proto::record::{BatchRecord, Record, RecordError};
use sealcast_proto::roster::{Roster, RosterChain, RosterError, RosterMatch};
use sealcast_proto::slot::{Slot, TableCheck, TableError};
use sealcast_proto::{Epoch, Hash, MemberIndex, PublicKey, RosterSeq, SlotSource, TopicId};

use super::file::Json;

/// Does with the case what its kind says; `Err` describes another outcome than the expected one.
pub(super) fn check(case: &Json, given: &Json) -> Result<(), String> {
    let expected = case.at("expect");
    let compare = |how: &str, expected: &str, found: Result<(), Refused>| match found.map_err(|it| it.0) {
        Ok(()) if expected == "ok" => Ok(()),
        Err(found) if found == expected => Ok(()),
        found => Err(format!("{}{how}: {found:?} where {expected:?} was due", case.text("name"))),
    };
    if case.text("kind") == "roster" {
        let (entry, ops, mut before) = (case.signed("entry"), case.bytes("ops"), roster_before(given));
        let mut chain = chain_before(given);
        let held = chain.clone();
        let (roles, policy) = (case.optional("roles"), case.optional("policy"));
        let found = chain.follow(&entry, roles.as_deref(), policy.as_deref());
        assert!(found.is_ok() || chain == held, "{}: refused, and changed all the same", case.text("name"));
        compare(" (chain)", expected.text("chain"), found.map(drop).map_err(Refused::from))?;
        let found = before.apply(&entry, &ops).map(drop);
        assert!(
            found.is_ok() || *before.chain() == held,
            "{}: refused, and changed all the same",
            case.text("name")
        );
        return compare(" (roster)", expected.text("roster"), found.map_err(Refused::from));
    }
    compare("", case.text("expect"), run(case, given))
}

fn run(case: &Json, given: &Json) -> Result<(), Refused> {
    match case.text("kind") {
        "key" => PublicKey::from_bytes(&case.bytes("key")).map(drop)?,
        "target" => wrapped(case)?,
        "genesis" => case.signed::<Genesis>("signed").verify_topic(&case.topic()).map(drop)?,
        "prekey" => {
            let prekey = case.signed::<Prekey>("signed").verify_own()?;
            if !prekey.is_valid_at(case.number("now_ms")) {
                return Err(Refused("NotValid".into()));
            }
        }
        "header" => case.try_signed::<EpochHeader>("signed")?.verify(&case.key("publisher")).map(drop)?,
        "head" => roster_before(given).chain().verify_head(&case.signed::<RosterHead>("head")).map(drop)?,
        "named" => {
            let seq = RosterSeq(case.number("seq"));
            match roster_before(given).chain().compare(seq, &case.hash("hash")) {
                RosterMatch::Holds => {}
                other => return Err(Refused(format!("{other:?}"))),
            }
        }
        "table" => {
            let count = u32::try_from(case.number("slot_count")).expect("a count");
            let mut check = TableCheck::new(count, case.hash("slots_hash"));
            check.feed(&case.bytes("table"))?;
            check.finish()?;
        }
        "slot" => open(case).map(drop)?,
        "advance" => {
            let (header, hash) = header(case, "next");
            open(case).expect("the epoch before").1.advance(&header, &hash).map(drop)?;
        }
        "rewrap" => {
            let (header, hash) = header(case, "next");
            let slot = Slot::decode(&case.bytes("next_slot")).expect("56 bytes");
            open(case).expect("the epoch before").1.rewrap(&header, &hash, &slot).map(drop)?;
        }
        "batch" => batch(case)?,
        "beacon" => {
            let (header, _) = open(case).expect("the epoch");
            case.signed::<Beacon>("beacon").verify(&header.epoch_vk).map(drop)?;
        }
        "record" => Record::decode(case.bytes("record")).map(drop)?,
        "message" => Message::decode(case.bytes("message")).map(drop)?,
        kind => panic!("a case of unknown kind {kind:?}"),
    }
    Ok(())
}

fn roster_before(given: &Json) -> Roster {
    let genesis = given.signed::<Genesis>("genesis").verify_topic(&given.topic()).expect("a good genesis");
    let mut roster = Roster::new(given.topic(), &genesis);
    for it in given.list("roster") {
        roster.apply(&it.signed("entry"), &it.bytes("ops")).expect("a good entry");
    }
    roster
}

fn chain_before(given: &Json) -> RosterChain {
    let genesis = given.signed::<Genesis>("genesis").verify_topic(&given.topic()).expect("a good genesis");
    let mut chain = RosterChain::new(given.topic(), &genesis);
    for it in given.list("roster") {
        let (roles, policy) = (it.optional("roles"), it.optional("policy"));
        chain.follow(&it.signed("entry"), roles.as_deref(), policy.as_deref()).expect("a good entry");
    }
    chain
}

/// A publisher wraps to the key: refused if it skips the member.
fn wrapped(case: &Json) -> Result<(), Refused> {
    let plan = EpochPlan {
        topic: TopicId([1; 32]),
        publisher: case.key("identity"),
        epoch: Epoch(1),
        prev_header_hash: Hash::ZERO,
        roster_seq: RosterSeq(0),
        roster_hash: Hash([1; 32]),
    };
    let target = WrapTarget {
        member: MemberIndex(1),
        identity: case.key("identity"),
        source: SlotSource::Prekey(1),
        x25519: case.array("x25519").into(),
    };
    let new = fresh(&plan, &[target], &mut rand::rng()).expect("a sound plan");
    match new.skipped() {
        [] => Ok(()),
        [MemberIndex(1)] if new.slot_count() == 0 => Err(Refused("Skipped".into())),
        skipped => panic!("skipped {skipped:?} of one member"),
    }
}

fn header(case: &Json, name: &str) -> (EpochHeader, Hash) {
    let signed = case.signed::<EpochHeader>(name);
    let publisher = signed.peek().expect("a header").publisher;
    (signed.verify(&publisher).expect("its publisher's signature"), signed.hash())
}

fn open(case: &Json) -> Result<(EpochHeader, EpochReceiver), SlotError> {
    let (header, hash) = header(case, "header");
    let slot = Slot::decode(&case.bytes("slot")).expect("56 bytes");
    let opened = case
        .with_wrap_secret(|secret| EpochReceiver::open_slot(&header, &hash, &slot, &case.key("me"), secret));
    opened.map(|receiver| (header, receiver))
}

fn record(bytes: &Json) -> BatchRecord {
    match Record::decode(bytes.own_bytes()).expect("a record") {
        Record::Batch(batch) => batch,
        other => panic!("{other:?} where a batch was due"),
    }
}

/// Whatever is refused: what comes then is read.
fn batch(case: &Json) -> Result<(), Refused> {
    let (header, mut receiver) = open(case).expect("the epoch");
    let hash = receiver.header_hash();
    let take = |receiver: &mut EpochReceiver, bytes: &Json| -> Result<Vec<bytes::Bytes>, Refused> {
        Ok(receiver.open(&record(bytes).verify(&hash, &header.epoch_vk)?)?)
    };
    for good in case.list("before") {
        take(&mut receiver, &good).map_err(|it| it.0).expect("a good batch before");
    }
    let found = take(&mut receiver, &case.at("record"));
    let then = take(&mut receiver, &case.at("then")).map_err(|it| it.0);
    assert_eq!(then, Ok(vec![bytes::Bytes::from_static(b"then")]), "after {}", case.text("name"));
    found.map(drop)
}

/// A failure's name in negative.json.
struct Refused(String);

impl From<KeyError> for Refused {
    fn from(error: KeyError) -> Self {
        Self(format!("{error:?}"))
    }
}

impl From<TableError> for Refused {
    fn from(error: TableError) -> Self {
        Self(format!("{error:?}"))
    }
}

impl From<SlotError> for Refused {
    fn from(error: SlotError) -> Self {
        Self(format!("{error:?}"))
    }
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        Self(match error {
            OpenError::WrongEpoch { expected, found } => {
                format!("WrongEpoch: {} where {} is", found.0, expected.0)
            }
            OpenError::OutOfOrder { expected, found } => {
                format!("OutOfOrder: {} where {} is due", found.0, expected.0)
            }
            OpenError::BadBatch => "BadBatch".into(),
        })
    }
}

impl From<ObjectError> for Refused {
    fn from(error: ObjectError) -> Self {
        Self(match error {
            ObjectError::Signature(kind) => format!("Signature: {kind}"),
            ObjectError::Malformed { kind, what } => format!("Malformed: {kind}: {what}"),
        })
    }
}

impl From<RecordError> for Refused {
    fn from(error: RecordError) -> Self {
        match error {
            RecordError::Length(what) => Self(format!("Length: {what}")),
            RecordError::Kind(kind) => Self(format!("Kind: {kind}")),
            RecordError::Object(error) => error.into(),
        }
    }
}

impl From<MessageError> for Refused {
    fn from(error: MessageError) -> Self {
        Self(match error {
            MessageError::TooLarge(len) => format!("TooLarge: {len}"),
            MessageError::Headers(len) => format!("Headers: {len}"),
            MessageError::ContentType(len) => format!("ContentType: {len}"),
            MessageError::Malformed => "Malformed".into(),
        })
    }
}

impl From<RosterError> for Refused {
    fn from(error: RosterError) -> Self {
        Self(match error {
            RosterError::Object(error) => return error.into(),
            RosterError::Malformed(what) => format!("Malformed: {what}"),
            RosterError::TooMany(what) => format!("TooMany: {what}"),
            RosterError::Policy(error) => format!("Policy: {}", error.0),
            RosterError::Topic => "Topic".into(),
            RosterError::Signer(_) => "Signer".into(),
            RosterError::Missing { found, expected } => {
                format!("Missing: {} where {} is due", found.0, expected.0)
            }
            RosterError::Fork(seq) => format!("Fork: {}", seq.0),
            RosterError::Known(seq) => format!("Known: {}", seq.0),
            RosterError::MissingList(what) => format!("MissingList: {what}"),
            RosterError::Derived(field) => format!("Derived: {field}"),
            RosterError::Rule(_) => "Rule".into(),
        })
    }
}
