//! `sealcast inspect`: everything a broker can see of a topic, and whether it holds.

mod fetch;
mod json;
mod padding;
mod records;
mod text;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use sealcast_link::{Link, LinkOptions};
use sealcast_proto::audit::{Audit, Auditor, Finding};

use super::failure::{Exit, Failure};
use super::keys::IdentityArg;
use super::links::TopicArg;
use super::output::to_stdout;
use super::say::{count, hint, say};
use super::times::{self, now_ms};
use records::Records;

/// Findings said one by one, a count; `--json` has up to a thousand.
const SAID: usize = 50;

/// Show everything that the broker can see of a topic, and check all of it
///
/// Reads the whole log as a member and opens nothing of it: members, keys, epochs, records, their sizes and times are
/// what any broker of this topic sees. Every signature, hash and rule is checked on the way; what does not hold is named
/// on standard error, and the exit code is 5. Readers are shown less than publishers and admins.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    #[command(flatten)]
    topic: TopicArg,
    #[command(flatten)]
    identity: IdentityArg,
    /// List every record too
    #[arg(long, env = "SEALCAST_RECORDS", value_parser = FalseyValueParser::new())]
    records: bool,
    /// Listen for a sign of life of each publisher that has not ended, this long at most: nobody stores those
    #[arg(long, value_name = "DURATION", value_parser = times::duration, env = "SEALCAST_LISTEN")]
    listen: Option<Duration>,
    /// One JSON object
    #[arg(long, env = "SEALCAST_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

impl Inspect {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let link = self.topic.read()?;
        let identity = Arc::new(self.identity.read()?);
        let me = identity.public();
        let to_broker = Link::new(link.broker.clone(), identity, LinkOptions::default());
        let connection = to_broker.connect().await?;
        let mut auditor = Auditor::new(link.topic, me);
        let mut records = Records::new(self.records, self.json);
        fetch::log(&connection, link.topic, me, &mut auditor, self.listen, &mut records).await?;
        fetch::prekeys(&connection, link.topic, &mut auditor).await?;
        to_broker.close().await;
        let audit = auditor.finish(now_ms());
        if self.json {
            records.close(&json::Shown::new(&link, &me, &audit))?;
        } else {
            records.end()?;
            to_stdout(text::report(&link, &me, &audit).as_bytes())?;
        }
        if audit.members.is_none() && !self.json {
            hint!("readers are not shown who the other readers are; the broker, publishers and admins are");
        }
        verdict(&audit)
    }
}

/// Names what does not hold.
fn verdict(audit: &Audit) -> Result<(), Failure> {
    let kinds = u64::try_from(audit.findings.len()).unwrap_or(u64::MAX).saturating_add(audit.more_findings);
    if kinds == 0 {
        return Ok(());
    }
    for finding in audit.findings.iter().take(SAID) {
        say!("{}", one_line(finding));
    }
    let unsaid = kinds.saturating_sub(SAID as u64);
    if unsaid > 0 {
        say!("and {} more", count(unsaid, "finding"));
    }
    let what = match kinds {
        1 => "1 thing that the broker shows does not hold".to_owned(),
        _ => format!("{} that the broker shows do not hold", count(kinds, "thing")),
    };
    Err(Failure::new(Exit::Crypto, what).hint("do not trust this broker; show this to the topic's owner"))
}

/// `missing: batch 3 of epoch 17 never came (offset 9, seal1…)`.
fn one_line(finding: &Finding) -> String {
    let mut about = Vec::new();
    about.extend(finding.offset.map(|offset| format!("offset {offset}")));
    about.extend(finding.publisher.map(|publisher| publisher.to_string()));
    if finding.times > 1 {
        about.push(count(finding.times, "time"));
    }
    let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
    format!("{}: {}{about}", finding.kind.name(), finding.text)
}
