//! Members come and go; the roster forks or is rolled back.

use sealcast_proto::Signed;
use sealcast_proto::frame::{From as Begin, Reply};
use sealcast_proto::object::RosterEntry;
use sealcast_proto::roster::{Op, Role, Roster};

use super::client::*;
use super::world::*;
use crate::cursor::Cursor;

#[test]
fn a_removed_member_reads_to_its_removal_and_no_further() {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["for all"]);
    let (mut stays, mut goes) =
        (Client::new(&world, 3, Begin::Earliest), Client::new(&world, 2, Begin::Earliest));
    stays.connect(&world);
    goes.connect(&world);
    let from = world.log.len();
    world.remove(2);
    pen.begin(&mut world);
    pen.publish(&mut world, &["for the others"]);
    assert_eq!(stays.deliver(&world, from).said(), ["for all", "for the others"]);
    assert_eq!(goes.deliver(&world, from).said(), ["for all", "Removed"]);
    assert!(goes.ended);
}

#[test]
fn a_removed_member_with_the_whole_log_opens_nothing_sealed_after_its_removal() {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["for all"]);
    world.remove(2);
    pen.begin(&mut world);
    pen.publish(&mut world, &["for the others"]);
    world.add(4, Role::Reader);
    pen.advance(&mut world, &[4]);
    pen.publish(&mut world, &["and for the new one"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    let mut replies = world.serve(&client.subscribe(), &key(2));
    // The broker keeps its removal from it, and gives it everybody's slots.
    for reply in &mut replies {
        if let Reply::Roster(delivery) = reply {
            delivery.ops = None;
        }
    }
    assert_eq!(client.feed(&world, replies).said(), ["for all", "Locked 1.."]);
    for at in 0..world.log.len() {
        let Stored::Epoch { table, .. } = &world.log[at] else { continue };
        for slot in table.chunks_exact(56) {
            let mut client = Client::new(&world, 2, Begin::Earliest);
            let mut replies = world.serve(&client.subscribe(), &key(2));
            for reply in &mut replies {
                match reply {
                    Reply::Roster(delivery) => delivery.ops = None,
                    Reply::Epoch(delivery) => delivery.slot = sealcast_proto::slot::Slot::decode(slot),
                    _ => {}
                }
            }
            client.answer_fetches = false;
            let said = client.feed(&world, replies).said();
            assert!(said.iter().all(|said| said == "for all" || said.starts_with("Locked")), "{said:?}");
        }
    }
}

/// What `n` is sent from the beginning, with all operations, as an officer is.
fn with_all_ops(world: &World, client: &Client) -> Vec<Reply> {
    let mut replies = world.serve(&client.subscribe(), &client.identity.public());
    for reply in &mut replies {
        if let Reply::Roster(delivery) = reply
            && let Stored::Roster { bundle, .. } = &world.log[delivery.offset.0 as usize]
        {
            delivery.ops = Some(bundle.ops.clone());
        }
    }
    replies
}

#[test]
fn who_was_removed_long_ago_and_added_again_reads_on() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    world.remove(2);
    pen.begin(&mut world);
    pen.publish(&mut world, &["b"]);
    world.add(2, Role::Publisher);
    pen.advance(&mut world, &[2]);
    pen.publish(&mut world, &["c"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    let replies = with_all_ops(&world, &client);
    assert_eq!(client.feed(&world, replies).said(), ["Locked 0..2", "c"], "its old index is not its new one");
    assert!(!client.ended);
}

#[test]
fn who_was_removed_while_it_was_away_reads_to_its_removal() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world).take();
    client.put(&world, crate::inbox::Input::Lost);
    pen.publish(&mut world, &["a"]);
    world.remove(2);
    let mut replies = with_all_ops(&world, &client);
    replies.pop();
    client.feed(&world, replies);
    assert_eq!(client.said(), ["a"]);
    client.put(&world, crate::inbox::Input::Finished);
    assert_eq!(client.said(), ["Removed"]);
}

#[test]
fn a_new_member_reads_nothing_sealed_before_it_joined() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a", "b"]);
    pen.publish(&mut world, &["c"]);
    world.add(3, Role::Reader);
    pen.advance(&mut world, &[3]);
    pen.publish(&mut world, &["d"]);
    let mut client = Client::new(&world, 3, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Locked 0..3", "d"]);
}

#[test]
fn an_epoch_without_our_slot_is_locked_until_one_opens() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let plan = pen.plan(&world);
    let close = pen.close();
    pen.begin_as(&mut world, &plan, close, &[2]);
    pen.publish(&mut world, &["b"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a", "Locked 1.."]);
    let from = world.log.len();
    pen.publish(&mut world, &["c"]);
    pen.begin(&mut world);
    pen.publish(&mut world, &["d"]);
    assert_eq!(client.deliver(&world, from).said(), ["d"], "one item for the run");
    // Live, the run is said at once.
    let from = world.log.len();
    let plan = pen.plan(&world);
    let close = pen.close();
    pen.begin_as(&mut world, &plan, close, &[2]);
    pen.publish(&mut world, &["e"]);
    pen.publish(&mut world, &["f"]);
    pen.end(&mut world);
    assert_eq!(client.deliver(&world, from).said(), ["Locked 4..", "Ended"]);
}

#[test]
fn a_batch_under_an_epoch_from_before_a_removal_is_refused() {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    world.remove(2);
    pen.publish(&mut world, &["b"]);
    pen.publish(&mut world, &["c"]);
    let mut client = Client::new(&world, 3, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a", "Refused StaleEpoch"]);
    assert_eq!(client.inbox.counters().refused, 2);
    let from = world.log.len();
    pen.begin(&mut world);
    pen.publish(&mut world, &["d"]);
    assert_eq!(
        client.deliver(&world, from).said(),
        ["Gap 1..3 Missing", "d"],
        "its publisher counts them as said"
    );
}

#[test]
fn a_header_for_a_roster_from_before_a_removal_is_refused() {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    let plan = pen.plan(&world);
    world.remove(2);
    pen.begin_as(&mut world, &plan, None, &[]);
    pen.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 3, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Refused StaleEpoch"]);
    assert_eq!(client.inbox.counters().unknown, 1);
}

#[test]
fn an_advance_is_judged_by_the_epoch_it_derives_from() {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 3, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a"]);
    let from = world.log.len();
    world.remove(2);
    let between = world.log.len();
    pen.begin(&mut world);
    world.add(4, Role::Reader);
    pen.advance(&mut world, &[4]);
    pen.publish(&mut world, &["b"]);
    // The epoch in between does not come: retention, say.
    let rest = (from..world.log.len()).filter(|at| *at != between);
    let replies: Vec<Reply> = rest.filter_map(|at| world.record(at, &key(3))).collect();
    let said = client.feed(&world, replies).said();
    assert_eq!(said.last().map(String::as_str), Some("b"), "{said:?}");
    assert!(said[0].starts_with("Gap"), "{said:?}");
}

#[test]
fn an_advance_over_a_removal_is_refused() {
    let mut world = World::new(&[2, 3]);
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    world.remove(2);
    pen.advance(&mut world, &[]);
    pen.publish(&mut world, &["b"]);
    let mut client = Client::new(&world, 3, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a", "Refused AdvanceOverRemoval"]);
    // Nor does it help to show it as what was before the start.
    let mut client = Client::new(&world, 3, Begin::Latest);
    client.connect(&world);
    let from = world.log.len();
    pen.publish(&mut world, &["c"]);
    assert_eq!(client.deliver(&world, from).said(), ["Locked 2.."]);
}

#[test]
fn who_may_not_publish_is_refused() {
    let mut world = World::new(&[2]);
    let mut reader = Pen::new(2);
    reader.begin(&mut world);
    reader.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Refused NotPublisher"]);

    // Who no longer may, too.
    let mut world = World::new(&[2]);
    world.add(3, Role::Publisher);
    let mut pen = Pen::new(3);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let (member, _) = world.roster.find(&key(3)).unwrap();
    world.change(&[Op::SetRole { member, identity: key(3), role: Role::Reader }]);
    pen.publish(&mut world, &["b"]);
    pen.begin(&mut world);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["a", "Refused NotPublisher", "Refused NotPublisher"]);
}

#[test]
fn a_header_for_an_entry_that_was_not_delivered_is_refused() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    world.add(3, Role::Reader);
    pen.begin(&mut world);
    let mut client = Client::new(&world, 2, Begin::Offset(sealcast_proto::Offset(1)));
    let mut replies = world.serve(&client.subscribe(), &key(2));
    replies.retain(|reply| !matches!(reply, Reply::Roster(delivery) if delivery.offset.0 == 1));
    assert_eq!(client.feed(&world, replies).said(), ["Refused RosterAhead"]);
}

#[test]
fn a_header_for_an_older_roster_than_the_one_before_is_refused() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    let old = pen.plan(&world);
    world.add(3, Role::Reader);
    pen.begin(&mut world);
    let mut plan = pen.plan(&world);
    (plan.roster_seq, plan.roster_hash) = (old.roster_seq, old.roster_hash);
    let close = pen.close();
    pen.begin_as(&mut world, &plan, close, &[]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Refused RosterBackwards"]);
}

#[test]
fn a_header_with_another_entry_of_the_same_number_is_a_fork() {
    let mut world = World::new(&[2]);
    let mut pen = Pen::new(OWNER);
    let mut plan = pen.plan(&world);
    plan.roster_hash = sealcast_proto::Hash([9; 32]);
    pen.begin_as(&mut world, &plan, None, &[]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    assert_eq!(client.connect(&world).said(), ["Fork publisher"]);
}

#[test]
fn a_roster_of_many_entries_is_begun_at_the_owners_newest() {
    let mut world = World::new(&[2]);
    world.add(3, Role::Admin);
    world.change_by(3, &[Op::Add { identity: key(4), role: Role::Reader }]);
    let mut pen = Pen::new(3);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    let mut client = Client::new(&world, 2, Begin::Latest);
    assert_eq!(client.connect(&world).said(), [""; 0]);
    let from = world.log.len();
    pen.publish(&mut world, &["b"]);
    assert_eq!(client.deliver(&world, from).said(), ["b"]);
    assert_eq!(client.saved().chain.unwrap().seq().0, 3);
}

/// G9: the topic's id says whose signature counts, and an admin's, or anybody's, is not that.
#[test]
fn a_roster_is_begun_at_what_the_owner_signed_and_at_nothing_else() {
    let mut world = World::new(&[2]);
    world.add(3, Role::Admin);
    world.change_by(3, &[Op::Add { identity: key(4), role: Role::Reader }]);
    let mut honest = Client::new(&world, 2, Begin::Latest);
    honest.connect(&world);
    assert_eq!(honest.resubscribed, 0);
    for signer in [3, 9] {
        let mut client = Client::new(&world, 2, Begin::Latest);
        let mut replies = world.serve(&client.subscribe(), &key(2));
        // The owner's entry is left out; the one after it comes with all that a beginning takes.
        replies.retain(|reply| match reply {
            Reply::Roster(delivery) => delivery.entry.peek().unwrap().signer == key(3),
            _ => true,
        });
        let mut shown = 0;
        for reply in &mut replies {
            let Reply::Roster(delivery) = reply else { continue };
            let entry = RosterEntry { signer: key(signer), ..delivery.entry.peek().unwrap() };
            delivery.entry = Signed::sign(&entry, identity(signer).signing_key());
            delivery.roles = Some(world.roster.chain().roles_bytes());
            delivery.policy = Some(world.roster.chain().policy_bytes().clone());
            shown += 1;
        }
        client.feed(&world, replies);
        assert_eq!((shown, client.resubscribed), (1, 1), "signed by {signer}");
    }
}

#[test]
fn two_entries_with_one_number_are_a_proof() {
    let mut world = World::new(&[2]);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world);
    let before = world.roster.clone();
    let genuine = world.log.len();
    world.add(3, Role::Reader);
    client.deliver(&world, genuine);
    // The owner's key, in other hands, signs another entry 2.
    let other =
        before.sign(&[Op::Add { identity: key(9), role: Role::Reader }], &identity(OWNER), 1).unwrap();
    let Reply::Roster(mut delivery) = world.record(genuine, &key(2)).unwrap() else { panic!() };
    delivery.entry = other.entry;
    client.feed(&world, [Reply::Roster(delivery)]);
    let Some(Err(crate::Event::Fork { publisher: None, proof })) = client.take().pop() else { panic!() };
    for part in proof {
        let Ok(sealcast_proto::record::Record::Roster(entry)) = sealcast_proto::record::Record::decode(part)
        else {
            panic!()
        };
        assert_eq!(entry.verify(&key(OWNER)).unwrap().seq.0, 2);
    }
}

#[test]
fn a_broker_without_the_newest_entry_was_rolled_back() {
    let mut world = World::new(&[2]);
    world.add(3, Role::Reader);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world).take();
    let old = World::new(&[2]);
    assert_eq!(client.restarted(&world).connect(&old).said(), ["Rollback"]);
    // The marks hold for every start.
    let mut anew = Client::with(
        &world,
        2,
        Begin::Earliest,
        Cursor::decode(&client.saved().restarted().encode(), &world.topic).unwrap(),
        false,
    );
    assert_eq!(anew.connect(&old).said(), ["Rollback"]);
}

#[test]
fn a_broker_with_another_history_is_found_out_when_it_reaches_the_mark() {
    let mut world = World::new(&[2]);
    world.add(3, Role::Reader);
    let mut client = Client::new(&world, 2, Begin::Earliest);
    client.connect(&world).take();
    let mut other = World::new(&[2]);
    other.roster = Roster::new(other.topic, &other.genesis.peek().unwrap());
    other.log.clear();
    other.add(2, Role::Reader);
    other.add(9, Role::Reader);
    let mut anew = Client::with(&world, 2, Begin::Earliest, client.saved().restarted(), false);
    assert_eq!(anew.connect(&other).said(), ["Fork roster"]);
}

#[test]
fn a_broker_that_leaves_out_an_entry_is_asked_again_and_then_given_up() {
    let mut world = World::new(&[2]);
    let mut client = Client::new(&world, 2, Begin::Latest);
    client.connect(&world);
    world.add(3, Role::Reader);
    world.add(4, Role::Reader);
    client.deliver(&world, 2);
    assert_eq!((client.resubscribed, client.said()), (1, vec![]));
    client.put(&world, crate::inbox::Input::Lost);
    client.connect(&world);
    assert_eq!(client.saved().chain.unwrap().seq().0, 3);
    world.add(5, Role::Reader);
    world.add(6, Role::Reader);
    for _ in 0..4 {
        client.deliver(&world, 4);
    }
    assert_eq!(client.resubscribed, 5);
    assert_eq!(client.deliver(&world, 4).said(), ["Broker"]);
}

#[test]
fn what_is_not_ours_says_nothing_about_us() {
    let mut world = World::new(&[2, 3]);
    let mut client = Client::new(&world, 2, Begin::Latest);
    client.connect(&world);
    let from = world.log.len();
    world.remove(3);
    let Some(Reply::Roster(mut delivery)) = world.record(from, &key(3)) else { panic!() };
    // Operations that the entry did not sign: they would remove us.
    let (member, _) = world.roster.find(&key(2)).unwrap();
    delivery.ops = Some(sealcast_proto::roster::encode_ops(&[Op::Remove { member, identity: key(2) }]));
    client.feed(&world, [Reply::Roster(delivery)]);
    assert_eq!((client.said(), client.inbox.counters().invalid), (vec![], 1));
}
