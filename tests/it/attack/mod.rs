//! Attacks, one named test each: what is attacked, by whom, and what must happen instead.
//!
//! Subscribers are real ones over real QUIC; what they are shown comes from a [`World`] whose material real senders made,
//! through a hostile broker ([`crate::hostile`]). Publishers and admins are real ones behind the same broker, which
//! stands before a real one.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sealcast::{Event, PublicKey, StartAt, State, SubscribeOptions, Subscriber, Subscription, TopicLink};
use sealcast_proto::frame::{Code, Refusal, Reply, Request, Subscribe};

use crate::hostile::{Answer, Hostile, done};
use world::{World, identity, key};

// A topic in memory.
pub(crate) mod world;
// A publisher that signs and seals whatever it is told to.
mod pen;
// A real broker with the hostile one before it.
pub(crate) mod real;

// Who forges, and who reads what it should not: members, former members, newcomers.
mod members;
// What is dropped, repeated, reordered or late.
mod stream;
// Genuine parts in the wrong place.
mod splicing;
// The roster, as subscribers meet it.
mod roster;
// The roster, as publishers and admins meet it.
mod roster_officers;
// Publishers that cheat or were set back.
mod publishers;
// Less protection than was agreed on.
mod downgrade;
// Another topic before publishers and admins.
mod genesis;
// Prekeys that are not what they seem.
mod keys;
// Keys and signatures at the edges of their groups.
mod keys_degenerate;
// A state directory in the hands of a thief.
mod theft;
// Every bit of what travels.
mod integrity;
// What a publisher signs that is no batch inside.
mod padding;
// False answers to publishers and admins, and changed requests.
mod answers;
// An old roster shown as the newest.
mod staleness;
// Used keys in the memory of the process.
mod memory;

/// Nothing here takes nearly as long; a test that hangs is to end.
const LIMIT: Duration = Duration::from_secs(60);

type Twist = Box<dyn FnMut(&Subscribe, PublicKey, Vec<Reply>) -> Vec<Reply> + Send>;

/// A hostile broker that serves a [`World`], and twists what each subscription begins with.
struct Stage {
    world: Arc<Mutex<World>>,
    hostile: Hostile,
    /// How many of the next questions for epochs it is too busy for.
    busy: Arc<Mutex<u32>>,
}

impl Stage {
    fn new(world: World) -> Self {
        Self::twisted(world, |_, _, replies| replies)
    }

    fn twisted(
        world: World,
        twist: impl FnMut(&Subscribe, PublicKey, Vec<Reply>) -> Vec<Reply> + Send + 'static,
    ) -> Self {
        let world = Arc::new(Mutex::new(world));
        let (served, mut twist): (_, Twist) = (world.clone(), Box::new(twist));
        let busy = Arc::new(Mutex::new(0_u32));
        let busy_for = busy.clone();
        let hostile = Hostile::scripted(move |who, request| {
            let world = served.lock().unwrap();
            match request {
                Request::Subscribe(subscribe) => {
                    Answer::Play(twist(subscribe, who, world.serve(subscribe, &who)))
                }
                Request::FetchEpochs { publisher, epoch, .. } => {
                    let mut busy_for = busy_for.lock().unwrap();
                    if let Some(left) = busy_for.checked_sub(1) {
                        *busy_for = left;
                        let refusal = Refusal { retry_after_ms: 1, ..Refusal::new(Code::Busy, "later") };
                        return Answer::Play(vec![Reply::Refused(refusal)]);
                    }
                    let epochs = world.fetch_epochs(publisher, *epoch, &who).into_iter().map(Reply::Epoch);
                    let end = Reply::AtHead { next_offset: world.next_offset(), end_of_stream: true };
                    Answer::Play(epochs.chain([end]).collect())
                }
                _ => done(),
            }
        });
        Self { world, hostile, busy }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn link(&self) -> TopicLink {
        TopicLink { broker: self.hostile.link().clone(), topic: self.world().topic }
    }

    /// Member `n`, from the beginning, with a state of its own.
    async fn reader(&self, n: u8) -> Subscription {
        self.subscribe(n, State::memory(), StartAt::Earliest).await
    }

    async fn subscribe(&self, n: u8, state: State, options: impl Into<SubscribeOptions>) -> Subscription {
        let subscriber = Subscriber::new(Arc::new(identity(n)), state);
        subscriber.subscribe(&self.link(), options).await.unwrap()
    }

    /// Delivers everything in the log from `at` on, as an honest broker would to member `n`.
    fn deliver(&self, at: usize, n: u8) {
        let world = self.world();
        let replies: Vec<_> = (at..world.log.len()).flat_map(|at| world.record(at, &key(n))).collect();
        drop(world);
        self.hostile.push(replies);
    }
}

/// One item as a line: a message's text or an event's name.
fn line(item: Result<sealcast::Received, Event>) -> String {
    let to = |to: Option<sealcast::Seq>| to.map_or(String::new(), |seq| seq.0.to_string());
    match item {
        Ok(received) => String::from_utf8(received.message.payload.to_vec()).unwrap(),
        Err(Event::Gap { from, to: end, why, .. }) => format!("Gap {}..{} {why:?}", from.0, to(end)),
        Err(Event::Locked { from, to: end, .. }) => format!("Locked {}..{}", from.0, to(end)),
        Err(Event::BadBatch { from, to, .. }) => format!("BadBatch {}..{}", from.0, to.0),
        Err(Event::Refused { why, .. }) => format!("Refused {why:?}"),
        Err(Event::Fork { publisher: None, .. }) => "Fork roster".into(),
        Err(event) => format!("{event:?}").split([' ', '{']).next().unwrap().to_owned(),
    }
}

async fn next(subscription: &mut Subscription) -> Option<Result<sealcast::Received, Event>> {
    tokio::time::timeout(LIMIT, subscription.next()).await.expect("an item comes")
}

/// Everything up to this line, without it, or to the end. Silence is not counted: how long a test takes is no attack.
pub(crate) async fn until(subscription: &mut Subscription, last: &str) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(item) = next(subscription).await {
        let line = line(item);
        if line == last {
            return said;
        }
        if line != "Stalled" || last == "Stalled" {
            said.push(line);
        }
    }
    said
}
