//! What people get wrong before anything is sent: one error line, one hint line, the right exit code.

use crate::program::{World, mode};

/// A link to a broker that is not there.
fn nowhere(key: &str) -> String {
    format!("sealcast://127.0.0.1:9/{}?broker={key}", "ab".repeat(32))
}

#[test]
fn a_missing_broker() {
    let world = World::new();
    let (_, key) = world.identity("me.key");
    let broker = format!("sealcast://127.0.0.1:9?broker={key}");
    for args in [
        &["pub", &nowhere(&key), "-i", "me.key", "hello"][..],
        &["sub", &nowhere(&key), "-i", "me.key"],
        &["topic", "create", "t", "--broker", &broker, "-i", "me.key"],
        &["topic", "add", &nowhere(&key), "-i", "me.key", "-r", &key],
        &["topic", "show", &nowhere(&key)],
        &["rotate", &nowhere(&key), "-i", "me.key"],
        &["prekey", &nowhere(&key), "-i", "me.key"],
    ] {
        world.run(args).fails(3, "127.0.0.1:9", "is the broker running there");
    }
    let unknown = nowhere(&key).replace("127.0.0.1", "no-such-host.invalid");
    world.run(["pub", &unknown, "-i", "me.key", "x"]).fails(3, "no-such-host.invalid", "host name");
}

#[test]
fn a_link_that_was_cut_off() {
    let world = World::new();
    let (_, key) = world.identity("me.key");
    let link = nowhere(&key);
    let at = |part: &str| link.find(part).unwrap();
    for (cut, error, hint) in [
        (&link[..link.len() - 1], "the link's broker key cannot be read", "copy the whole link"),
        (&link[..at("?")], "was it cut off?", "in quotes"),
        (&link[..at("?broker=") + 8], "the link's broker key cannot be read", "in quotes"),
        (&link[..at("/abab") + 10], "the link's topic id cannot be read", "copy the whole link"),
        ("hello", "a link begins with sealcast://", "in quotes"),
        ("", "a link begins with sealcast://", "in quotes"),
    ] {
        let cut = if cut.contains("/ab") && !cut.contains('?') && cut.len() < at("?") {
            format!("{cut}?broker={key}")
        } else {
            cut.to_owned()
        };
        world.run(["pub", &cut, "-i", "me.key", "x"]).fails(2, error, hint);
        world.run(["sub", &cut, "-i", "me.key"]).fails(2, error, hint);
    }
    let broker = format!("sealcast://127.0.0.1:9?broker={key}");
    world.run(["sub", &broker, "-i", "me.key"]).fails(2, "names a broker but no topic", "topic create");
    world.run(["topic", "create", "t", "--broker", &link, "-i", "me.key"]).fails(
        2,
        "names a topic",
        "leave out the topic",
    );
}

#[test]
fn what_is_missing_is_asked_for() {
    let world = World::new();
    let (_, key) = world.identity("me.key");
    let link = nowhere(&key);
    world.run(["sub", "-i", "me.key"]).fails(2, "which topic?", "SEALCAST_LINK");
    world.run(["pub", &link, "x"]).fails(2, "whose private key?", "keygen -o FILE");
    world.run(["topic", "create", "t", "-i", "me.key"]).fails(2, "which broker?", "sealcast broker");
    world.run(["topic", "add", &link, "-i", "me.key"]).fails(2, "which members?", "-R FILE");
    assert_eq!(world.run([""; 0]).code, Some(2));
    for (args, error, hint) in [
        (&["frobnicate"][..], "unrecognized subcommand 'frobnicate'", ""),
        (&["pub", "--frob"], "unexpected argument '--frob'", ""),
        (&["pub", &link, "x", "--lines"], "--lines or --file asks for others", "one of them"),
        (&["sub", &link, "-i", "me.key", "--json", "-0"], "--json and -0", "always a line"),
        (&["keygen", "-o", "x", "-y", "me.key"], "cannot be used with", "usage: sealcast keygen"),
        (&["sub", &link, "-n", "x"], "invalid value 'x' for '--count <COUNT>'", "--help"),
        (&["sub", &link, "--from", "now"], "an offset (17)", "--help"),
        (&["sub", &link, "--wait", "5"], "write it like 500ms, 30s", "--help"),
        (&["topic", "create", "t", "--durability", "most"], "durable, memory", "--help"),
    ] {
        world.run(args).fails(2, error, hint);
    }
    for args in [&["--help"][..], &["pub", "--help"], &["topic", "add", "-h"], &["--version"]] {
        assert!(!world.run(args).ok().is_empty(), "{args:?}");
    }
}

#[test]
fn a_message_that_is_too_large() {
    let world = World::new();
    let (_, key) = world.identity("me.key");
    let large = vec![b'x'; 2 << 20];
    let most = "1,048,576 bytes";
    world.run_on(&large, ["pub", &nowhere(&key), "-i", "me.key"]).fails(1, most, "split it");
    world.write("large", &large);
    world.run(["pub", &nowhere(&key), "-i", "me.key", "--file", "large"]).fails(1, most, "split it");
    let header = format!("a={}", "x".repeat(20_000));
    world.run(["pub", &nowhere(&key), "-i", "me.key", "-H", &header, "x"]).fails(
        2,
        "headers are longer",
        "message",
    );
    world.run(["pub", &nowhere(&key), "-i", "me.key", "-H", "type", "x"]).fails(
        2,
        "NAME=VALUE",
        "-H type=order",
    );
}

#[test]
fn members_that_are_none() {
    let world = World::new();
    let (_, key) = world.identity("me.key");
    let secret = std::fs::read_to_string(world.path("me.key")).unwrap();
    let secret = secret.lines().last().unwrap();
    let link = nowhere(&key);
    let add = |member: &str| world.run(["topic", "add", &link, "-i", "me.key", "-r", member]);
    add("seal1xyz").fails(2, "\"seal1xyz\" is not a key", "seal1…");
    add("ssh-rsa AAAAB3NzaC1yc2E=").fails(2, "OpenSSH", "ssh-ed25519");
    add("sk-ssh-ed25519@openssh.com AAAA").fails(2, "OpenSSH", "ssh-ed25519");
    add(&link).fails(2, "a link stands where a key belongs", "before -r");
    let ran = add(secret);
    ran.fails(2, "a secret key stands where a public one belongs", "keygen -y");
    assert!(!ran.stderr.contains(secret), "{}", ran.stderr);
    world.write("members", format!("# team\n{key}\n\nnobody\n"));
    world.run(["topic", "add", &link, "-i", "me.key", "-R", "members"]).fails(
        2,
        "members, line 4: ",
        "seal1…",
    );
    world.run(["topic", "add", &link, "-i", "me.key", "-R", "none"]).fails(2, "cannot read members", "");
}

#[test]
fn every_option_can_come_from_the_environment() {
    let world = World::new();
    let (path, key) = world.identity("me.key");
    let ran = |args: &[&str], link: &str| {
        let mut command = world.command(args);
        let output = command.env("SEALCAST_LINK", link).env("SEALCAST_IDENTITY", &path).output().unwrap();
        crate::program::Ran::new(output)
    };
    // The link and the key come from there, so the one argument is the message; it fails for want of a broker only.
    ran(&["pub", "hello"], &nowhere(&key)).fails(3, "127.0.0.1:9", "is the broker running there");
    ran(&["rotate"], &nowhere(&key)).fails(3, "127.0.0.1:9", "is the broker running there");
    ran(&["pub", "hello"], "sealcast://h").fails(2, "cut off", "quotes");
    let flag = |value: &str| {
        let mut command = world.command(["pub", &nowhere(&key), "-i", "me.key", "message"]);
        crate::program::Ran::new(command.env("SEALCAST_LINES", value).output().unwrap())
    };
    flag("1").fails(2, "--lines or --file asks for others", "");
    flag("0").fails(3, "127.0.0.1:9", "is the broker running there");
}

#[cfg(unix)]
#[test]
fn a_state_directory_that_others_can_enter() {
    let world = World::new();
    let (_, key) = world.identity("me.key");
    std::fs::create_dir(world.path("state")).unwrap();
    mode(&world.path("state"), 0o755);
    world.run(["--state", "state", "pub", &nowhere(&key), "-i", "me.key", "x"]).fails(
        1,
        "the state directory state can be entered by other users (mode 0755)",
        "chmod 700 state",
    );
}
