//! `keygen` and every way a key file can be wrong.

use std::fs;

use crate::program::{World, mode};

#[test]
fn a_new_identity_goes_to_a_private_file_and_its_public_key_to_stderr() {
    let world = World::new();
    let ran = world.run(["keygen", "-o", "me.key"]);
    assert_eq!(ran.ok(), "");
    let text = fs::read_to_string(world.path("me.key")).unwrap();
    assert!(text.lines().any(|line| line.starts_with("SEAL-SECRET-KEY-1")), "{text}");
    assert!(!ran.stderr.contains("SEAL-SECRET"), "{}", ran.stderr);
    let public = world.run(["keygen", "-y", "me.key"]).ok();
    assert!(public.starts_with("seal1") && public.ends_with('\n'), "{public}");
    assert!(ran.stderr.contains(public.trim()), "{}", ran.stderr);
    assert!(text.contains(public.trim()), "{text}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(world.path("me.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_new_identity_on_stdout_is_a_file_as_it_stands() {
    let world = World::new();
    let ran = world.run(["keygen"]);
    world.write("me.key", &ran.stdout);
    let public = world.run(["keygen", "-y", "me.key"]).ok();
    assert!(ran.stderr.contains(public.trim()), "{}", ran.stderr);
}

#[test]
fn keygen_never_overwrites() {
    let world = World::new();
    world.identity("me.key");
    let before = fs::read(world.path("me.key")).unwrap();
    world.run(["keygen", "-o", "me.key"]).fails(1, "me.key exists and is never overwritten", "another name");
    assert_eq!(fs::read(world.path("me.key")).unwrap(), before);
}

#[cfg(unix)]
#[test]
fn a_key_file_that_others_can_read_is_refused() {
    let world = World::new();
    let (path, _) = world.identity("me.key");
    for bits in [0o644, 0o640, 0o604, 0o620] {
        mode(&path, bits);
        world.run(["keygen", "-y", "me.key"]).fails(
            2,
            &format!("can be read by other users (mode {bits:04o})"),
            "chmod 600 me.key",
        );
    }
    mode(&path, 0o400);
    world.run(["keygen", "-y", "me.key"]).ok();
}

#[test]
fn files_that_hold_no_secret_key_are_named_for_what_they_are() {
    let world = World::new();
    let (_, public) = world.identity("me.key");
    let (_, _) = world.identity("you.key");
    let secret = fs::read_to_string(world.path("me.key")).unwrap();
    let two = secret.clone() + &fs::read_to_string(world.path("you.key")).unwrap();
    let key = secret.lines().last().unwrap();
    let typo = format!("{}{}{}", &key[..30], if &key[30..31] == "Q" { "P" } else { "Q" }, &key[31..]);
    for (content, error, hint) in [
        (public.into_bytes(), "holds a public key", "OpenSSH private key"),
        (b"# nothing\n\n".to_vec(), "holds no secret key", "keygen -o FILE"),
        (two.into_bytes(), "more than one secret key", "split"),
        (key[..key.len() - 1].into(), "line 1: not a key", "comments"),
        (format!("# a\n{}", typo).into_bytes(), "line 2: not a key", "comments"),
        (b"hello\n".to_vec(), "line 1: not a key", "comments"),
        (vec![0xff; 100], "not an identity file", "text"),
        (vec![b'#'; 70_000], "not an identity file", "text"),
        (
            b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec(),
            "not an OpenSSH",
            "keygen",
        ),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n".to_vec(), "bad.key: ", "keygen"),
    ] {
        world.write("bad.key", content);
        world.run(["keygen", "-y", "bad.key"]).fails(2, error, hint);
    }
    world.run(["keygen", "-y", "no.key"]).fails(2, "cannot read the identity file no.key", "keygen -o FILE");
}

#[test]
fn a_secret_on_the_command_line_is_refused_and_not_repeated() {
    let world = World::new();
    let secret = world.run(["keygen"]).ok();
    let secret = secret.lines().last().unwrap();
    let ran = world.run(["keygen", "-y", secret]);
    ran.fails(2, "a secret key stands on the command line", "chmod 600");
    assert!(!ran.stderr.contains(secret), "{}", ran.stderr);
}

#[test]
fn openssh_keys_are_identities_where_they_can_be() {
    let world = World::new();
    world.write("ed25519", ED25519);
    assert_eq!(world.run(["keygen", "-y", "ed25519"]).ok().trim(), ED25519_SEAL);
    world.write("locked", ED25519_LOCKED);
    world.run(["keygen", "-y", "locked"]).fails(2, "locked is protected by a passphrase", "keygen -o FILE");
    world.write("ecdsa", ECDSA);
    world.run(["keygen", "-y", "ecdsa"]).fails(2, "ecdsa", "ed25519");
}

/// Made by ssh-keygen; its public key in Bech32 by the reference code of BIP 173.
const ED25519: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW
QyNTUxOQAAACClzGeIJJ2RrqsAlr3dUEtjkUGlsvmbBW11Cu3yVedEMgAAAIgdqFHqHahR
6gAAAAtzc2gtZWQyNTUxOQAAACClzGeIJJ2RrqsAlr3dUEtjkUGlsvmbBW11Cu3yVedEMg
AAAEAua1nU3NJv9M/7N11i1h6ossI0Yui5yXVG2nmb+ISGyqXMZ4gknZGuqwCWvd1QS2OR
QaWy+ZsFbXUK7fJV50QyAAAABHRlc3QB
-----END OPENSSH PRIVATE KEY-----
";
const ED25519_SEAL: &str = "seal15hxx0zpynkg6a2cqj67a65ztvwg5rfdjlxds2mt4ptkly408gseq6v35gm";
const ED25519_LOCKED: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDo1jh94K
/uszakN50cCjx8AAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIOGQfOhJeFfmOsoM
Qz3Y5nEeX3Juknxt+Kf3wAgEU68GAAAAkH0dV6+SWP9CKeoruVG0LVamCmK0ro1wlrC1tr
J0JeJxiusKjKLNymJ+JJdpVrol3u42PQ3HwzlOFmNPJj3CSAUORSdyVqTqdJy+gBAKmYhM
00m8A/Kt8zSyZNalaP1MmkLYHW8kNQ2qy2lgU+YIDMHMFCVcDJdgwhmu+uXu6NvPhNa/tZ
SEH9GRUTHcNC2aLQ==
-----END OPENSSH PRIVATE KEY-----
";
const ECDSA: &str = "-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQTSb2m5H6EWaIKFJea5XqD722+TtnXP
5SgKaNgaGZa3NKdj8Wd7GNePUQnqqhQv7KiWQdaG+0rw+71bFzR51IIVAAAAoPDWIYDw1i
GAAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBNJvabkfoRZogoUl
5rleoPvbb5O2dc/lKApo2BoZlrc0p2PxZ3sY149RCeqqFC/sqJZB1ob7SvD7vVsXNHnUgh
UAAAAhAOZstEKuiJHPFtfCql0dRB1Tgz59MKbe+HK4fpwK5PlBAAAABHRlc3QBAgM=
-----END OPENSSH PRIVATE KEY-----
";
