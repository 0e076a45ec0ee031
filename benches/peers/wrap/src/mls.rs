//! A removal in MLS: X25519, AES-128-GCM, Ed25519. Receivers are passive: they have joined and never committed, as
//! subscribers do; so the tree above them is blank and a commit carries a ciphertext for each.

use mls_rs::client_builder::MlsConfig;
use mls_rs::identity::SigningIdentity;
use mls_rs::identity::basic::{BasicCredential as MlsCredential, BasicIdentityProvider};
use mls_rs::mls_rules::{CommitOptions, DefaultMlsRules};
use mls_rs::{CipherSuite, CipherSuiteProvider as _, Client, CryptoProvider as _, Group};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use openmls::prelude::tls_codec::{Deserialize as _, Serialize as _};
use openmls::prelude::*;
use openmls_basic_credential::SignatureKeyPair;
use openmls_rust_crypto::OpenMlsRustCrypto;
use serde_json::{Value, json};

use crate::{ROUNDS, median, timed};

const OPENMLS_SUITE: openmls::prelude::Ciphersuite =
    openmls::prelude::Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const MLS_RS_SUITE: CipherSuite = CipherSuite::CURVE25519_AES128;

fn result(committer_s: Vec<f64>, member_s: Vec<f64>, bytes: usize) -> Value {
    json!({
        "publisher_ms": median(committer_s) * 1e3,
        "member_ms": median(member_s) * 1e3,
        "download_bytes": bytes,
    })
}

struct OpenMlsMember {
    provider: OpenMlsRustCrypto,
    signer: SignatureKeyPair,
    credential: CredentialWithKey,
}

impl OpenMlsMember {
    fn new(name: String) -> Self {
        let signer = SignatureKeyPair::new(OPENMLS_SUITE.signature_algorithm()).expect("a key");
        let credential = CredentialWithKey {
            credential: BasicCredential::new(name.into_bytes()).into(),
            signature_key: signer.to_public_vec().into(),
        };
        Self { provider: OpenMlsRustCrypto::default(), signer, credential }
    }

    fn key_package(&self) -> KeyPackage {
        let bundle =
            KeyPackage::builder().build(OPENMLS_SUITE, &self.provider, &self.signer, self.credential.clone());
        bundle.expect("a key package").key_package().clone()
    }
}

pub fn openmls(count: u32) -> Value {
    let committer = OpenMlsMember::new("committer".into());
    let config = MlsGroupCreateConfig::builder()
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .ciphersuite(OPENMLS_SUITE)
        .build();
    let mut group =
        MlsGroup::new(&committer.provider, &committer.signer, &config, committer.credential.clone())
            .expect("a group");
    // The last one is kept: its work is measured. The others' secrets are of no use here.
    let watcher = OpenMlsMember::new("watcher".into());
    let mut packages: Vec<KeyPackage> =
        (1..count).map(|n| OpenMlsMember::new(format!("member {n}")).key_package()).collect();
    packages.push(watcher.key_package());
    let (_, welcome, _) =
        group.add_members(&committer.provider, &committer.signer, &packages).expect("they are added");
    group.merge_pending_commit(&committer.provider).expect("its own commit");
    let welcome = welcome.tls_serialize_detached().expect("bytes");
    let welcome = MlsMessageIn::tls_deserialize_exact(&welcome).expect("a message").extract();
    let MlsMessageBodyIn::Welcome(welcome) = welcome else { panic!("no welcome") };
    let welcome = ProcessedWelcome::new_from_welcome(&watcher.provider, config.join_config(), welcome)
        .expect("a welcome");
    let mut watching = JoinBuilder::new(&watcher.provider, welcome)
        .with_ratchet_tree(group.export_ratchet_tree().into())
        .build()
        .expect("a tree")
        .into_group(&watcher.provider)
        .expect("a group");
    let (mut committer_s, mut member_s, mut bytes) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS as u32 {
        let gone = [LeafNodeIndex::new(1 + round)];
        let (took, commit) = timed(|| {
            let (commit, _, _) =
                group.remove_members(&committer.provider, &committer.signer, &gone).expect("it is removed");
            group.merge_pending_commit(&committer.provider).expect("its own commit");
            commit.tls_serialize_detached().expect("bytes")
        });
        committer_s.push(took);
        bytes = commit.len();
        let (took, ()) = timed(|| {
            let message = MlsMessageIn::tls_deserialize_exact(&commit).expect("a message");
            let message = message.try_into_protocol_message().expect("a protocol message");
            let processed = watching.process_message(&watcher.provider, message).expect("it holds");
            let ProcessedMessageContent::StagedCommitMessage(staged) = processed.into_content() else {
                panic!("no commit")
            };
            watching.merge_staged_commit(&watcher.provider, *staged).expect("it is taken");
        });
        member_s.push(took);
    }
    result(committer_s, member_s, bytes)
}

fn client(name: &str) -> Client<impl MlsConfig + use<>> {
    let crypto = RustCryptoProvider::default();
    let suite = crypto.cipher_suite_provider(MLS_RS_SUITE).expect("a suite");
    let (secret, public) = suite.signature_key_generate().expect("a key");
    let credential = MlsCredential::new(name.as_bytes().to_vec()).into_credential();
    Client::builder()
        .identity_provider(BasicIdentityProvider)
        .crypto_provider(crypto)
        // So that whoever adds somebody leaves keys in the tree.
        .mls_rules(DefaultMlsRules::new().with_commit_options(CommitOptions::new().with_path_required(true)))
        .signing_identity(SigningIdentity::new(credential, public), secret, MLS_RS_SUITE)
        .build()
}

pub fn mls_rs(count: u32) -> Value {
    let committer = client("committer");
    let mut group = committer.create_group(Default::default(), Default::default(), None).expect("a group");
    let watcher = client("watcher");
    let mut commit = group.commit_builder();
    for n in 1..count {
        let member = client(&format!("member {n}"));
        let package = member.generate_key_package_message(Default::default(), Default::default(), None);
        commit = commit.add_member(package.expect("a key package")).expect("it is added");
    }
    let package = watcher.generate_key_package_message(Default::default(), Default::default(), None);
    let commit = commit.add_member(package.expect("a key package")).expect("it is added");
    let output = commit.build().expect("a commit");
    group.apply_pending_commit().expect("its own commit");
    let (mut watching, _) =
        watcher.join_group(None, output.welcome_messages.last().expect("a welcome"), None).expect("a group");
    remove_some(&mut group, &mut watching)
}

/// Everybody has committed once: each new member adds the next one. All but the newest and the watcher are forgotten.
pub fn mls_rs_best(count: u32) -> Value {
    let first = client("member 0");
    let mut watching = first.create_group(Default::default(), Default::default(), None).expect("a group");
    let second = client("member 1");
    let add = |group: &mut Group<_>, package| {
        let output = group.commit_builder().add_member(package).expect("it is added").build();
        output.expect("a commit")
    };
    let package = second.generate_key_package_message(Default::default(), Default::default(), None);
    let output = add(&mut watching, package.expect("a key package"));
    watching.apply_pending_commit().expect("its own commit");
    let (mut newest, _) = second.join_group(None, &output.welcome_messages[0], None).expect("a group");
    for n in 2..=count {
        let next = client(&format!("member {n}"));
        let package = next.generate_key_package_message(Default::default(), Default::default(), None);
        let output = add(&mut newest, package.expect("a key package"));
        watching.process_incoming_message(output.commit_message.clone()).expect("it holds");
        newest = next.join_group(None, &output.welcome_messages[0], None).expect("a group").0;
    }
    json!({ "members": count, "mls_rs_best": remove_some(&mut newest, &mut watching) })
}

fn remove_some<A: MlsConfig, B: MlsConfig>(group: &mut Group<A>, watching: &mut Group<B>) -> Value {
    let (mut committer_s, mut member_s, mut bytes) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS as u32 {
        let (took, commit) = timed(|| {
            let commit = group.commit_builder().remove_member(1 + round).expect("it is removed");
            let output = commit.build().expect("a commit");
            group.apply_pending_commit().expect("its own commit");
            output.commit_message
        });
        committer_s.push(took);
        bytes = commit.to_bytes().expect("bytes").len();
        member_s.push(timed(|| watching.process_incoming_message(commit).expect("it holds")).0);
    }
    result(committer_s, member_s, bytes)
}
