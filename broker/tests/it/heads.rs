use sealcast_proto::frame::{Code, From, Reply, Request};
use sealcast_proto::object::RosterHead;
use sealcast_proto::roster::{Op, Role, RosterChain};
use sealcast_proto::{Hash, RosterSeq, Signed, TopicId};

use crate::hand::{Admin, genesis, identity, key};
use crate::world::{Client, World, code, entries};

async fn put(client: &Client, topic: TopicId, head: &Signed<RosterHead>) {
    client.request(vec![Request::PutHead(topic, head.clone())]).await.unwrap();
}

fn heads(replies: &[Reply]) -> Vec<&Signed<RosterHead>> {
    replies.iter().filter_map(|reply| if let Reply::Head(head) = reply { Some(head) } else { None }).collect()
}

/// Where in a stream the entry `seq` comes, or the head.
fn place(replies: &[Reply], what: impl Fn(&Reply) -> bool) -> usize {
    replies.iter().position(what).unwrap()
}

/// A topic whose owner made entry 1, and admin 2 the two entries after it.
async fn ruled_by_another(world: &World) -> (TopicId, Admin, Client, Client) {
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Admin), (3, Role::Reader)]).await;
    let second = world.client(2).await;
    for n in [4, 5] {
        let entry = admin.entry_by(2, &[Op::Add { identity: key(n), role: Role::Publisher }]);
        second.append(topic, &entry).await.unwrap();
    }
    (topic, admin, owner, second)
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_head_is_told_at_the_beginning_and_as_it_comes() {
    let mut world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let first = admin.head_by(1, 5);
    put(&owner, topic, &first).await;
    let reader = world.client(3).await;
    for (from, held) in [
        (From::Latest, None),
        (From::Earliest, None),
        (From::Latest, Some(RosterSeq(1))),
        (From::Earliest, Some(RosterSeq(0))),
    ] {
        let replies = reader.read_all(topic, from, held).await;
        assert_eq!(heads(&replies), [&first], "{from:?} {held:?}");
        let at = place(&replies, |reply| matches!(reply, Reply::Head(_)));
        // Whoever gets it holds the entry that it names.
        assert!(held.is_some_and(|held| held.0 == 1) || matches!(replies[at - 1], Reply::Roster(_)));
        assert!(matches!(replies[at + 1], Reply::AtHead { .. }));
    }
    let mut live = reader.subscribe(topic, From::Latest, None).await;
    live.until_head().await;
    let second = admin.head_by(1, 9);
    put(&owner, topic, &second).await;
    assert_eq!(live.next().await, Reply::Head(second.clone()));
    owner.append(topic, &admin.add(&[(6, Role::Reader)])).await.unwrap();
    assert!(matches!(live.next().await, Reply::Roster(_)));
    // Of an entry that is not the newest any more: it says nothing.
    assert!(heads(&reader.read_all(topic, From::Latest, None).await).is_empty());
    let third = admin.head_by(1, 12);
    put(&owner, topic, &third).await;
    assert_eq!(live.next().await, Reply::Head(third.clone()));
    drop((owner, reader, live));
    world.restart().await;
    let reader = world.client(3).await;
    assert_eq!(heads(&reader.read_all(topic, From::Latest, None).await), [&third], "it outlives the broker");
    let mut watch = world.client(2).await.open(Request::Watch(topic, RosterSeq(0))).await;
    assert_eq!(heads(&watch.until_head().await), [&third]);
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_removed_member_is_told_no_head_after_its_removal() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(3, Role::Reader)]).await;
    owner.append(topic, &admin.remove(3)).await.unwrap();
    put(&owner, topic, &admin.head_by(1, 5)).await;
    let gone = world.client(3).await;
    for from in [From::Earliest, From::Latest] {
        assert!(heads(&gone.read_all(topic, from, None).await).is_empty());
    }
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_subscription_begins_at_the_entry_that_the_owner_named() {
    let world = World::new().await;
    let (topic, mut admin, owner, second) = ruled_by_another(&world).await;
    let (_, parsed, _) = genesis(0);
    let reader = world.client(3).await;
    let seqs = |replies: &[Reply]| -> Vec<u64> {
        entries(replies).iter().map(|entry| entry.entry.peek().unwrap().seq.0).collect()
    };
    assert_eq!(seqs(&reader.read_all(topic, From::Latest, None).await), [1, 2, 3]);

    let named = admin.head_by(1, 5);
    put(&owner, topic, &named).await;
    let replies = reader.read_all(topic, From::Latest, None).await;
    assert_eq!(seqs(&replies), [3]);
    assert!(matches!(&replies[1], Reply::Head(head) if *head == named), "before the entry it vouches for");
    // And once more after it, when its time can be judged.
    assert_eq!(heads(&replies), [&named, &named]);
    let first = entries(&replies)[0];
    let (roles, policy) = (first.roles.clone().unwrap(), first.policy.clone().unwrap());
    let chain = RosterChain::begin_at_head(topic, &parsed, &named, &first.entry, &roles, &policy).unwrap();
    assert_eq!((chain.hash(), chain.may_publish(&key(5))), (admin.roster.chain().hash(), true));
    chain.verify_head(&named).unwrap();
    // Not where the start is before it, and not for whoever holds the entries before it.
    assert_eq!(seqs(&reader.read_all(topic, From::Offset(world.at(2)), None).await), [1, 2, 3]);
    assert_eq!(seqs(&reader.read_all(topic, From::Latest, Some(RosterSeq(1))).await), [2, 3]);

    // The chain goes on behind it, and a newer entry of the owner comes before it.
    let entry = admin.entry_by(2, &[Op::Rotate]);
    second.append(topic, &entry).await.unwrap();
    let replies = reader.read_all(topic, From::Latest, None).await;
    assert_eq!((seqs(&replies), heads(&replies)), (vec![3, 4], vec![&named]));
    owner.append(topic, &admin.entry(&[Op::Rotate])).await.unwrap();
    let replies = reader.read_all(topic, From::Latest, None).await;
    assert_eq!((seqs(&replies), heads(&replies)), (vec![5], vec![]));
}

#[crate::wire(flavor = "multi_thread")]
pub async fn only_the_owners_head_lets_a_subscription_begin() {
    let world = World::new().await;
    let (topic, admin, _owner, second) = ruled_by_another(&world).await;
    let asserted = admin.head_by(2, 5);
    put(&second, topic, &asserted).await;
    let replies = world.client(3).await.read_all(topic, From::Latest, None).await;
    assert_eq!((entries(&replies).len(), heads(&replies)), (3, vec![&asserted]));
}

#[crate::wire(flavor = "multi_thread")]
pub async fn only_an_admins_word_about_the_newest_entry_is_taken() {
    let world = World::new().await;
    let (topic, admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let genuine = admin.head_by(1, 5);
    let body = genuine.peek().unwrap();
    let forged = [
        Signed::sign(&body, identity(3).signing_key()),
        Signed::sign(&RosterHead { hash: Hash([9; 32]), ..body.clone() }, identity(1).signing_key()),
        Signed::sign(&RosterHead { seq: RosterSeq(9), ..body.clone() }, identity(1).signing_key()),
        admin.head_by(2, 5),
    ];
    for head in forged {
        owner.request(vec![Request::PutHead(topic, head)]).await.unwrap_err();
    }
    let publisher = world.client(2).await;
    assert_eq!(
        code(publisher.request(vec![Request::PutHead(topic, genuine.clone())]).await),
        Code::NotAllowed
    );
    let reader = world.client(3).await;
    assert!(heads(&reader.read_all(topic, From::Latest, None).await).is_empty());
    put(&owner, topic, &genuine).await;
    assert_eq!(heads(&reader.read_all(topic, From::Latest, None).await), [&genuine]);
}
