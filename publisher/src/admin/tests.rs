//! Administering, and what it shares with publishing, over loopback: a real broker, real files.

use bytes::Bytes;
use sealcast_broker::{Broker, Config};
use sealcast_proto::MemberIndex;
use tempfile::TempDir;

use super::*;
use crate::topic::Publisher;

/// Nothing here takes nearly as long.
const LONG: Duration = Duration::from_secs(60);

struct World {
    dir: TempDir,
    _broker: Broker,
    owner: Arc<Identity>,
    link: TopicLink,
}

fn key(n: u32) -> PublicKey {
    identity(n).public()
}

fn identity(n: u32) -> Arc<Identity> {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&n.to_be_bytes());
    Arc::new(Identity::from_seed(&seed))
}

impl World {
    async fn new(members: &[(PublicKey, Role)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("broker"));
        config.listen.set_port(0);
        let broker = Broker::start(config).await.unwrap();
        let owner = identity(0);
        let state = State::dir(dir.path().join("owner")).unwrap();
        let policy = Policy { beacon_ms: 200, ..Policy::default() };
        let admin =
            TopicAdmin::create(broker.link(), "t", owner.clone(), &state, policy, members).await.unwrap();
        let link = admin.link().clone();
        Self { dir, _broker: broker, owner, link }
    }

    fn state(&self, name: &str) -> State {
        State::dir(self.dir.path().join(name)).unwrap()
    }

    async fn admin(&self) -> TopicAdmin {
        TopicAdmin::open(&self.link, self.owner.clone(), &self.state("owner")).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_members_than_fit_an_entry_go_in_several() {
    let world = World::new(&[]).await;
    let many: Vec<PublicKey> = (1..limits::MAX_OPS as u32 + 3).map(key).collect();
    let mut admin = world.admin().await;
    admin.add(&many, Role::Reader, LONG).await.unwrap();
    assert_eq!(admin.roster().members().len(), many.len() + 1);
    admin.remove(&many, LONG).await.unwrap();
    assert_eq!(admin.roster().members().len(), 1, "all of them are gone");
    let error = admin.remove(&many[..1], LONG).await.unwrap_err();
    assert!(matches!(error, AdminError::Members(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_whose_first_members_are_not_taken_is_not_lost() {
    let world = World::new(&[]).await;
    // With its owner one too many.
    let many: Vec<_> = (1..=limits::MAX_ROLES as u32).map(|n| (key(n), Role::Publisher)).collect();
    let state = world.state("another");
    let made = TopicAdmin::create(
        world._broker.link(),
        "another",
        world.owner.clone(),
        &state,
        Policy::default(),
        &many,
    )
    .await;
    let Err(AdminError::HalfMade { link, error }) = made else { panic!("{made:?}") };
    assert!(matches!(*error, AdminError::Roster(_)), "{error}");
    let mut admin = TopicAdmin::open(&link, world.owner.clone(), &state).await.unwrap();
    admin.add(&[key(1)], Role::Reader, LONG).await.unwrap();
    assert_eq!(admin.roster().members().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_left_by_a_crash_is_sent_verbatim_and_confirmed() {
    for sent in [false, true] {
        let world = World::new(&[(key(1), Role::Reader), (key(2), Role::Reader)]).await;
        let admin = world.admin().await;
        let ops = [Op::Remove { member: MemberIndex(1), identity: key(1) }];
        let bundle = admin.roster.sign(&ops, &world.owner, now_ms()).unwrap();
        admin.save(Some(&bundle)).unwrap();
        if sent {
            let connection = admin.to_broker.connect().await.unwrap();
            admin.send(&connection, &bundle).await.unwrap();
        }
        drop(admin); // Dead before it knew.
        let left_over = world.admin().await.left_over().unwrap();
        assert_eq!(left_over, if sent { vec![] } else { ops.to_vec() }, "it is to be sent, or stored");

        let seq = bundle.entry.peek().unwrap().seq;
        drop(world.admin().await); // To look is to change nothing.
        let mut admin = world.admin().await;
        let confirmation = admin.remove(&[key(1)], LONG).await.unwrap();
        assert_eq!(confirmation.seq, seq, "nothing was signed anew");
        assert_eq!(admin.roster().chain().hash(), bundle.entry.hash());
        assert_eq!(confirmation.unseen, [world.owner.public()], "it looked who has to be waited for");
        // What comes next is signed once more.
        admin.remove(&[key(2)], LONG).await.unwrap();
        assert_eq!(admin.roster().members().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_signed_is_saved_before_it_is_sent() {
    let world = World::new(&[]).await;
    let mut admin = world.admin().await;
    let connection = admin.to_broker.connect().await.unwrap();
    let ops = |_: &Roster, _: &[Op]| vec![Op::Add { identity: key(1), role: Role::Reader }];
    let mut done = Vec::new();
    let mut appending = Box::pin(admin.append(&connection, &ops, &mut done));
    // As far as it comes without an answer; then the process is gone.
    let asked = std::future::poll_fn(|cx| std::task::Poll::Ready(appending.as_mut().poll(cx).is_pending()));
    assert!(asked.await, "an answer takes a round trip and an fsync");
    drop(appending);
    let pending = admin.marks().unwrap().pending.expect("it may have been sent");
    assert_eq!(pending.entry.peek().unwrap().seq, admin.roster().chain().seq().next().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_first_is_followed_and_nothing_is_signed_twice_under_one_number() {
    let world = World::new(&[(key(1), Role::Admin), (key(2), Role::Reader), (key(3), Role::Reader)]).await;
    let admin = world.admin().await;
    let ops = [Op::Remove { member: MemberIndex(2), identity: key(2) }];
    let lost = admin.roster.sign(&ops, &world.owner, now_ms()).unwrap();
    admin.save(Some(&lost)).unwrap();
    drop(admin);
    let mut other = TopicAdmin::open(&world.link, identity(1), &world.state("other")).await.unwrap();
    other.remove(&[key(3)], LONG).await.unwrap();

    let mut admin = world.admin().await;
    admin.remove(&[key(2)], LONG).await.unwrap();
    assert_eq!(admin.roster().members().len(), 2);
    assert!(admin.roster().chain().seq() > lost.entry.peek().unwrap().seq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_whose_role_was_taken_is_not_awaited() {
    let (taken, live) = (identity(1), identity(2));
    let world = World::new(&[(taken.public(), Role::Publisher), (live.public(), Role::Publisher)]).await;
    let topic = Publisher::new(taken.clone(), world.state("taken")).topic(&world.link).await.unwrap();
    topic.publish("one").await.unwrap();
    let topic = Publisher::new(live.clone(), world.state("live")).topic(&world.link).await.unwrap();
    topic.publish("two").await.unwrap();
    let mut admin = world.admin().await;
    let confirmation = tokio::time::timeout(LONG / 2, admin.add(&[taken.public()], Role::Reader, LONG))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(confirmation.confirmed, [live.public()]);
    assert_eq!(confirmation.unheard, []);
    topic.publish("three").await.unwrap();
    topic.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_closed_can_be_opened_at_once() {
    let world = World::new(&[]).await;
    let state = world.state("owner");
    for n in 0..10 {
        let topic = Publisher::new(world.owner.clone(), state.clone()).topic(&world.link).await.unwrap();
        let receipt = topic.publish(format!("message {n}")).await.unwrap();
        assert_eq!(receipt.seq.0, n);
        topic.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_dropped_has_saved_how_far_it_came() {
    let world = World::new(&[]).await;
    let state = world.state("owner");
    let publisher = Publisher::new(world.owner.clone(), state.clone());
    let topic = publisher.topic(&world.link).await.unwrap();
    for n in 0..20 {
        topic.publish(format!("message {n}")).await.unwrap();
    }
    drop(topic);
    let me = world.owner.public();
    let saved = loop {
        match state.open(&me, &world.link.topic, StateRole::Publish) {
            Ok(saved) => break saved.load().unwrap().unwrap(),
            Err(StateError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(crate::marks::Marks::decode(&saved).unwrap().next_seq.0, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_marks_are_named_as_such_and_not_blamed_on_the_broker() {
    let world = World::new(&[]).await;
    let (state, me) = (world.state("owner"), world.owner.public());
    for role in [StateRole::Publish, StateRole::Admin] {
        state.open(&me, &world.link.topic, role).unwrap().save(&[0xff; 3]).unwrap();
    }
    let error = Publisher::new(world.owner.clone(), state.clone()).topic(&world.link).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::State(state) if matches!(**state, StateError::Corrupt { .. })),
        "{error}"
    );
    let error = TopicAdmin::open(&world.link, world.owner.clone(), &state).await.unwrap_err();
    assert!(matches!(error, AdminError::State(StateError::Corrupt { .. })), "{error}");
}

#[test]
fn what_is_wrong_with_the_broker_keeps_its_kind() {
    let fork =
        Fork { what: "two".into(), proof: vec![Bytes::from_static(b"one"), Bytes::from_static(b"other")] };
    assert!(
        matches!(AdminError::from(PublishError::Fork(fork.clone())), AdminError::Fork(kept) if kept == fork)
    );
    let rollback = AdminError::from(PublishError::Rollback("less".into()));
    assert!(matches!(rollback, AdminError::Rollback(what) if what == "less"));
    let roster = AdminError::from(PublishError::Roster(RosterError::Topic));
    assert!(matches!(roster, AdminError::Roster(RosterError::Topic)));
    let removed = AdminError::from(PublishError::Removed(key(1)));
    assert!(matches!(removed, AdminError::NotAllowed(who) if who == key(1)));
}
