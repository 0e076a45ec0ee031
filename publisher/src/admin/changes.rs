//! Following a topic's roster and changing it, whatever becomes of the connection meanwhile.

use bytes::Bytes;
use sealcast_link::{Connection, RequestError, Turns};
use sealcast_proto::frame::{Code, Reply, Request, RosterDelivery};
use sealcast_proto::limits;
use sealcast_proto::roster::{EntryBundle, Op, Roster, RosterError, decode_ops};

use super::{AdminError, TopicAdmin};
use crate::clock::now_ms;
use crate::fork::Remembered;
use crate::saved_admin::AdminMarks;

/// How often an entry is signed anew because another admin was first, a count.
const MAX_RACES: u32 = 8;

impl TopicAdmin {
    /// Makes `ops` come true, as they follow from the roster and from what was done: what another admin did meanwhile is
    /// taken into account. `check` sees the roster, and what an entry left over from before did. Returns what was done.
    pub(super) async fn make_true(
        &mut self,
        turns: &mut Turns<'_>,
        check: impl Fn(&Roster, &[Op]) -> Result<(), AdminError>,
        ops: impl Fn(&Roster, &[Op]) -> Vec<Op>,
    ) -> Result<(Connection, Vec<Op>), AdminError> {
        let mut done = Vec::new();
        loop {
            let connection = turns.connect().await?;
            let before = done.len();
            let outcome = self.go_on(&connection, &check, &ops, &mut done).await;
            if done.len() > before {
                // Of many entries each may have to wait for the one before it.
                turns.progressed();
            }
            match outcome {
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
    pub(super) async fn append(
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
    pub(super) async fn send(&self, connection: &Connection, bundle: &EntryBundle) -> Result<(), AdminError> {
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
    pub(super) async fn refresh(&mut self, connection: &Connection) -> Result<(), AdminError> {
        let pending = self.look(connection).await?;
        let Some(bundle) = pending else { return Ok(()) };
        if self.is_next(&bundle)? {
            self.send(connection, &bundle).await?;
            self.applied(&bundle)?;
            self.resumed = decode_ops(&bundle.ops)?;
            return Ok(());
        }
        // Stored already, or another entry has its number for good.
        self.save(None)
    }

    /// Whether an entry left over from an earlier run can still be the roster's next one.
    pub(super) fn is_next(&self, bundle: &EntryBundle) -> Result<bool, AdminError> {
        let entry = bundle.entry.peek().map_err(RosterError::from)?;
        let chain = self.roster.chain();
        Ok(Some(entry.seq) == chain.seq().next() && entry.prev_hash == chain.hash())
    }

    /// [`look`](Self::look) on the next connection where it succeeds.
    pub(super) async fn look_in_turn(&mut self, turns: &mut Turns<'_>) -> Result<Connection, AdminError> {
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
    pub(super) async fn look(&mut self, connection: &Connection) -> Result<Option<EntryBundle>, AdminError> {
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

    pub(super) fn marks(&self) -> Result<AdminMarks, AdminError> {
        Ok(match self.saved.load()? {
            Some(bytes) => AdminMarks::decode(&bytes).map_err(|error| self.saved.corrupt(error))?,
            None => AdminMarks::default(),
        })
    }

    pub(super) fn save(&self, pending: Option<&EntryBundle>) -> Result<(), AdminError> {
        let seq = self.roster.chain().seq();
        let hash = self.roster.chain().hash();
        let mark = self
            .entries
            .newest()
            .map_or(Remembered { seq, hash, record: Bytes::new() }, |entry| Remembered::new(seq, entry));
        let marks = AdminMarks { mark: Some(mark), pending: pending.cloned() };
        Ok(self.saved.save(&marks.encode())?)
    }
}
