//! End-to-end encrypted publish/subscribe: the broker routes; it cannot read.
//!
//! A publisher encrypts each message once under a rotating key, wraps that key to every member's public key, and pushes
//! both through a QUIC broker that never sees plaintext. When the membership changes the key rotates: who was removed
//! reads nothing sealed afterwards, and who joined nothing sealed before.
//!
//! ```text
//! Topic ── seal, sign ──►  broker: stores and forwards  ──► verify, open ── Subscription
//!   TopicAdmin: who may read and publish, a signed chain that everybody checks
//! ```
//!
//! # In a program
//!
//! A topic link names a broker, the broker's key and the topic; with a private key it is enough to subscribe.
//!
//! ```
//! use std::sync::Arc;
//! use sealcast::{Identity, Policy, Publisher, Role, StartAt, State, Subscriber, TopicAdmin};
//!
//! # async fn program(broker: &sealcast::BrokerLink) -> Result<(), Box<dyn std::error::Error>> {
//! let owner = Arc::new(Identity::generate(&mut rand::rng()));
//! let reader = Arc::new(Identity::generate(&mut rand::rng()));
//! let (state, members) = (State::memory(), [(reader.public(), Role::Reader)]);
//! let admin = TopicAdmin::create(broker, "prices", owner.clone(), &state, Policy::default(), &members).await?;
//!
//! let subscriber = Subscriber::new(reader, State::memory());
//! let mut subscription = subscriber.subscribe(admin.link(), StartAt::Latest).await?;
//!
//! let topic = Publisher::new(owner, state).topic(admin.link()).await?;
//! topic.publish("gold 2,431.50").await?; // acknowledged: fsynced at the broker
//! topic.close().await?; // says END, so that silence afterwards is no mystery
//!
//! let received = subscription.next().await.ok_or("the subscription ended")??;
//! assert_eq!(received.message.payload, "gold 2,431.50");
//! # Ok(())
//! # }
//! # #[cfg(feature = "cli")]
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! #     let dir = tempfile::tempdir().unwrap();
//! #     let mut config = sealcast_broker::Config::new(dir.path());
//! #     config.listen = "127.0.0.1:0".parse().unwrap();
//! #     let broker = sealcast_broker::Broker::start(config).await.unwrap();
//! #     program(broker.link()).await.unwrap();
//! #     broker.shutdown().await;
//! # });
//! ```
//!
//! The default feature `cli` brings the command line and the broker it can run; a library user turns it off:
//! `sealcast = { version = "0.1", default-features = false }`. On a host that nobody should have to trust, install
//! `sealcast-broker` alone: it links nothing that could open an envelope.
//!
//! The protocol stands in `docs/protocol.md`, the house in `docs/architecture.md`.

#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod key_text;

pub use sealcast_envelope::{Message, MessageError};
pub use sealcast_link::{ConnectError, LinkOptions};
pub use sealcast_proto::frame::Level;
pub use sealcast_proto::policy::{Durability, Policy};
pub use sealcast_proto::roster::{Member, Role, Roster};
pub use sealcast_proto::{
    BrokerLink, Epoch, Identity, Offset, PublicKey, RosterSeq, Seq, TopicId, TopicLink,
};
pub use sealcast_publisher::{
    AdminError, Confirmation, Fork, Pending, PublishError, Publisher, Receipt, Standstill, Topic, TopicAdmin,
    TopicStatus, renew_prekey,
};
pub use sealcast_state::{State, StateError};
pub use sealcast_subscriber::{
    Event, GapReason, Outages, Received, StartAt, SubscribeError, SubscribeOptions, Subscriber, Subscription,
};
