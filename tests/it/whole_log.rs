//! Everything on the broker's disk in the hands of members and former members, with every key they ever held.
//!
//! A real topic on a real broker: three readers come and go, the publisher stays. Then the broker's store is opened as a
//! thief would, and each identity tries every key it has on every slot of every table, and advances from every epoch it
//! can open.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sealcast::{
    Identity, Policy, PublicKey, Publisher, Role, StartAt, State, Subscriber, TopicAdmin, TopicId,
};
use sealcast_broker::store::{FjallLog, FjallOptions, Log};
use sealcast_broker::{Broker, Config};
use sealcast_envelope::{EpochReceiver, Message, PrekeyRing, WrapSecret};
use sealcast_proto::object::EpochHeader;
use sealcast_proto::record::Record;
use sealcast_proto::{Hash, MemberIndex, Offset, SlotSource};

const MEMBERS: u32 = 8;

/// What `identity` can read of the store with its identity and its prekeys.
fn read_all(log: &FjallLog, topic: &TopicId, identity: &Identity, ring: &PrekeyRing) -> BTreeSet<String> {
    let me = identity.public();
    let fixed = WrapSecret::of_identity(identity);
    let mut opened: Vec<EpochReceiver> = Vec::new();
    let mut newest: Option<(EpochHeader, Hash)> = None;
    let mut texts = BTreeSet::new();
    let mut at = Offset(0);
    loop {
        let stored = log.read(topic, at, 1 << 20).unwrap();
        let Some(last) = stored.last().map(|stored| stored.offset) else { break };
        for stored in stored {
            match Record::decode(stored.record).unwrap() {
                Record::Roster(_) => {}
                Record::Header(signed) => {
                    let header = signed.peek().unwrap();
                    let hash = signed.hash();
                    let epoch = log.epoch(topic, &header.publisher, header.epoch).unwrap().unwrap();
                    let mut found = Vec::new();
                    for member in (0..MEMBERS).map(MemberIndex) {
                        let slot = epoch.table.and_then(|table| log.slot(table, member).unwrap());
                        let Some(slot) = slot else { continue };
                        let prekey = match slot.source {
                            SlotSource::Prekey(id) => ring.secret(id),
                            _ => None,
                        };
                        for secret in [Some(&fixed), prekey].into_iter().flatten() {
                            found.extend(EpochReceiver::open_slot(&header, &hash, &slot, &me, secret));
                        }
                    }
                    // And every KEK slot, with every KEK it ever had.
                    for held in &opened {
                        let slots = (0..MEMBERS).map(MemberIndex);
                        let mut slots = slots.filter_map(|at| log.slot(epoch.table?, at).unwrap());
                        found.extend(held.advance(&header, &hash).ok());
                        found.extend(slots.find_map(|slot| held.rewrap(&header, &hash, &slot).ok()));
                    }
                    opened.extend(found);
                    newest = Some((header, hash));
                }
                Record::Batch(batch) => {
                    let (header, hash) = newest.as_ref().unwrap();
                    let verified = batch.verify(hash, &header.epoch_vk).unwrap();
                    for held in &mut opened {
                        if held.header_hash() == *hash
                            && held.fast_forward(verified.batch().batch_no).is_ok()
                            && let Ok(messages) = held.open(&verified)
                        {
                            let text =
                                |bytes| String::from_utf8(Message::decode(bytes).unwrap().payload.to_vec());
                            texts.extend(messages.into_iter().map(|bytes| text(bytes).unwrap()));
                        }
                    }
                }
            }
        }
        at = last.next().unwrap();
    }
    texts
}

fn texts(parts: &[&str]) -> BTreeSet<String> {
    parts.iter().flat_map(|part| (0..3).map(move |n| format!("{part} {n}"))).collect()
}

struct Reader {
    identity: Arc<Identity>,
    state: State,
}

impl Reader {
    /// A reader that has subscribed, and so has a prekey at the broker.
    async fn new(dir: &Path, name: &str) -> Self {
        let identity = Arc::new(Identity::generate(&mut rand::rng()));
        Self { identity, state: State::dir(dir.join(name)).unwrap() }
    }

    fn key(&self) -> PublicKey {
        self.identity.public()
    }

    async fn subscribe(&self, link: &sealcast::TopicLink) {
        let subscriber = Subscriber::new(self.identity.clone(), self.state.clone());
        let subscription = subscriber.subscribe(link, StartAt::Latest).await.unwrap();
        subscription.close().await.unwrap();
    }

    fn reads(&self, log: &FjallLog, topic: &TopicId) -> BTreeSet<String> {
        let prekeys = self.state.prekeys(&self.key());
        prekeys.update(|ring| (read_all(log, topic, &self.identity, ring), false)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_reads_what_was_sealed_outside_its_membership() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut config = Config::new(&data);
    config.listen = "127.0.0.1:0".parse().unwrap();
    let broker = Broker::start(config).await.unwrap();

    let owner = Arc::new(Identity::generate(&mut rand::rng()));
    let state = State::dir(dir.path().join("owner")).unwrap();
    let (stays, goes) = (Reader::new(dir.path(), "stays").await, Reader::new(dir.path(), "goes").await);
    let (comes, stranger) =
        (Reader::new(dir.path(), "comes").await, Reader::new(dir.path(), "stranger").await);
    let members = [(stays.key(), Role::Reader), (goes.key(), Role::Reader)];
    let mut admin =
        TopicAdmin::create(broker.link(), "feed", owner.clone(), &state, Policy::default(), &members)
            .await
            .unwrap();
    let link = admin.link().clone();
    // With and without a prekey: one is wrapped to by it, the other by its static key.
    goes.subscribe(&link).await;

    let topic = Publisher::new(owner.clone(), state.clone()).topic(&link).await.unwrap();
    let publish = async |part: &str| {
        for n in 0..3 {
            topic.publish(format!("{part} {n}")).await.unwrap();
        }
    };
    let soon = Duration::from_secs(30);
    publish("all three").await;
    let confirmed = admin.remove(&[goes.key()], soon).await.unwrap();
    assert_eq!((confirmed.confirmed, confirmed.unheard), (vec![owner.public()], vec![]));
    publish("without the removed").await;
    let confirmed = admin.add(&[comes.key()], Role::Reader, soon).await.unwrap();
    assert_eq!((confirmed.confirmed, confirmed.unheard), (vec![owner.public()], vec![]));
    publish("with the newcomer").await;
    // The removed one comes back: as another member, for what is sealed from then on.
    admin.add(&[goes.key()], Role::Reader, soon).await.unwrap();
    publish("back again").await;
    topic.close().await.unwrap();
    broker.shutdown().await;

    let (log, _) = FjallLog::open(&data, FjallOptions::default()).unwrap();
    let topic = link.topic;
    let all = ["all three", "without the removed", "with the newcomer", "back again"];
    assert_eq!(stays.reads(&log, &topic), texts(&all));
    assert_eq!(goes.reads(&log, &topic), texts(&["all three", "back again"]));
    assert_eq!(comes.reads(&log, &topic), texts(&["with the newcomer", "back again"]));
    assert_eq!(stranger.reads(&log, &topic), texts(&[]));
}
