//! Keys as people keep them, read from text: identity files, OpenSSH keys, lists of members.
//!
//! No file is opened here: what reads hostile text is apart from what reads disks, and can be fuzzed.

use sealcast_proto::{Identity, PublicKey};
use ssh_key::private::KeypairData;
use zeroize::Zeroizing;

/// How the text form of a secret key begins.
pub const SECRET_PREFIX: &str = "SEAL-SECRET-KEY-1";
const OPENSSH_PRIVATE: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";

/// Why a text is not the key that was needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotAKey {
    /// One line, without the name of what was read.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

impl NotAKey {
    fn new(why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { why: why.into(), hint: hint.into() }
    }
}

/// The one secret key in an identity file's text, or in an OpenSSH private key's; `name` is what a person calls the file.
pub fn identity(text: &str, name: &str) -> Result<Identity, NotAKey> {
    if text.trim_start().starts_with("-----BEGIN") {
        return openssh_identity(text, name);
    }
    let mut found = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if public_key(line).is_ok() {
            return Err(NotAKey::new(
                format!("{name} holds a public key; the private one is needed"),
                "name the file that `sealcast keygen -o` made, or an OpenSSH private key (without .pub)",
            ));
        }
        let identity = line.parse::<Identity>().map_err(|error| {
            NotAKey::new(
                format!("{name}, line {number}: {error}"),
                format!("an identity file has one line {SECRET_PREFIX}… and comments (#)"),
            )
        })?;
        if found.replace(identity).is_some() {
            return Err(NotAKey::new(
                format!("{name} holds more than one secret key"),
                "one identity a file: split it",
            ));
        }
    }
    found.ok_or_else(|| {
        NotAKey::new(
            format!("{name} holds no secret key"),
            format!("an identity file has one line {SECRET_PREFIX}…; `sealcast keygen -o FILE` makes one"),
        )
    })
}

fn openssh_identity(text: &str, name: &str) -> Result<Identity, NotAKey> {
    const KINDS: &str =
        "an identity from `sealcast keygen`, or an OpenSSH ed25519 key without a passphrase, will do";
    if !text.trim_start().starts_with(OPENSSH_PRIVATE) {
        return Err(NotAKey::new(format!("{name} is not an OpenSSH private key"), KINDS));
    }
    let key = ssh_key::PrivateKey::from_openssh(text.trim())
        .map_err(|error| NotAKey::new(format!("{name}: {error}"), KINDS))?;
    match key.key_data() {
        KeypairData::Ed25519(pair) => {
            let seed = Zeroizing::new(pair.private.to_bytes());
            Ok(Identity::from_seed(&seed))
        }
        KeypairData::Encrypted(_) => Err(NotAKey::new(
            format!("{name} is protected by a passphrase"),
            "make a key for sealcast alone: `sealcast keygen -o FILE`, or `ssh-keygen -t ed25519 -N ''`",
        )),
        KeypairData::SkEd25519(_) => {
            Err(NotAKey::new(format!("{name} stands for a hardware key, which cannot unwrap"), KINDS))
        }
        _ => Err(NotAKey::new(format!("{name} is an {} key; only ed25519 will do", key.algorithm()), KINDS)),
    }
}

/// A public key: `seal1…`, or an OpenSSH ed25519 one.
pub fn public_key(text: &str) -> Result<PublicKey, NotAKey> {
    const KINDS: &str =
        "a public key is seal1… (`sealcast keygen -y FILE`) or, in quotes, 'ssh-ed25519 AAAA…'";
    let text = text.trim();
    let not = |why: String| NotAKey::new(why, KINDS);
    if text.starts_with("sealcast://") {
        return Err(NotAKey::new("a link stands where a key belongs", "put the link before -r"));
    }
    if text.to_ascii_uppercase().starts_with(SECRET_PREFIX) {
        return Err(NotAKey::new(
            "a secret key stands where a public one belongs",
            "never hand it out; `sealcast keygen -y FILE` prints its public key",
        ));
    }
    if !text.starts_with("ssh-") && !text.starts_with("sk-") && !text.starts_with("ecdsa-") {
        return text.parse().map_err(|error| not(format!("{:?} is {error}", shortened(text))));
    }
    // Of other kinds nothing is read: what they hold says how long it is, and memory would be taken for as much.
    if !text.starts_with("ssh-ed25519 ") {
        return Err(not(format!(
            "{:?} is no OpenSSH public key that can be a member; only ed25519 can",
            shortened(text)
        )));
    }
    let key = ssh_key::PublicKey::from_openssh(text)
        .map_err(|error| not(format!("{:?} is no OpenSSH public key: {error}", shortened(text))))?;
    let key = key.key_data().ed25519().ok_or_else(|| not("only an ed25519 key can be a member".into()))?;
    PublicKey::from_bytes(&key.0).map_err(|error| not(format!("{:?}: {error}", shortened(text))))
}

/// A list of public keys, one a line, with comments (#); `name` is what a person calls it.
pub fn members(text: &str, name: &str) -> Result<Vec<PublicKey>, NotAKey> {
    let lines =
        (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty() && !line.trim().starts_with('#'));
    lines
        .map(|(number, line): (usize, &str)| {
            public_key(line)
                .map_err(|not| NotAKey { why: format!("{name}, line {number}: {}", not.why), ..not })
        })
        .collect()
}

fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(24).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_kind_is_refused_before_it_is_read() {
        // By a fuzzer: a number in it says that it is 786,432 bytes long.
        let long = "ssh-rsa AAAAB3NzaC1yc2EADAAAAQAB=AAAAQ== old";
        for text in
            [long, "ssh-rsa AAAAB3NzaC1yc2E=", "sk-ssh-ed25519@openssh.com AAAA", "ecdsa-sha2-nistp256 AAAA"]
        {
            let not = public_key(text).unwrap_err();
            assert!(not.why.contains("only ed25519 can"), "{}", not.why);
        }
        assert!(public_key("ssh-ed25519 AAAA").unwrap_err().why.contains("no OpenSSH public key: "));
    }
}
