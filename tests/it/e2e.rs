//! The main job with separate processes: what each member gets, whoever joins, leaves or is killed meanwhile.

use std::ffi::OsStr;

use crate::parties::{Feed, lines};

const ALL: usize = 100_000;
const HALF: usize = ALL / 2;

#[test]
fn three_subscribers_get_a_hundred_thousand_lines_byte_for_byte() {
    let feed = Feed::new(&["a", "b", "c"]);
    let input = feed.world.path("input");
    std::fs::write(&input, lines(0..ALL)).unwrap();
    let count = ALL.to_string();
    let subs = ["a", "b", "c"].map(|name| feed.sub(name, &["-n", &count]));
    let publisher = feed.publish("owner", &["--lines", "--file", input.to_str().unwrap()]);
    publisher.ok();
    for sub in subs {
        assert!(sub.ok() == lines(0..ALL), "byte for byte");
    }
}

#[test]
fn a_removed_member_holds_exactly_the_first_half_and_a_newcomer_the_second() {
    let mut feed = Feed::new(&["stays", "goes"]);
    let count = ALL.to_string();
    let mut stays = feed.sub("stays", &["-n", &count]);
    let mut goes = feed.sub("goes", &[]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    publisher.write(&lines(0..HALF));
    stays.wrote_lines(HALF);
    goes.wrote_lines(HALF);

    let said = feed.member("remove", "goes").join("\n");
    assert!(!said.contains("not heard"), "the one live publisher confirmed: {said}");
    feed.member("add", "comes");
    let comes = feed.sub("comes", &["-n", &HALF.to_string()]);
    publisher.write(&lines(HALF..ALL));
    publisher.close_stdin();
    publisher.ok();

    assert!(stays.ok() == lines(0..ALL));
    assert!(comes.ok() == lines(HALF..ALL));
    let (status, got, said) = goes.end();
    assert_eq!(status.code(), Some(4), "{said:#?}");
    assert!(got == lines(0..HALF));

    // Nothing of it is at the broker, neither while it runs nor after.
    feed.broker.stop();
    assert_eq!(files_that_hold(feed.broker.data(), b"of a feed that somebody wants"), 0);
    // The search itself would find it: the key file of the broker is there in the clear.
    assert!(files_that_hold(feed.broker.data(), b"SEAL-SECRET-KEY-1") > 0);
}

#[test]
fn a_broker_killed_midway_loses_nothing_and_repeats_nothing() {
    let mut feed = Feed::new(&["a", "b"]);
    let count = ALL.to_string();
    let mut a = feed.sub("a", &["-n", &count]);
    let b = feed.sub("b", &["-n", &count]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    for part in 0..4 {
        publisher.write(&lines(part * ALL / 4..(part + 1) * ALL / 4));
        // Somewhere in the middle of this part.
        a.wrote_lines(part * ALL / 4 + 1000);
        feed.broker.kill();
        feed.broker.restart(&feed.world);
    }
    publisher.close_stdin();
    publisher.ok();
    assert!(a.ok() == lines(0..ALL));
    assert!(b.ok() == lines(0..ALL));
}

#[test]
fn a_killed_subscriber_resumes_and_its_file_is_exact() {
    let feed = Feed::new(&["a"]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    let out = feed.world.path("out");
    let out_arg = out.to_str().unwrap();
    let mut first = true;
    for part in 0..5 {
        let from = if first { "earliest" } else { "resume" };
        let sub = feed.sub("a", &["--from", from, "-o", out_arg]);
        first = false;
        publisher.write(&lines(part * ALL / 5..(part + 1) * ALL / 5));
        // Killed somewhere in the middle: whatever it wrote, and whatever it had saved of it.
        while std::fs::metadata(&out).unwrap().len() < lines(0..part * ALL / 5 + 5000).len() as u64 {
            std::thread::yield_now();
        }
        sub.kill();
    }
    publisher.close_stdin();
    publisher.ok();
    let rest = feed.sub("a", &["--from", "resume", "-o", out_arg, "--exit-at-end"]);
    rest.ok();
    assert!(std::fs::read(&out).unwrap() == lines(0..ALL), "no loss, no repeat");
}

#[test]
fn a_subscriber_stopped_in_an_orderly_way_repeats_nothing() {
    let feed = Feed::new(&["a"]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    let mut got = Vec::new();
    for part in 0..4 {
        let mut sub = feed.sub("a", &["--from", if part == 0 { "earliest" } else { "resume" }]);
        publisher.write(&lines(part * 1000..(part + 1) * 1000));
        sub.wrote_lines(500);
        sub.signal("-INT");
        let (_, out, _) = sub.end();
        got.extend(out);
    }
    publisher.close_stdin();
    publisher.ok();
    got.extend(feed.sub("a", &["--from", "resume", "--exit-at-end"]).ok());
    assert!(got == lines(0..4000), "{} bytes", got.len());
}

#[test]
fn a_killed_publisher_leaves_what_was_acknowledged_once_and_goes_on() {
    let feed = Feed::new(&["a"]);
    let mut sub = feed.sub("a", &[]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    publisher.write(&lines(0..HALF));
    sub.wrote_lines(1000);
    publisher.kill();
    let mut next = feed.publish("owner", &["--lines"]);
    next.write(b"the next run\n");
    next.close_stdin();
    next.ok();
    // All of it, read once more by somebody who starts at the beginning.
    sub.signal("-INT");
    let (_, live, _) = sub.end();
    let again = feed.sub("owner", &["--from", "earliest", "--exit-at-end"]).ok();
    let text = String::from_utf8(again).unwrap();
    let (before, last) = text.split_at(text.len() - "the next run\n".len());
    assert_eq!(last, "the next run\n");
    let whole = String::from_utf8(lines(0..HALF)).unwrap();
    assert!(whole.starts_with(before), "a part from the beginning, each line once, in order");
    assert!(before.lines().count() >= 1000);
    assert!(text.as_bytes().starts_with(&live), "the live subscriber saw the same");
}

#[test]
fn a_member_that_was_removed_and_comes_back_reads_nothing_of_the_time_between() {
    let feed = Feed::new(&["a"]);
    let one = |text: &str| {
        feed.publish("owner", &[text]).ok();
    };
    one("before");
    feed.member("remove", "a");
    one("between");
    feed.member("add", "a");
    one("after");
    let (status, out, said) = feed.sub("a", &["--from", "earliest", "--exit-at-end"]).end();
    let text = String::from_utf8(out).unwrap();
    assert!(!text.contains("between") && text.contains("after"), "{status}: {text} {said:#?}");
}

/// How many files below `dir` hold these bytes.
fn files_that_hold(dir: &std::path::Path, bytes: &[u8]) -> usize {
    let mut found = 0;
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found += files_that_hold(&entry.path(), bytes);
        } else {
            let content = std::fs::read(entry.path()).unwrap();
            found += usize::from(content.windows(bytes.len()).any(|window| window == bytes));
        }
    }
    found
}

#[test]
fn the_keys_of_a_topic_rotate_on_demand() {
    let feed = Feed::new(&["a"]);
    let mut sub = feed.sub("a", &["--json"]);
    let mut publisher = feed.publish("owner", &["--lines"]);
    publisher.write(b"one\n");
    sub.wrote_lines(1);
    let owner = feed.world.path("owner");
    let state = feed.world.path("state-owner");
    let rotate = [
        "rotate".as_ref(),
        feed.link.as_ref(),
        OsStr::new("-i"),
        owner.as_ref(),
        "--state".as_ref(),
        state.as_ref(),
    ];
    feed.world.run(rotate).ok();
    publisher.write(b"two\n");
    sub.wrote_lines(2);
    publisher.close_stdin();
    publisher.ok();
    sub.signal("-INT");
    let (_, out, _) = sub.end();
    let epochs: Vec<String> = String::from_utf8(out)
        .unwrap()
        .lines()
        .filter_map(|line| line.split("\"epoch\":").nth(1))
        .map(|rest| rest.chars().take_while(char::is_ascii_digit).collect())
        .collect();
    assert_eq!(epochs.len(), 2, "{epochs:?}");
    assert_ne!(epochs[0], epochs[1]);
}
