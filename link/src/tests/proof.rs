//! Whoever shows a key holds it, at every connection anew.

use std::sync::atomic::{AtomicUsize, Ordering};

use quinn::crypto::rustls::QuicServerConfig;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::keys::raw_connect;
use super::*;
use crate::{ConnectError, tls, transport};

const THIEF: u8 = 66;

/// A broker of another make, with rustls's own settings: it gives tickets.
fn broker(key: Arc<CertifiedKey>, verifier: Arc<dyn ClientCertVerifier>) -> (quinn::Endpoint, SocketAddr) {
    let mut config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
    config.alpn_protocols = vec![sealcast_proto::limits::ALPN.to_vec()];
    let crypto = Arc::new(QuicServerConfig::try_from(config).unwrap());
    let endpoint = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(crypto), loopback()).unwrap();
    let addr = endpoint.local_addr().unwrap();
    (endpoint, addr)
}

#[tokio::test]
async fn a_broker_that_shows_a_key_it_does_not_hold_is_not_spoken_to() {
    let shown = tls::test_key(identity(BROKER).public(), &identity(THIEF));
    let (endpoint, addr) = broker(shown, tls::test_any_client());
    let accepting = tokio::spawn(async move { endpoint.accept().await.unwrap().await.is_ok() });
    let link = link_to(&[addr], &[BROKER], LinkOptions::default());
    let error = soon(link.connect()).await.unwrap_err();
    assert_eq!(error, ConnectError::WrongKey { host: addr.to_string() });
    assert!(!soon(accepting).await.unwrap(), "the handshake ended");
}

#[tokio::test]
async fn a_client_that_shows_a_key_it_does_not_hold_does_not_get_in() {
    let (listener, addr) = listen(ListenOptions::default());
    let shown = tls::test_key(identity(ALICE).public(), &identity(THIEF));
    let mut config = tls::test_client(&identity(THIEF), [identity(BROKER).public()].into());
    config.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(shown));
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

/// A broker that gives tickets is of another make than ours; a client of ours does not use them.
#[tokio::test]
async fn a_client_proves_its_key_at_every_connection() {
    let me = identity(BROKER);
    let checks = Arc::new(Checks { inner: tls::test_any_client(), count: AtomicUsize::new(0) });
    let (endpoint, addr) = broker(tls::test_key(me.public(), &me), checks.clone());
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let quic = incoming.await.unwrap();
            let (mut writer, mut reader) = quic.accept_bi().await.unwrap();
            reader.read_to_end(1).await.unwrap();
            writer.write_all(b"1").await.unwrap();
            writer.finish().unwrap();
            quic.closed().await;
        }
    });
    let (crypto, _) = tls::client_config(&identity(ALICE), [me.public()].into()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport::client(1452, transport::KEEP_ALIVE, 1)));
    let client = quinn::Endpoint::client(loopback()).unwrap();
    for connections in 1..=3 {
        let quic = soon(client.connect_with(config.clone(), addr, "test.invalid").unwrap()).await.unwrap();
        let (mut writer, mut reader) = soon(quic.open_bi()).await.unwrap();
        writer.write_all(b"0").await.unwrap();
        writer.finish().unwrap();
        // Tickets come with the first flight after the handshake: before the answer.
        assert_eq!(soon(reader.read_to_end(1)).await.unwrap(), b"1");
        quic.close(0_u32.into(), b"");
        assert_eq!(checks.count.load(Ordering::SeqCst), connections);
    }
}

/// Counts the keys that were checked.
#[derive(Debug)]
struct Checks {
    inner: Arc<dyn ClientCertVerifier>,
    count: AtomicUsize,
}

impl ClientCertVerifier for Checks {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.inner.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }
}
