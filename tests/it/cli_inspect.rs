//! `sealcast inspect`: what it shows of a real topic, and what it names of a hostile broker's.

use std::sync::Arc;

use sealcast::{Role, TopicId};
use sealcast_broker::store::{FjallLog, FjallOptions, Log};
use sealcast_proto::frame::{Reply, Request, RosterDelivery};
use sealcast_proto::object::Genesis;
use sealcast_proto::record::Record;
use sealcast_proto::roster::Op;
use sealcast_proto::{Offset, Signed};
use serde_json::{Value, json};

use crate::attack::real::Real;
use crate::attack::world::{OWNER, identity, key, now_ms};
use crate::hostile::{Answer, Filter};
use crate::parties::Feed;
use crate::program::{Ran, World};

const PUBLISHER: u8 = 4;

fn run_as(feed: &Feed, name: &str, args: &[&str]) -> Ran {
    let state = format!("state-{name}");
    feed.world.run([args, &["-i", name, "--state", &state]].concat())
}

fn parsed(ran: &Ran) -> Value {
    serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr))
}

/// The values under these keys, as an array.
fn pick(object: &Value, keys: &[&str]) -> Value {
    keys.iter().map(|key| object[key].clone()).collect()
}

/// Two epochs of the owner with a removal, an addition and a rotation between them, and one of another publisher.
fn eventful() -> Feed {
    let feed = Feed::new(&["a", "b"]);
    let publish = |name: &str, args: &[&str]| {
        run_as(&feed, name, &[&["pub", feed.link.as_str()], args].concat()).ok();
    };
    run_as(&feed, "a", &["prekey", &feed.link]).ok();
    publish(
        "owner",
        &["-H", "hidden-header=hidden-value", "--content-type", "hidden/type", "hidden-payload"],
    );
    feed.member("remove", "b");
    let (_, publisher) = feed.world.identity("p");
    run_as(&feed, "owner", &["topic", "add", &feed.link, "-r", &publisher, "--role", "publisher"]).ok();
    run_as(&feed, "owner", &["rotate", &feed.link]).ok();
    publish("p", &["hidden-too"]);
    publish("owner", &["hidden-as-well"]);
    feed
}

/// However short a member's first visit, publishers do not wrap to its static key after it.
#[test]
fn who_only_looks_in_leaves_a_prekey() {
    let feed = Feed::new(&["a", "b"]);
    assert_eq!(run_as(&feed, "a", &["sub", &feed.link, "--exit-at-end"]).ok(), "");
    let ran = run_as(&feed, "owner", &["inspect", &feed.link, "--json"]);
    ran.ok();
    let json = parsed(&ran);
    let of = |name: &str| {
        let members = json["roster"]["members"].as_array().unwrap();
        let member = members.iter().find(|member| member["identity"] == feed.key(name)).unwrap();
        member["prekey"]["id"].is_u64()
    };
    assert!(of("a") && !of("b"), "{json:#}");
}

#[test]
fn an_admin_is_shown_all_of_a_topic() {
    let mut feed = eventful();
    let ran = run_as(&feed, "owner", &["inspect", &feed.link, "--json", "--records"]);
    ran.ok();
    let json = parsed(&ran);
    assert_eq!(json["findings"], json!([]));
    assert_eq!(
        pick(&json, &["name", "owner", "seen_by", "role", "complete", "level", "first_offset"]),
        json!(["prices", feed.key("owner"), feed.key("owner"), "admin", true, "durable", 0])
    );
    // Entries 1 to 4; a header, a batch and an END of the owner's twice and of p's once.
    assert_eq!(pick(&json, &["records_read", "next_offset"]), json!([13, 13]));

    let roster = &json["roster"];
    assert_eq!(pick(roster, &["seq", "members_ever"]), json!([4, 4]));
    let members: Vec<_> = roster["members"].as_array().unwrap().iter().collect();
    // Newcomers of one entry have no order among themselves.
    let gone = &roster["entries"][1]["changed"][0]["index"];
    let stays = 3 - gone.as_u64().unwrap();
    let keys = ["index", "identity", "role", "since_entry"];
    let listed: Vec<_> = members.iter().map(|member| pick(member, &keys)).collect();
    assert_eq!(
        Value::from(listed),
        json!([
            [0, feed.key("owner"), "admin", 0],
            [stays, feed.key("a"), "reader", 1],
            [3, feed.key("p"), "publisher", 3]
        ])
    );
    assert!(members.iter().all(|member| member["prekey"]["id"].is_u64()), "all were there: {members:#?}");
    let keys = ["seq", "offset", "added", "removed", "fence", "rotate", "policy"];
    let entries: Vec<_> =
        roster["entries"].as_array().unwrap().iter().map(|entry| pick(entry, &keys)).collect();
    assert_eq!(
        Value::from(entries),
        json!([
            [1, 0, 2, 0, false, false, false],
            [2, 4, 0, 1, true, false, false],
            [3, 5, 1, 0, false, false, false],
            [4, 6, 0, 0, false, true, false]
        ])
    );
    let removed = json!([{ "how": "removed", "index": gone, "identity": feed.key("b"), "role": null }]);
    assert_eq!(roster["entries"][1]["changed"], removed);
    assert_eq!(roster["entries"][1]["signer"], feed.key("owner"));

    // By publisher, in the order of their keys.
    let publishers = json["publishers"].as_array().unwrap();
    let of = |name: &str| publishers.iter().find(|one| one["publisher"] == feed.key(name)).unwrap();
    let keys = [
        "roster_entry",
        "offset",
        "mode",
        "slots",
        "table_bytes",
        "batches",
        "messages",
        "first_seq",
        "next_seq",
        "first_batch_offset",
        "last_batch_offset",
        "ended",
    ];
    let epochs = |name: &str| {
        let epochs = of(name)["epochs"].as_array().unwrap().iter();
        Value::from(epochs.map(|epoch| pick(epoch, &keys)).collect::<Vec<_>>())
    };
    assert_eq!(
        epochs("owner"),
        json!([
            [1, 1, "fresh", 3, 168, 2, 1, 0, 1, 2, 3, true],
            [4, 10, "fresh", 3, 168, 2, 1, 1, 2, 11, 12, true]
        ])
    );
    assert_eq!(epochs("p"), json!([[4, 7, "fresh", 3, 168, 2, 1, 0, 1, 8, 9, true]]));
    assert_eq!(
        pick(of("owner"), &["batches", "messages", "epochs_in_all", "role"]),
        json!([4, 2, 2, "admin"])
    );
    // The empty END: its length prefix and the tag.
    assert_eq!(of("owner")["smallest_bytes"], 20);

    nothing_hidden_shows(&ran);
    as_the_broker_stores(&mut feed, &json);
}

/// The same as the broker's own disk shows, byte for byte in sizes and places.
fn as_the_broker_stores(feed: &mut Feed, json: &Value) {
    feed.broker.stop();
    let (log, _) = FjallLog::open(feed.broker.data(), FjallOptions::default()).unwrap();
    let topic: TopicId = json["topic"].as_str().unwrap().parse().unwrap();
    let stored = log.read(&topic, Offset(0), 1 << 20).unwrap();
    let stored: Vec<_> = stored
        .into_iter()
        .map(|stored| match Record::decode(stored.record).unwrap() {
            Record::Roster(entry) => json!([stored.offset.0, "roster", entry.peek().unwrap().seq.0]),
            Record::Header(header) => json!([stored.offset.0, "header", header.peek().unwrap().epoch.0]),
            Record::Batch(batch) => json!([stored.offset.0, "batch", batch.ciphertext().0.len()]),
        })
        .collect();
    let shown = json["records"].as_array().unwrap().iter().map(|record| {
        let number = match record["kind"].as_str().unwrap() {
            "roster" => "entry",
            "header" => "epoch",
            _ => "ciphertext_bytes",
        };
        pick(record, &["offset", "kind", number])
    });
    assert_eq!(Value::from(stored), Value::from(shown.collect::<Vec<_>>()));
}

#[track_caller]
fn nothing_hidden_shows(ran: &Ran) {
    let all = format!("{}{}", String::from_utf8(ran.stdout.clone()).unwrap(), ran.stderr);
    assert!(!all.contains("hidden"), "{all}");
}

#[test]
fn a_reader_is_shown_the_log_but_not_the_readers() {
    let feed = eventful();
    let json = |name: &str| {
        let ran = run_as(&feed, name, &["inspect", &feed.link, "--json"]);
        ran.ok();
        nothing_hidden_shows(&ran);
        parsed(&ran)
    };
    let (reader, admin) = (json("a"), json("owner"));
    assert_eq!(reader["findings"], json!([]));
    assert_eq!(reader["role"], Value::Null);
    let roster = &reader["roster"];
    assert_eq!(
        pick(roster, &["seq", "hash", "members_ever"]),
        pick(&admin["roster"], &["seq", "hash", "members_ever"])
    );
    assert_eq!(roster["members"], Value::Null);
    let officers: Vec<_> =
        roster["officers"].as_array().unwrap().iter().map(|officer| officer["identity"].clone()).collect();
    assert_eq!(Value::from(officers), json!([feed.key("owner"), feed.key("p")]));
    let entries: Vec<_> = roster["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| pick(entry, &["added", "removed", "fence"]))
        .collect();
    assert_eq!(
        Value::from(entries),
        json!([[2, null, false], [0, null, true], [1, null, false], [0, null, false]])
    );
    // Not even b, whom the admins removed.
    assert!(!reader.to_string().contains(&feed.key("b")));
    // What was published is the same to everybody, but for one's own slots.
    let bare = |json: &Value| {
        let mut publishers = json["publishers"].clone();
        let epochs = publishers.as_array_mut().unwrap().iter_mut();
        for epoch in epochs.flat_map(|publisher| publisher["epochs"].as_array_mut().unwrap()) {
            assert!(epoch["own_slot"].as_str().unwrap().starts_with("prekey "), "{epoch}");
            epoch["own_slot"] = Value::Null;
        }
        publishers
    };
    assert_eq!(bare(&reader), bare(&admin));
}

#[test]
fn people_are_shown_the_same_in_words() {
    let feed = eventful();
    let ran = run_as(&feed, "owner", &["inspect", &feed.link, "--records"]);
    let text = ran.ok();
    for wanted in [
        "seen by",
        "removed 1 member",
        "asked for new keys",
        "everything holds",
        "what the broker cannot see",
        "payloads, headers and content types",
        "holds between",
        &format!("publisher {}, admin", feed.key("owner")),
        "  in all: 2 epochs, 4 batches, 2 messages (seq 0 to 1)",
    ] {
        assert!(text.contains(wanted), "{wanted} in {text}");
    }
    assert_eq!(
        text.lines().filter(|line| line.contains(" batch 1, 0 messages, 20 B, END")).count(),
        3,
        "{text}"
    );
    assert_eq!(ran.stderr, "");
    nothing_hidden_shows(&ran);
    let ran = run_as(&feed, "a", &["inspect", &feed.link]);
    assert!(
        ran.ok().contains("members above reader") && ran.stderr.starts_with("hint: readers are not shown")
    );
    nothing_hidden_shows(&ran);
}

#[test]
fn the_removed_and_strangers() {
    let feed = eventful();
    // Who was removed sees what came before, as with every other command.
    let ran = run_as(&feed, "b", &["inspect", &feed.link, "--json"]);
    ran.ok();
    let json = parsed(&ran);
    assert_eq!(
        pick(&json, &["removed_by_entry", "complete", "records_read", "findings"]),
        json!([2, false, 5, []])
    );
    feed.world.identity("stranger");
    run_as(&feed, "stranger", &["inspect", &feed.link]).fails(4, "is not a member", "with -i");
    feed.world.run(["inspect", &feed.link]).fails(2, "-i FILE is missing", "keygen");
}

/// Two epochs with two batches each and a removal between them, behind a hostile broker.
async fn staged() -> (Real, World) {
    let mut real = Real::new(&[(2, Role::Reader), (3, Role::Reader), (PUBLISHER, Role::Publisher)]).await;
    let topic = real.publisher(PUBLISHER, "publisher").await.unwrap();
    topic.publish("one").await.unwrap();
    topic.publish("two").await.unwrap();
    let soon = std::time::Duration::from_secs(30);
    real.admin.remove(&[key(3)], soon).await.unwrap();
    topic.publish("three").await.unwrap();
    topic.publish("four").await.unwrap();
    topic.close().await.unwrap();
    let world = World::new();
    for n in [OWNER, 2] {
        world.write(&format!("id-{n}"), identity(n).to_text().as_bytes());
    }
    (real, world)
}

fn inspect(real: &Real, world: &World, n: u8, more: &[&str]) -> Ran {
    let (link, id) = (real.link().to_string(), format!("id-{n}"));
    world.run([&["inspect", link.as_str(), "-i", id.as_str()], more].concat())
}

/// From now on the log of every subscription passes this filter.
fn twist(real: &Real, filter: impl Fn() -> Filter + Send + 'static) {
    real.hostile.turn(move |_, request| match request {
        Request::Subscribe(_) => Answer::Relay(filter()),
        _ => Answer::honest(),
    });
}

/// A filter for the batches only, which are counted from 0.
fn batches(change: impl Fn(usize, Offset, Vec<u8>) -> Vec<Reply> + Send + Copy + 'static) -> Filter {
    let mut count = 0;
    Box::new(move |reply| match reply {
        Reply::Record(offset, bytes) => {
            count += 1;
            change(count - 1, offset, bytes.to_vec())
        }
        other => vec![other],
    })
}

fn record(offset: Offset, bytes: Vec<u8>) -> Reply {
    Reply::Record(offset, bytes.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_broker_changes_is_named() {
    let (real, world) = staged().await;
    let expect = |what: &str, kinds: &[&str]| {
        for n in [OWNER, 2] {
            let ran = inspect(&real, &world, n, &["--json"]);
            let json = parsed(&ran);
            let found: Vec<_> =
                json["findings"].as_array().unwrap().iter().map(|finding| finding["kind"].clone()).collect();
            assert_eq!(found, kinds, "{what}, to {n}: {:#}", json["findings"]);
            match kinds.first() {
                None => assert_eq!(ran.code, Some(0), "{}", ran.stderr),
                Some(kind) => {
                    ran.fails(5, "that the broker shows do", "do not trust this broker");
                    assert!(ran.stderr.contains(&format!("sealcast: {kind}: ")), "{}", ran.stderr);
                }
            }
        }
    };
    expect("nothing changed", &[]);

    let altered = || {
        batches(|at, offset, mut bytes| {
            if at == 1 {
                *bytes.last_mut().unwrap() ^= 1;
            }
            vec![record(offset, bytes)]
        })
    };
    twist(&real, altered);
    // The batch counts as if it had not come: the next header says that there were two.
    expect("a ciphertext", &["signature", "missing"]);

    let dropped = || batches(|at, offset, bytes| if at == 0 { vec![] } else { vec![record(offset, bytes)] });
    twist(&real, dropped);
    expect("a batch dropped", &["missing"]);

    let replayed = || {
        batches(|at, offset, bytes| match at {
            2 => vec![record(offset, bytes.clone()), record(offset, bytes)],
            _ => vec![record(offset, bytes)],
        })
    };
    twist(&real, replayed);
    expect("a batch twice", &["replayed"]);

    // The removal: what follows names an entry that never came.
    let withheld = || -> Filter {
        Box::new(|reply| match reply {
            Reply::Roster(delivery) if delivery.entry.peek().unwrap().seq.0 == 2 => vec![],
            other => vec![other],
        })
    };
    twist(&real, withheld);
    let json = parsed(&inspect(&real, &world, 2, &["--json"]));
    let texts = json["findings"].to_string();
    assert!(texts.contains("the roster ends at entry 1 of 2"), "{texts}");
    assert!(texts.contains("names a roster entry that is not here yet"), "{texts}");

    // Another topic altogether.
    let another = || -> Filter {
        Box::new(|reply| match reply {
            Reply::Start(mut start) => {
                let genesis = Genesis { nonce: [9; 32], ..start.genesis.peek().unwrap() };
                start.genesis = Signed::sign(&genesis, identity(OWNER).signing_key());
                vec![Reply::Start(start)]
            }
            other => vec![other],
        })
    };
    twist(&real, another);
    expect("another genesis", &["genesis"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_roster_entry_is_named_in_words() {
    let (real, world) = staged().await;
    let op = Op::Add { identity: key(66), role: Role::Admin };
    let bundle = real.admin.roster().sign(&[op], &identity(OWNER), now_ms()).unwrap();
    let forged = Signed::sign(&bundle.entry.peek().unwrap(), identity(66).signing_key());
    let offset = Offset(1_000);
    let delivery =
        RosterDelivery { offset, entry: forged, ops: Some(bundle.ops), roles: bundle.roles, policy: None };
    let delivery = Arc::new(delivery);
    twist(&real, move || {
        let delivery = delivery.clone();
        Box::new(move |reply| match reply {
            Reply::AtHead { .. } => vec![Reply::Roster((*delivery).clone()), reply],
            other => vec![other],
        })
    });
    let ran = inspect(&real, &world, OWNER, &["--records"]);
    ran.fails(5, "1 thing that the broker shows does not hold", "show this to the topic's owner");
    assert!(
        ran.stderr.contains(
            "sealcast: signature: the roster: the signature on a roster entry does not hold (offset 1000)"
        ),
        "{}",
        ran.stderr
    );
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(text.contains("DOES NOT HOLD") && text.contains("1 THING DOES NOT HOLD"), "{text}");
    assert!(!text.contains(&key(66).to_string()), "nobody joins by it: {text}");
}

/// Beacons are heard while somebody listens; one that names more than the broker delivers gives it away.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_withheld_from_a_listener_is_named() {
    let (real, world) = staged().await;
    let topic = real.publisher(PUBLISHER, "publisher").await.unwrap();
    topic.publish("five").await.unwrap();
    topic.publish("six").await.unwrap();
    // It lives, and says so every 100 ms; the command ends as soon as it was heard.
    let heard = inspect(&real, &world, 2, &["--json", "--listen", "5m"]);
    heard.ok();
    let json = parsed(&heard);
    assert!(json["publishers"][0]["beacons"].as_u64() >= Some(1), "{json:#}");

    let last = || batches(|at, offset, bytes| if at == 6 { vec![] } else { vec![record(offset, bytes)] });
    twist(&real, last);
    let ran = inspect(&real, &world, 2, &["--json", "--listen", "5m"]);
    ran.fails(5, "that the broker shows do", "do not trust this broker");
    let finding = &parsed(&ran)["findings"][0];
    assert_eq!(finding["kind"], "withheld", "{finding}");
    assert!(finding["text"].as_str().unwrap().starts_with("batch 1 of epoch"), "{finding}");
    topic.close().await.unwrap();
}
