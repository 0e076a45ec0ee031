//! Brokers as edges of a cluster: real nats-servers on loopback, brokers in this process, clients by hand.
//!
//! ```text
//! cargo test -p sealcast-broker --test cluster
//! SEALCAST_RACE_TRIES=10000 cargo test -p sealcast-broker --test cluster race
//! ```
//! Without a nats-server its tests are reported as ignored; `SEALCAST_NATS_NEEDED=1` makes that a failure.

#![allow(unreachable_pub)]

/// Certificates by hand.
mod certificates;
/// A publisher and an admin by hand.
#[path = "../it/hand.rs"]
mod hand;
/// Reports tests as libtest does, and as ignored where there is no server.
mod runner;
/// nats-servers.
mod servers;
/// A broker in a temporary directory, and connections to it.
#[allow(dead_code, unreachable_pub, reason = "made for another binary")]
#[path = "../it/world.rs"]
mod world;

/// Who is let in, and who is not.
mod credentials;
/// Two edges are one broker to their clients.
mod edges;
/// Servers that die.
mod failures;
/// Removals at one edge while another takes batches.
mod race;
/// Retention.
mod trims;

use std::process::ExitCode;

/// Runs a test's future to its end.
fn block(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(test);
}

macro_rules! tests {
    ($($module:ident :: $test:ident),* $(,)?) => {
        [$((concat!(stringify!($module), "::", stringify!($test)), || block($module::$test()))),*]
    };
}

fn main() -> ExitCode {
    runner::run(&tests![
        edges::what_one_edge_takes_every_edge_delivers_alike,
        edges::a_repeat_at_another_edge_is_stored_once,
        edges::the_fence_holds_across_edges,
        edges::a_newer_session_at_another_edge_supersedes_the_older,
        edges::of_two_entries_with_one_number_one_wins_everywhere,
        edges::an_edge_with_an_empty_disk_makes_the_same_view,
        edges::an_edge_that_was_stopped_goes_on_where_it_was,
        trims::streams_shrink_and_every_edge_agrees_what_is_left,
        trims::an_edge_that_missed_what_was_trimmed_goes_on_behind_it,
        trims::parts_that_nothing_names_go,
        edges::large_records_and_tables_pass_in_parts,
        edges::signs_of_life_come_behind_what_they_speak_of,
        edges::heads_and_prekeys_are_known_everywhere,
        edges::a_view_of_other_streams_is_refused,
        edges::streams_that_are_not_as_they_must_be_are_refused,
        credentials::an_edge_says_who_it_is,
        credentials::an_edge_needs_no_more_rights_than_the_manual_gives_it,
        credentials::servers_and_edges_show_each_other_certificates,
        credentials::an_edge_that_is_locked_out_loses_nothing_and_comes_back_with_another_password,
        failures::every_acknowledged_batch_stands_once_whichever_server_dies,
        failures::an_edge_without_its_cluster_sends_its_clients_away_and_comes_back,
        race::no_edge_takes_an_older_epoch_behind_a_removal,
    ])
}
