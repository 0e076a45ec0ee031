use std::time::Duration;

use sealcast_broker::{Broker, Config, Limits};
use sealcast_proto::frame::{Code, Reply, Request};
use sealcast_proto::object::{Mode, Prekey};
use sealcast_proto::roster::Role;
use sealcast_proto::slot::table_hash;
use sealcast_proto::{Epoch, Offset, RosterSeq, Signed, TopicId};

use crate::hand::{genesis, identity, key, table};
use crate::world::{World, code, entries, epochs, soon};

#[crate::wire(flavor = "multi_thread")]
pub async fn a_topic_is_created_once_and_by_its_owner() {
    let world = World::new().await;
    let (topic, unsigned, signed) = genesis(3);
    let stranger = world.client(2).await;
    assert_eq!(code(stranger.create(&signed).await), Code::NotAllowed);
    let owner = world.client(1).await;
    let forged = Signed::sign(&unsigned, identity(2).signing_key());
    assert_eq!(code(owner.create(&forged).await), Code::Malformed);
    owner.create(&signed).await.unwrap();
    owner.create(&signed).await.unwrap();
    let Reply::Topic(info) = owner.request(vec![Request::FetchTopic(topic)]).await.unwrap() else { panic!() };
    assert_eq!((info.genesis, info.roster_seq, info.next_offset), (signed, RosterSeq(0), Offset(0)));
    assert_eq!(code(stranger.request(vec![Request::FetchTopic(topic)]).await), Code::NotAllowed);
    assert_eq!(code(owner.request(vec![Request::FetchTopic(TopicId([1; 32]))]).await), Code::NotAllowed);
}

#[crate::wire(flavor = "multi_thread")]
pub async fn where_owners_are_named_only_they_create_topics() {
    let mut world = World::not_started();
    let config = Config { owners: vec![key(2)], ..world.config() };
    world.broker = Some(Broker::start(config).await.unwrap());
    assert_eq!(code(world.client(1).await.create(&genesis(3).2).await), Code::NotAllowed);
    let config = Config { owners: vec![key(2), key(1)], ..world.config() };
    world.broker.as_ref().unwrap().reload(&config);
    world.client(1).await.create(&genesis(3).2).await.unwrap();
}

#[crate::wire(flavor = "multi_thread")]
pub async fn an_owner_creates_only_so_many_topics() {
    let world = World::with(Limits { topics_per_owner: 2, ..Limits::default() }).await;
    let owner = world.client(1).await;
    for nonce in 0..2 {
        owner.create(&genesis(nonce).2).await.unwrap();
    }
    assert_eq!(code(owner.create(&genesis(2).2).await), Code::Busy);
    owner.create(&genesis(1).2).await.unwrap();
}

#[crate::wire(flavor = "multi_thread")]
pub async fn roster_entries_come_from_admins_and_twice_do_no_harm() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let entry = admin.add(&[(7, Role::Admin)]);
    let publisher = world.client(2).await;
    assert_eq!(code(publisher.append(topic, &entry).await), Code::NotAllowed);
    assert_eq!(owner.append(topic, &entry).await.unwrap(), world.at(1));
    assert_eq!(owner.append(topic, &entry).await.unwrap(), world.at(1));
    let removal = admin.remove(3);
    owner.append(topic, &removal).await.unwrap();
    let second = admin.remove(7);
    let mut answer = owner.append(topic, &second).await;
    assert_eq!(answer.as_ref().unwrap_err().code, Code::Busy);
    // As a client does: it comes back when it was told to, until it is not told so any more.
    let comes_back = async {
        while let Err(refusal) = &answer {
            assert_eq!(refusal.code, Code::Busy);
            tokio::time::sleep(Duration::from_millis(refusal.retry_after_ms)).await;
            answer = owner.append(topic, &second).await;
        }
    };
    soon(comes_back).await;
    assert_eq!(code(world.client(7).await.append(topic, &entry).await), Code::NotAllowed);
}

#[crate::wire(flavor = "multi_thread")]
pub async fn the_roster_can_be_fetched() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    owner.append(topic, &admin.add(&[(4, Role::Reader)])).await.unwrap();
    let all = owner.fetch(Request::FetchRoster(topic, RosterSeq(1))).await.unwrap();
    assert_eq!(entries(&all).len(), 2);
    assert!(entries(&all).iter().all(|entry| entry.ops.is_some()));
    assert!(matches!(all.last(), Some(Reply::AtHead { next_offset, .. }) if *next_offset == world.at(2)));
    let reader = world.client(3).await;
    let some = reader.fetch(Request::FetchRoster(topic, RosterSeq(2))).await.unwrap();
    assert_eq!((entries(&some).len(), &entries(&some)[0].ops), (1, &None));
    assert_eq!(
        code(world.client(9).await.fetch(Request::FetchRoster(topic, RosterSeq(1))).await),
        Code::NotAllowed
    );
}

#[crate::wire(flavor = "multi_thread")]
pub async fn epochs_can_be_fetched_with_the_own_slot() {
    let world = World::new().await;
    let (topic, admin, _owner) =
        world.topic(&[(2, Role::Publisher), (3, Role::Reader), (4, Role::Reader)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    client.begin(&mut pipe, topic, &mut hand, &admin, &[4]).await;
    let ask = |epoch| Request::FetchEpochs { topic, publisher: key(2), epoch: Epoch(epoch) };
    let reader = world.client(3).await;
    let replies = reader.fetch(ask(101)).await.unwrap();
    let [epoch] = epochs(&replies)[..] else { panic!("{replies:?}") };
    assert_eq!(epoch.slot.unwrap().member, admin.index(3));
    // A fresh epoch without a slot: nothing before it would help.
    let replies = reader.fetch(ask(102)).await.unwrap();
    let [epoch] = epochs(&replies)[..] else { panic!("{replies:?}") };
    assert_eq!((epoch.header.peek().unwrap().epoch, epoch.slot), (Epoch(102), None));
    assert!(epochs(&reader.fetch(ask(100)).await.unwrap()).is_empty());

    // Advances carry slots for newcomers only: whoever was there derives them, from its last slot on.
    hand.mode = Mode::Advance;
    for _ in 0..40 {
        client.begin(&mut pipe, topic, &mut hand, &admin, &[3]).await;
    }
    let other = world.client(4).await;
    let replies = other.fetch(ask(142)).await.unwrap();
    let numbers: Vec<_> = epochs(&replies).iter().map(|epoch| epoch.header.peek().unwrap().epoch.0).collect();
    assert_eq!(numbers, (102..=142).collect::<Vec<_>>());
    let slots = epochs(&replies).iter().filter(|epoch| epoch.slot.is_some()).count();
    assert_eq!((slots, epochs(&replies)[0].slot.unwrap().member), (1, admin.index(4)));
    assert_eq!(epochs(&reader.fetch(ask(142)).await.unwrap()).len(), 1, "its own slot is in the newest");
}

#[crate::wire(flavor = "multi_thread")]
pub async fn tables_come_from_publishers_and_so_many_at_a_time() {
    let world = World::with(Limits { uploads_per_identity: 1, ..Limits::default() }).await;
    let members = [(2, Role::Publisher), (3, Role::Reader), (4, Role::Publisher)];
    let (topic, admin, _owner) = world.topic(&members).await;
    let table = table(&[admin.index(3)], 1);
    assert_eq!(code(world.client(3).await.upload(topic, &table).await), Code::NotAllowed);
    let publisher = world.client(2).await;
    publisher.upload(topic, &table).await.unwrap();
    let first = Request::UploadTable { topic, slot_count: 1, slots_hash: table_hash(&table) };
    // Whole ones that overtake it would have it refused: until one that is under way has the place, for good.
    let mut under_way = Vec::new();
    soon(async {
        loop {
            under_way.push(publisher.open(first.clone()).await);
            if publisher.upload(topic, &table).await.is_err() {
                break;
            }
        }
    })
    .await;
    assert_eq!(code(publisher.upload(topic, &table).await), Code::Busy);
    world.client(4).await.upload(topic, &table).await.unwrap();
}

#[crate::wire(flavor = "multi_thread")]
pub async fn who_was_removed_fetches_no_later_epoch() {
    let world = World::new().await;
    let (topic, mut admin, owner) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let client = world.client(2).await;
    let (mut pipe, mut hand) = client.publisher(topic, 2, &admin, &[3]).await;
    owner.append(topic, &admin.remove(3)).await.unwrap();
    client.begin(&mut pipe, topic, &mut hand, &admin, &[]).await;
    let removed = world.client(3).await;
    let ask = |epoch| Request::FetchEpochs { topic, publisher: key(2), epoch: Epoch(epoch) };
    for (client, newest) in [(&removed, 101), (&owner, 102)] {
        let replies = client.fetch(ask(102)).await.unwrap();
        let shown: Vec<_> = epochs(&replies).iter().map(|it| it.header.peek().unwrap().epoch.0).collect();
        assert_eq!(shown.last(), Some(&newest), "{shown:?}");
    }
}

#[crate::wire(flavor = "multi_thread")]
pub async fn prekeys_are_put_by_their_owners_and_only_newer_ones() {
    let world = World::new().await;
    let (topic, ..) = world.topic(&[(2, Role::Publisher), (3, Role::Reader)]).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as u32;
    let make = |n: u8, id: u32| {
        let not_before_ms = u64::from(id) * 1000;
        let prekey = Prekey {
            owner: key(n),
            prekey_id: id,
            x25519: [n; 32],
            not_before_ms,
            not_after_ms: not_before_ms + 3_600_000,
        };
        Signed::sign(&prekey, identity(n).signing_key())
    };
    let reader = world.client(3).await;
    let put = async |prekey| reader.request(vec![Request::PutPrekey(topic, prekey)]).await;
    put(make(3, now)).await.unwrap();
    put(make(3, now)).await.unwrap();
    assert_eq!(code(put(make(3, now - 1)).await), Code::Conflict);
    assert_eq!(code(put(make(3, now + 2 * 24 * 3600)).await), Code::Malformed);
    assert_eq!(code(put(make(3, now - 7_200)).await), Code::Malformed);
    assert_eq!(code(put(make(2, now)).await), Code::NotAllowed);
    let forged = Signed::sign(&make(3, now + 1).peek().unwrap(), identity(2).signing_key());
    assert_eq!(code(put(forged).await), Code::Malformed);
    put(make(3, now + 1)).await.unwrap();
    let stranger = world.client(9).await;
    assert_eq!(code(stranger.request(vec![Request::PutPrekey(topic, make(9, now))]).await), Code::NotAllowed);
}
