//! The commands against a broker: what they say, what they write, and how they fail.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use sealcast::{Identity, Policy, State, TopicAdmin};

use crate::parties::{Broker, Feed, Party};
use crate::program::{Ran, World};

/// Runs a command as `name`, with its identity and state.
fn run_as(feed: &Feed, name: &str, args: &[&str]) -> Ran {
    run_on_as(feed, name, b"", args)
}

fn run_on_as(feed: &Feed, name: &str, input: &[u8], args: &[&str]) -> Ran {
    let state = format!("state-{name}");
    let mut all = args.to_vec();
    all.extend(["-i", name, "--state", &state]);
    feed.world.run_on(input, all)
}

/// `sub` from the beginning to the end of what the broker holds.
fn read_all(feed: &Feed, name: &str, args: &[&str]) -> Ran {
    let mut all = vec!["sub", &feed.link, "--from", "earliest", "--exit-at-end"];
    all.extend(args);
    run_as(feed, name, &all)
}

fn publish(feed: &Feed, args: &[&str]) -> Ran {
    let mut all = vec!["pub", feed.link.as_str()];
    all.extend(args);
    run_as(feed, "owner", &all)
}

#[test]
fn a_message_from_an_argument_from_stdin_and_from_a_file() {
    let feed = Feed::new(&["a"]);
    let ran = publish(&feed, &["hello"]);
    assert_eq!(ran.ok(), "");
    assert!(ran.stderr.contains("sealcast: published 1 message, seq 0, offset "), "{}", ran.stderr);
    assert!(ran.stderr.trim_end().ends_with(", durable"), "{}", ran.stderr);
    run_on_as(&feed, "owner", b"two\nlines\n", &["pub", &feed.link]).ok();
    feed.world.write("file", "of a file");
    publish(&feed, &["--file", "file"]).ok();
    feed.world.run(["pub", &feed.link, "-i", "owner", "--state", "state-owner", "--", "-n"]).ok();
    run_on_as(&feed, "owner", b"", &["pub", &feed.link]).ok();
    let ran = run_on_as(&feed, "owner", b"x\n\ny", &["pub", &feed.link, "--lines"]);
    assert!(ran.stderr.contains("published 3 messages, seq 5–7, offset "), "{}", ran.stderr);
    let ran = run_on_as(&feed, "owner", b"", &["pub", &feed.link, "--lines"]);
    ran.ok();
    assert!(ran.stderr.contains("published nothing"), "{}", ran.stderr);

    assert_eq!(read_all(&feed, "a", &[]).ok(), "hello\ntwo\nlines\n\nof a file\n-n\n\nx\n\ny\n");
    assert_eq!(read_all(&feed, "a", &["-0"]).ok(), "hello\0two\nlines\n\0of a file\0-n\0\0x\0\0y\0");
}

#[test]
fn json_tells_everything_and_binary_is_base64() {
    let feed = Feed::new(&["a"]);
    publish(&feed, &["-H", "type=order", "-H", "id=7", "--content-type", "text/plain", "ünï\"\n"]).ok();
    run_on_as(&feed, "owner", &[0xff, 0x00], &["pub", &feed.link]).ok();
    let out = read_all(&feed, "a", &["--json"]).ok();
    let objects: Vec<serde_json::Value> =
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let messages: Vec<_> = objects.iter().filter(|object| object.get("event").is_none()).collect();
    assert_eq!(messages.len(), 2, "{out}");
    let first = messages[0];
    assert_eq!(first["payload"], "ünï\"\n");
    assert_eq!((&first["headers"]["type"], &first["headers"]["id"]), (&"order".into(), &"7".into()));
    assert_eq!(first["content_type"], "text/plain");
    assert_eq!(first["publisher"], feed.key("owner"));
    assert_eq!(first["seq"], 0);
    assert!(feed.link.contains(first["topic"].as_str().unwrap()));
    assert!(first["epoch"].is_u64() && first["offset"].is_u64());
    assert!(first["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(messages[1]["payload_base64"], "/wA=");
    assert!(messages[1].get("payload").is_none());
    assert!(messages[1]["epoch"].as_u64() > first["epoch"].as_u64(), "each run has an epoch of its own");
}

#[test]
fn a_run_goes_on_where_the_last_one_ended() {
    let feed = Feed::new(&["a"]);
    // The first run begins with what comes from then on.
    publish(&feed, &["before"]).ok();
    let first = feed.sub("a", &["-n", "1"]);
    publish(&feed, &["one"]).ok();
    assert_eq!(first.ok(), b"one\n");
    publish(&feed, &["two"]).ok();
    publish(&feed, &["three"]).ok();
    let sub = |args: &[&str]| {
        let mut all = vec!["sub", &feed.link];
        all.extend(args);
        run_as(&feed, "a", &all)
    };
    assert_eq!(sub(&["-n", "1"]).ok(), "two\n");
    assert_eq!(sub(&["--exit-at-end"]).ok(), "three\n");
    assert_eq!(sub(&["--from", "resume", "--exit-at-end"]).ok(), "");
    assert_eq!(sub(&["--from", "earliest", "--exit-at-end"]).ok(), "before\none\ntwo\nthree\n");
    assert_eq!(sub(&["--from", "-10m", "--exit-at-end"]).ok(), "before\none\ntwo\nthree\n");
    assert_eq!(sub(&["--from", "latest", "--exit-at-end"]).ok(), "");
    let offset = sub(&["--from", "earliest", "-n", "3", "--json"]).ok();
    let offset = offset.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let mut offset =
        offset.filter(|object| object["payload"] == "two").map(|object| object["offset"].to_string());
    let offset = offset.next_back().unwrap();
    let ran = sub(&["--from", &offset, "--exit-at-end"]);
    assert_eq!(ran.ok(), "two\nthree\n");
    assert!(ran.stderr.contains(&format!("sealcast: subscribed at offset {offset}")), "{}", ran.stderr);
}

#[test]
fn waiting_ends_with_6_where_more_was_wanted() {
    let feed = Feed::new(&["a"]);
    publish(&feed, &["one"]).ok();
    let all = ["sub", &feed.link, "--from", "earliest", "--wait", "2s"];
    assert_eq!(run_as(&feed, "a", &all).ok(), "one\n");
    let ran = run_as(&feed, "a", &[&all[..], &["-n", "2"]].concat());
    ran.fails(6, "1 of 2 messages came; then none for 2s", "--wait waits longer");
    assert_eq!(ran.stdout, b"one\n");
}

#[test]
fn a_publisher_gives_up_with_6_when_nothing_is_acknowledged() {
    let mut feed = Feed::new(&["a"]);
    let mut publisher = feed.publish("owner", &["--lines", "--timeout", "3s"]);
    let mut sub = feed.sub("a", &[]);
    publisher.write(b"one\n");
    sub.wrote_lines(1);
    feed.broker.kill();
    publisher.write(b"two\n");
    publisher.close_stdin();
    let (status, _, said) = publisher.end();
    assert_eq!(status.code(), Some(6), "{said:#?}");
    assert!(said.iter().any(|line| line.starts_with("error: no acknowledgement within 3s")), "{said:#?}");
    // Whether the first one's acknowledgement came before the kill is chance; the second one's never did.
    assert!(said.iter().any(|line| line.starts_with("sealcast: published ")), "{said:#?}");
}

#[test]
fn a_subscriber_says_that_no_broker_carries_it_and_that_one_does_again() {
    let mut feed = Feed::new(&["a"]);
    // No publisher is live whose silence would be told.
    publish(&feed, &["one"]).ok();
    let mut sub = feed.sub("a", &["--from", "earliest"]);
    sub.wrote_lines(1);
    feed.broker.kill();
    let said = sub.says("sealcast: no connection: ");
    assert!(said.ends_with("; trying again"), "{said}");
    feed.broker.restart(&feed.world);
    sub.says("sealcast: connected again");
    publish(&feed, &["two"]).ok();
    sub.wrote_lines(2);
    sub.signal("-INT");
    assert_eq!(sub.ok(), b"one\ntwo\n");
}

#[test]
fn a_publisher_told_to_stop_ends_in_an_orderly_way() {
    let feed = Feed::new(&["a"]);
    let mut sub = feed.sub("a", &["--json"]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    publisher.write(b"one\n");
    sub.wrote_lines(1);
    publisher.signal("-TERM");
    // Its stdin is still open: it is the signal that ends it.
    publisher.says("error: interrupted");
    let (status, _, said) = publisher.end();
    assert_eq!(status.code(), Some(1), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("published 1 message")), "{said:#?}");
    // It said END: nobody takes its silence for a failure.
    sub.wrote_lines(2);
    sub.signal("-INT");
    let out = String::from_utf8(sub.ok()).unwrap();
    assert!(out.lines().nth(1).unwrap().contains("\"event\":\"ended\""), "{out}");
}

#[test]
fn a_file_of_members_and_a_word_about_one_message_for_many() {
    let feed = Feed::new(&["a"]);
    let seed = |n: u32| {
        let mut seed = [7; 32];
        seed[..4].copy_from_slice(&n.to_be_bytes());
        seed
    };
    let keys: Vec<String> =
        (0..1001).map(|n| sealcast::Identity::from_seed(&seed(n)).public().to_string()).collect();
    feed.world.write("members", keys.join("\n"));
    let add = ["topic", "add", feed.link.as_str(), "-R", "members"];
    let ran = run_as(&feed, "owner", &add);
    ran.ok();
    assert!(ran.stderr.contains("added 1,001 readers"), "{}", ran.stderr);
    let again = run_as(&feed, "owner", &add);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
    let ran = publish(&feed, &["one"]);
    ran.ok();
    assert!(ran.stderr.contains("hint: each run wraps a new key for 1,003 members"), "{}", ran.stderr);
    let remove = ["topic", "remove", feed.link.as_str(), "-R", "members"];
    let ran = run_as(&feed, "owner", &remove);
    ran.ok();
    assert!(ran.stderr.contains("removed 1,001 members"), "{}", ran.stderr);
    assert!(!publish(&feed, &["two"]).stderr.contains("hint:"));
    assert_eq!(read_all(&feed, "a", &[]).ok(), "one\ntwo\n");
}

#[test]
fn a_file_is_not_overwritten_unless_begun_anew() {
    let feed = Feed::new(&["a"]);
    publish(&feed, &["one"]).ok();
    read_all(&feed, "a", &["-o", "out"]).ok();
    publish(&feed, &["two"]).ok();
    let resume = ["sub", &feed.link, "--exit-at-end", "-o"];
    let file = |name: &str| std::fs::read_to_string(feed.world.path(name)).unwrap();
    // What is after the committed length was never committed.
    std::fs::write(feed.world.path("out"), "one\nhalf a li").unwrap();
    run_as(&feed, "a", &[&resume[..], &["out"]].concat()).ok();
    assert_eq!(file("out"), "one\ntwo\n");
    feed.world.write("mine", "mine");
    run_as(&feed, "a", &[&resume[..], &["mine"]].concat()).fails(
        1,
        "holds something that the last run did not write",
        "--from",
    );
    assert_eq!(file("mine"), "mine");
    std::fs::write(feed.world.path("out"), "on").unwrap();
    run_as(&feed, "a", &[&resume[..], &["out"]].concat()).fails(
        1,
        "shorter than what was written",
        "earliest",
    );
    read_all(&feed, "a", &["-o", "mine"]).ok();
    assert_eq!(file("mine"), "one\ntwo\n");
}

#[test]
fn who_is_no_member_is_told_so_with_4() {
    let feed = Feed::new(&["a"]);
    feed.world.identity("stranger");
    run_as(&feed, "stranger", &["sub", &feed.link]).fails(4, "is not a member", "topic add");
    run_as(&feed, "stranger", &["pub", &feed.link, "x"]).fails(4, "may not publish", "--role publisher");
    run_as(&feed, "a", &["pub", &feed.link, "x"]).fails(4, "may not publish", "--role publisher");
    let key = feed.key("stranger");
    run_as(&feed, "a", &["topic", "add", &feed.link, "-r", &key]).fails(4, "not its admin", "-i");
    run_as(&feed, "stranger", &["topic", "show", &feed.link]).fails(4, "no such topic, or", "-i");
    feed.world.run(["topic", "show", &feed.link]).fails(4, "no such topic, or", "-i");
    // A topic that does not exist looks the same.
    let other = feed.link.replacen(|c: char| c.is_ascii_digit(), "x", 0);
    let (start, end) = other.split_at(other.rfind('/').unwrap() + 1);
    let unknown = format!("{start}{}{}", "0".repeat(64), &end[64..]);
    run_as(&feed, "owner", &["sub", &unknown]).fails(4, "is not a member", "topic add");

    feed.member("remove", "a");
    run_as(&feed, "a", &["sub", &feed.link]).fails(4, "was removed", "only an admin");
    run_as(&feed, "owner", &["topic", "remove", &feed.link, "-r", &key]).fails(
        1,
        "is not a member",
        "topic show",
    );
}

#[test]
fn the_wrong_broker_is_not_talked_to() {
    let feed = Feed::new(&["a"]);
    let (start, _) = feed.link.split_once("?broker=").unwrap();
    let wrong = format!("{start}?broker={}", feed.key("a"));
    run_as(&feed, "a", &["sub", &wrong]).fails(3, "does not hold a key of this link", "get the link anew");
    run_as(&feed, "owner", &["pub", &wrong, "x"]).fails(
        3,
        "does not hold a key of this link",
        "get the link anew",
    );
}

#[test]
fn one_state_has_one_holder_a_role() {
    let feed = Feed::new(&["a"]);
    let first = feed.sub("a", &[]);
    let ran = run_as(&feed, "a", &["sub", &feed.link]);
    ran.fails(1, ".subscribe is in use by process ", "--state DIR");
    drop(first);
}

#[test]
fn a_message_that_is_too_large_takes_nothing_with_it() {
    let feed = Feed::new(&["a"]);
    let mut input = b"one\ntwo\n".to_vec();
    input.extend(vec![b'x'; 2 << 20]);
    input.extend(b"\nfour\n");
    let ran = run_on_as(&feed, "owner", &input, &["pub", &feed.link, "--lines"]);
    ran.fails(1, "line 3 is longer than 1,048,576 bytes", "split it");
    assert!(ran.stderr.contains("published 2 messages"), "{}", ran.stderr);
    assert_eq!(read_all(&feed, "a", &[]).ok(), "one\ntwo\n");
    // The largest that fits does.
    let large = vec![b'y'; (1 << 20) - 64];
    run_on_as(&feed, "owner", &large, &["pub", &feed.link]).ok();
    let got = read_all(&feed, "a", &[]).ok();
    assert_eq!(got.len(), "one\ntwo\n".len() + large.len() + 1);
}

#[test]
fn topics_are_shown_to_their_admins() {
    let feed = Feed::new(&["a"]);
    let (_, publisher) = feed.world.identity("p");
    run_as(&feed, "owner", &["topic", "add", &feed.link, "-r", &publisher, "--role", "publisher"]).ok();
    let text = run_as(&feed, "owner", &["topic", "show", &feed.link]).ok();
    for wanted in
        ["prices", &feed.key("owner"), &feed.key("a"), &publisher, "admin", "reader", "publisher", "7d"]
    {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    let json = run_as(&feed, "p", &["topic", "show", &feed.link, "--json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["name"], "prices");
    assert_eq!(json["members"].as_array().unwrap().len(), 3);
    assert_eq!(json["members"][2]["role"], "publisher");
    assert_eq!(json["policy"]["durability"], "durable");
    // A reader sees the topic, not who else is there.
    let ran = run_as(&feed, "a", &["topic", "show", &feed.link]);
    assert!(
        ran.ok().contains("prices") && !ran.stdout.windows(6).any(|part| part == b"member"),
        "{}",
        ran.ok()
    );
}

#[test]
fn rotate_and_prekey_by_hand() {
    let feed = Feed::new(&["a"]);
    let mut sub = feed.sub("a", &["-n", "2", "--json"]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    publisher.write(b"one\n");
    sub.wrote_lines(1);
    run_as(&feed, "a", &["prekey", &feed.link]).ok();
    let ran = run_as(&feed, "owner", &["rotate", &feed.link]);
    ran.ok();
    assert!(ran.stderr.contains("known to 1 publisher"), "{}", ran.stderr);
    publisher.write(b"two\n");
    publisher.close_stdin();
    publisher.ok();
    let out = String::from_utf8(sub.ok()).unwrap();
    let epochs: Vec<u64> = out
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|object| object.get("event").is_none())
        .map(|object| object["epoch"].as_u64().unwrap())
        .collect();
    assert!(epochs.len() == 2 && epochs[0] < epochs[1], "{out}");
}

#[test]
fn a_publisher_that_was_not_heard_is_named_with_6() {
    let feed = Feed::new(&["a", "b"]);
    let mut sub = feed.sub("a", &[]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    publisher.write(b"one\n");
    sub.wrote_lines(1);
    // It never says END: for all that anybody knows it is alive.
    publisher.kill();
    let key = feed.key("b");
    let ran = run_as(&feed, "owner", &["topic", "remove", &feed.link, "-r", &key, "--confirm", "500ms"]);
    ran.fails(6, &feed.key("owner"), "--confirm waits longer");
    assert!(ran.stderr.contains("removed 1 member"), "{}", ran.stderr);
    drop(sub);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let feed = Feed::new(&["a"]);
    publish(&feed, &["one"]).ok();
    let mut command =
        feed.world.command(["sub", &feed.link, "--from", "earliest", "-i", "a", "--state", "state-a"]);
    let mut child = command.spawn().unwrap();
    // As `| head -0` does.
    drop(child.stdout.take());
    let ran = Ran::new(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    // What nobody read was not taken.
    assert_eq!(run_as(&feed, "a", &["sub", &feed.link, "--exit-at-end"]).ok(), "one\n");
}

#[test]
fn a_port_and_a_data_directory_have_one_broker() {
    let world = World::new();
    let broker = Broker::start(&world);
    let (_, rest) = broker.link.split_once("://").unwrap();
    let address = rest.split('?').next().unwrap();
    world.run(["broker", "--listen", address, "--data", "other"]).fails(1, address, "--listen");
    world.run(["broker", "--listen", "127.0.0.1:0", "--data", "data"]).fails(
        1,
        "in use by another broker",
        "",
    );
}

#[test]
fn a_broker_for_everybody_must_name_its_owners() {
    let world = World::new();
    world.run(["broker", "--listen", "0.0.0.0:0", "--data", "data"]).fails(2, "without owners", "--owners");
    world.run(["broker", "--listen", "nonsense", "--data", "data"]).fails(2, "nonsense", "");
}

#[test]
fn only_owners_create_topics_where_some_are_named() {
    let world = World::new();
    let (_, owner) = world.identity("owner");
    world.identity("other");
    let mut broker = Party::start(world.command([
        "broker",
        "--listen",
        "127.0.0.1:0",
        "--data",
        "data",
        "--link-file",
        "link",
        "--owners",
        &owner,
    ]));
    broker.wrote_lines(1);
    let link = std::fs::read_to_string(world.path("link")).unwrap();
    let create =
        |identity: &str| world.run(["topic", "create", "t", "--broker", link.trim(), "-i", identity]);
    create("other").fails(4, "may not do this", "owners");
    create("owner").ok();
    broker.signal("-TERM");
    broker.ok();
}

#[test]
fn random_bytes_to_the_port_disturb_nobody() {
    let feed = Feed::new(&["a"]);
    let (_, rest) = feed.link.split_once("://").unwrap();
    let address = rest.split('/').next().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut byte = 1_u32;
    for len in (1..1400).step_by(7) {
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                byte = byte.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (byte >> 24) as u8
            })
            .collect();
        socket.send_to(&bytes, address).unwrap();
    }
    publish(&feed, &["still here"]).ok();
    assert_eq!(read_all(&feed, "a", &[]).ok(), "still here\n");
}

/// Nobody confirmed the roster for as long as the policy says: `pub` says at once why nothing happens, and in the end
/// what is to be done.
#[test]
fn a_roster_that_nobody_confirmed_is_named_by_the_publisher() {
    let world = World::new();
    let broker = Broker::start(&world);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let owner = Arc::new(Identity::generate(&mut rand::rng()));
    world.write("owner", owner.to_text().as_str());
    let state = State::dir(world.path("state-owner")).unwrap();
    // Over as soon as it was signed.
    let policy = Policy { max_roster_age_ms: 1, ..Policy::default() };
    let to = broker.link.parse().unwrap();
    let create = TopicAdmin::create(&to, "t", owner.clone(), &state, policy, &[]);
    let admin = runtime.block_on(create).unwrap();
    let link = admin.link().clone();
    drop(admin);
    let text = link.to_string();
    let publish =
        || world.run(["pub", &text, "hello", "--timeout", "1s", "-i", "owner", "--state", "state-owner"]);
    let ran = publish();
    ran.fails(6, "no admin has confirmed the roster", "sealcast rotate");
    assert!(ran.stderr.contains("sealcast: nothing is sealed: no admin"), "{}", ran.stderr);

    runtime.block_on(async {
        let mut admin = TopicAdmin::open(&link, owner, &state).await.unwrap();
        admin.set_policy(Policy::default(), Duration::from_secs(5)).await.unwrap();
    });
    publish().ok();
}

#[test]
fn a_topic_that_was_half_made_is_not_lost() {
    let feed = Feed::new(&[]);
    let broker = feed.broker.link.clone();
    // With its owner one publisher too many.
    let mut args: Vec<String> = ["topic", "create", "half", "--broker", &broker].map(Into::into).into();
    for _ in 0..sealcast_proto::limits::MAX_ROLES {
        args.extend(["-p".into(), Identity::generate(&mut rand::rng()).public().to_string()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let ran = run_as(&feed, "owner", &args);
    ran.fails(1, "the topic was created, but not all of its members were added", "`sealcast topic add`");
    let (_, link) = ran.stderr.split_once("its link is ").unwrap();
    let reader = Identity::generate(&mut rand::rng()).public().to_string();
    let added = run_as(&feed, "owner", &["topic", "add", link.trim(), "-r", &reader]);
    added.ok();
    assert!(added.stderr.contains("added 1 reader"), "{}", added.stderr);
}
