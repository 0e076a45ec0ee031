//! Integration tests, in one binary so that they link once: a commented `mod` line a file.

// The real binary in a directory of its own.
mod program;
// Brokers, publishers and subscribers as processes of their own.
mod parties;

// A file system small enough to fill up.
#[path = "../../broker/tests/it/disk.rs"]
mod disk;
// A bad network: a UDP path that loses, delays, reorders, duplicates, forgets its source ports.
mod relay;

// Which crate may never link which.
mod arrows;
// The command line: keys and the files they are in.
mod cli_keys;
// The command line: what people get wrong before anything is sent.
mod cli_mistakes;
// The command line: what the commands say and write, and how they fail, against a broker.
mod cli_feed;
// The command line: what a broker can see, and that whatever it changes is named.
mod cli_inspect;
// The command line: what a broker does right now.
mod cli_top;
// The command line: the demo.
mod cli_bench;
mod cli_demo;
// The main job with separate processes, whoever joins, leaves or is killed meanwhile.
mod e2e;
// Bad networks: every message once and in order, without the application doing anything.
mod network;
// The same where a cable is pulled and an address changes, with network namespaces.
mod namespaces;
// Running a broker: the page for operators word for word, limits that clients wait at, what logs and metrics never hold.
mod operations;
// The broker's disk fills up, or fails.
mod storage;
// What a broker holds for readers who do not read.
mod memory;
// A topic taken to another broker, and its members who follow it there.
mod backup;
// The broker's whole disk in the hands of members and former members.
mod whole_log;
// A broker that cannot just now: whoever it turns away comes again.
mod turned_away;
// A broker that does what a test tells it to.
mod hostile;
// Attacks on all of it, one named test each.
mod attack;
// A second implementation: what it wrote we read, what must be refused is refused by name.
mod vectors;
// The tests that docs/security.md names, and those that docs/mutations.md does.
mod security_page;
