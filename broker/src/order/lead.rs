//! What a stream's leader says of it. A server that is cut off from the others answers as well: for a stream whose leader it was, until
//! it notices; and for one that has no leader that it knows of, for ever. What it says is old.

use std::time::Duration;

use async_nats::jetstream::stream::{ClusterInfo, PeerInfo, State, Stream};
use tokio::time::timeout;

use super::cluster::away;
use super::{OrderError, PATIENCE};

/// How long ago a leader may have heard of a server that counts as following it. A server that hears nothing of its leader for 4 s
/// at the least begins to elect another; they say something every second.
const HEARD: Duration = Duration::from_secs(4);

/// A stream's state, from a leader that most of its servers follow.
pub(super) async fn state(stream: &Stream) -> Result<State, OrderError> {
    let info = timeout(PATIENCE, stream.get_info()).await.map_err(away("does not answer"))?;
    let info = info.map_err(away("does not answer"))?;
    match is_led(info.config.num_replicas, info.cluster.as_ref()) {
        true => Ok(info.state),
        false => Err(away("does not answer")("the server that does is cut off from the others")),
    }
}

fn is_led(copies: usize, cluster: Option<&ClusterInfo>) -> bool {
    if copies <= 1 {
        return true;
    }
    let Some(cluster) = cluster else { return false };
    let follows = |other: &&PeerInfo| !other.offline && other.active < HEARD;
    let following = cluster.replicas.iter().filter(follows).count();
    cluster.leader.is_some() && (following + 1) * 2 > copies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn led(copies: usize, leader: Option<&str>, heard_ms: &[u64]) -> bool {
        let peer = |ms: &u64| PeerInfo { active: Duration::from_millis(*ms), ..PeerInfo::default() };
        let replicas = heard_ms.iter().map(peer).collect();
        let leader = leader.map(Into::into);
        is_led(copies, Some(&ClusterInfo { leader, replicas, ..ClusterInfo::default() }))
    }

    #[test]
    fn only_a_leader_that_most_follow_is_believed() {
        let it = Some("s1");
        assert!(led(3, it, &[300, 900]));
        assert!(led(3, it, &[300, 60_000]), "one may be gone");
        assert!(!led(3, it, &[5_000, 60_000]), "it does not know yet that it is alone");
        assert!(!led(3, None, &[300, 900]), "no leader");
        assert!(!led(3, it, &[]) && !is_led(3, None));
        assert!(led(5, it, &[1, 1, 9_000, 9_000]) && !led(5, it, &[1, 9_000, 9_000, 9_000]));
        assert!(is_led(1, None) && led(1, None, &[]), "one copy follows nobody");
    }
}
