//! `sealcast prekey`: a new prekey at once.

use std::sync::Arc;

use clap::Args;
use sealcast_publisher::renew_prekey;

use super::Global;
use super::failure::Failure;
use super::keys::IdentityArg;
use super::links::TopicArg;
use super::say::{hint, say};

/// Make a new prekey now: publishers wrap their next key to it
///
/// Prekeys are renewed every week by themselves. Do it by hand after a theft of the state directory, and have an admin
/// run `sealcast rotate`: then what was stolen opens nothing more. After a theft of the identity itself only its
/// removal helps.
#[derive(Debug, Args)]
pub(crate) struct Prekey {
    #[command(flatten)]
    topic: TopicArg,
    #[command(flatten)]
    identity: IdentityArg,
}

impl Prekey {
    pub(crate) async fn run(self, global: &Global) -> Result<(), Failure> {
        let link = self.topic.read()?;
        let identity = Arc::new(self.identity.read()?);
        let public = identity.public();
        renew_prekey(&link, identity, &global.state()?).await?;
        say!("a new prekey of {public} is registered");
        hint!("publishers use it from their next key on; `sealcast rotate` makes them begin one now");
        Ok(())
    }
}
