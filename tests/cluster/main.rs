//! A cluster as its operators and users meet it: three nats-servers, two brokers, publishers and subscribers, each a process.
//!
//! ```text
//! cargo test --test cluster
//! SEALCAST_SURVIVORS=all cargo test --test cluster survivors     every broker, every server
//! ```
//! Without a nats-server these tests are reported as ignored; `SEALCAST_NATS_NEEDED=1` makes that a failure.

#[allow(dead_code, reason = "made for another binary")]
#[path = "../it/parties.rs"]
mod parties;
#[allow(dead_code, reason = "made for another binary")]
#[path = "../it/program.rs"]
mod program;
/// Reports tests as libtest does, and as ignored where there is no server.
#[path = "../../broker/tests/cluster/runner.rs"]
mod runner;
/// nats-servers.
#[path = "../../broker/tests/cluster/servers.rs"]
mod servers;

/// Publishers and readers.
mod crowd;
/// Namespaces.
mod net;
/// `docs/cluster.md`, word for word.
mod page;
/// Servers, brokers, a topic.
mod scene;
/// Whatever is killed or cut off.
mod survivors;

use std::process::ExitCode;

fn main() -> ExitCode {
    runner::run(&[
        ("page::the_page_works_word_for_word", page::the_page_works_word_for_word),
        (
            "survivors::every_member_gets_every_line_whoever_is_killed",
            survivors::every_member_gets_every_line_whoever_is_killed,
        ),
        (
            "survivors::every_member_gets_every_line_whichever_server_is_cut_off",
            survivors::every_member_gets_every_line_whichever_server_is_cut_off,
        ),
        (
            "survivors::a_broker_that_stops_in_order_hands_its_clients_over",
            survivors::a_broker_that_stops_in_order_hands_its_clients_over,
        ),
    ])
}
