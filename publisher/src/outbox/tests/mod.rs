//! The outbox against the broker's real acceptance rules, in virtual time.

mod distrust;
mod epochs;
mod fence;
mod liar;
mod prekeys;
mod random;
mod resend;
mod restart;
mod standstill;
mod world;

use sealcast_envelope::PrekeyRing;
use sealcast_proto::frame::{Code, Refusal};
use sealcast_proto::object::{Mode, Prekey, RosterHead};
use sealcast_proto::policy::{Durability, Policy};
use sealcast_proto::roster::Op;
use sealcast_proto::{Epoch, RosterSeq, Seq, Signed, SlotSource, slot::find_slot};

use super::Input;
use crate::error::PublishError;
use crate::marks::Marks;
use crate::standstill::Standstill;
use world::{World, identity};

fn texts(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| format!("message {n}")).collect()
}
