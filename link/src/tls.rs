//! TLS 1.3 with raw public keys (RFC 7250) on both sides: an identity is its Ed25519 key, nothing else.
//!
//! ```text
//! SubjectPublicKeyInfo = 30 2a 30 05 06 03 2b 65 70 03 21 00 ‖ key 32        (RFC 8410 section 4; the only one accepted)
//! ```
//!
//! The broker's key must be one of the link's; the client's may be any valid one: it is then its name at the broker.
//! Sessions are never resumed: a resumed handshake skips the certificate check, so that a removed member's ticket
//! would still open the door. Early data is off: it can be replayed.
//!
//! The provider is aws-lc-rs, named here and never installed for the whole process: an application that embeds this
//! library chooses its own. Its first handshake in a process costs some 60 ms (it gathers jitter entropy once).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ed25519_dalek::Signer as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerMisbehaved, SignatureAlgorithm,
    SignatureScheme,
};
use sealcast_proto::{Identity, PublicKey, limits};

/// What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The broker's half.
pub(crate) fn server_config(identity: &Identity) -> Result<QuicServerConfig, Error> {
    let config = rustls_server_config(identity)?;
    QuicServerConfig::try_from(config).map_err(|error| Error::General(error.to_string()))
}

fn rustls_server_config(identity: &Identity) -> Result<rustls::ServerConfig, Error> {
    let provider = provider();
    let verifier = AnyClient { algorithms: provider.signature_verification_algorithms };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(raw_key(identity))));
    config.alpn_protocols = vec![limits::ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(config)
}

/// The client's half: only a holder of one of `keys` is a broker. The flag is set when another key was shown.
pub(crate) fn client_config(
    identity: &Identity,
    keys: Arc<[PublicKey]>,
) -> Result<(QuicClientConfig, Arc<AtomicBool>), Error> {
    let wrong_key = Arc::new(AtomicBool::new(false));
    let config = rustls_client_config(identity, keys, wrong_key.clone())?;
    let config = QuicClientConfig::try_from(config).map_err(|error| Error::General(error.to_string()))?;
    Ok((config, wrong_key))
}

fn rustls_client_config(
    identity: &Identity,
    keys: Arc<[PublicKey]>,
    wrong_key: Arc<AtomicBool>,
) -> Result<rustls::ClientConfig, Error> {
    let provider = provider();
    let verifier = PinnedBroker { keys, wrong_key, algorithms: provider.signature_verification_algorithms };
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(raw_key(identity))));
    config.alpn_protocols = vec![limits::ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // The name is a constant of ours (keys authenticate, names do not), so sending it would tell nothing but what we are.
    config.enable_sni = false;
    Ok(config)
}

/// The key that the peer of a finished handshake proved to hold.
pub(crate) fn peer_key(connection: &quinn::Connection) -> Option<PublicKey> {
    let identity = connection.peer_identity()?;
    match identity.downcast_ref::<Vec<CertificateDer<'static>>>()?.as_slice() {
        [only] => from_spki(only),
        _ => None,
    }
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn to_spki(key: &PublicKey) -> [u8; 44] {
    let mut spki = [0; 44];
    let (prefix, rest) = spki.split_at_mut(SPKI_PREFIX.len());
    prefix.copy_from_slice(&SPKI_PREFIX);
    rest.copy_from_slice(key.as_bytes());
    spki
}

fn from_spki(spki: &[u8]) -> Option<PublicKey> {
    PublicKey::from_bytes(spki.strip_prefix(&SPKI_PREFIX)?).ok()
}

fn raw_key(identity: &Identity) -> Arc<CertifiedKey> {
    let public = identity.public();
    let spki = CertificateDer::from(to_spki(&public).to_vec());
    let key = RawKey { key: Arc::new(identity.signing_key().clone()), public };
    Arc::new(CertifiedKey::new(vec![spki], Arc::new(key)))
}

/// Signs with the identity's own key object, which is zeroised on drop; a PKCS#8 copy for the provider would not be.
#[derive(Clone)]
struct RawKey {
    key: Arc<ed25519_dalek::SigningKey>,
    public: PublicKey,
}

impl fmt::Debug for RawKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RawKey({})", self.public.short())
    }
}

impl SigningKey for RawKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&SignatureScheme::ED25519).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(SubjectPublicKeyInfoDer::from(to_spki(&self.public).to_vec()))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for RawKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        // TLS 1.3 signs 64 spaces and a context string first (RFC 8446 section 4.4.3): never a Sealcast object.
        Ok(self.key.sign(message).to_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Accepts the holders of the link's keys.
#[derive(Debug)]
struct PinnedBroker {
    keys: Arc<[PublicKey]>,
    wrong_key: Arc<AtomicBool>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for PinnedBroker {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match sole_key(end_entity, intermediates) {
            Ok(key) if self.keys.contains(&key) => Ok(ServerCertVerified::assertion()),
            _ => {
                self.wrong_key.store(true, Ordering::Release);
                Err(CertificateError::ApplicationVerificationFailure.into())
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let valid = verify_ed25519(message, cert, dss, &self.algorithms);
        // Showing a pinned key without being able to sign with it is the wrong key too.
        self.wrong_key.fetch_or(valid.is_err(), Ordering::Release);
        valid
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts any valid key, as long as the client proves that it is its own. What it may do, the broker decides.
#[derive(Debug)]
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        sole_key(end_entity, intermediates).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_ed25519(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn sole_key(end_entity: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<PublicKey, Error> {
    match rest {
        [] => from_spki(end_entity).ok_or(CertificateError::BadEncoding.into()),
        _ => Err(CertificateError::BadEncoding.into()),
    }
}

fn verify_ed25519(
    message: &[u8],
    cert: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<HandshakeSignatureValid, Error> {
    if dss.scheme != SignatureScheme::ED25519 {
        return Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    }
    verify_tls13_signature_with_raw_key(
        message,
        &SubjectPublicKeyInfoDer::from(cert.as_ref()),
        dss,
        algorithms,
    )
}

/// For tests that play a client of another make.
#[cfg(test)]
pub(crate) fn test_client(identity: &Identity, keys: Arc<[PublicKey]>) -> rustls::ClientConfig {
    rustls_client_config(identity, keys, Arc::default()).unwrap()
}

/// For tests that play a client of another make.
#[cfg(test)]
pub(crate) fn test_verifier(keys: Arc<[PublicKey]>) -> Arc<dyn ServerCertVerifier> {
    let algorithms = provider().signature_verification_algorithms;
    Arc::new(PinnedBroker { keys, wrong_key: Arc::default(), algorithms })
}

/// For tests that play a broker of another make.
#[cfg(test)]
pub(crate) fn test_any_client() -> Arc<dyn ClientCertVerifier> {
    Arc::new(AnyClient { algorithms: provider().signature_verification_algorithms })
}

/// For tests that play a thief: one key is shown, another signs.
#[cfg(test)]
pub(crate) fn test_key(shown: PublicKey, signer: &Identity) -> Arc<CertifiedKey> {
    let spki = CertificateDer::from(to_spki(&shown).to_vec());
    let key = RawKey { key: Arc::new(signer.signing_key().clone()), public: shown };
    Arc::new(CertifiedKey::new(vec![spki], Arc::new(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_encoding_of_a_key_is_read() {
        let key = Identity::from_seed(&[1; 32]).public();
        let spki = to_spki(&key);
        assert_eq!(from_spki(&spki), Some(key));
        assert_eq!(from_spki(&spki[..43]), None);
        assert_eq!(from_spki(&[&spki[..], &[0]].concat()), None);
        for i in 0..SPKI_PREFIX.len() {
            let mut other = spki;
            other[i] ^= 1;
            assert_eq!(from_spki(&other), None, "byte {i}");
        }
        let mut weak = spki;
        weak[12..].copy_from_slice(&[0; 32]);
        assert_eq!(from_spki(&weak), None, "a point of small order");
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = Identity::from_seed(&[1; 32]);
        let text = format!("{:?}", raw_key(&identity));
        assert!(text.contains("RawKey(seal1"), "{text}");
    }

    #[test]
    fn what_is_recorded_today_stays_closed_to_a_quantum_computer() {
        let first = provider().kx_groups[0].name();
        assert_eq!(first, rustls::NamedGroup::X25519MLKEM768);
    }

    #[test]
    fn nothing_is_resumed_and_nothing_is_said_before_the_key_check() {
        let identity = Identity::from_seed(&[1; 32]);
        let broker = rustls_server_config(&identity).unwrap();
        assert_eq!((broker.send_tls13_tickets, broker.max_early_data_size), (0, 0));
        assert!(!broker.session_storage.can_cache());
        assert!(!test_client(&identity, [identity.public()].into()).enable_early_data);
    }

    #[test]
    fn both_configurations_can_be_made() {
        let identity = Identity::from_seed(&[1; 32]);
        server_config(&identity).unwrap();
        client_config(&identity, [identity.public()].into()).unwrap();
    }
}
