use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sealcast::{AdminError, BrokerLink, Policy, PublicKey, Publisher, Role, TopicAdmin};
use tokio::time::sleep;

use crate::messages::text;
use crate::work::{Feed, Party, Roster, eager};

/// Creates topics.
pub(crate) struct Creator {
    pub(crate) broker: BrokerLink,
    pub(crate) owner: Party,
    pub(crate) auditor: Party,
    pub(crate) created: Arc<Mutex<Vec<Feed>>>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Creator {
    /// Creates topics, one message each; what was acknowledged of each is kept.
    pub(crate) async fn run(self, most: u64, seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let Self { broker, owner, auditor, created, stop } = self;
        while !stop.load(Ordering::SeqCst) && (created.lock().unwrap().len() as u64) < most {
            sleep(Duration::from_millis(rng.random_range(0..1_000))).await;
            let (identity, policy) = (owner.identity.clone(), Policy::default());
            let members = [(auditor.key(), Role::Reader)];
            let creation = TopicAdmin::create(&broker, "new", identity, &owner.state, policy, &members);
            // The broker went away meanwhile: what is half done stays so, and has no message.
            let Ok(admin) = creation.await else { continue };
            let feed = Feed::new(admin.link().clone(), false, &auditor.identity);
            admin.close().await;
            created.lock().unwrap().push(feed.clone());
            let publisher = Publisher::with_options(owner.identity.clone(), owner.state.clone(), eager());
            let Ok(topic) = publisher.topic(&feed.link).await else { continue };
            let receipt = topic.publish(text(0, 0)).await.expect("a broker that comes back answers");
            feed.acknowledged.lock().unwrap().insert(owner.key(), vec![(receipt.epoch, receipt.offset)]);
            topic.close().await.expect("an END");
        }
    }
}

/// Lets a guest in and removes it: every time all publishers begin new epochs and upload tables.
pub(crate) async fn change_roster(
    mut admin: TopicAdmin,
    guest: PublicKey,
    roster: Arc<Mutex<Roster>>,
    stop: Arc<AtomicBool>,
) {
    let confirm = Duration::from_millis(500);
    let mut inside = false;
    while !stop.load(Ordering::SeqCst) {
        let change = match inside {
            true => admin.remove(&[guest], confirm).await,
            false => admin.add(&[guest], Role::Reader, confirm).await,
        };
        match change {
            Ok(_) => {
                inside = !inside;
                *roster.lock().unwrap() = Roster { seq: admin.roster().chain().seq(), guest: inside };
            }
            // Away, or going away; the same entry is sent again.
            Err(
                AdminError::Connect(_) | AdminError::Broker(_) | AdminError::Lost(_) | AdminError::Refused(_),
            ) => {}
            // It was stored, and the answer to it was lost.
            Err(AdminError::Members(_)) if inside => inside = false,
            Err(error) => panic!("an admin: {error}"),
        }
        sleep(Duration::from_millis(300)).await;
    }
    admin.close().await;
}
