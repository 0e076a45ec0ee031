//! A broker that cannot just now, whatever it is asked for: publishers, subscribers and admins come again by themselves.

use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use sealcast::{
    AdminError, Policy, PublishError, Publisher, Role, StartAt, State, SubscribeError, Subscriber,
    TopicAdmin, TopicLink, renew_prekey,
};
use sealcast_proto::RosterSeq;
use sealcast_proto::frame::{Code, Refusal, Reply, Request};

use crate::attack::real::Real;
use crate::attack::world::{OWNER, identity, key};
use crate::hostile::Answer;

const CONFIRM: std::time::Duration = std::time::Duration::from_secs(60);

/// Each kind of request is first refused, for one passing reason or another; then it is carried out, and the connection
/// is gone before the answer; then all is well.
fn hard_to_get(real: &Arc<Real>) -> Arc<AtomicU32> {
    let turned_away = Arc::new(AtomicU32::new(0));
    let (count, broker) = (turned_away.clone(), Arc::downgrade(real));
    let mut reasons = [Code::Busy, Code::ReadOnly, Code::Draining].into_iter().cycle();
    let mut asked: HashMap<Discriminant<Request>, u32> = HashMap::new();
    real.hostile.turn(move |_, request| {
        let times = asked.entry(discriminant(request)).or_default();
        *times += 1;
        if *times > 2 {
            return Answer::honest();
        }
        count.fetch_add(1, Ordering::SeqCst);
        if *times == 1 {
            return refused(reasons.next().unwrap(), 1);
        }
        let broker = broker.clone();
        Answer::Relay(Box::new(move |_| {
            if let Some(broker) = broker.upgrade() {
                broker.hostile.cut();
            }
            vec![]
        }))
    });
    turned_away
}

fn refused(code: Code, retry_after_ms: u64) -> Answer {
    Answer::Play(vec![Reply::Refused(Refusal { retry_after_ms, ..Refusal::new(code, "not now") })])
}

async fn topic() -> Arc<Real> {
    Arc::new(Real::new(&[(2, Role::Reader), (3, Role::Reader)]).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_and_subscribers_come_again() {
    let real = topic().await;
    let turned_away = hard_to_get(&real);
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Latest).await;
    topic.publish("once").await.unwrap();
    topic.publish("end").await.unwrap();
    assert_eq!(crate::attack::until(&mut reader, "end").await, ["once"]);
    // What is asked for to begin: the topic, the watch, the publish stream, a prekey, the subscription.
    assert!(turned_away.load(Ordering::SeqCst) >= 8, "{turned_away:?}");
}

/// An entry whose answer was lost is not signed a second time.
#[tokio::test(flavor = "multi_thread")]
async fn admins_come_again_and_change_things_once() {
    let real = topic().await;
    let (state, owner) = (real.state("another"), Arc::new(identity(OWNER)));
    hard_to_get(&real);
    let mut admin = TopicAdmin::open(&real.link(), owner.clone(), &state).await.unwrap();
    let mut seq = admin.roster().chain().seq();
    let mut one_more = |admin: &TopicAdmin| {
        let now = admin.roster().chain().seq();
        assert_eq!(Some(now), seq.next(), "one entry for one change");
        seq = now;
    };
    hard_to_get(&real);
    admin.rotate(CONFIRM).await.unwrap();
    one_more(&admin);
    hard_to_get(&real);
    admin.remove(&[key(2)], CONFIRM).await.unwrap();
    one_more(&admin);
    assert!(admin.roster().find(&key(2)).is_none());
    hard_to_get(&real);
    let policy = Policy { beacon_ms: 123, ..admin.roster().chain().policy().clone() };
    admin.set_policy(policy.clone(), CONFIRM).await.unwrap();
    one_more(&admin);
    hard_to_get(&real);
    admin.add(&[key(4)], Role::Reader, CONFIRM).await.unwrap();
    one_more(&admin);
    hard_to_get(&real);
    admin.assert_head().await.unwrap();
    hard_to_get(&real);
    renew_prekey(&real.link(), Arc::new(identity(3)), &real.state("reader")).await.unwrap();

    hard_to_get(&real);
    let members = [(key(3), Role::Reader)];
    let (link, state) = (real.link(), State::memory());
    let made = TopicAdmin::create(&link.broker, "another", owner, &state, policy.clone(), &members);
    let made = made.await.unwrap();
    assert_eq!((made.roster().members().len(), made.roster().chain().policy()), (2, &policy));
    assert_eq!(made.roster().chain().seq(), RosterSeq(1));
}

/// A refusal that names no time to come back at is told at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_is_told_at_once() {
    let real = topic().await;
    let link: TopicLink = real.link();
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    real.hostile.turn(move |_, _| {
        *count.lock().unwrap() += 1;
        refused(Code::ReadOnly, 0)
    });
    let owner = Arc::new(identity(OWNER));
    let opened = Publisher::new(owner.clone(), State::memory()).topic(&link).await;
    assert!(matches!(opened, Err(PublishError::Refused(_))), "{:?}", opened.err());
    let opened = TopicAdmin::open(&link, owner, &State::memory()).await;
    assert!(matches!(opened, Err(AdminError::Refused(_))), "{:?}", opened.err());
    let subscriber = Subscriber::new(Arc::new(identity(2)), State::memory());
    let subscribed = subscriber.subscribe(&link, StartAt::Latest).await;
    assert!(matches!(subscribed, Err(SubscribeError::Refused(_))), "{:?}", subscribed.err());
    assert_eq!(*asked.lock().unwrap(), 3);
}
