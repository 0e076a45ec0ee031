//! `sealcast rotate`: a fresh epoch at every publisher.

use std::sync::Arc;

use clap::Args;
use sealcast_publisher::TopicAdmin;

use super::Global;
use super::confirmed::{ConfirmArg, all_heard, say_confirmed};
use super::failure::Failure;
use super::keys::IdentityArg;
use super::left_over::say_left_over;
use super::links::TopicArg;
use super::say::say;

/// Make every publisher begin a fresh key, wrapped anew to every member
///
/// After a member's keys were stolen: first `sealcast prekey` there, then this. Exit code 6: it stands, but some
/// publisher was not heard from in time; it is named.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    topic: TopicArg,
    #[command(flatten)]
    identity: IdentityArg,
    #[command(flatten)]
    confirm: ConfirmArg,
}

impl Rotate {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let link = self.topic.read()?;
        let identity = Arc::new(self.identity.read()?);
        let mut admin = TopicAdmin::open(&link, identity, &global.state()?).await?;
        say_left_over(&admin)?;
        let confirmation = admin.rotate(self.confirm.confirm).await?;
        admin.close().await;
        say!("rotated, roster entry {}", confirmation.seq);
        say_confirmed(&confirmation);
        all_heard(&confirmation, self.confirm.confirm)
    }
}
