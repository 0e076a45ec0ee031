//! A real broker, and the hostile one before it: for attacks on publishers and admins.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sealcast::{
    Identity, Policy, PublishError, Publisher, Role, StartAt, State, Subscriber, Subscription, Topic,
    TopicAdmin, TopicLink,
};
use sealcast_broker::{Broker, Config};
use sealcast_envelope::{EpochReceiver, WrapSecret};
use sealcast_proto::MemberIndex;
use sealcast_proto::frame::{EpochDelivery, Reply};
use tempfile::TempDir;

use super::world::{OWNER, identity, key};
use crate::hostile::{Answer, Hostile};

/// A topic of the owner, at a real broker and through the hostile one.
pub(crate) struct Real {
    pub(crate) dir: TempDir,
    _broker: Broker,
    pub(crate) hostile: Hostile,
    /// As the owner sees it, without anybody between.
    pub(crate) admin: TopicAdmin,
}

impl Real {
    /// The hostile broker stands before the owner and these members.
    pub(crate) async fn new(members: &[(u8, Role)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::new(dir.path().join("broker"));
        config.listen.set_port(0);
        let broker = Broker::start(config).await.unwrap();
        let keys: Vec<_> = members.iter().map(|(n, role)| (key(*n), *role)).collect();
        let state = State::dir(dir.path().join("admin")).unwrap();
        let policy = Policy { beacon_ms: 100, ..Policy::default() };
        let owner = Arc::new(identity(OWNER));
        let admin =
            TopicAdmin::create(broker.link(), "t", owner.clone(), &state, policy, &keys).await.unwrap();
        let mut all: Vec<Arc<Identity>> = members.iter().map(|(n, _)| Arc::new(identity(*n))).collect();
        all.push(owner);
        let hostile = Hostile::between(broker.link(), &all.iter().collect::<Vec<_>>());
        Self { dir, _broker: broker, hostile, admin }
    }

    /// Through the hostile broker.
    pub(crate) fn link(&self) -> TopicLink {
        TopicLink { broker: self.hostile.link().clone(), topic: self.admin.link().topic }
    }

    /// A state that is kept from one run to the next.
    pub(crate) fn state(&self, name: &str) -> State {
        State::dir(self.dir.path().join(name)).unwrap()
    }

    /// What a thief, or a backup, has of the state `from`.
    pub(crate) fn copy_state(&self, from: &str, to: &str) {
        copy(&self.dir.path().join(from), &self.dir.path().join(to));
    }

    /// Member `n` as a publisher through the hostile broker, with the state `name`.
    pub(crate) async fn publisher(&self, n: u8, name: &str) -> Result<Topic, PublishError> {
        Publisher::new(Arc::new(identity(n)), self.state(name)).topic(&self.link()).await
    }

    /// Member `n` through the hostile broker, with the state `name`.
    pub(crate) async fn reader(&self, n: u8, name: &str, from: StartAt) -> Subscription {
        let subscriber = Subscriber::new(Arc::new(identity(n)), self.state(name));
        subscriber.subscribe(&self.link(), from).await.unwrap()
    }
}

/// Headers and slots of member 1 as they are delivered to it, from now on.
pub(crate) fn noted(real: &Real) -> Arc<Mutex<Vec<EpochDelivery>>> {
    let seen: Arc<Mutex<Vec<EpochDelivery>>> = Arc::default();
    let notes = seen.clone();
    real.hostile.turn(move |_, _| {
        let notes = notes.clone();
        Answer::Relay(Box::new(move |reply| {
            if let Reply::Epoch(delivery) = &reply
                && delivery.slot.is_some_and(|slot| slot.member == MemberIndex(1))
            {
                notes.lock().unwrap().push(delivery.clone());
            }
            vec![reply]
        }))
    });
    seen
}

/// The keys of an epoch as a member gets them whose slot is sealed for its fixed key.
pub(crate) fn opened(delivery: &EpochDelivery, n: u8) -> EpochReceiver {
    let (header, slot) = (delivery.header.peek().unwrap(), delivery.slot.unwrap());
    let secret = WrapSecret::of_identity(&identity(n));
    EpochReceiver::open_slot(&header, &delivery.header.hash(), &slot, &key(n), &secret).unwrap()
}

/// Every file below a directory, with its content.
pub(crate) fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(self::files(&entry.path())),
            false => files.push((entry.path(), std::fs::read(entry.path()).unwrap())),
        }
    }
    files
}

/// A directory, with its permissions.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
