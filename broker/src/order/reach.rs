//! The connection to one of a cluster's servers, whichever can be reached.

use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions};
use tokio::time::timeout;

use super::{OrderError, PATIENCE};

/// The oldest server that is known to keep what is relied on here.
const OLDEST: (u32, u32) = (2, 12);
/// How often a server that says nothing is asked for a sign. At the third in vain it is left for another, after 4 to 6 s: about
/// as long as the servers wait before they elect leaders among those that are left. (By default it would be 3 minutes.)
const ASK_EVERY: Duration = Duration::from_secs(2);
/// For one server to take a connection; then the next one is tried.
const ONE_SERVER: Duration = Duration::from_secs(3);
/// How often another server is drawn by lot where the same one came out, a count.
const TRIES: usize = 5;

/// A connection that does not wait long for a server that may never answer.
pub(super) fn impatient(connect: ConnectOptions) -> ConnectOptions {
    connect
        .ping_interval(ASK_EVERY)
        .connection_timeout(ONE_SERVER)
        // What waits while no server answers is refused after `PATIENCE`, not sent much later.
        .request_timeout(Some(PATIENCE))
}

pub(super) fn is_new_enough(client: &Client) -> Result<(), OrderError> {
    let is = client.server_info().version;
    if version(&is).is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    let (major, minor) = OLDEST;
    Err(OrderError::Unfit(format!("nats-server {is} is too old: {major}.{minor} is needed")))
}

/// Leaves a server for another one. (One that is silent itself is left as [`impatient`] says.)
pub(super) async fn elsewhere(client: &Client) {
    let left = client.server_info().server_id;
    for _ in 0..TRIES {
        if client.connection_state() != State::Connected {
            // It is looking for one already.
            return;
        }
        let gone = async {
            client.force_reconnect().await.ok()?;
            // Done once it is connected again.
            client.flush().await.ok()
        };
        if !matches!(timeout(PATIENCE, gone).await, Ok(Some(()))) || client.server_info().server_id != left {
            return;
        }
    }
}

/// `2.15.1`, or with something behind it.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
