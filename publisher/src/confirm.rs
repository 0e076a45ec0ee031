//! Whether the publishers took notice of a roster entry (docs/protocol.md section 6, the removal fence).

use std::collections::BTreeMap;
use std::time::Duration;

use sealcast_link::Connection;
use sealcast_proto::frame::{Context, Reply, Request};
use sealcast_proto::object::{Beacon, EpochHeader};
use sealcast_proto::roster::{Roster, RosterError};
use sealcast_proto::{Hash, PublicKey, RosterSeq, Signed};

use crate::admin::AdminError;

/// How far a change has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    /// The newest entry.
    pub seq: RosterSeq,
    /// Publishers that signed that they know it.
    pub confirmed: Vec<PublicKey>,
    /// Publishers that had said END, and when (milliseconds since 1970): they seal nothing until they come back.
    pub ended: Vec<(PublicKey, u64)>,
    /// Publishers not heard from in time: offline, or kept in the dark by the broker.
    pub unheard: Vec<PublicKey>,
}

impl Confirmation {
    pub(crate) fn unchanged(seq: RosterSeq) -> Self {
        Self { seq, confirmed: Vec::new(), ended: Vec::new(), unheard: Vec::new() }
    }
}

/// One publisher, as far as its own signatures tell.
struct Heard {
    header: EpochHeader,
    header_hash: Hash,
    knows: RosterSeq,
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

/// Follows the topic until every live publisher has signed a header (or, where its notice is enough, a beacon) at or
/// after the roster's head.
///
/// Removed publishers are not awaited.
pub(crate) async fn wait(
    connection: &Connection,
    roster: &mut Roster,
    removed: &[PublicKey],
    until: Until,
    within: Duration,
) -> Result<Confirmation, AdminError> {
    let target = roster.chain().seq();
    let mut publishers = BTreeMap::new();
    // A time-out is an answer too: it names whom we have not heard from.
    let _ = tokio::time::timeout(within, follow(connection, roster, removed, until, target, &mut publishers))
        .await;
    let mut confirmation = Confirmation::unchanged(target);
    for (publisher, heard) in publishers {
        if removed.contains(&publisher) {
            continue;
        }
        match heard.ended_ms {
            _ if heard.knows >= target => confirmation.confirmed.push(publisher),
            Some(at) => confirmation.ended.push((publisher, at)),
            None => confirmation.unheard.push(publisher),
        }
    }
    Ok(confirmation)
}

async fn follow(
    connection: &Connection,
    roster: &mut Roster,
    removed: &[PublicKey],
    until: Until,
    target: RosterSeq,
    publishers: &mut BTreeMap<PublicKey, Heard>,
) -> Result<(), AdminError> {
    let broken = |error: sealcast_link::LinkError| AdminError::Broker(error.to_string());
    let (mut writer, mut watch) = connection.open().await.map_err(broken)?;
    writer
        .send(Request::Watch(roster.chain().topic(), roster.chain().seq()).encode())
        .await
        .map_err(broken)?;
    let mut at_head = false;
    loop {
        let pending = publishers.iter().any(|(publisher, heard)| {
            let reached = match until {
                Until::Noticed => heard.knows,
                Until::NewEpoch => heard.header.roster_seq,
            };
            !removed.contains(publisher) && reached < target && heard.ended_ms.is_none()
        });
        if at_head && !pending {
            return Ok(());
        }
        match watch.reply().await.map_err(broken)? {
            None => return Ok(()),
            Some(Reply::AtHead { .. }) => at_head = true,
            Some(Reply::Context(context)) => heard_context(&context, publishers),
            Some(Reply::Epoch(epoch)) => heard_header(&epoch.header, publishers),
            Some(Reply::Beacon(publisher, beacon)) => heard_beacon(&publisher, &beacon, publishers),
            Some(Reply::Roster(delivery)) => {
                match roster.apply(&delivery.entry, &delivery.ops.unwrap_or_default()) {
                    Ok(_) | Err(RosterError::Known(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Some(Reply::Refused(refusal)) => return Err(AdminError::Refused(refusal)),
            Some(_) => {}
        }
    }
}

fn heard_context(context: &Context, publishers: &mut BTreeMap<PublicKey, Heard>) {
    heard_header(&context.epoch.header, publishers);
    let header_hash = context.epoch.header.hash();
    let Some(heard) = publishers.values_mut().find(|heard| heard.header_hash == header_hash) else { return };
    if let Some((digest, _)) = &context.batch
        && let Ok((batch, _)) = digest.verify(&header_hash, &heard.header.epoch_vk)
    {
        heard.ended_ms = batch.end.then_some(batch.time_ms);
    }
}

fn heard_header(signed: &Signed<EpochHeader>, publishers: &mut BTreeMap<PublicKey, Heard>) {
    let Ok(header) = signed.peek().and_then(|header| signed.verify(&header.publisher)) else { return };
    let newest = publishers.get(&header.publisher).is_none_or(|heard| heard.header.epoch < header.epoch);
    if newest {
        let knows = header.roster_seq;
        let heard = Heard { header_hash: signed.hash(), knows, ended_ms: None, header };
        publishers.insert(heard.header.publisher, heard);
    }
}

fn heard_beacon(publisher: &PublicKey, signed: &Signed<Beacon>, publishers: &mut BTreeMap<PublicKey, Heard>) {
    let Some(heard) = publishers.get_mut(publisher) else { return };
    let Ok(beacon) = signed.verify(&heard.header.epoch_vk) else { return };
    if beacon.header_hash == heard.header_hash {
        heard.knows = heard.knows.max(beacon.roster_seq);
        heard.ended_ms = None;
    }
}
