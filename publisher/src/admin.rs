//! Administering a topic: who may read and publish, and under which policy.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sealcast_link::{ConnectError, Connection, Link, LinkError, LinkOptions, Passing, RequestError, Turns};
use sealcast_proto::frame::{Code, Refusal, Reply, Request, RosterDelivery};
use sealcast_proto::object::{Genesis, RosterHead, SUITE};
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster, RosterError, decode_ops};
use sealcast_proto::{BrokerLink, Identity, PublicKey, Signed, TopicLink, limits};
use sealcast_state::{RoleState, State, StateError, StateRole};

use crate::clock::now_ms;
use crate::confirm::{self, Confirmation, Until};
use crate::error::PublishError;
use crate::fork::{Entries, Fork, Remembered};
use crate::saved_admin::AdminMarks;
use crate::session::{self, Give};

/// How often an entry is signed anew because another admin was first, a count.
const MAX_RACES: u32 = 8;

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
        let (connection, _) = admin.make_true(&mut turns, |_, _| Ok(()), ops).await?;
        admin.publish_prekey(&connection).await?;
        Ok(admin)
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

    /// Makes `ops` come true, as they follow from the roster and from what was done: what another admin did meanwhile is
    /// taken into account. `check` sees the roster, and what an entry left over from before did. Returns what was done.
    async fn make_true(
        &mut self,
        turns: &mut Turns<'_>,
        check: impl Fn(&Roster, &[Op]) -> Result<(), AdminError>,
        ops: impl Fn(&Roster, &[Op]) -> Vec<Op>,
    ) -> Result<(Connection, Vec<Op>), AdminError> {
        let mut done = Vec::new();
        loop {
            let connection = turns.connect().await?;
            match self.go_on(&connection, &check, &ops, &mut done).await {
                Ok(()) => return Ok((connection, done)),
                Err(error) if turns.again(error.passing()) => tracing::debug!("not now: {error}"),
                Err(error) => return Err(error),
            }
        }
    }

    async fn go_on(
        &mut self,
        connection: &Connection,
        check: &impl Fn(&Roster, &[Op]) -> Result<(), AdminError>,
        ops: &impl Fn(&Roster, &[Op]) -> Vec<Op>,
        done: &mut Vec<Op>,
    ) -> Result<(), AdminError> {
        self.refresh(connection).await?;
        // If that entry did what is asked for now, it has yet to be confirmed.
        done.append(&mut self.resumed);
        check(&self.roster, done)?;
        // More than one entry's worth is cut up.
        while self.append(connection, ops, done).await? {}
        Ok(())
    }

    /// Signs, saves, sends and applies one entry; `false` if there is nothing to do (any more).
    async fn append(
        &mut self,
        connection: &Connection,
        ops: &impl Fn(&Roster, &[Op]) -> Vec<Op>,
        done: &mut Vec<Op>,
    ) -> Result<bool, AdminError> {
        for _ in 0..MAX_RACES {
            let mut next = ops(&self.roster, done);
            if next.is_empty() {
                return Ok(false);
            }
            next.truncate(limits::MAX_OPS);
            let bundle = self.roster.sign(&next, &self.identity, now_ms())?;
            self.save(Some(&bundle))?;
            match self.send(connection, &bundle).await {
                Ok(()) => {
                    done.append(&mut next);
                    self.applied(&bundle)?;
                    return Ok(true);
                }
                Err(AdminError::Refused(refusal)) if refusal.code == Code::RosterConflict => {
                    // Another admin was first, or this very entry was stored.
                    self.refresh(connection).await?;
                    done.append(&mut self.resumed);
                }
                Err(error) => return Err(error),
            }
        }
        Err(AdminError::Broker("other admins were first each time".into()))
    }

    /// Sends a signed entry. If nobody knows whether it was stored, the same bytes are sent again: see
    /// [`refresh`](Self::refresh).
    async fn send(&self, connection: &Connection, bundle: &EntryBundle) -> Result<(), AdminError> {
        let requests = [Request::AppendRoster(self.link.topic), Request::Bundle(bundle.clone())];
        match connection.request(requests).await {
            Ok(_) => Ok(()),
            Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
                Err(AdminError::NotAllowed(self.identity.public()))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn applied(&mut self, bundle: &EntryBundle) -> Result<(), AdminError> {
        self.roster.apply(&bundle.entry, &bundle.ops)?;
        self.entries.keep(&bundle.entry);
        self.save(None)
    }

    /// Fetches what is new on the roster, and sends an entry left over from an earlier run: nothing else may be signed
    /// under its number.
    async fn refresh(&mut self, connection: &Connection) -> Result<(), AdminError> {
        let pending = self.look(connection).await?;
        let Some(bundle) = pending else { return Ok(()) };
        let entry = bundle.entry.peek().map_err(RosterError::from)?;
        let chain = self.roster.chain();
        if Some(entry.seq) == chain.seq().next() && entry.prev_hash == chain.hash() {
            self.send(connection, &bundle).await?;
            self.applied(&bundle)?;
            self.resumed = decode_ops(&bundle.ops)?;
            return Ok(());
        }
        // Stored already, or another entry has its number for good.
        self.save(None)
    }

    /// [`look`](Self::look) on the next connection where it succeeds.
    async fn look_in_turn(&mut self, turns: &mut Turns<'_>) -> Result<Connection, AdminError> {
        loop {
            let connection = turns.connect().await?;
            match self.look(&connection).await {
                Ok(_) => return Ok(connection),
                Err(error) if turns.again(error.passing()) => tracing::debug!("not now: {error}"),
                Err(error) => return Err(error),
            }
        }
    }

    /// Fetches what is new on the roster and checks it against the marks. Changes nothing at the broker; returns an
    /// entry left over from an earlier run.
    async fn look(&mut self, connection: &Connection) -> Result<Option<EntryBundle>, AdminError> {
        let AdminMarks { mark, pending } = self.marks()?;
        let from = self.roster.chain().seq().next().ok_or(RosterError::TooMany("entries"))?;
        let mut replies = connection.fetch(Request::FetchRoster(self.link.topic, from)).await?;
        loop {
            match replies.next().await {
                Ok(Some(Reply::Roster(delivery))) => self.take(&delivery, mark.as_ref(), pending.as_ref())?,
                Ok(Some(Reply::AtHead { .. })) => break,
                Ok(_) => return Err(AdminError::Broker("the broker ended the roster early".into())),
                Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
                    return Err(AdminError::NotAllowed(self.identity.public()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let seq = self.roster.chain().seq();
        if let Some(mark) = mark.as_ref().filter(|mark| seq < mark.seq) {
            return Err(AdminError::Rollback(format!(
                "its roster ends at entry {seq}; entry {} was seen",
                mark.seq
            )));
        }
        self.save(pending.as_ref())?;
        Ok(pending)
    }

    fn take(
        &mut self,
        delivery: &RosterDelivery,
        mark: Option<&Remembered>,
        pending: Option<&EntryBundle>,
    ) -> Result<(), AdminError> {
        // The broker shows the operations to publishers and admins only.
        let ops = delivery.ops.as_ref().ok_or_else(|| AdminError::NotAllowed(self.identity.public()))?;
        match self.roster.apply(&delivery.entry, ops) {
            Ok(_) => self.entries.keep(&delivery.entry),
            Err(RosterError::Known(_)) => {}
            Err(RosterError::Fork(seq)) => {
                return Err(AdminError::Fork(self.entries.fork(seq, &delivery.entry, mark)));
            }
            Err(error) => return Err(error.into()),
        }
        let chain = self.roster.chain();
        if let Some(mark) = mark.filter(|mark| mark.seq == chain.seq() && mark.hash != chain.hash()) {
            return Err(AdminError::Fork(mark.fork(&delivery.entry)));
        }
        if pending.is_some_and(|pending| pending.entry.hash() == delivery.entry.hash()) {
            self.resumed = decode_ops(ops)?;
        }
        Ok(())
    }

    fn marks(&self) -> Result<AdminMarks, AdminError> {
        Ok(match self.saved.load()? {
            Some(bytes) => AdminMarks::decode(&bytes).map_err(|error| self.saved.corrupt(error))?,
            None => AdminMarks::default(),
        })
    }

    fn save(&self, pending: Option<&EntryBundle>) -> Result<(), AdminError> {
        let seq = self.roster.chain().seq();
        let hash = self.roster.chain().hash();
        let mark = self
            .entries
            .newest()
            .map_or(Remembered { seq, hash, record: Bytes::new() }, |entry| Remembered::new(seq, entry));
        let marks = AdminMarks { mark: Some(mark), pending: pending.cloned() };
        Ok(self.saved.save(&marks.encode())?)
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

#[cfg(test)]
mod tests;
