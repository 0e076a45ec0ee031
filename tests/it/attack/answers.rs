//! What a hostile broker does to publishers and admins: false answers, none, and changed requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sealcast::{
    AdminError, Offset, Pending, PublishError, Role, RosterSeq, StartAt, Subscription, Topic, TopicAdmin,
};
use sealcast_proto::BatchNo;
use sealcast_proto::frame::{Ack, Code, Refusal, Reply, Request};
use sealcast_proto::object::Object as _;
use sealcast_proto::record::Record;
use sealcast_proto::{Epoch, Signed};
use tokio::sync::Notify;

use super::real::Real;
use super::until;
use super::world::{OWNER, identity, key};
use crate::hostile::Answer;

const SOON: Duration = Duration::from_secs(30);

/// On publish streams from now on, the first `times` acknowledgements of batches become this; told each time.
fn instead_of_acks(
    real: &Real,
    times: u32,
    lie: impl Fn(Ack) -> Vec<Reply> + Send + Sync + 'static,
) -> Arc<Notify> {
    let (lie, left, told) = (Arc::new(lie), Arc::new(AtomicU32::new(times)), Arc::new(Notify::new()));
    let tell = told.clone();
    real.hostile.turn(move |_, request| {
        let (lie, left, tell) = (lie.clone(), left.clone(), tell.clone());
        let publish = matches!(request, Request::Publish(_));
        Answer::Relay(Box::new(move |reply| match reply {
            Reply::Ack(ack) if publish && ack.batch_no.is_some() => {
                let one_more = |left: u32| left.checked_sub(1);
                if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).is_err() {
                    return vec![reply];
                }
                tell.notify_one();
                lie(ack)
            }
            other => vec![other],
        }))
    });
    // Streams that stand go on as they are.
    real.hostile.cut();
    told
}

/// A publisher that has published `a`, and a reader that has read it.
async fn started() -> (Real, Topic, Subscription) {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    topic.publish("a").await.unwrap();
    assert_eq!(until(&mut reader, "a").await, [""; 0]);
    (real, topic, reader)
}

async fn is_open(pending: &mut Pending) -> bool {
    tokio::time::timeout(Duration::ZERO, pending).await.is_err()
}

type Lie = fn(Ack) -> Vec<Reply>;

/// Answers to something else: the next batch, another epoch, the header, a place in the log before the last one's.
const LIES: [Lie; 4] = [
    |ack| vec![Reply::Ack(Ack { batch_no: ack.batch_no.and_then(BatchNo::next), ..ack })],
    |ack| vec![Reply::Ack(Ack { epoch: Epoch(ack.epoch.0 + 1), ..ack })],
    |ack| vec![Reply::Ack(Ack { batch_no: None, ..ack })],
    |ack| vec![Reply::Ack(Ack { offset: Offset(0), ..ack })],
];

/// The broker acknowledges other records than were sent: for as long as it does nothing counts as published, and once it
/// no longer does, everything was published once.
#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledgement_of_something_else_is_none() {
    for lie in LIES {
        let (real, topic, mut reader) = started().await;
        instead_of_acks(&real, 2, lie);
        topic.publish("b").await.unwrap();
        assert_eq!(topic.status().standstill, None);
        topic.publish("end").await.unwrap();
        assert_eq!(until(&mut reader, "end").await, ["b"]);
        assert_eq!(reader.counters().await.repeated, 0, "stored once");
    }
}

/// It does so for ever: named to the application before long.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_always_acknowledges_something_else_is_named() {
    for lie in LIES {
        let (real, topic, mut reader) = started().await;
        instead_of_acks(&real, u32::MAX, lie);
        let error = topic.publish("b").await.unwrap_err();
        assert!(matches!(error, PublishError::Broker(_)), "{error:?}");
        // What the broker has, it has; nothing is published over it.
        real.hostile.turn(|_, _| Answer::honest());
        real.publisher(OWNER, "owner").await.unwrap().publish("end").await.unwrap();
        assert_eq!(until(&mut reader, "end").await, ["b"]);
    }
}

/// The broker stores and delivers, and keeps its acknowledgement back: the application is not told that it is published
/// before the broker said so, and then it was published once.
#[tokio::test(flavor = "multi_thread")]
async fn a_withheld_acknowledgement_is_none() {
    let (real, topic, mut reader) = started().await;
    let told = instead_of_acks(&real, 1, |_| vec![]);
    let mut pending = topic.send("b").await.unwrap();
    told.notified().await;
    assert_eq!(until(&mut reader, "b").await, [""; 0]);
    assert!(is_open(&mut pending).await, "nobody said that it is stored");
    real.hostile.cut();
    pending.await.unwrap();
    topic.publish("end").await.unwrap();
    assert_eq!(until(&mut reader, "end").await, [""; 0]);
    assert_eq!(reader.counters().await.repeated, 0, "the same bytes: stored once");
}

fn stale(ack: Ack, roster_seq: RosterSeq) -> Vec<Reply> {
    let record = Some((ack.epoch, ack.batch_no));
    vec![Reply::Refused(Refusal { record, roster_seq, ..Refusal::new(Code::StaleEpoch, "removed") })]
}

/// The broker calls an epoch stale for a removal that nobody signed: nothing is sealed for a roster that was not verified;
/// after the next connection, which shows none, everything goes on, and each message is read once.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_only_a_refusal_names_moves_nothing() {
    let (real, topic, mut reader) = started().await;
    let told = instead_of_acks(&real, 1, |ack| stale(ack, RosterSeq(99)));
    let mut pending = topic.send("b").await.unwrap();
    told.notified().await;
    assert!(is_open(&mut pending).await);
    real.hostile.cut();
    pending.await.unwrap();
    topic.publish("end").await.unwrap();
    assert_eq!(until(&mut reader, "end").await, ["b"]);
}

/// The same for an entry that the epoch was built on, and that removed nobody: a lie that needs no waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_epoch_without_a_newer_removal_is_a_lie() {
    let (real, topic, _) = started().await;
    instead_of_acks(&real, u32::MAX, |ack| stale(ack, RosterSeq(1)));
    let error = topic.publish("b").await.unwrap_err();
    assert!(matches!(error, PublishError::Broker(_)), "{error:?}");
}

/// Once, one of these requests is changed on its way; told.
fn tamper(
    real: &Real,
    change: impl Fn(Request) -> Option<Vec<Request>> + Send + Sync + 'static,
) -> Arc<AtomicU32> {
    let (change, changed) = (Arc::new(change), Arc::new(AtomicU32::new(0)));
    let count = changed.clone();
    real.hostile.turn(move |_, _| {
        let (change, count) = (change.clone(), count.clone());
        Answer::Tamper(Box::new(move |request| {
            if count.load(Ordering::SeqCst) == 0
                && let Some(instead) = change(request.clone())
            {
                count.store(1, Ordering::SeqCst);
                return instead;
            }
            vec![request]
        }))
    });
    real.hostile.cut();
    changed
}

fn is_batch(bytes: &bytes::Bytes) -> bool {
    matches!(Record::decode(bytes.clone()), Ok(Record::Batch(_)))
}

/// A batch or a header with a bit flipped, a batch twice, a batch swallowed with its successor delivered: what the broker
/// proper takes holds, the rest is refused, and every message is published once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_record_is_refused_and_nothing_is_lost() {
    let flipped = |bytes: &bytes::Bytes| {
        let mut bytes = bytes.to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        vec![Request::Record(bytes.into())]
    };
    type Change = Box<dyn Fn(Request) -> Option<Vec<Request>> + Send + Sync>;
    let changes: [Change; 3] = [
        Box::new(move |request| match request {
            Request::Record(bytes) if is_batch(&bytes) => Some(flipped(&bytes)),
            _ => None,
        }),
        Box::new(move |request| match request {
            Request::Record(bytes) if !is_batch(&bytes) => Some(flipped(&bytes)),
            _ => None,
        }),
        Box::new(|request| match &request {
            Request::Record(bytes) if is_batch(bytes) => Some(vec![request.clone(), request]),
            _ => None,
        }),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let mut real = Real::new(&[(2, Role::Reader)]).await;
        let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
        let changed = tamper(&real, change);
        let topic = real.publisher(OWNER, "owner").await.unwrap();
        for text in ["a", "b"] {
            topic.publish(text).await.unwrap();
        }
        // Another epoch, so that there is another header.
        real.admin.rotate(SOON).await.unwrap();
        topic.publish("end").await.unwrap();
        assert_eq!(until(&mut reader, "end").await, ["a", "b"], "change {n}");
        assert_eq!(changed.load(Ordering::SeqCst), 1, "change {n}");
    }
}

/// A slot table with a bit flipped on its way is not the one that the header will name: the publisher is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_slot_table_is_refused() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    let changed = tamper(&real, |request| match request {
        Request::Table(bytes) => {
            let mut bytes = bytes.to_vec();
            bytes[20] ^= 1;
            Some(vec![Request::Table(bytes.into())])
        }
        _ => None,
    });
    let error = topic.publish("a").await.unwrap_err();
    assert!(matches!(error, PublishError::Broker(_)), "{error:?}");
    assert_eq!(changed.load(Ordering::SeqCst), 1);
}

/// An addition changed on its way to the broker, to add somebody else: refused; the genuine one, sent again as it was
/// signed, is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_addition_is_refused() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let changed = tamper(&real, |request| match request {
        Request::Bundle(mut bundle) => {
            let op = sealcast_proto::roster::Op::Add { identity: key(66), role: Role::Reader };
            bundle.ops = sealcast_proto::roster::encode_ops(&[op]);
            Some(vec![Request::Bundle(bundle)])
        }
        _ => None,
    });
    let state = real.state("second admin");
    let mut admin = TopicAdmin::open(&real.link(), Arc::new(identity(OWNER)), &state).await.unwrap();
    let error = admin.add(&[key(7)], Role::Reader, SOON).await.unwrap_err();
    assert!(matches!(error, AdminError::Refused(_)), "{error:?}");
    assert_eq!(changed.load(Ordering::SeqCst), 1);
    admin.add(&[key(7)], Role::Reader, SOON).await.unwrap();
    assert!(admin.roster().find(&key(7)).is_some() && admin.roster().find(&key(66)).is_none());
}

/// A member's prekey exchanged for another on its way to the broker: refused, and what is sealed meanwhile is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_prekey_is_refused() {
    let real = Real::new(&[(2, Role::Reader)]).await;
    let changed = tamper(&real, |request| match request {
        Request::PutPrekey(topic, prekey) if prekey.peek().unwrap().owner == key(2) => {
            let mut bent = prekey.peek().unwrap();
            bent.x25519 = [9; 32];
            let bent = Signed::from_parts(bent.encode().into(), prekey.signature()).unwrap();
            Some(vec![Request::PutPrekey(topic, bent)])
        }
        _ => None,
    });
    let mut reader = real.reader(2, "reader", StartAt::Earliest).await;
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    while changed.load(Ordering::SeqCst) == 0 {
        topic.publish("meanwhile").await.unwrap();
    }
    topic.publish("end").await.unwrap();
    let said = until(&mut reader, "end").await;
    assert!(said.iter().all(|line| line == "meanwhile"), "{said:?}");
}
