//! What the outbox does not leave to the broker: the fence, its marks, and whose word counts. A broker that follows the
//! rules would hide what is missing here; so what was *written* is looked at, not what was stored.

use sealcast_envelope::{NewEpoch, fresh};
use sealcast_proto::frame::{Ack, Code, Context, FRAME_HEADER, FrameKind, Level, Refusal, Request};
use sealcast_proto::record::{BatchDigest, Record};
use sealcast_proto::roster::Role;
use sealcast_proto::{BatchNo, Epoch, Offset, RosterSeq, Signed};

use super::super::{Effect, Input};
use super::world::{World, identity};
use super::*;

/// Every header and batch that was written, in order.
fn written(world: &World) -> Vec<Record> {
    let record = |frame: &bytes::Bytes| {
        let (kind, _) = FrameKind::parse(*frame.first_chunk::<FRAME_HEADER>()?).ok()?;
        match Request::decode(kind, frame.slice(FRAME_HEADER..)).ok()? {
            Request::Record(record) => Record::decode(record).ok(),
            _ => None,
        }
    };
    world.frames.iter().filter_map(record).collect()
}

fn batches_of(world: &World, epoch: Epoch) -> usize {
    let of = |record: &Record| matches!(record, Record::Batch(it) if it.peek().unwrap().epoch == epoch);
    written(world).iter().filter(|record| of(record)).count()
}

/// The oldest roster that a header was written for.
fn oldest_roster(world: &World) -> Option<RosterSeq> {
    let records = written(world).into_iter();
    records
        .filter_map(|it| if let Record::Header(it) = it { Some(it.peek().unwrap().roster_seq) } else { None })
        .min()
}

/// The first epoch, made elsewhere and not given back yet. Its message is token 0.
fn wrapped_elsewhere(world: &mut World) -> NewEpoch {
    let message = sealcast_envelope::Message::from("message 0").encode().unwrap();
    let mut effects = Vec::new();
    world.outbox.handle(Input::Send { token: 0, message }, world.now, &mut effects);
    let work =
        effects.into_iter().find_map(|it| if let Effect::BuildEpoch(it) = it { Some(it) } else { None });
    let work = work.expect("an epoch is wanted");
    fresh(&work.plan, &work.targets, &mut rand::rng()).unwrap()
}

fn own(world: &World) -> Context {
    world.own_context().expect("something is stored")
}

/// A new connection on which the broker shows this.
fn shown(world: &mut World, own: Context) {
    world.disconnect();
    let roster_seq = world.head();
    world.input(Input::Connected { own: Some(Box::new(own)), roster_seq });
}

fn failed_with(world: &World, words: &str) -> bool {
    matches!(&world.failed, Some(PublishError::Broker(why)) if why.contains(words))
}

/// Members judge an epoch by the entry that its header names: an older one would be no proof that anybody joined or left.
#[test]
fn an_epoch_is_made_under_the_newest_verified_entry() {
    let mut world = World::new(1);
    let newest = |world: &World| (world.head(), world.broker.roster().chain().hash());
    let first = newest(&world);
    world.send(0);
    world.settle();
    world.add(20);
    world.tell();
    let second = newest(&world);
    world.advance_clock(super::super::COALESCE_MS);
    world.settle();
    let named: Vec<_> =
        world.headers().iter().map(|header| (header.roster_seq, header.roster_hash)).collect();
    assert_eq!(named, [first, second]);
}

#[test]
fn after_a_verified_removal_nothing_more_is_sealed_under_the_old_epoch() {
    let mut world = World::new(2);
    world.send(0);
    world.settle();
    let old = world.headers()[0].epoch;
    world.frames.clear();
    world.remove(11);
    world.tell();
    world.send(1);
    world.settle();
    assert_eq!(batches_of(&world, old), 0);
    assert_eq!(world.reader(10), texts(0..2));
}

#[test]
fn a_removal_that_crosses_the_header_leaves_its_epoch_unused() {
    let mut world = World::new(2);
    world.send(0);
    world.write();
    let first = world.headers()[0].epoch;
    world.remove(11);
    world.tell();
    world.answer();
    world.settle();
    assert_eq!(batches_of(&world, first), 0);
    assert_eq!((world.reader(10), world.reader(11)), (texts(0..1), vec![]));
}

#[test]
fn what_was_wrapped_for_a_removed_member_is_not_even_uploaded() {
    let mut world = World::new(2);
    let epoch = wrapped_elsewhere(&mut world);
    let table = epoch.slots_hash();
    world.remove(11);
    world.tell();
    world.input(Input::EpochBuilt(Box::new(epoch)));
    world.settle();
    assert!(!world.tables.contains_key(&table));
    assert_eq!((world.reader(10), world.reader(11)), (texts(0..1), vec![]));
}

#[test]
fn no_header_is_signed_for_a_table_with_a_removed_member() {
    let mut world = World::new(2);
    let epoch = wrapped_elsewhere(&mut world);
    world.tables.insert(epoch.slots_hash(), epoch.table());
    let mut effects = Vec::new();
    world.outbox.handle(Input::EpochBuilt(Box::new(epoch)), world.now, &mut effects);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::UploadTable { .. })));
    world.remove(11);
    world.tell();
    world.input(Input::TableStored);
    world.settle();
    assert_eq!(oldest_roster(&world), Some(RosterSeq(2)));
    assert_eq!((world.reader(10), world.reader(11)), (texts(0..1), vec![]));
}

/// The header is signed and waits for the marks on the disk, or for its table, when the removal comes: on this connection
/// or on the way to the next one's head.
#[test]
fn a_header_signed_before_a_removal_and_not_sent_is_never_sent() {
    for reconnects in [false, true] {
        for published in [false, true] {
            let mut world = World::new(3);
            if published {
                world.send(0);
                world.settle();
                world.remove(12);
                world.frames.clear();
            }
            let stored = world.headers().len();
            world.saves_slowly = true;
            world.send(1);
            world.tell();
            let (signed, _) = world.marks.coming.expect("a header is signed");
            world.write();
            assert_eq!(world.headers().len(), stored, "it waits for the marks");
            world.remove(11);
            world.saves_slowly = false;
            if reconnects {
                world.disconnect();
                world.connect();
            } else {
                world.tell();
            }
            world.input(Input::Saved(signed));
            world.settle();
            assert_eq!(oldest_roster(&world), Some(world.head()), "{reconnects} {published}");
            assert!(world.failed.is_none(), "{:?}", world.failed);
            assert_eq!(world.receipts.len(), 1 + usize::from(published));
            assert_eq!(world.reader(10).last().unwrap(), "message 1");
            assert_eq!(world.reader(11).len(), usize::from(published));
            world.assert_dense();
        }
    }
}

/// One that was written may have been stored: its answer says so, on the next connection too.
#[test]
fn a_header_that_was_sent_is_awaited_after_a_removal_too() {
    let mut world = World::new(2);
    world.send(0);
    world.write();
    let first = world.headers()[0].epoch;
    world.disconnect();
    world.remove(11);
    world.settle();
    assert!(world.failed.is_none(), "{:?}", world.failed);
    let headers = world.headers();
    assert_eq!((headers.len(), headers[0].epoch), (2, first));
    assert_eq!(headers[1].prev_close.map(|close| close.batches), Some(0));
    assert_eq!(batches_of(&world, first), 0);
    assert_eq!((world.reader(10), world.reader(11)), (texts(0..1), vec![]));
}

#[test]
fn the_mark_of_the_roster_holds_without_anything_published() {
    let mut world = World::new(1);
    let early = (world.broker.clone(), world.log.clone());
    world.add(20);
    world.tell();
    world.advance_clock(1000);
    let marks = world.marks.clone();
    assert_eq!(marks.position, None);
    (world.broker, world.log) = early;
    world.restart(marks);
    assert!(matches!(world.failed, Some(PublishError::Rollback(_))), "{:?}", world.failed);
}

#[test]
fn another_history_up_to_the_mark_is_a_fork() {
    let mut world = World::new(1);
    world.add(20);
    world.tell();
    world.advance_clock(1000);
    let mut other = World::new(1);
    other.add(21);
    other.restart(world.marks.clone());
    assert!(matches!(other.failed, Some(PublishError::Fork(_))), "{:?}", other.failed);
}

#[test]
fn a_second_entry_under_one_number_is_a_fork() {
    let mut world = World::new(1);
    let add = Op::Add { identity: identity(21).public(), role: Role::Reader };
    let rival = world.broker.roster().sign(&[add], &world.owner, world.now).unwrap();
    world.add(20);
    world.tell();
    world.input(Input::Roster { entry: rival.entry, ops: rival.ops });
    assert!(matches!(world.failed, Some(PublishError::Fork(_))), "{:?}", world.failed);
}

#[test]
fn what_is_shown_as_ours_must_be_signed_by_us() {
    let started = || {
        let mut world = World::new(1);
        world.send(0);
        world.settle();
        world
    };
    let mut world = started();
    let mut forged = own(&world);
    forged.epoch.header = Signed::sign(&forged.epoch.header.peek().unwrap(), world.owner.signing_key());
    shown(&mut world, forged);
    assert!(failed_with(&world, "a header we did not sign"), "{:?}", world.failed);

    let mut world = started();
    let mut forged = own(&world);
    let (digest, offset) = forged.batch.take().unwrap();
    let mut bytes = digest.encode().to_vec();
    bytes[0] ^= 1;
    forged.batch = Some((BatchDigest::decode(&bytes.into()).unwrap(), offset));
    shown(&mut world, forged);
    assert!(failed_with(&world, "a batch we did not sign"), "{:?}", world.failed);

    let mut world = started();
    let honest = own(&world);
    shown(&mut world, honest);
    assert!(world.failed.is_none(), "{:?}", world.failed);
}

/// Two copies of one publisher, set back to one state: the same epoch, another first batch.
#[test]
fn another_batch_under_our_number_means_another_copy_of_us() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.advance_clock(1000);
    let mut twin = World::new(1);
    twin.send(7);
    twin.settle();
    let theirs = own(&twin);
    assert_eq!(theirs.epoch.header, own(&world).epoch.header, "one state, one generator");
    let marks = world.marks.clone();
    shown(&mut world, theirs.clone());
    assert!(matches!(world.failed, Some(PublishError::IdentityInUse)), "{:?}", world.failed);

    // The same after a restart, by the marks.
    twin.restart(marks);
    assert!(matches!(twin.failed, Some(PublishError::IdentityInUse)), "{:?}", twin.failed);
}

#[test]
fn a_broker_cannot_call_an_epoch_stale_that_no_removal_ended() {
    let mut world = World::new(1);
    world.send(0);
    world.settle();
    world.send(1);
    world.write();
    world.answers.clear();
    let record = Some((world.headers()[0].epoch, Some(BatchNo(1))));
    let refusal = Refusal { record, roster_seq: RosterSeq(1), ..Refusal::new(Code::StaleEpoch, "") };
    world.input(Input::Refused(refusal));
    assert!(failed_with(&world, "that no removal ended"), "{:?}", world.failed);
}

#[test]
fn a_broker_that_stores_a_batch_but_not_the_one_before_is_named() {
    for acked_first in [true, false] {
        let mut world = World::new(2);
        world.send(0);
        world.settle();
        for n in 1..3 {
            world.send(n);
            world.write();
        }
        let epoch = world.headers()[0].epoch;
        world.answers.clear();
        world.remove(10);
        let first = (epoch, Some(BatchNo(1)));
        let refused =
            Refusal { record: Some(first), roster_seq: RosterSeq(2), ..Refusal::new(Code::StaleEpoch, "") };
        let ack = Ack { epoch, batch_no: Some(BatchNo(2)), offset: Offset(9), level: Level::Durable };
        let (refused, acked) = (Input::Refused(refused), Input::Acked(ack));
        let (one, two) = if acked_first { (acked, refused) } else { (refused, acked) };
        world.input(one);
        assert!(world.failed.is_none(), "{:?}", world.failed);
        world.input(two);
        assert!(failed_with(&world, "stored"), "{:?}", world.failed);
    }
}
