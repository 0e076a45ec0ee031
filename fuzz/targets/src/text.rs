//! Text that people paste: links, keys, identity files, OpenSSH keys, lists of members.
//!
//! ```text
//! input = kind u8 ‖ UTF-8
//! ```
//! What must hold: what was read is written in one form, and that is read as the same; no error repeats a secret.

use sealcast::key_text;
use sealcast_proto::{BrokerLink, Hash, Identity, PublicKey, TopicId, TopicLink};

use crate::{Reached, Target, valid};

/// See the module's page. In an OpenSSH private key a length field may ask for up to a megabyte: `ssh-key`'s own limit.
pub const TARGET: Target =
    Target { name: "text", run, stages: STAGES, heap: ((1 << 20) + (64 << 10), 128), seeds };

const STAGES: &[&str] = &[
    "topic link",
    "broker link",
    "public key",
    "secret key",
    "id",
    "identity file",
    "OpenSSH identity",
    "member",
    "OpenSSH member",
    "members",
];

fn run(input: &[u8], reached: &mut Reached) {
    let Some((kind, rest)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    match kind % 7 {
        0 => link(text, reached),
        1 => public(text, reached),
        2 => secret(text, reached),
        3 => id(text, reached),
        4 => identity_file(text, reached),
        5 => member(text, reached),
        _ => members(text, reached),
    }
}

fn link(text: &str, reached: &mut Reached) {
    let (topic, broker) = (text.parse::<TopicLink>(), text.parse::<BrokerLink>());
    assert!(topic.is_err() || broker.is_err(), "a link is of a topic or of a broker");
    if let Some(link) = reached.ok("topic link", topic) {
        assert_eq!(link.to_string().parse::<TopicLink>(), Ok(link));
    }
    if let Some(link) = reached.ok("broker link", broker) {
        assert!(!link.hosts().is_empty() && !link.keys().is_empty());
        assert!(link.hosts().iter().all(|(host, port)| !host.is_empty() && *port != 0));
        assert_eq!(link.to_string().parse::<BrokerLink>(), Ok(link));
    }
}

fn public(text: &str, reached: &mut Reached) {
    let Some(key) = reached.ok("public key", text.parse::<PublicKey>()) else { return };
    assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
    assert!(text.parse::<Identity>().is_err());
    assert_eq!(key_text::public_key(text).ok(), Some(key));
}

fn secret(text: &str, reached: &mut Reached) {
    match text.parse::<Identity>() {
        Ok(identity) => {
            reached.mark("secret key");
            let again = identity.to_text().parse::<Identity>().expect("its own text");
            assert_eq!(again.public(), identity.public());
            assert!(key_text::public_key(text).is_err());
        }
        Err(error) => keeps_secrets(text, &error.to_string()),
    }
}

/// An error goes to a terminal and into logs: no key's characters belong there.
fn keeps_secrets(text: &str, error: &str) {
    let key = text.lines().map(str::trim).find_map(|line| line.strip_prefix("SEAL-SECRET-KEY-1"));
    // Shorter, or with anything else in it, it is no part of a key.
    let key = key.filter(|key| key.len() >= 20 && key.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    assert!(key.is_none_or(|key| !error.contains(key)), "{error}");
}

fn id(text: &str, reached: &mut Reached) {
    let Some(id) = reached.ok("id", text.parse::<TopicId>()) else { return };
    assert_eq!(id.to_string(), text);
    assert_eq!(text.parse::<Hash>(), Ok(Hash(id.0)));
}

fn identity_file(text: &str, reached: &mut Reached) {
    match key_text::identity(text, "me.key") {
        Ok(identity) => {
            let openssh = text.trim_start().starts_with("-----BEGIN");
            reached.mark(if openssh { "OpenSSH identity" } else { "identity file" });
            let again = key_text::identity(&identity.to_text(), "me.key").expect("its own text");
            assert_eq!(again.public(), identity.public());
        }
        Err(not) => {
            keeps_secrets(text, &not.why);
            assert!(!not.hint.is_empty());
        }
    }
}

fn member(text: &str, reached: &mut Reached) {
    match key_text::public_key(text) {
        Ok(key) => {
            reached.mark(if text.trim_start().starts_with("ssh-") { "OpenSSH member" } else { "member" });
            assert_eq!(key_text::public_key(&key.to_string()), Ok(key));
        }
        Err(not) => assert!(!not.hint.is_empty()),
    }
}

fn members(text: &str, reached: &mut Reached) {
    let Some(keys) = reached.ok("members", key_text::members(text, "list")) else { return };
    let lines = keys.iter().map(|key| format!("{key}\n")).collect::<String>();
    assert_eq!(key_text::members(&lines, "list"), Ok(keys));
}

/// Made by ssh-keygen, as in tests/it/cli_keys.rs.
const OPENSSH: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACClzGeIJJ2RrqsAlr3dUEtjkUGlsvmbBW11Cu3yVedEMgAAAIgdqFHqHahR
6gAAAAtzc2gtZWQyNTUxOQAAACClzGeIJJ2RrqsAlr3dUEtjkUGlsvmbBW11Cu3yVedEMg
AAAEAua1nU3NJv9M/7N11i1h6ossI0Yui5yXVG2nmb+ISGyqXMZ4gknZGuqwCWvd1QS2OR
QaWy+ZsFbXUK7fJV50QyAAAABHRlc3QB
-----END OPENSSH PRIVATE KEY-----
";
const OPENSSH_PUBLIC: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKXMZ4gknZGuqwCWvd1QS2ORQaWy+ZsFbXUK7fJV50Qy test";

fn seeds() -> Vec<Vec<u8>> {
    let identity = valid::identity(1);
    let (public, secret, topic) = (identity.public(), identity.to_text(), valid::genesis().2);
    let texts: [(u8, String); 13] = [
        (0, format!("sealcast://a.example:7443,[::1]:9/{topic}?broker={public}")),
        (0, format!("sealcast://[fe80::1%25eth0],host?broker={public}&broker={public}")),
        (0, format!("sealcast://host/{topic}")),
        (1, public.to_string()),
        (2, secret.to_string()),
        (2, secret.to_lowercase()),
        (3, topic.to_string()),
        (4, format!("# made by hand\n# public: {public}\n\n{}\n", *secret)),
        (4, OPENSSH.into()),
        (5, public.to_string()),
        (5, OPENSSH_PUBLIC.into()),
        (5, "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQ== old".into()),
        (6, format!("# readers\n{public}\n{OPENSSH_PUBLIC}\n")),
    ];
    texts.iter().map(|(kind, text)| [&[*kind], text.as_bytes()].concat()).collect()
}
