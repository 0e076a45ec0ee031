//! `sealcast topic show`: what the broker says of a topic, its signatures checked.

use std::sync::Arc;

use clap::Args;
use clap::builder::FalseyValueParser;
use sealcast_link::{Connection, Link, LinkOptions, RequestError};
use sealcast_proto::frame::{Code, Level, Reply, Request, TopicInfo};
use sealcast_proto::object::Genesis;
use sealcast_proto::policy::Durability;
use sealcast_proto::roster::Roster;
use sealcast_proto::{Identity, RosterSeq, TopicLink};
use serde::Serialize;

use crate::cli::failure::{Exit, Failure};
use crate::cli::keys::IdentityArg;
use crate::cli::links::TopicArg;
use crate::cli::output::to_stdout;
use crate::cli::say::{clean, hint};
use crate::cli::times;

/// Show a topic: its owner, its policy, what the broker holds, and, to publishers and admins, its members
///
/// Signatures are checked; that the broker shows the newest roster is its word.
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    topic: TopicArg,
    #[command(flatten)]
    identity: IdentityArg,
    /// One JSON object
    #[arg(long, env = "SEALCAST_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

#[derive(Serialize)]
struct Shown {
    topic: String,
    name: String,
    owner: String,
    suite: u16,
    roster_seq: u64,
    first_offset: u64,
    next_offset: u64,
    acknowledgement: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<ShownPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<Vec<ShownMember>>,
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
struct ShownMember {
    index: u32,
    identity: String,
    role: String,
    since: u64,
}

impl Show {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let link = self.topic.read()?;
        let given = self.identity.read_if_given()?;
        let named = given.is_some();
        // A broker speaks to keys only; without one of the person's, any will do to be turned away or not.
        let identity = Arc::new(given.unwrap_or_else(|| Identity::generate(&mut rand::rng())));
        let to_broker = Link::new(link.broker.clone(), Arc::clone(&identity), LinkOptions::default());
        let connection = to_broker.connect().await?;
        let (info, genesis) = fetch_topic(&connection, &link, &identity, named).await?;
        let roster = if named { fetch_roster(&connection, &link, &genesis).await? } else { None };
        to_broker.close().await;
        let shown = shown(&link, &info, &genesis, roster.as_ref());
        if self.json {
            let json = serde_json::to_string(&shown)
                .map_err(|error| Failure::new(Exit::Failure, error.to_string()))?;
            return to_stdout(format!("{json}\n").as_bytes());
        }
        to_stdout(text(&link, &shown).as_bytes())?;
        if roster.is_none() {
            hint!("its members are shown to publishers and admins: name a key with -i");
        }
        Ok(())
    }
}

async fn fetch_topic(
    connection: &Connection,
    link: &TopicLink,
    identity: &Identity,
    named: bool,
) -> Result<(TopicInfo, Genesis), Failure> {
    let info = match connection.request([Request::FetchTopic(link.topic)]).await {
        Ok(Reply::Topic(info)) => info,
        Ok(_) => return Err(Failure::new(Exit::Failure, "the broker answered something else")),
        Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => {
            let who = if named { identity.public().to_string() } else { "someone without a key".into() };
            return Err(Failure::new(
                Exit::NotAllowed,
                format!("no such topic, or nothing to be shown to {who}"),
            )
            .hint("name a member's private key with -i"));
        }
        Err(error) => return Err(error.into()),
    };
    let genesis = info.genesis.verify_topic(&link.topic).map_err(|error| {
        Failure::new(Exit::Crypto, format!("the broker shows another topic: {error}"))
            .hint("do not trust this broker; check the link with the person who gave it")
    })?;
    Ok((info, genesis))
}

/// The whole roster; `None` where the broker does not show it to this identity.
async fn fetch_roster(
    connection: &Connection,
    link: &TopicLink,
    genesis: &Genesis,
) -> Result<Option<Roster>, Failure> {
    let mut roster = Roster::new(link.topic, genesis);
    let mut replies = connection.fetch(Request::FetchRoster(link.topic, RosterSeq(1))).await?;
    loop {
        match replies.next().await {
            Ok(Some(Reply::Roster(delivery))) => {
                // Readers get the entries, but not who is in them.
                let Some(ops) = delivery.ops else { return Ok(None) };
                roster.apply(&delivery.entry, &ops).map_err(|error| {
                    Failure::new(
                        Exit::Crypto,
                        format!("the broker shows a roster that does not hold: {error}"),
                    )
                    .hint("do not trust this broker; ask the topic's owner")
                })?;
            }
            Ok(Some(_)) => return Ok(Some(roster)),
            Ok(None) => return Err(Failure::new(Exit::Failure, "the broker ended the roster early")),
            Err(RequestError::Refused(refusal)) if refusal.code == Code::NotAllowed => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

fn shown(link: &TopicLink, info: &TopicInfo, genesis: &Genesis, roster: Option<&Roster>) -> Shown {
    Shown {
        topic: link.topic.to_string(),
        name: genesis.name.clone(),
        owner: genesis.owner.to_string(),
        suite: genesis.suite,
        roster_seq: roster.map_or(info.roster_seq, |roster| roster.chain().seq()).0,
        first_offset: info.first_offset.0,
        next_offset: info.next_offset.0,
        acknowledgement: match info.level {
            Level::Memory => "memory",
            Level::Durable => "durable",
            Level::Replicated => "replicated",
        },
        policy: roster.map(|roster| {
            let policy = roster.chain().policy();
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
        }),
        members: roster.map(|roster| {
            let members = roster.members().map(|(index, member)| ShownMember {
                index: index.0,
                identity: member.identity.to_string(),
                role: member.role.to_string(),
                since: member.since.0,
            });
            members.collect()
        }),
    }
}

fn text(link: &TopicLink, shown: &Shown) -> String {
    let mut lines = vec![
        format!("name      {}", clean(&shown.name)),
        format!("link      {link}"),
        format!("owner     {}", shown.owner),
        format!("roster    entry {}", shown.roster_seq),
        format!("offsets   {} to {}", shown.first_offset, shown.next_offset),
        format!("level     {}", shown.acknowledgement),
    ];
    if let Some(policy) = &shown.policy {
        let kept = match policy.retain_ms {
            0 => "for ever".into(),
            ms => times::span(ms),
        };
        let (epoch, fresh) = (times::span(policy.max_epoch_age_ms), times::span(policy.max_fresh_age_ms));
        lines.push(format!("kept      {kept}"));
        lines.push(format!("epochs    a new key after {epoch} at the latest, from nothing after {fresh}"));
    }
    for member in shown.members.iter().flatten() {
        lines.push(format!(
            "member    {:>4}  {:<9}  {}  since entry {}",
            member.index, member.role, member.identity, member.since
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}
