//! The report as one JSON object.

use sealcast_proto::audit::{Audit, Changed, Entry, EpochNote, Finding, How, PublisherNote, Sums};
use sealcast_proto::frame::{HoleReason, Level};
use sealcast_proto::object::Mode;
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::{PublicKey, SlotSource, TopicLink};
use serde::Serialize;

use super::text::{BESIDES, HIDDEN, table_bytes};
use crate::cli::times::rfc3339;

#[derive(Serialize)]
pub(super) struct Shown {
    topic: String,
    name: Option<String>,
    owner: Option<String>,
    suite: Option<u16>,
    level: Option<&'static str>,
    seen_by: String,
    role: Option<String>,
    removed_by_entry: Option<u64>,
    complete: bool,
    first_offset: u64,
    next_offset: u64,
    records_read: u64,
    policy: ShownPolicy,
    roster: ShownRoster,
    publishers: Vec<ShownPublisher>,
    holes: Vec<ShownHole>,
    seen_besides: &'static [&'static str],
    not_seen: &'static [&'static str],
    findings: Vec<ShownFinding>,
    more_findings: u64,
}

#[derive(Serialize)]
struct ShownPolicy {
    durability: &'static str,
    retain_ms: u64,
    retain_bytes: u64,
    max_epoch_age_ms: u64,
    max_fresh_age_ms: u64,
    max_epoch_batches: u32,
    beacon_ms: u32,
    prekey_rotation_ms: u64,
    max_offline_ms: u64,
    max_roster_age_ms: u64,
}

#[derive(Serialize)]
struct ShownRoster {
    seq: u64,
    hash: String,
    members: Option<Vec<ShownMember>>,
    members_ever: u32,
    officers: Vec<ShownMember>,
    head: Option<ShownHead>,
    entries: Vec<ShownEntry>,
}

#[derive(Serialize)]
struct ShownMember {
    index: u32,
    identity: String,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_entry: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prekey: Option<ShownPrekey>,
}

#[derive(Serialize)]
struct ShownPrekey {
    id: u32,
    until: String,
}

#[derive(Serialize)]
struct ShownHead {
    signer: String,
    time: String,
}

#[derive(Serialize)]
struct ShownEntry {
    seq: u64,
    offset: u64,
    time: String,
    signer: String,
    added: u64,
    removed: Option<u64>,
    fence: bool,
    rotate: Option<bool>,
    policy: bool,
    changed: Vec<ShownChange>,
}

#[derive(Serialize)]
struct ShownChange {
    how: &'static str,
    index: u32,
    identity: String,
    role: Option<String>,
}

#[derive(Serialize)]
struct ShownPublisher {
    publisher: String,
    role: Option<String>,
    epochs_in_all: u64,
    #[serde(flatten)]
    sums: ShownSums,
    beacons: u64,
    last_beacon: Option<String>,
    epochs: Vec<ShownEpoch>,
}

#[derive(Serialize)]
struct ShownEpoch {
    epoch: u64,
    mode: &'static str,
    time: String,
    roster_entry: u64,
    offset: u64,
    slots: u32,
    table_bytes: u64,
    own_slot: Option<String>,
    ended: bool,
    #[serde(flatten)]
    sums: ShownSums,
}

#[derive(Serialize)]
struct ShownSums {
    batches: u64,
    messages: u64,
    ciphertext_bytes: u64,
    smallest_bytes: Option<u64>,
    largest_bytes: Option<u64>,
    first_batch_offset: Option<u64>,
    last_batch_offset: Option<u64>,
    first_time: Option<String>,
    last_time: Option<String>,
    first_seq: Option<u64>,
    next_seq: Option<u64>,
}

#[derive(Serialize)]
struct ShownHole {
    from: u64,
    to: u64,
    why: &'static str,
}

#[derive(Serialize)]
struct ShownFinding {
    kind: &'static str,
    text: String,
    publisher: Option<String>,
    epoch: Option<u64>,
    offset: Option<u64>,
    times: u64,
}

impl Shown {
    pub(super) fn new(link: &TopicLink, me: &PublicKey, audit: &Audit) -> Self {
        let genesis = audit.genesis.as_ref();
        Self {
            topic: link.topic.to_string(),
            name: genesis.map(|genesis| genesis.name.clone()),
            owner: genesis.map(|genesis| genesis.owner.to_string()),
            suite: genesis.map(|genesis| genesis.suite),
            level: audit.level.map(level),
            seen_by: me.to_string(),
            role: audit.role.map(|role| role.to_string()),
            removed_by_entry: audit.removed.map(|seq| seq.0),
            complete: audit.complete,
            first_offset: audit.start_offset.0,
            next_offset: audit.next_offset.0,
            records_read: audit.records,
            policy: policy(&audit.policy),
            roster: roster(audit),
            publishers: audit.publishers.iter().map(publisher).collect(),
            holes: audit
                .holes
                .iter()
                .map(|(from, to, why)| ShownHole { from: from.0, to: to.0, why: reason(*why) })
                .collect(),
            seen_besides: BESIDES,
            not_seen: HIDDEN,
            findings: audit.findings.iter().map(finding).collect(),
            more_findings: audit.more_findings,
        }
    }
}

pub(super) fn level(level: Level) -> &'static str {
    match level {
        Level::Memory => "memory",
        Level::Durable => "durable",
        Level::Replicated => "replicated",
    }
}

pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Fresh => "fresh",
        Mode::Advance => "advance",
        Mode::Rewrap => "rewrap",
    }
}

pub(super) fn reason(why: HoleReason) -> &'static str {
    match why {
        HoleReason::Retention => "retention",
        HoleReason::Corruption => "corruption",
    }
}

fn policy(policy: &Policy) -> ShownPolicy {
    ShownPolicy {
        durability: match policy.durability {
            Durability::Durable => "durable",
            Durability::Memory => "memory",
        },
        retain_ms: policy.retain_ms,
        retain_bytes: policy.retain_bytes,
        max_epoch_age_ms: policy.max_epoch_age_ms,
        max_fresh_age_ms: policy.max_fresh_age_ms,
        max_epoch_batches: policy.max_epoch_batches,
        beacon_ms: policy.beacon_ms,
        prekey_rotation_ms: policy.prekey_rotation_ms,
        max_offline_ms: policy.max_offline_ms,
        max_roster_age_ms: policy.max_roster_age_ms,
    }
}

fn roster(audit: &Audit) -> ShownRoster {
    let prekey = |identity: &PublicKey| {
        let prekey = audit.prekeys.as_ref()?.get(identity)?;
        Some(ShownPrekey { id: prekey.id, until: rfc3339(prekey.not_after_ms) })
    };
    let members = audit.members.as_ref().map(|members| {
        let shown = members.iter().map(|(index, member)| ShownMember {
            index: index.0,
            identity: member.identity.to_string(),
            role: member.role.to_string(),
            since_entry: Some(member.since.0),
            prekey: prekey(&member.identity),
        });
        shown.collect()
    });
    let officers = audit.officers.iter().map(|officer| ShownMember {
        index: officer.member.0,
        identity: officer.identity.to_string(),
        role: officer.role.to_string(),
        since_entry: None,
        prekey: None,
    });
    let head = audit.head.as_ref();
    ShownRoster {
        seq: audit.roster_seq.0,
        hash: audit.roster_hash.to_string(),
        members,
        members_ever: audit.members_ever,
        officers: officers.collect(),
        head: head.map(|head| ShownHead { signer: head.signer.to_string(), time: rfc3339(head.time_ms) }),
        entries: audit.entries.iter().map(entry).collect(),
    }
}

fn entry(entry: &Entry) -> ShownEntry {
    ShownEntry {
        seq: entry.seq.0,
        offset: entry.offset.0,
        time: rfc3339(entry.time_ms),
        signer: entry.signer.to_string(),
        added: entry.added,
        removed: entry.removed,
        fence: entry.fence,
        rotate: entry.rotate,
        policy: entry.policy,
        changed: entry.changed.iter().map(change).collect(),
    }
}

fn change(changed: &Changed) -> ShownChange {
    ShownChange {
        how: match changed.how {
            How::Added => "added",
            How::Removed => "removed",
            How::Role => "role",
            How::NotOfficer => "no_officer",
        },
        index: changed.member.0,
        identity: changed.identity.to_string(),
        role: changed.role.map(|role| role.to_string()),
    }
}

fn publisher(note: &PublisherNote) -> ShownPublisher {
    ShownPublisher {
        publisher: note.identity.to_string(),
        role: note.role.map(|role| role.to_string()),
        epochs_in_all: note.epochs_in_all,
        sums: sums(&note.sums),
        beacons: note.beacons,
        last_beacon: note.last_beacon_ms.map(rfc3339),
        epochs: note.epochs.iter().map(epoch).collect(),
    }
}

fn epoch(note: &EpochNote) -> ShownEpoch {
    ShownEpoch {
        epoch: note.epoch.0,
        mode: mode(note.mode),
        time: rfc3339(note.time_ms),
        roster_entry: note.roster_seq.0,
        offset: note.offset.0,
        slots: note.slots,
        table_bytes: table_bytes(note.slots),
        own_slot: note.own_slot.map(own_slot),
        ended: note.ended,
        sums: sums(&note.sums),
    }
}

fn own_slot(source: SlotSource) -> String {
    match source {
        SlotSource::Static => "static".into(),
        SlotSource::Prekey(id) => format!("prekey {id}"),
        SlotSource::Kek => "kek".into(),
    }
}

fn sums(sums: &Sums) -> ShownSums {
    let (offsets, times, seqs) = (sums.offsets, sums.times_ms, sums.seqs);
    ShownSums {
        batches: sums.batches,
        messages: sums.messages,
        ciphertext_bytes: sums.ciphertext_bytes,
        smallest_bytes: sums.smallest,
        largest_bytes: sums.largest,
        first_batch_offset: offsets.map(|(first, _)| first.0),
        last_batch_offset: offsets.map(|(_, last)| last.0),
        first_time: times.map(|(first, _)| rfc3339(first)),
        last_time: times.map(|(_, last)| rfc3339(last)),
        first_seq: seqs.map(|(first, _)| first.0),
        next_seq: seqs.map(|(_, next)| next.0),
    }
}

fn finding(finding: &Finding) -> ShownFinding {
    ShownFinding {
        kind: finding.kind.name(),
        text: finding.text.clone(),
        publisher: finding.publisher.map(|publisher| publisher.to_string()),
        epoch: finding.epoch.map(|epoch| epoch.0),
        offset: finding.offset.map(|offset| offset.0),
        times: finding.times,
    }
}
