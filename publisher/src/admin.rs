//! Administering a topic: who may read and publish, and under which policy.

use std::sync::Arc;
use std::time::Duration;

use sealcast_link::{ConnectError, Connection, Link, LinkError, LinkOptions, Passing, RequestError, Turns};
use sealcast_proto::frame::{Code, Refusal, Request};
use sealcast_proto::object::{Genesis, RosterHead, SUITE};
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::{Op, Role, Roster, RosterError, decode_ops};
use sealcast_proto::{BrokerLink, Identity, PublicKey, Signed, TopicLink, limits};
use sealcast_state::{RoleState, State, StateError, StateRole};

use crate::clock::now_ms;
use crate::confirm::{self, Confirmation, Until};
use crate::error::PublishError;
use crate::fork::{Entries, Fork};
use crate::session::{self, Give};

/// Why a topic could not be administered.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No broker of the link could be reached.
    #[error("cannot connect: {0}")]
    Connect(#[from] ConnectError),
    /// No such topic, or this identity is no admin of it (or may not create topics here).
    #[error("{0} may not do this: no such topic, or not its admin")]
    NotAllowed(PublicKey),
    /// The roster's rules forbid it.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// What is asked for is the case already, or cannot be.
    #[error("{0}")]
    Members(String),
    /// The broker shows less than was seen before.
    #[error("the broker was rolled back: {0}")]
    Rollback(String),
    /// Two properly signed histories exist; with what proves it.
    #[error("the topic was forked: {0}")]
    Fork(Fork),
    /// The broker refused.
    #[error("the broker refused: {0}")]
    Refused(Refusal),
    /// The connection failed before there was an answer.
    #[error("the connection failed: {0}")]
    Lost(LinkError),
    /// The broker broke the protocol.
    #[error("{0}")]
    Broker(String),
    /// The topic was made, and what should have come next failed: its link must not be lost.
    #[error("the topic was created, but not all of its members were added: {error}")]
    HalfMade {
        /// Where it is.
        link: TopicLink,
        /// What failed.
        error: Box<AdminError>,
    },
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<RequestError> for AdminError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Refused(refusal) => Self::Refused(refusal),
            RequestError::Link(error) => Self::Lost(error),
            RequestError::NoAnswer => Self::Broker(error.to_string()),
        }
    }
}

impl AdminError {
    /// Whether the same may work later without anyone changing anything.
    fn passing(&self) -> Option<Passing> {
        match self {
            // Somebody sits and waits: limits have the same bounded patience as trouble.
            Self::Refused(refusal) => Passing::refused(refusal).map(Passing::bounded),
            Self::Lost(error) => Passing::lost(error),
            _ => None,
        }
    }
}

impl From<PublishError> for AdminError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NotAllowed(key) | PublishError::Removed(key) => Self::NotAllowed(key),
            PublishError::Rollback(what) => Self::Rollback(what),
            PublishError::Fork(fork) => Self::Fork(fork),
            PublishError::Roster(error) => Self::Roster(error),
            PublishError::Refused(refusal) => Self::Refused(refusal),
            PublishError::Lost(error) => Self::Lost(error),
            PublishError::State(error) => match Arc::try_unwrap(error) {
                Ok(error) => Self::State(error),
                Err(shared) => Self::Broker(shared.to_string()),
            },
            other => Self::Broker(other.to_string()),
        }
    }
}

/// A topic as its admins see it.
pub struct TopicAdmin {
    identity: Arc<Identity>,
    link: TopicLink,
    to_broker: Link,
    genesis: Genesis,
    roster: Roster,
    entries: Entries,
    saved: RoleState,
    state: State,
    /// What an entry did that an earlier run signed, and that is now known to be stored.
    resumed: Vec<Op>,
}

impl std::fmt::Debug for TopicAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TopicAdmin").field("link", &self.link).finish_non_exhaustive()
    }
}

impl TopicAdmin {
    /// Registers a new topic, owned by `identity`, and adds its first members.
    ///
    /// # Errors
    /// [`AdminError::HalfMade`] once it exists: [`TopicAdmin::open`] goes on with it. Any other: it may not exist.
    pub async fn create(
        broker: &BrokerLink,
        name: &str,
        identity: Arc<Identity>,
        state: &State,
        policy: Policy,
        members: &[(PublicKey, Role)],
    ) -> Result<Self, AdminError> {
        if name.is_empty() || name.len() > limits::MAX_TOPIC_NAME {
            return Err(AdminError::Members(format!(
                "a topic's name is 1 to {} bytes",
                limits::MAX_TOPIC_NAME
            )));
        }
        policy.check().map_err(RosterError::from)?;
        let genesis =
            Genesis { suite: SUITE, name: name.into(), owner: identity.public(), nonce: rand::random() };
        let signed = Signed::sign(&genesis, identity.signing_key());
        let topic = signed.topic_id();
        let saved = state.open(&identity.public(), &topic, StateRole::Admin)?;
        let to_broker = Link::new(broker.clone(), Arc::clone(&identity), LinkOptions::default());
        let mut turns = Turns::new(&to_broker);
        loop {
            let connection = turns.connect().await?;
            // The same bytes each time: to a broker that has the topic they are a repeat.
            let error = match connection.request([Request::CreateTopic(signed.clone())]).await {
                Ok(_) => break,
                Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
                    return Err(AdminError::NotAllowed(identity.public()));
                }
                Err(error) => AdminError::from(error),
            };
            if !turns.again(error.passing()) {
                return Err(error);
            }
        }
        let roster = Roster::new(topic, &genesis);
        let link = TopicLink { broker: broker.clone(), topic };
        let (state, resumed) = (state.clone(), Vec::new());
        let entries = Entries::default();
        let mut admin = Self {
            identity,
            link,
            to_broker: to_broker.clone(),
            genesis,
            roster,
            entries,
            saved,
            state,
            resumed,
        };
        let ops = |roster: &Roster, _: &[Op]| {
            let policy = (*roster.chain().policy() != policy).then(|| Op::set_policy(policy.clone()));
            let missing = members.iter().filter(|(key, _)| roster.find(key).is_none());
            policy
                .into_iter()
                .chain(missing.map(|(key, role)| Op::Add { identity: *key, role: *role }))
                .collect()
        };
        let rest = async {
            let (connection, _) = admin.make_true(&mut turns, |_, _| Ok(()), ops).await?;
            admin.publish_prekey(&connection).await
        };
        match rest.await {
            Ok(()) => Ok(admin),
            Err(error) => Err(AdminError::HalfMade { link: admin.link, error: Box::new(error) }),
        }
    }

    /// Opens a topic: fetches and verifies its whole roster.
    pub async fn open(link: &TopicLink, identity: Arc<Identity>, state: &State) -> Result<Self, AdminError> {
        let saved = state.open(&identity.public(), &link.topic, StateRole::Admin)?;
        let to_broker = Link::new(link.broker.clone(), Arc::clone(&identity), LinkOptions::default());
        let mut turns = Turns::new(&to_broker);
        let genesis = loop {
            let connection = turns.connect().await?;
            match session::fetch_genesis(&connection, link.topic, &identity).await.map_err(AdminError::from) {
                Ok(genesis) => break genesis,
                Err(error) if turns.again(error.passing()) => {}
                Err(error) => return Err(error),
            }
        };
        let roster = Roster::new(link.topic, &genesis);
        let (link, state, resumed) = (link.clone(), state.clone(), Vec::new());
        let entries = Entries::default();
        let mut admin = Self {
            identity,
            link,
            to_broker: to_broker.clone(),
            genesis,
            roster,
            entries,
            saved,
            state,
            resumed,
        };
        admin.look_in_turn(&mut turns).await?;
        Ok(admin)
    }

    /// Adds members; those that are members already, with this role, are left as they are, and a member with another
    /// role gets this one. Returns when every live publisher has taken notice, or after `confirm`.
    pub async fn add(
        &mut self,
        keys: &[PublicKey],
        role: Role,
        confirm: Duration,
    ) -> Result<Confirmation, AdminError> {
        let keys = unique(keys);
        let ops = move |roster: &Roster, _: &[Op]| {
            let ops = keys.iter().filter_map(|key| match roster.find(key) {
                None => Some(Op::Add { identity: *key, role }),
                Some((_, member)) if member.role == role => None,
                Some((index, _)) => Some(Op::SetRole { member: index, identity: *key, role }),
            });
            ops.collect()
        };
        self.change(confirm, |_, _| Ok(()), ops).await
    }

    /// Removes members. Returns when no live publisher seals for them any more, or after `confirm`.
    pub async fn remove(
        &mut self,
        keys: &[PublicKey],
        confirm: Duration,
    ) -> Result<Confirmation, AdminError> {
        let keys = unique(keys);
        let all_members = |roster: &Roster, resumed: &[Op]| {
            let gone =
                |key| resumed.iter().any(|op| matches!(op, Op::Remove { identity, .. } if identity == key));
            match keys.iter().find(|key| roster.find(key).is_none() && !gone(*key)) {
                Some(key) => Err(AdminError::Members(format!("{key} is not a member"))),
                None => Ok(()),
            }
        };
        // Whoever another admin removes meanwhile is gone as well, and does not keep the others in.
        let ops = |roster: &Roster, _: &[Op]| {
            let members = keys.iter().filter_map(|key| Some((roster.find(key)?.0, *key)));
            members.map(|(member, identity)| Op::Remove { member, identity }).collect()
        };
        self.change(confirm, all_members, ops).await
    }

    /// Makes every publisher begin a fresh epoch.
    pub async fn rotate(&mut self, confirm: Duration) -> Result<Confirmation, AdminError> {
        let once = |_: &Roster, done: &[Op]| unless(done.contains(&Op::Rotate), Op::Rotate);
        self.change(confirm, |_, _| Ok(()), once).await
    }

    /// Changes the policy.
    pub async fn set_policy(
        &mut self,
        policy: Policy,
        confirm: Duration,
    ) -> Result<Confirmation, AdminError> {
        let set = Op::set_policy(policy);
        let once = move |_: &Roster, done: &[Op]| unless(done.contains(&set), set.clone());
        self.change(confirm, |_, _| Ok(()), once).await
    }

    /// Signs that the roster's head is still the head, for topics whose policy has a `max_roster_age`.
    pub async fn assert_head(&mut self) -> Result<(), AdminError> {
        let to_broker = self.to_broker.clone();
        let mut turns = Turns::new(&to_broker);
        loop {
            let connection = self.look_in_turn(&mut turns).await?;
            let chain = self.roster.chain();
            let head = RosterHead {
                topic: self.link.topic,
                seq: chain.seq(),
                hash: chain.hash(),
                signer: self.identity.public(),
                time_ms: now_ms(),
            };
            let head = Signed::sign(&head, self.identity.signing_key());
            let error = match connection.request([Request::PutHead(self.link.topic, head)]).await {
                Ok(_) => return Ok(()),
                Err(error) => AdminError::from(error),
            };
            if !turns.again(error.passing()) {
                return Err(error);
            }
        }
    }

    /// Where the topic is.
    pub fn link(&self) -> &TopicLink {
        &self.link
    }

    /// The topic's name and owner.
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// The verified roster.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// What an earlier run signed and was cut short before anybody knew that it is stored. The next change sends it first:
    /// nothing else may be signed under its number. Empty where there is no such thing.
    pub fn left_over(&self) -> Result<Vec<Op>, AdminError> {
        match self.marks()?.pending {
            Some(bundle) if self.is_next(&bundle)? => Ok(decode_ops(&bundle.ops)?),
            _ => Ok(Vec::new()),
        }
    }

    /// Closes the connection in an orderly way.
    pub async fn close(self) {
        self.to_broker.close().await;
    }

    /// [`make_true`](Self::make_true), and then whether the publishers took notice.
    async fn change(
        &mut self,
        confirm: Duration,
        check: impl Fn(&Roster, &[Op]) -> Result<(), AdminError>,
        ops: impl Fn(&Roster, &[Op]) -> Vec<Op>,
    ) -> Result<Confirmation, AdminError> {
        let to_broker = self.to_broker.clone();
        let (connection, done) = self.make_true(&mut Turns::new(&to_broker), check, ops).await?;
        if done.is_empty() {
            return Ok(Confirmation::unchanged(self.roster.chain().seq()));
        }
        let _ = self.publish_prekey(&connection).await;
        if !self.roster.chain().may_publish(&self.identity.public()) {
            // An admin that removed itself cannot watch any more.
            return Ok(Confirmation::unchanged(self.roster.chain().seq()));
        }
        let epoch = |op: &Op| matches!(op, Op::Add { .. } | Op::Rotate);
        let until = if done.iter().any(epoch) { Until::NewEpoch } else { Until::Noticed };
        // It was just applied.
        let Some(entry) = self.entries.newest().cloned() else {
            return Ok(Confirmation::unchanged(self.roster.chain().seq()));
        };
        confirm::wait(&self.to_broker, &mut self.roster, &entry, until, confirm).await
    }

    async fn publish_prekey(&self, connection: &Connection) -> Result<(), AdminError> {
        let policy = self.roster.chain().policy();
        session::publish_prekey(
            connection,
            self.link.topic,
            &self.identity,
            &self.state,
            policy,
            Give::Newest,
        )
        .await?;
        Ok(())
    }
}

/// Makes a new prekey at once, and gives it to the broker: what a member does after a theft of its state.
pub async fn renew_prekey(
    link: &TopicLink,
    identity: Arc<Identity>,
    state: &State,
) -> Result<(), AdminError> {
    let to_broker = Link::new(link.broker.clone(), Arc::clone(&identity), LinkOptions::default());
    let mut turns = Turns::new(&to_broker);
    loop {
        let connection = turns.connect().await?;
        let renewed = async {
            let genesis = session::fetch_genesis(&connection, link.topic, &identity).await?;
            let policy = session::fetch_policy(&connection, link.topic, &genesis).await?;
            session::publish_prekey(&connection, link.topic, &identity, state, &policy, Give::New).await
        };
        match renewed.await.map_err(AdminError::from) {
            Ok(()) => break,
            Err(error) if turns.again(error.passing()) => tracing::debug!("not now: {error}"),
            Err(error) => return Err(error),
        }
    }
    to_broker.close().await;
    Ok(())
}

/// `op`, unless it was done.
fn unless(done: bool, op: Op) -> Vec<Op> {
    (!done).then_some(op).into_iter().collect()
}

fn unique(keys: &[PublicKey]) -> Vec<PublicKey> {
    let mut seen = std::collections::HashSet::new();
    keys.iter().copied().filter(|key| seen.insert(*key)).collect()
}

// Following the roster and changing it.
mod changes;
#[cfg(test)]
mod tests;
