//! `sealcast broker`: the broker of `sealcast-broker`, for one's own machine.

use clap::Args;

use super::failure::Failure;

/// Run a broker: it stores and forwards what it cannot read, and prints its link
///
/// On a host that nobody should have to trust, install `sealcast-broker` alone: it links nothing that opens an envelope.
#[derive(Debug, Args)]
pub(crate) struct Broker {
    #[command(flatten)]
    args: sealcast_broker::cli::Args,
}

impl Broker {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        Ok(sealcast_broker::cli::run(self.args).await?)
    }
}
