//! Whether the publishers took notice of a roster entry (docs/protocol.md section 6, the removal fence).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use sealcast_link::{Connection, Link, backoff};
use sealcast_proto::frame::{Context, Reply, Request};
use sealcast_proto::object::{Beacon, EpochHeader, RosterEntry};
use sealcast_proto::record::Record;
use sealcast_proto::roster::{Roster, RosterError};
use sealcast_proto::{Hash, PublicKey, RosterSeq, Signed};

use crate::admin::AdminError;
use crate::fork::{self, Fork};

/// How far a change has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The newest entry.
    pub seq: RosterSeq,
    /// Publishers that signed that they know it and, where newcomers or a rotation wait for that, began an epoch under it.
    pub confirmed: Vec<PublicKey>,
    /// Publishers that had said END, and when (milliseconds since 1970): they seal nothing until they come back.
    pub ended: Vec<(PublicKey, u64)>,
    /// Publishers that signed that they know it, and did not begin an epoch under it in time: what they publish until then
    /// is locked to newcomers, and sealed under the key of before a rotation.
    pub noticed: Vec<PublicKey>,
    /// Publishers not heard from in time: offline, or kept in the dark by the broker.
    pub unheard: Vec<PublicKey>,
    /// Publishers of whom the broker shows nothing: they never published, or it hides them.
    pub unseen: Vec<PublicKey>,
}

impl Confirmation {
    pub(crate) fn unchanged(seq: RosterSeq) -> Self {
        Self {
            seq,
            confirmed: Vec::new(),
            ended: Vec::new(),
            noticed: Vec::new(),
            unheard: Vec::new(),
            unseen: Vec::new(),
        }
    }
}

/// One publisher, as far as its own signatures tell.
struct Heard {
    header: EpochHeader,
    header_hash: Hash,
    knows: (RosterSeq, Hash),
    /// Where it says so: its header, and a beacon.
    evidence: Vec<Bytes>,
    ended_ms: Option<u64>,
}

/// What a change waits for at each live publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// It signed that it knows the entry: from then on it seals nothing for whom the entry removes.
    Noticed,
    /// It began an epoch under the entry: only then do newcomers read what it publishes.
    NewEpoch,
}

/// The publishers as the broker shows them, against the roster that was verified.
struct Watcher<'a> {
    roster: &'a mut Roster,
    until: Until,
    target: RosterSeq,
    /// Entries from the target on: a publisher that knows another one under such a number is on a fork.
    entries: BTreeMap<RosterSeq, Signed<RosterEntry>>,
    publishers: BTreeMap<PublicKey, Heard>,
    /// Whether the broker said that it showed all it knows.
    at_head: bool,
}

/// Follows the topic until every live publisher has signed a header (or, where its notice is enough, a beacon) at or
/// after `entry`, the roster's head.
///
/// Only who may publish is awaited: not the removed, nor those whose role was taken. A connection that breaks is made
/// anew; whoever could not be asked counts as unheard.
pub(crate) async fn wait(
    link: &Link,
    roster: &mut Roster,
    entry: &Signed<RosterEntry>,
    until: Until,
    within: Duration,
) -> Result<Confirmation, AdminError> {
    let target = roster.chain().seq();
    let entries = BTreeMap::from([(target, entry.clone())]);
    let publishers = BTreeMap::new();
    let mut watcher = Watcher { roster, until, target, entries, publishers, at_head: false };
    // A time-out is an answer too: it names whom we have not heard from.
    match tokio::time::timeout(within, watcher.run(link)).await {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(watcher.confirmation()),
    }
}

impl Watcher<'_> {
    async fn run(&mut self, link: &Link) -> Result<(), AdminError> {
        let mut failures = 0;
        loop {
            match self.watch(&link.connected().await).await {
                Ok(()) => return Ok(()),
                Err(AdminError::Broker(why)) => tracing::debug!("the watch broke: {why}"),
                Err(AdminError::Lost(why)) => tracing::debug!("the watch was lost: {why}"),
                Err(AdminError::Refused(why)) => tracing::debug!("the watch was refused: {why}"),
                Err(error) => return Err(error),
            }
            failures += 1;
            // Bound first: the generator is of this thread, and an admin's future may move to another.
            let wait = backoff::delay(failures, &mut rand::rng());
            tokio::time::sleep(wait).await;
        }
    }

    async fn watch(&mut self, connection: &Connection) -> Result<(), AdminError> {
        let (mut writer, mut watch) = connection.open().await.map_err(AdminError::Lost)?;
        let chain = self.roster.chain();
        writer.send(Request::Watch(chain.topic(), chain.seq()).encode()).await.map_err(AdminError::Lost)?;
        self.at_head = false;
        loop {
            if self.at_head && !self.pending()? {
                return Ok(());
            }
            match watch.reply().await.map_err(AdminError::Lost)? {
                None => return Err(AdminError::Broker("the broker ended the watch".into())),
                Some(Reply::AtHead { .. }) => self.at_head = true,
                Some(Reply::Context(context)) => self.heard_context(&context),
                Some(Reply::Epoch(epoch)) => self.heard_header(&epoch.header),
                Some(Reply::Beacon(publisher, beacon)) => {
                    heard_beacon(&publisher, &beacon, &mut self.publishers);
                }
                Some(Reply::Roster(delivery)) => {
                    match self.roster.apply(&delivery.entry, &delivery.ops.unwrap_or_default()) {
                        Ok(change) => {
                            self.entries.insert(change.entry.seq, delivery.entry);
                        }
                        Err(RosterError::Known(_)) => {}
                        Err(RosterError::Fork(seq)) => {
                            let ours = self.entries.get(&seq).map(fork::of_entry);
                            let what = format!("two signed roster entries have number {seq}");
                            let proof = ours.into_iter().chain([fork::of_entry(&delivery.entry)]).collect();
                            return Err(AdminError::Fork(Fork { what, proof }));
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Some(Reply::Refused(refusal)) => return Err(AdminError::Refused(refusal)),
                Some(_) => {}
            }
        }
    }

    /// Whether somebody is still waited for.
    fn pending(&self) -> Result<bool, AdminError> {
        let mut pending = false;
        for (publisher, heard) in &self.publishers {
            let reached = self.reached(publisher, heard)?;
            let awaited = self.roster.chain().may_publish(publisher) && heard.ended_ms.is_none();
            pending |= awaited && !reached;
        }
        Ok(pending)
    }

    /// Whether a publisher did what is waited for.
    fn reached(&self, publisher: &PublicKey, heard: &Heard) -> Result<bool, AdminError> {
        let noticed = self.holds(publisher, heard)?;
        Ok(match self.until {
            Until::Noticed => noticed,
            Until::NewEpoch => noticed && heard.header.roster_seq >= self.target,
        })
    }

    /// Whether an entry that a publisher knows is the target, or one that was verified after it.
    fn holds(&self, publisher: &PublicKey, heard: &Heard) -> Result<bool, AdminError> {
        let (seq, hash) = heard.knows;
        match self.entries.get(&seq) {
            Some(held) if held.hash() == hash => Ok(true),
            Some(held) => {
                let what = format!("{publisher} follows another entry {seq}");
                let proof = [&[fork::of_entry(held)], &heard.evidence[..]].concat();
                Err(AdminError::Fork(Fork { what, proof }))
            }
            None => Ok(false),
        }
    }

    fn confirmation(&self) -> Confirmation {
        let mut confirmation = Confirmation::unchanged(self.target);
        for officer in self.roster.chain().officers() {
            let publisher = officer.identity;
            match self.publishers.get(&publisher) {
                Some(heard) if self.reached(&publisher, heard).unwrap_or(false) => {
                    confirmation.confirmed.push(publisher)
                }
                Some(Heard { ended_ms: Some(at), .. }) => confirmation.ended.push((publisher, *at)),
                Some(heard) if self.holds(&publisher, heard).unwrap_or(false) => {
                    confirmation.noticed.push(publisher)
                }
                Some(_) => confirmation.unheard.push(publisher),
                None if self.at_head => confirmation.unseen.push(publisher),
                None => confirmation.unheard.push(publisher),
            }
        }
        confirmation
    }

    fn heard_context(&mut self, context: &Context) {
        self.heard_header(&context.epoch.header);
        let header_hash = context.epoch.header.hash();
        let Some(heard) = self.publishers.values_mut().find(|heard| heard.header_hash == header_hash) else {
            return;
        };
        if let Some((digest, _)) = &context.batch
            && let Ok((batch, _)) = digest.verify(&header_hash, &heard.header.epoch_vk)
        {
            heard.ended_ms = batch.end.then_some(batch.time_ms);
        }
    }

    fn heard_header(&mut self, signed: &Signed<EpochHeader>) {
        // Anybody can sign a header for a key it made up.
        let Ok(header) = signed.peek() else { return };
        if header.topic != self.roster.chain().topic() || !self.roster.chain().may_publish(&header.publisher)
        {
            return;
        }
        let Ok(header) = signed.verify(&header.publisher) else { return };
        let newest =
            self.publishers.get(&header.publisher).is_none_or(|heard| heard.header.epoch < header.epoch);
        if newest {
            let knows = (header.roster_seq, header.roster_hash);
            let evidence = vec![Record::Header(signed.clone()).encode()];
            let heard = Heard { header_hash: signed.hash(), knows, evidence, ended_ms: None, header };
            self.publishers.insert(heard.header.publisher, heard);
        }
    }
}

fn heard_beacon(publisher: &PublicKey, signed: &Signed<Beacon>, publishers: &mut BTreeMap<PublicKey, Heard>) {
    let Some(heard) = publishers.get_mut(publisher) else { return };
    let Ok(beacon) = signed.verify(&heard.header.epoch_vk) else { return };
    if beacon.header_hash == heard.header_hash {
        if beacon.roster_seq >= heard.knows.0 {
            heard.knows = (beacon.roster_seq, beacon.roster_hash);
            heard.evidence.truncate(1);
            heard.evidence.push(fork::of_beacon(signed));
        }
        heard.ended_ms = None;
    }
}

#[cfg(test)]
mod forged;

#[cfg(test)]
mod tests {
    use super::*;
    use sealcast_proto::object::{Genesis, Mode, SUITE};
    use sealcast_proto::roster::{Op, Role};
    use sealcast_proto::{Epoch, Identity, TopicId};

    fn header(publisher: &Identity, topic: TopicId, roster: (RosterSeq, Hash)) -> Signed<EpochHeader> {
        let header = EpochHeader {
            topic,
            publisher: publisher.public(),
            epoch: Epoch(1),
            prev_header_hash: Hash::ZERO,
            prev_close: None,
            roster_seq: roster.0,
            roster_hash: roster.1,
            mode: Mode::Fresh,
            kek_gen: 0,
            enc: [0; 32],
            commitment: [0; 32],
            epoch_vk: publisher.public(),
            slot_count: 0,
            slots_hash: Hash::ZERO,
            time_ms: 1,
        };
        Signed::sign(&header, publisher.signing_key())
    }

    #[test]
    fn only_publishers_count_and_only_for_the_entry_that_was_verified() {
        let [owner, publisher, stranger] = [1, 2, 3].map(|n| Identity::from_seed(&[n; 32]));
        let genesis = Genesis { suite: SUITE, name: "t".into(), owner: owner.public(), nonce: [0; 32] };
        let topic = Signed::sign(&genesis, owner.signing_key()).topic_id();
        let mut roster = Roster::new(topic, &genesis);
        let add = Op::Add { identity: publisher.public(), role: Role::Publisher };
        let bundle = roster.sign(&[add], &owner, 1).unwrap();
        roster.apply(&bundle.entry, &bundle.ops).unwrap();
        let head = (roster.chain().seq(), roster.chain().hash());
        let before = (RosterSeq(0), Hash(topic.0));

        let mut watch = |signed: &[Signed<EpochHeader>]| {
            let entries = BTreeMap::from([(head.0, bundle.entry.clone())]);
            let (until, target, at_head) = (Until::Noticed, head.0, true);
            let publishers = BTreeMap::new();
            let mut watcher = Watcher { roster: &mut roster, until, target, entries, publishers, at_head };
            signed.iter().for_each(|header| watcher.heard_header(header));
            (watcher.pending(), watcher.confirmation())
        };
        let (pending, heard) = watch(&[header(&publisher, topic, before), header(&stranger, topic, before)]);
        assert!(pending.unwrap());
        assert_eq!((heard.unheard, heard.unseen), (vec![publisher.public()], vec![owner.public()]));
        let (pending, heard) = watch(&[header(&publisher, topic, head), header(&stranger, topic, before)]);
        assert!(!pending.unwrap());
        assert_eq!((heard.confirmed, heard.unheard), (vec![publisher.public()], vec![]));
        // It follows another entry with this number: it does not know of this one.
        let (pending, heard) = watch(&[header(&publisher, topic, (head.0, Hash([9; 32])))]);
        let Err(AdminError::Fork(fork)) = pending else { panic!("{pending:?}") };
        assert_eq!(heard.confirmed, []);
        // The entry that was verified, and the publisher's own word for another one.
        let [ours, theirs] = &fork.proof[..] else { panic!("{fork:?}") };
        assert_eq!(Record::decode(ours.clone()), Ok(Record::Roster(bundle.entry.clone())));
        let Ok(Record::Header(theirs)) = Record::decode(theirs.clone()) else { panic!() };
        assert_eq!(theirs.verify(&publisher.public()).unwrap().roster_hash, Hash([9; 32]));
    }

    #[test]
    fn a_publisher_that_only_knows_did_not_begin_an_epoch() {
        let [owner, publisher] = [1, 2].map(|n| Identity::from_seed(&[n; 32]));
        let genesis = Genesis { suite: SUITE, name: "t".into(), owner: owner.public(), nonce: [0; 32] };
        let topic = Signed::sign(&genesis, owner.signing_key()).topic_id();
        let mut roster = Roster::new(topic, &genesis);
        let add = Op::Add { identity: publisher.public(), role: Role::Publisher };
        let bundle = roster.sign(&[add], &owner, 1).unwrap();
        roster.apply(&bundle.entry, &bundle.ops).unwrap();
        let (seq, hash) = (roster.chain().seq(), roster.chain().hash());
        let old = header(&publisher, topic, (RosterSeq(0), Hash(topic.0)));
        let beacon = Beacon {
            header_hash: old.hash(),
            next_batch_no: sealcast_proto::BatchNo(0),
            last_batch_hash: old.hash(),
            roster_seq: seq,
            roster_hash: hash,
            time_ms: 2,
        };
        let beacon = Signed::sign(&beacon, publisher.signing_key());
        let mut heard = |until| {
            let entries = BTreeMap::from([(seq, bundle.entry.clone())]);
            let (publishers, at_head) = (BTreeMap::new(), true);
            let mut watcher =
                Watcher { roster: &mut roster, until, target: seq, entries, publishers, at_head };
            watcher.heard_header(&old);
            heard_beacon(&publisher.public(), &beacon, &mut watcher.publishers);
            let Confirmation { confirmed, noticed, .. } = watcher.confirmation();
            (watcher.pending().unwrap(), confirmed, noticed)
        };
        let publisher = vec![publisher.public()];
        assert_eq!(heard(Until::Noticed), (false, publisher.clone(), vec![]));
        assert_eq!(heard(Until::NewEpoch), (true, vec![], publisher));
    }
}
