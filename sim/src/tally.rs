//! How much happened, so that a run that tests nothing is seen.

use std::ops::AddAssign;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts, of one run or of many.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Tally {
            /// Every count with its name.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }

        impl AddAssign for Tally {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

tally! {
    /// Single steps of single parties.
    steps,
    /// Messages given to outboxes.
    sent,
    /// Messages acknowledged.
    acknowledged,
    /// Messages taken by applications.
    taken,
    /// Events taken by applications.
    told,
    /// Epoch headers stored.
    epochs,
    /// Epochs derived from the one before.
    advances,
    /// Epochs wrapped under keys that members held.
    rewraps,
    /// Roster entries stored.
    entries,
    /// Entries that removed somebody or took a role.
    removals,
    /// Records that the fence refused.
    fenced,
    /// Broker crashes.
    broker_crashes,
    /// Publisher crashes.
    publisher_crashes,
    /// Subscriber crashes.
    subscriber_crashes,
    /// Connections lost.
    cuts,
    /// Publishers that ended with END.
    ends,
    /// Records removed by retention.
    trimmed,
    /// Prekeys stored.
    prekeys,
    /// Things that a malicious broker did to what it delivers.
    tampered,
    /// Batches that a removed member had the key of and tried to open, and headers that it tried.
    attempts,
    /// Worlds with a malicious broker.
    evil_worlds,
    /// Worlds with a `memory` topic.
    memory_worlds,
    /// Subscriptions that ended by their last word.
    last_words,
    /// Publishers that gave up.
    gave_up,
    /// Messages that the final count expected at a member.
    expected,
}
