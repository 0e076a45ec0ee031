//! Administering a topic: who may read and publish, and under which policy.

use std::sync::Arc;
use std::time::Duration;

use sealcast_link::{ConnectError, Connection, Link, LinkOptions, RequestError};
use sealcast_proto::frame::{Code, Refusal, Reply, Request};
use sealcast_proto::object::{Genesis, RosterHead, SUITE};
use sealcast_proto::policy::Policy;
use sealcast_proto::roster::{EntryBundle, Op, Role, Roster, RosterError};
use sealcast_proto::{BrokerLink, Identity, PublicKey, RosterSeq, Signed, TopicLink, limits};
use sealcast_state::{RoleState, State, StateError, StateRole};

use crate::clock::now_ms;
use crate::confirm::{self, Confirmation, Until};
use crate::error::PublishError;
use crate::saved_admin::{AdminMarks, SavedEntry};
use crate::session;

/// How often an entry is signed anew because another admin was first, a count.
const MAX_RACES: u32 = 8;
/// How long a busy broker is asked again, milliseconds in all.
const MAX_BUSY_MS: u64 = 60_000;

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
    /// The broker shows other entries than were seen before.
    #[error("the topic was forked: {0}")]
    Fork(String),
    /// The broker refused.
    #[error("the broker refused: {0}")]
    Refused(Refusal),
    /// The broker broke the protocol or the connection failed.
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
            other => Self::Broker(other.to_string()),
        }
    }
}

impl From<PublishError> for AdminError {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::NotAllowed(key) => Self::NotAllowed(key),
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
    saved: RoleState,
    state: State,
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
        let connection = to_broker.connect().await?;
        match connection.request([Request::CreateTopic(signed)]).await {
            Ok(_) => {}
            Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
                return Err(AdminError::NotAllowed(identity.public()));
            }
            Err(error) => return Err(error.into()),
        }
        let roster = Roster::new(topic, &genesis);
        let link = TopicLink { broker: broker.clone(), topic };
        let mut admin = Self { identity, link, to_broker, genesis, roster, saved, state: state.clone() };
        let mut ops = Vec::new();
        if policy != Policy::default() {
            ops.push(Op::SetPolicy(policy));
        }
        ops.extend(
            members
                .iter()
                .filter(|(key, _)| *key != admin.genesis.owner)
                .map(|(key, role)| Op::Add { identity: *key, role: *role }),
        );
        for ops in ops.chunks(limits::MAX_OPS) {
            let ops = ops.to_vec();
            admin.append(&connection, |_| Ok(ops.clone())).await?;
        }
        admin.publish_prekey(&connection, false).await?;
        Ok(admin)
    }

    /// Opens a topic: fetches and verifies its whole roster.
    pub async fn open(link: &TopicLink, identity: Arc<Identity>, state: &State) -> Result<Self, AdminError> {
        let saved = state.open(&identity.public(), &link.topic, StateRole::Admin)?;
        let to_broker = Link::new(link.broker.clone(), Arc::clone(&identity), LinkOptions::default());
        let connection = to_broker.connect().await?;
        let genesis = session::fetch_genesis(&connection, link.topic, &identity).await?;
        let roster = Roster::new(link.topic, &genesis);
        let mut admin =
            Self { identity, link: link.clone(), to_broker, genesis, roster, saved, state: state.clone() };
        admin.refresh(&connection).await?;
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
        self.change(confirm, move |roster| {
            let ops = keys.iter().filter_map(|key| match roster.find(key) {
                None => Some(Op::Add { identity: *key, role }),
                Some((_, member)) if member.role == role => None,
                Some((index, _)) => Some(Op::SetRole { member: index, identity: *key, role }),
            });
            Ok(ops.collect())
        })
        .await
    }

    /// Removes members. Returns when no live publisher seals for them any more, or after `confirm`.
    pub async fn remove(
        &mut self,
        keys: &[PublicKey],
        confirm: Duration,
    ) -> Result<Confirmation, AdminError> {
        let keys = unique(keys);
        self.change(confirm, move |roster| {
            let ops = keys.iter().map(|key| match roster.find(key) {
                Some((index, _)) => Ok(Op::Remove { member: index, identity: *key }),
                None => Err(AdminError::Members(format!("{key} is not a member"))),
            });
            ops.collect()
        })
        .await
    }

    /// Makes every publisher begin a fresh epoch.
    pub async fn rotate(&mut self, confirm: Duration) -> Result<Confirmation, AdminError> {
        self.change(confirm, |_| Ok(vec![Op::Rotate])).await
    }

    /// Changes the policy.
    pub async fn set_policy(
        &mut self,
        policy: Policy,
        confirm: Duration,
    ) -> Result<Confirmation, AdminError> {
        self.change(confirm, move |_| Ok(vec![Op::SetPolicy(policy.clone())])).await
    }

    /// Signs that the roster's head is still the head, for topics whose policy has a `max_roster_age`.
    pub async fn assert_head(&mut self) -> Result<(), AdminError> {
        let connection = self.to_broker.connect().await?;
        self.refresh(&connection).await?;
        let chain = self.roster.chain();
        let head = RosterHead {
            topic: self.link.topic,
            seq: chain.seq(),
            hash: chain.hash(),
            signer: self.identity.public(),
            time_ms: now_ms(),
        };
        let head = Signed::sign(&head, self.identity.signing_key());
        connection.request([Request::PutHead(self.link.topic, head)]).await?;
        Ok(())
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

    async fn change(
        &mut self,
        confirm: Duration,
        ops: impl Fn(&Roster) -> Result<Vec<Op>, AdminError>,
    ) -> Result<Confirmation, AdminError> {
        let connection = self.to_broker.connect().await?;
        self.refresh(&connection).await?;
        let all = ops(&self.roster)?;
        if all.is_empty() {
            return Ok(Confirmation::unchanged(self.roster.chain().seq()));
        }
        let removed: Vec<PublicKey> = all
            .iter()
            .filter_map(|op| if let Op::Remove { identity, .. } = op { Some(*identity) } else { None })
            .collect();
        // More than one entry's worth is cut up; what another admin did meanwhile is taken into account each time.
        loop {
            let appended = self
                .append(&connection, |roster| {
                    let mut rest = ops(roster)?;
                    rest.truncate(limits::MAX_OPS);
                    Ok(rest)
                })
                .await;
            match appended {
                Ok(()) => {}
                // A key that is gone: what was asked for is the case.
                Err(AdminError::Members(_)) if !removed.is_empty() => break,
                Err(error) => return Err(error),
            }
            let more = match ops(&self.roster) {
                Ok(rest) => !rest.is_empty() && rest.len() < all.len() && all.len() > limits::MAX_OPS,
                Err(_) => false,
            };
            if !more {
                break;
            }
        }
        let _ = self.publish_prekey(&connection, false).await;
        if removed.contains(&self.identity.public()) {
            // An admin that removed itself cannot watch any more.
            return Ok(Confirmation::unchanged(self.roster.chain().seq()));
        }
        let epoch = |op: &Op| matches!(op, Op::Add { .. } | Op::Rotate);
        let until = if all.iter().any(epoch) { Until::NewEpoch } else { Until::Noticed };
        confirm::wait(&connection, &mut self.roster, &removed, until, confirm).await
    }

    /// Signs, saves, sends and applies one entry. What was signed is saved first and sent again verbatim.
    async fn append(
        &mut self,
        connection: &Connection,
        ops: impl Fn(&Roster) -> Result<Vec<Op>, AdminError>,
    ) -> Result<(), AdminError> {
        let mut busy_ms = 0;
        let mut races = 0;
        loop {
            let ops = ops(&self.roster)?;
            if ops.is_empty() {
                return Ok(());
            }
            let bundle = self.roster.sign(&ops, &self.identity, now_ms())?;
            self.save(Some(&bundle))?;
            loop {
                match self.send(connection, &bundle).await {
                    Ok(()) => return self.applied(&bundle),
                    Err(AdminError::Refused(refusal))
                        if refusal.code == Code::Busy && busy_ms < MAX_BUSY_MS =>
                    {
                        let wait = refusal.retry_after_ms.clamp(50, 30_000);
                        busy_ms += wait;
                        tokio::time::sleep(Duration::from_millis(wait)).await;
                    }
                    Err(AdminError::Refused(refusal))
                        if refusal.code == Code::RosterConflict && races < MAX_RACES =>
                    {
                        // Another admin was first, or our own entry of an earlier try was stored.
                        races += 1;
                        self.refresh(connection).await?;
                        if self.roster.chain().hash() == bundle.entry.hash() {
                            return Ok(());
                        }
                        break;
                    }
                    Err(AdminError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
                        return Err(AdminError::NotAllowed(self.identity.public()));
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn send(&self, connection: &Connection, bundle: &EntryBundle) -> Result<(), AdminError> {
        connection.request([Request::AppendRoster(self.link.topic), Request::Bundle(bundle.clone())]).await?;
        Ok(())
    }

    fn applied(&mut self, bundle: &EntryBundle) -> Result<(), AdminError> {
        self.roster.apply(&bundle.entry, &bundle.ops)?;
        self.save(None)
    }

    /// Fetches what is new on the roster, checks it against the marks, and sends an entry left over from a crash.
    async fn refresh(&mut self, connection: &Connection) -> Result<(), AdminError> {
        let marks = self.marks()?;
        self.follow(connection).await?;
        let (seq, hash) = (self.roster.chain().seq(), self.roster.chain().hash());
        if let Some(mark) = &marks.mark
            && seq < mark.seq
        {
            return Err(AdminError::Rollback(format!(
                "its roster ends at entry {seq}; entry {} was seen",
                mark.seq
            )));
        }
        if let Some(bundle) = marks.pending {
            let pending = bundle.entry.peek().map_err(RosterError::from)?;
            let follows = Some(pending.seq) == seq.next() && pending.prev_hash == hash;
            if follows {
                self.send(connection, &bundle).await?;
                return self.applied(&bundle);
            }
        }
        self.save(None)
    }

    async fn follow(&mut self, connection: &Connection) -> Result<(), AdminError> {
        let marks = self.marks()?;
        let from = RosterSeq(self.roster.chain().seq().0.saturating_add(1));
        let mut replies = connection.fetch(Request::FetchRoster(self.link.topic, from)).await?;
        loop {
            match replies.next().await {
                Ok(Some(Reply::Roster(delivery))) => {
                    // The broker shows the operations to publishers and admins only.
                    let ops = delivery.ops.ok_or_else(|| AdminError::NotAllowed(self.identity.public()))?;
                    match self.roster.apply(&delivery.entry, &ops) {
                        Ok(_) | Err(RosterError::Known(_)) => {}
                        Err(RosterError::Fork(seq)) => {
                            return Err(AdminError::Fork(format!("two signed entries have number {seq}")));
                        }
                        Err(error) => return Err(error.into()),
                    }
                    let chain = self.roster.chain();
                    if let Some(mark) = &marks.mark
                        && chain.seq() == mark.seq
                        && chain.hash() != mark.hash
                    {
                        return Err(AdminError::Fork(format!(
                            "entry {} is not the one seen before",
                            mark.seq
                        )));
                    }
                }
                Ok(Some(Reply::AtHead { .. })) => return Ok(()),
                Ok(_) => return Err(AdminError::Broker("the broker ended the roster early".into())),
                Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
                    return Err(AdminError::NotAllowed(self.identity.public()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn marks(&self) -> Result<AdminMarks, AdminError> {
        Ok(match self.saved.load()? {
            Some(bytes) => AdminMarks::decode(&bytes)
                .map_err(|error| AdminError::Rollback(format!("{error}; remove them to begin anew")))?,
            None => AdminMarks::default(),
        })
    }

    fn save(&self, pending: Option<&EntryBundle>) -> Result<(), AdminError> {
        let chain = self.roster.chain();
        let mark = SavedEntry { seq: chain.seq(), hash: chain.hash() };
        let marks = AdminMarks { mark: Some(mark), pending: pending.cloned() };
        Ok(self.saved.save(&marks.encode())?)
    }

    async fn publish_prekey(&self, connection: &Connection, force: bool) -> Result<(), AdminError> {
        let policy = self.roster.chain().policy();
        session::publish_prekey(connection, self.link.topic, &self.identity, &self.state, policy, force)
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
    let connection = to_broker.connect().await?;
    session::fetch_genesis(&connection, link.topic, &identity).await?;
    let policy = Policy::default();
    session::publish_prekey(&connection, link.topic, &identity, state, &policy, true).await?;
    to_broker.close().await;
    Ok(())
}

fn unique(keys: &[PublicKey]) -> Vec<PublicKey> {
    let mut seen = std::collections::HashSet::new();
    keys.iter().copied().filter(|key| seen.insert(*key)).collect()
}
