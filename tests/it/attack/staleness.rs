//! An old roster shown as the newest: where the policy asks for an admin's word, one that is old or not an admin's is none.

use std::time::Duration;

use sealcast::{Policy, Role, Standstill};
use sealcast_proto::Signed;
use sealcast_proto::frame::{Reply, Request};
use sealcast_proto::object::RosterHead;

use super::pen::Pen;
use super::real::Real;
use super::world::{OWNER, World, identity, key, now_ms};
use super::{Stage, until};
use crate::hostile::Answer;

const HOUR: u64 = 3_600_000;
const SOON: Duration = Duration::from_secs(30);

/// Everything happened two hours ago; an admin's word counts for one.
fn two_hours_old() -> (World, Pen) {
    let mut world = World::at(now_ms() - 2 * HOUR, &[2, 3]);
    world.set_policy(|policy| (policy.beacon_ms, policy.max_roster_age_ms) = (100, HOUR));
    let mut pen = Pen::new(OWNER);
    pen.begin(&mut world);
    pen.publish(&mut world, &["a"]);
    (world, pen)
}

/// The newest entry re-asserted at a time by whoever signs, in the name of `named`.
fn head(world: &World, named: u8, signer: u8, time_ms: u64) -> Reply {
    let chain = world.roster.chain();
    let (seq, hash) = (chain.seq(), chain.hash());
    let head = RosterHead { topic: world.topic, seq, hash, signer: key(named), time_ms };
    Reply::Head(Signed::sign(&head, identity(signer).signing_key()))
}

/// What member 2 says before it says that the publisher is silent, and up to `end` afterwards, when these heads are shown.
async fn says(heads: impl Fn(&World) -> Vec<Reply>) -> Vec<String> {
    let (world, mut pen) = two_hours_old();
    let heads = heads(&world);
    let stage = Stage::twisted(world, move |_, _, mut replies| {
        let at = replies.iter().rposition(|reply| matches!(reply, Reply::Roster(_))).unwrap();
        replies.splice(at + 1..at + 1, heads.clone());
        replies
    });
    let mut reader = stage.reader(2).await;
    // Silence is looked at in the same moment as the roster's age.
    let mut said = until(&mut reader, "Stalled").await;
    let at = stage.world().log.len();
    pen.publish(&mut stage.world(), &["end"]);
    stage.deliver(at, 2);
    said.extend(until(&mut reader, "end").await);
    said
}

/// The broker shows a roster that no admin confirmed for longer than the policy allows, with nothing, with a head of long
/// ago, or with one that no admin signed: named each time. With an admin's word of now: nothing to name.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_roster_is_named_whatever_is_shown_with_it() {
    let stale = ["a", "RosterStale"];
    assert_eq!(says(|_| vec![]).await, stale);
    // Replayed: it was true two hours ago, and an hour and a minute ago.
    assert_eq!(says(|world| vec![head(world, OWNER, OWNER, now_ms() - 2 * HOUR)]).await, stale);
    assert_eq!(says(|world| vec![head(world, OWNER, OWNER, now_ms() - HOUR - 60_000)]).await, stale);
    // By a reader, in its own name or the owner's.
    assert_eq!(says(|world| vec![head(world, 3, 3, now_ms())]).await, stale);
    assert_eq!(says(|world| vec![head(world, OWNER, 3, now_ms())]).await, stale);
    // Another topic's.
    assert_eq!(says(|_| vec![head(&two_hours_old().0, OWNER, OWNER, now_ms())]).await, stale);
    assert_eq!(says(|world| vec![head(world, OWNER, OWNER, now_ms())]).await, ["a"]);
}

/// A publisher whose broker replays an old head, and keeps everything newer from it, seals nothing, and says so; once the
/// admin's word comes through it goes on, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_with_an_old_roster_seals_nothing() {
    let mut real = Real::new(&[(2, Role::Reader)]).await;
    // Over as soon as it was said: whatever the broker shows again is old.
    let policy = Policy { beacon_ms: 100, max_roster_age_ms: 1, ..Policy::default() };
    real.admin.set_policy(policy, SOON).await.unwrap();
    real.admin.assert_head().await.unwrap();
    real.hostile.turn(|_, request| match request {
        Request::Watch(..) => Answer::Relay(Box::new(|reply| match reply {
            Reply::Head(head) => {
                vec![Reply::Head(head.clone()), Reply::Head(head.clone()), Reply::Head(head)]
            }
            other => vec![other],
        })),
        _ => Answer::honest(),
    });
    let topic = real.publisher(OWNER, "owner").await.unwrap();
    let pending = topic.send("a").await.unwrap();
    assert!(matches!(topic.standstill().await, Standstill::RosterStale { .. }));
    real.admin.set_policy(Policy { beacon_ms: 100, ..Policy::default() }, SOON).await.unwrap();
    pending.await.unwrap();
    assert_eq!(topic.status().standstill, None);
    let mut reader = real.reader(2, "reader", sealcast::StartAt::Earliest).await;
    topic.publish("end").await.unwrap();
    assert_eq!(until(&mut reader, "end").await, ["a"]);
}
