//! Our own prekeys: made when due, published, erased when their time is over.

use std::sync::Arc;

use sealcast_envelope::PrekeyRing;
use sealcast_link::Connection;
use sealcast_proto::frame::Request;
use sealcast_proto::object::Prekey;
use sealcast_proto::policy::Policy;
use sealcast_proto::{Identity, Signed, TopicId};
use sealcast_state::{PrekeyStore, StateError};
use tokio::task::spawn_blocking;

use crate::clock::now_ms;

/// How often a running subscription looks whether a new prekey is due or an old one is over, milliseconds.
pub(crate) const CHECK_MS: u64 = 60_000;

/// What a look at the prekeys brought.
pub(crate) struct Maintained {
    pub(crate) ring: PrekeyRing,
    /// The broker has this one now.
    pub(crate) stored: Option<u32>,
}

/// The ring as it is now, without those whose time is over. The file is held only for the length of the call.
pub(crate) fn load(store: &PrekeyStore) -> Result<PrekeyRing, StateError> {
    store.update(|ring| {
        let purged = ring.purge(now_ms());
        (copy(ring), !purged.is_empty())
    })
}

pub(crate) async fn reload(store: PrekeyStore) -> Result<PrekeyRing, StateError> {
    match spawn_blocking(move || load(&store)).await {
        Ok(result) => result,
        // The runtime is going down.
        Err(_) => std::future::pending().await,
    }
}

/// Makes a new prekey if one is due, publishes the newest if the broker does not have it, erases what is over.
pub(crate) async fn maintain(
    store: PrekeyStore,
    identity: Arc<Identity>,
    topic: TopicId,
    policy: Policy,
    acknowledged: Option<u32>,
    connection: Connection,
) -> Result<Maintained, StateError> {
    let looked = spawn_blocking(move || {
        store.update(|ring| {
            let (rotation, offline) = (policy.prekey_rotation_ms, policy.max_offline_ms);
            let made = ring.rotate_if_due(&identity, rotation, offline, now_ms(), false, &mut rand::rng());
            let purged = ring.purge(now_ms());
            ((copy(ring), ring.newest().cloned()), made.is_some() || !purged.is_empty())
        })
    });
    let Ok(looked) = looked.await else { return std::future::pending().await };
    let (ring, newest) = looked?;
    let stored = match newest.and_then(|signed| Some((id(&signed)?, signed))) {
        Some((id, signed)) if acknowledged.is_none_or(|known| known < id) => {
            match connection.request([Request::PutPrekey(topic, signed)]).await {
                Ok(_) => Some(id),
                Err(error) => {
                    // Publishers wrap to the key before it meanwhile; the next look tries again.
                    tracing::warn!(%error, "the broker did not take a prekey");
                    None
                }
            }
        }
        _ => None,
    };
    Ok(Maintained { ring, stored })
}

fn id(prekey: &Signed<Prekey>) -> Option<u32> {
    prekey.peek().ok().map(|prekey| prekey.prekey_id)
}

/// A ring of its own: secrets have no `Clone`, on purpose.
fn copy(ring: &PrekeyRing) -> PrekeyRing {
    // It reads what it wrote.
    PrekeyRing::decode(&ring.encode()).unwrap_or_default()
}
