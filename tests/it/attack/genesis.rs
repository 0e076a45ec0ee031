//! Another topic in place of the one that the link names, before publishers and admins. (Subscribers: downgrade.rs.)

use std::sync::Arc;

use sealcast::{AdminError, PublishError, Publisher, State, TopicAdmin, TopicLink};
use sealcast_proto::frame::{Level, Reply, Request, TopicInfo};
use sealcast_proto::object::{Genesis, SUITE};
use sealcast_proto::{Offset, RosterSeq, Signed};

use super::world::{OWNER, identity, key};
use crate::hostile::{Answer, Hostile, done};

/// A broker that answers every question about a topic with this genesis.
fn broker(genesis: Signed<Genesis>) -> Hostile {
    Hostile::scripted(move |_, request| match request {
        Request::FetchTopic(_) => Answer::Play(vec![Reply::Topic(TopicInfo {
            genesis: genesis.clone(),
            roster_seq: RosterSeq(0),
            first_offset: Offset(0),
            next_offset: Offset(0),
            level: Level::Durable,
        })]),
        Request::FetchRoster(..) => {
            Answer::Play(vec![Reply::AtHead { next_offset: Offset(0), end_of_stream: true }])
        }
        _ => done(),
    })
}

/// The owner's own, for another topic; one of the broker's making; the right one, not signed by its owner. Whoever took
/// it would have the broker for an owner, and seal for whom that names.
#[tokio::test(flavor = "multi_thread")]
async fn no_publisher_or_admin_takes_another_topics_genesis() {
    let genuine = Genesis { suite: SUITE, name: "t".into(), owner: key(OWNER), nonce: [1; 32] };
    let topic = Signed::sign(&genuine, identity(OWNER).signing_key()).topic_id();
    let another = Genesis { nonce: [2; 32], ..genuine.clone() };
    let theirs = Genesis { owner: key(66), ..genuine.clone() };
    let shown = [
        Signed::sign(&another, identity(OWNER).signing_key()),
        Signed::sign(&theirs, identity(66).signing_key()),
        Signed::sign(&genuine, identity(66).signing_key()),
    ];
    for genesis in shown {
        let hostile = broker(genesis);
        let link = TopicLink { broker: hostile.link().clone(), topic };
        let me = Arc::new(identity(OWNER));
        let published = Publisher::new(me.clone(), State::memory()).topic(&link).await;
        assert!(matches!(published, Err(PublishError::Broker(_))), "{:?}", published.err());
        let opened = TopicAdmin::open(&link, me, &State::memory()).await;
        assert!(matches!(opened, Err(AdminError::Broker(_))), "{:?}", opened.err());
    }
}
