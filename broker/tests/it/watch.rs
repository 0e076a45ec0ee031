use sealcast_proto::frame::{Code, Reply, Request};
use sealcast_proto::object::Prekey;
use sealcast_proto::roster::{Op, Role};
use sealcast_proto::{RosterSeq, Signed};

use crate::hand::{batch_record, identity, key};
use crate::world::{World, entries};

fn prekey(n: u8, id: u32) -> Signed<Prekey> {
    let not_before_ms = u64::from(id) * 1000;
    let not_after_ms = not_before_ms + 21 * 24 * 3600 * 1000;
    let prekey = Prekey { owner: key(n), prekey_id: id, x25519: [n; 32], not_before_ms, not_after_ms };
    Signed::sign(&prekey, identity(n).signing_key())
}

fn now() -> u32 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as u32
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_watch_shows_all_there_is_and_then_all_that_comes() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    pipe.batch(&mut hand, b"one").await;
    let reader = world.client(3).await;
    let first = prekey(3, now());
    reader.request(vec![Request::PutPrekey(topic, first.clone())]).await.unwrap();
    let asserted = admin.head_by(1, 5);
    owner.request(vec![Request::PutHead(topic, asserted.clone())]).await.unwrap();

    let mut watch = owner.open(Request::Watch(topic, RosterSeq(0))).await;
    let replies = watch.until_head().await;
    assert!(matches!(&replies[0], Reply::Start(start) if start.roster_seq == RosterSeq(1)));
    assert!(entries(&replies)[0].ops.is_some());
    assert!(replies.contains(&Reply::Head(asserted)));
    assert!(replies.contains(&Reply::Prekey(first)));
    let Some(Reply::Context(context)) = replies.iter().find(|reply| matches!(reply, Reply::Context(_)))
    else {
        panic!()
    };
    assert_eq!((context.epoch.slot, context.batch.as_ref().unwrap().0.peek().unwrap().end), (None, false));

    let entry = admin.add(&[(6, Role::Reader)]);
    owner.append(topic, &entry).await.unwrap();
    let Reply::Roster(live) = watch.next().await else { panic!() };
    assert_eq!((live.entry, live.ops), (entry.entry, Some(entry.ops)));
    let newer = prekey(3, now() + 5);
    reader.request(vec![Request::PutPrekey(topic, newer.clone())]).await.unwrap();
    assert_eq!(watch.next().await, Reply::Prekey(newer));
    let newer = admin.head_by(1, 9);
    owner.request(vec![Request::PutHead(topic, newer.clone())]).await.unwrap();
    assert_eq!(watch.next().await, Reply::Head(newer));
    client.begin(&mut pipe, topic, &mut hand, &admin, &[3]).await;
    let Reply::Epoch(epoch) = watch.next().await else { panic!() };
    assert_eq!((Some(epoch.header), epoch.slot), (hand.newest.clone(), None));
    let beacon = hand.beacon(&admin.roster);
    pipe.send(Request::Beacon(beacon.clone())).await;
    assert_eq!(watch.next().await, Reply::Beacon(key(2), beacon));
    // Batches do not come here; an END does, as a context.
    pipe.batch(&mut hand, b"two").await;
    let end = hand.end();
    pipe.record(batch_record(&end)).await;
    pipe.ack().await;
    let Reply::Context(context) = watch.next().await else { panic!() };
    assert_eq!(context.batch.unwrap().0, end.digest());
}

#[crate::wire(flavor = "multi_thread")]
pub async fn only_officers_watch_and_only_while_they_are() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let reader = world.client(3).await;
    let mut refused = reader.open(Request::Watch(topic, RosterSeq(0))).await;
    assert_eq!(refused.refused().await.code, Code::NotAllowed);
    let client = world.client(2).await;
    let mut watch = client.open(Request::Watch(topic, RosterSeq(1))).await;
    assert!(entries(&watch.until_head().await).is_empty());
    let member = admin.index(2);
    let demotion = admin.entry(&[Op::SetRole { member, identity: key(2), role: Role::Reader }]);
    owner.append(topic, &demotion).await.unwrap();
    assert!(matches!(watch.next().await, Reply::Roster(_)));
    watch.end().await;
}

#[crate::wire(flavor = "multi_thread")]
pub async fn a_newcomer_that_has_a_prekey_already_comes_with_it() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let held = prekey(3, now());
    world.client(3).await.request(vec![Request::PutPrekey(topic, held.clone())]).await.unwrap();
    let removal = admin.remove(3);
    owner.append(topic, &removal).await.unwrap();

    let mut watch = owner.open(Request::Watch(topic, RosterSeq(2))).await;
    let replies = watch.until_head().await;
    assert!(!replies.contains(&Reply::Prekey(held.clone())), "no member's");
    let entry = admin.add(&[(3, Role::Reader), (6, Role::Reader)]);
    owner.append(topic, &entry).await.unwrap();
    let Reply::Roster(live) = watch.next().await else { panic!() };
    assert_eq!(live.entry, entry.entry);
    assert_eq!(watch.next().await, Reply::Prekey(held));
}
