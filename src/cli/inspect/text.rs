//! The report for people.

use sealcast_proto::audit::{Audit, Changed, Entry, EpochNote, How, PublisherNote, Sums};
use sealcast_proto::policy::Durability;
use sealcast_proto::{PublicKey, TopicLink, limits};

use super::json::{level, mode, reason};
use super::padding::hidden;
use crate::cli::say::{bytes, clean, count, grouped};
use crate::cli::table::table;
use crate::cli::times::{rfc3339, span};

/// Readers listed, a count; `--json` lists all of them.
const READERS: usize = 50;
/// Entries and epochs listed of each, a count: the newest; `--json` has more.
const LISTED: usize = 40;

/// What no broker can see.
pub(super) const HIDDEN: &[&str] = &[
    "payloads, headers and content types of messages, and the time inside each",
    "exact lengths: a batch is padded by up to 12 %, and one of several messages shows the length of none of them",
    "keys: each slot opens with its member's private key only",
    "whether a member has opened what it fetched",
];

/// What a broker sees beside what it stores, and no member is shown.
pub(super) const BESIDES: &[&str] = &[
    "from which addresses and when publishers and members connect, and how far each of them has read",
    "whom each table has a slot for, and under which of its prekeys",
    "beacons: that a publisher is there although it has nothing to say",
];

/// The whole report.
pub(super) fn report(link: &TopicLink, me: &PublicKey, audit: &Audit) -> String {
    let mut out = Out::default();
    head(&mut out, link, me, audit);
    members(&mut out, audit);
    entries(&mut out, audit);
    for publisher in &audit.publishers {
        epochs(&mut out, publisher, audit);
    }
    closing(&mut out, audit);
    out.0
}

#[derive(Default)]
struct Out(String);

impl Out {
    fn line(&mut self, text: &str) {
        self.0.push_str(text.trim_end());
        self.0.push('\n');
    }

    fn fact(&mut self, word: &str, text: &str) {
        self.line(&format!("{word:<9} {text}"));
    }

    fn heading(&mut self, text: &str) {
        self.0.push('\n');
        self.line(text);
    }

    fn table(&mut self, headings: &[&str], rows: &[Vec<String>]) {
        for line in table(headings, rows) {
            self.line(&format!("  {line}"));
        }
    }
}

fn head(out: &mut Out, link: &TopicLink, me: &PublicKey, audit: &Audit) {
    if let Some(genesis) = &audit.genesis {
        out.fact("name", &clean(&genesis.name));
        out.fact("owner", &genesis.owner.to_string());
    }
    out.fact("link", &link.to_string());
    let role = match (audit.role, audit.removed) {
        (_, Some(seq)) => format!("removed by entry {seq}: nothing after it is shown"),
        (Some(role), _) => role.to_string(),
        (None, _) => "reader".into(),
    };
    out.fact("seen by", &format!("{me}, {role}"));
    let members = match &audit.members {
        Some(members) => format!("{} now, {} ever", count_of(members.len(), "member"), audit.members_ever),
        None => format!("{} ever", count(audit.members_ever.into(), "member")),
    };
    out.fact("roster", &format!("entry {}, {}…, {members}", audit.roster_seq, audit.roster_hash.short()));
    if let Some(head) = &audit.head {
        out.fact("head", &format!("confirmed by {} at {}", head.signer.short(), rfc3339(head.time_ms)));
    }
    let policy = &audit.policy;
    let kept = match policy.retain_ms {
        0 => "kept for ever".into(),
        ms => format!("kept {}", span(ms)),
    };
    let durability = match policy.durability {
        Durability::Durable => "durable",
        Durability::Memory => "memory",
    };
    let (epoch, beacon) = (span(policy.max_epoch_age_ms), span(policy.beacon_ms.into()));
    out.fact("policy", &format!("{durability}, {kept}, a new key after {epoch}, a beacon every {beacon}"));
    let acks = audit.level.map_or("?", level);
    let log = format!(
        "offsets {} to {}, {}",
        audit.start_offset,
        audit.next_offset,
        count(audit.records, "record")
    );
    out.fact("log", &format!("{log}, acknowledged when {acks}"));
    for (from, to, why) in &audit.holes {
        out.fact("hole", &format!("offsets {from} to {to}: {}", reason(*why)));
    }
}

fn members(out: &mut Out, audit: &Audit) {
    let prekey = |identity: &PublicKey| match &audit.prekeys {
        None => "?".to_owned(),
        Some(prekeys) => prekeys.get(identity).map_or("none".into(), |prekey| rfc3339(prekey.not_after_ms)),
    };
    let Some(members) = &audit.members else {
        out.heading("members above reader");
        let rows = audit.officers.iter().map(|officer| {
            vec![officer.member.to_string(), officer.role.to_string(), officer.identity.to_string()]
        });
        return out.table(&[" index", "role", "identity"], &rows.collect::<Vec<_>>());
    };
    out.heading("members");
    let row = |(index, member): &(sealcast_proto::MemberIndex, sealcast_proto::roster::Member)| {
        vec![
            index.to_string(),
            member.role.to_string(),
            format!("entry {}", member.since),
            prekey(&member.identity),
            member.identity.to_string(),
        ]
    };
    let rows: Vec<_> = members.iter().take(READERS).map(row).collect();
    out.table(&[" index", "role", "since", "prekey until", "identity"], &rows);
    more(out, members.len(), READERS);
}

fn entries(out: &mut Out, audit: &Audit) {
    if audit.entries.is_empty() {
        return;
    }
    out.heading("roster history");
    let from = audit.entries.len().saturating_sub(LISTED);
    more(out, audit.entries.len(), LISTED);
    let rows = audit.entries.iter().skip(from).map(|entry| {
        vec![
            entry.seq.to_string(),
            entry.offset.to_string(),
            rfc3339(entry.time_ms),
            entry.signer.short(),
            doings(entry),
        ]
    });
    out.table(&[" entry", " offset", "signed at", "signed by", "what"], &rows.collect::<Vec<_>>());
}

/// `+2 members (reader seal1…), rotate`.
fn doings(entry: &Entry) -> String {
    let mut parts = Vec::new();
    let named = |how: How| {
        let named: Vec<_> = entry.changed.iter().filter(|changed| changed.how == how).map(who).collect();
        match named.len() {
            0 => String::new(),
            1..=3 => format!(" ({})", named.join(", ")),
            _ => format!(" ({}, …)", named.iter().take(3).cloned().collect::<Vec<_>>().join(", ")),
        }
    };
    if entry.added > 0 {
        parts.push(format!("added {}{}", count(entry.added, "member"), named(How::Added)));
    }
    match entry.removed {
        Some(0) => {}
        Some(removed) => parts.push(format!("removed {}{}", count(removed, "member"), named(How::Removed))),
        None if entry.fence => parts.push("removed or demoted somebody".into()),
        None => {}
    }
    let roles = |how| entry.changed.iter().any(|changed| changed.how == how);
    if roles(How::Role) {
        parts.push(format!("changed roles{}", named(How::Role)));
    }
    if roles(How::NotOfficer) {
        parts.push(format!("above reader no more{}", named(How::NotOfficer)));
    }
    if entry.policy {
        parts.push("changed the policy".into());
    }
    if entry.rotate == Some(true) {
        parts.push("asked for new keys".into());
    }
    match parts.is_empty() {
        true => "nothing that readers are shown".into(),
        false => parts.join("; "),
    }
}

fn who(changed: &Changed) -> String {
    let role = changed.role.map_or(String::new(), |role| format!("{role} "));
    format!("{role}{}", changed.identity.short())
}

fn epochs(out: &mut Out, publisher: &PublisherNote, audit: &Audit) {
    let role = publisher.role.map_or("publishes no more".into(), |role| role.to_string());
    out.heading(&format!("publisher {}, {role}", publisher.identity));
    let all = usize::try_from(publisher.epochs_in_all).unwrap_or(usize::MAX);
    more(out, all, LISTED);
    let from = publisher.epochs.len().saturating_sub(LISTED);
    let rows: Vec<_> = publisher.epochs.iter().skip(from).map(|note| epoch_row(note, audit)).collect();
    let headings = [
        " epoch",
        "mode",
        "began",
        " entry",
        " slots",
        " table",
        " batches",
        " messages",
        " ciphertext",
        " sizes",
        "offsets",
        "until",
    ];
    out.table(&headings, &rows);
    let sums = &publisher.sums;
    let seqs = sums
        .seqs
        .map_or(String::new(), |(first, next)| format!(" (seq {first} to {})", next.0.saturating_sub(1)));
    let beacons = match publisher.last_beacon_ms {
        Some(ms) => format!("; {}, the last at {}", count(publisher.beacons, "beacon"), rfc3339(ms)),
        None => String::new(),
    };
    out.line(&format!(
        "  in all: {}, {}, {}{seqs}, {}{beacons}",
        count(publisher.epochs_in_all, "epoch"),
        batches(sums.batches),
        count(sums.messages, "message"),
        bytes(sums.ciphertext_bytes),
    ));
}

fn epoch_row(note: &EpochNote, audit: &Audit) -> Vec<String> {
    let sums = &note.sums;
    let until = match (note.ended, sums.times_ms) {
        (true, Some((_, last))) => format!("END {}", rfc3339(last)),
        (true, None) => "END".into(),
        (false, Some((_, last))) => rfc3339(last),
        // Its batches, if there were any, stood before what is kept.
        (false, None) if note.offset < audit.start_offset => "not kept".into(),
        (false, None) => String::new(),
    };
    vec![
        note.epoch.to_string(),
        mode(note.mode).into(),
        rfc3339(note.time_ms),
        note.roster_seq.to_string(),
        grouped(note.slots.into()),
        bytes(table_bytes(note.slots)),
        grouped(sums.batches),
        grouped(sums.messages),
        bytes(sums.ciphertext_bytes),
        sizes(sums),
        sums.offsets.map_or(String::new(), |(first, last)| format!("{first}–{last}")),
        until,
    ]
}

fn sizes(sums: &Sums) -> String {
    match (sums.smallest, sums.largest) {
        (Some(smallest), Some(largest)) if smallest == largest => bytes(smallest),
        (Some(smallest), Some(largest)) => format!("{} – {}", bytes(smallest), bytes(largest)),
        _ => String::new(),
    }
}

fn closing(out: &mut Out, audit: &Audit) {
    out.heading("what the broker sees besides, and no member is shown");
    for what in BESIDES {
        out.line(&format!("  {what}"));
    }
    out.heading("what the broker cannot see");
    for what in HIDDEN {
        out.line(&format!("  {what}"));
    }
    let largest = audit.publishers.iter().filter_map(|publisher| publisher.sums.largest).max();
    if let Some((len, (fewest, most))) = largest.and_then(|len| Some((len, hidden(len)?))) {
        let (fewest, most) = (grouped(fewest), grouped(most));
        out.line(&format!(
            "  padding: the largest ciphertext, {}, holds between {fewest} and {most} bytes",
            count(len, "byte")
        ));
    }
    out.heading(&verdict(audit));
}

fn verdict(audit: &Audit) -> String {
    match audit.findings.len() {
        0 if audit.complete => {
            "everything holds: genesis, roster, headers, batches, and what links them".into()
        }
        0 => "everything shown holds: genesis, roster, headers, batches, and what links them".into(),
        1 => "1 THING DOES NOT HOLD: see standard error".into(),
        found => format!("{} DO NOT HOLD: see standard error", count_of(found, "thing").to_uppercase()),
    }
}

fn more(out: &mut Out, all: usize, listed: usize) {
    if all > listed {
        out.line(&format!("  ({} of {} are listed; --json has more)", listed, grouped_of(all)));
    }
}

fn count_of(n: usize, one: &str) -> String {
    count(u64::try_from(n).unwrap_or(u64::MAX), one)
}

fn grouped_of(n: usize) -> String {
    grouped(u64::try_from(n).unwrap_or(u64::MAX))
}

fn batches(n: u64) -> String {
    format!("{} batch{}", grouped(n), if n == 1 { "" } else { "es" })
}

/// A slot table's length, bytes.
pub(super) fn table_bytes(slots: u32) -> u64 {
    u64::from(slots).saturating_mul(limits::SLOT_BYTES as u64)
}
