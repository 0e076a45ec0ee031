use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

use super::*;
use crate::{ConnectError, tls, transport};

#[tokio::test]
async fn both_ends_see_each_others_keys() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener);
    let link = link_to(&[addr], &[9, BROKER], LinkOptions::default());
    let here = soon(link.connect()).await.unwrap();
    let (there, control) = soon(connections.recv()).await.unwrap();
    assert_eq!(here.peer(), identity(BROKER).public());
    assert_eq!(there.peer(), identity(ALICE).public());
    assert_eq!(here.hello().unwrap().agent, "test broker");
    assert_eq!(control.hello.agent, LinkOptions::default().agent);
}

#[tokio::test]
async fn a_broker_with_another_key_is_named_as_such() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener);
    let link = link_to(&[addr], &[8, 9], LinkOptions::default());
    let error = soon(link.connect()).await.unwrap_err();
    assert_eq!(error, ConnectError::WrongKey { host: addr.to_string() });
    assert_eq!(error.to_string(), format!("the broker at {addr} does not hold a key of this link"));
    assert!(!error.is_retryable());
    assert!(connections.try_recv().is_err(), "nothing was said to it");
}

#[tokio::test]
async fn a_wrong_key_is_reported_before_a_dead_host() {
    let (listener, addr) = listen(ListenOptions::default());
    let _connections = serve(listener);
    let dead = super::dialing::dead_addr();
    let link = link_to(&[dead, addr], &[9], LinkOptions::default());
    assert!(matches!(soon(link.connect()).await, Err(ConnectError::WrongKey { .. })));
}

#[tokio::test]
async fn a_client_without_a_key_does_not_get_in() {
    let (listener, addr) = listen(ListenOptions::default());
    let verifier = tls::test_verifier([identity(BROKER).public()].into());
    let mut config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![sealcast_proto::limits::ALPN.to_vec()];
    let client = async {
        let quic = raw_connect(config, addr).await?;
        // The client is done first in TLS 1.3: the refusal comes afterwards.
        Err::<(), _>(LinkError::from(quic.closed().await))
    };
    let broker = async { listener.accept().await.unwrap().establish().await };
    let (client, broker) = soon(async { tokio::join!(client, broker) }).await;
    assert!(matches!(broker, Err(LinkError::Transport(_))), "{broker:?}");
    assert!(matches!(client, Err(LinkError::Transport(_))), "{client:?}");
}

#[tokio::test]
async fn another_protocol_is_told_apart() {
    let (listener, addr) = listen(ListenOptions::default());
    let _connections = serve(listener);
    let mut config = tls::test_client(&identity(ALICE), [identity(BROKER).public()].into());
    config.alpn_protocols = vec![b"sealcast/2".to_vec()];
    assert_eq!(soon(raw_connect(config, addr)).await.unwrap_err(), LinkError::Version);
}

#[tokio::test]
async fn no_ticket_is_given_that_would_skip_the_key_check() {
    let (listener, addr) = listen(ListenOptions::default());
    let mut connections = serve(listener);
    let store = Arc::new(Tickets::default());
    let mut config = tls::test_client(&identity(ALICE), [identity(BROKER).public()].into());
    config.resumption = Resumption::store(store.clone());
    let connection = Connection::new(soon(raw_connect(config, addr)).await.unwrap()).unwrap();
    soon(connection.say_hello("test")).await.unwrap();
    // Tickets would come with the first flight after the handshake: before the answer.
    let _there = soon(connections.recv()).await.unwrap();
    assert!(soon(connection.request([question()])).await.is_ok());
    assert!(store.asked.load(Ordering::Relaxed), "the store is in use");
    assert_eq!(store.given.load(Ordering::Relaxed), 0);
}

/// The handshake alone, by a client of our making.
pub(super) async fn raw_connect(
    config: rustls::ClientConfig,
    addr: SocketAddr,
) -> Result<quinn::Connection, LinkError> {
    raw_connect_with(config, transport::client(1452, transport::KEEP_ALIVE, 1), addr).await
}

/// The same with other windows.
pub(super) async fn raw_connect_with(
    config: rustls::ClientConfig,
    transport: quinn::TransportConfig,
    addr: SocketAddr,
) -> Result<quinn::Connection, LinkError> {
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    config.transport_config(Arc::new(transport));
    let endpoint = quinn::Endpoint::client(loopback()).unwrap();
    Ok(endpoint.connect_with(config, addr, "test.invalid").unwrap().await?)
}

/// A connection without a hello.
pub(super) async fn raw_client(addr: SocketAddr) -> quinn::Connection {
    let config = tls::test_client(&identity(ALICE), [identity(BROKER).public()].into());
    soon(raw_connect(config, addr)).await.unwrap()
}

#[derive(Debug, Default)]
struct Tickets {
    asked: AtomicBool,
    given: AtomicUsize,
}

impl ClientSessionStore for Tickets {
    fn set_kx_hint(&self, _: ServerName<'static>, _: rustls::NamedGroup) {}
    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        None
    }
    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}
    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }
    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
    fn insert_tls13_ticket(&self, _: ServerName<'static>, _: Tls13ClientSessionValue) {
        self.given.fetch_add(1, Ordering::Relaxed);
    }
    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }
}
