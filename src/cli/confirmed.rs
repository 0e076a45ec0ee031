//! What an admin is told about the publishers after a change.

use std::time::Duration;

use clap::Args;
use sealcast_proto::PublicKey;
use sealcast_publisher::Confirmation;

use super::failure::{Exit, Failure};
use super::say::{count, say};
use super::times;

/// How long to wait for the publishers.
#[derive(Debug, Args)]
pub(crate) struct ConfirmArg {
    /// How long to wait until every live publisher has signed that it knows
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = times::duration, env = "SEALCAST_CONFIRM")]
    pub(crate) confirm: Duration,
}

/// Says who knows.
pub(crate) fn say_confirmed(confirmation: &Confirmation) {
    if !confirmation.confirmed.is_empty() {
        let publishers = count(confirmation.confirmed.len() as u64, "publisher");
        say!("known to {publishers}: {}", names(&confirmation.confirmed));
    }
    for (publisher, time_ms) in &confirmation.ended {
        say!("{publisher} ended at {}", times::rfc3339(*time_ms));
    }
    // A broker that leaves a publisher out can be told from one that never published only by who knows better.
    if !confirmation.unseen.is_empty() {
        let publishers = names(&confirmation.unseen);
        say!("never seen to publish, as far as the broker shows: {publishers}");
    }
}

/// For changes that somebody counts on: not having heard from a publisher, or only that it knows, is a failure.
pub(crate) fn all_heard(confirmation: &Confirmation, confirm: Duration) -> Result<(), Failure> {
    let within = times::span(times::millis(confirm));
    if confirmation.unheard.is_empty() && confirmation.noticed.is_empty() {
        return Ok(());
    }
    if confirmation.unheard.is_empty() {
        let message = format!(
            "it is done, but still under the old key after {within}: {}",
            names(&confirmation.noticed)
        );
        return Err(Failure::new(Exit::TimedOut, message)
            .hint("they know, and change it soon; --confirm waits longer"));
    }
    let message = format!(
        "it is done, but nothing was heard within {within} from {}: offline, or kept in the dark by the broker",
        names(&confirmation.unheard)
    );
    Err(Failure::new(Exit::TimedOut, message)
        .hint("an honest broker refuses what they seal for the old roster; --confirm waits longer"))
}

/// For changes that harm nobody who learns of them late.
pub(crate) fn say_unheard(confirmation: &Confirmation) {
    if !confirmation.noticed.is_empty() {
        let publishers = names(&confirmation.noticed);
        say!("they know, but what they publish is still locked to newcomers: {publishers}");
    }
    if !confirmation.unheard.is_empty() {
        say!("not heard from: {} (offline, or kept in the dark by the broker)", names(&confirmation.unheard));
    }
}

fn names(keys: &[PublicKey]) -> String {
    keys.iter().map(PublicKey::to_string).collect::<Vec<_>>().join(", ")
}
