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

/// As tests of the other binary are marked that run here too: there they are tests, here functions.
use tokio::main as wire;

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

/// What is promised to clients, whatever the log: tests of a broker, run at an edge that is alone with its server. Those that
/// are not named are about a broker's own disk, its process, or its connections.
macro_rules! promises {
    ($($file:literal $module:ident: $($test:ident),*;)*) => {
        $(
            #[path = $file]
            #[allow(dead_code, unused_imports, reason = "some of it is not run here")]
            mod $module;
        )*
        const PROMISES: &[runner::Test] = &[$($(
            (concat!("promises::", stringify!($module), "::", stringify!($test)), || at_an_edge($module::$test))
        ),*),*];
    };
}

promises! {
    "../it/publish.rs" publish:
        records_are_acknowledged_in_order_with_their_places,
        what_comes_again_on_another_connection_is_stored_once,
        the_fence_refuses_what_was_sealed_for_the_removed,
        a_newer_session_supersedes_the_older,
        a_header_needs_its_whole_table,
        large_tables_and_large_batches_pass,
        a_memory_topic_says_what_its_acknowledgements_mean;
    "../it/subscribe.rs" subscribe:
        each_subscriber_gets_its_own_slot_and_no_other,
        a_subscription_begins_where_it_is_asked_to,
        a_policy_is_delivered_in_the_bytes_that_were_signed,
        the_roster_comes_as_a_chain_that_can_be_followed,
        a_removed_member_is_served_up_to_its_removal,
        beacons_reach_those_at_the_head,
        a_backlog_larger_than_memory_keeps_comes_whole_and_in_order,
        what_retention_removed_is_announced,
        a_reader_that_retention_overtakes_is_told_what_it_missed,
        one_connection_carries_many_subscriptions,
        strangers_and_unknown_topics_get_the_same_answer,
        a_beacon_never_overtakes_what_it_speaks_of,
        five_stalled_readers_of_twenty_five_cost_the_others_nothing_and_resume_where_they_were;
    "../it/requests.rs" requests:
        a_topic_is_created_once_and_by_its_owner,
        where_owners_are_named_only_they_create_topics,
        an_owner_creates_only_so_many_topics,
        roster_entries_come_from_admins_and_twice_do_no_harm,
        the_roster_can_be_fetched,
        epochs_can_be_fetched_with_the_own_slot,
        tables_come_from_publishers_and_so_many_at_a_time,
        who_was_removed_fetches_no_later_epoch,
        prekeys_are_put_by_their_owners_and_only_newer_ones;
    "../it/heads.rs" heads:
        a_head_is_told_at_the_beginning_and_as_it_comes,
        a_removed_member_is_told_no_head_after_its_removal,
        a_subscription_begins_at_the_entry_that_the_owner_named,
        only_the_owners_head_lets_a_subscription_begin,
        only_an_admins_word_about_the_newest_entry_is_taken;
    "../it/watch.rs" watch:
        a_watch_shows_all_there_is_and_then_all_that_comes,
        only_officers_watch_and_only_while_they_are,
        a_newcomer_that_has_a_prekey_already_comes_with_it;
    "../it/restart.rs" restart:
        a_restart_changes_nothing_that_was_acknowledged;
    "../it/limits.rs" limits:
        whoever_publishes_too_fast_is_held_back_and_loses_nothing,
        a_table_is_only_so_large;
    "../it/hostile.rs" hostile:
        noise_on_every_kind_of_stream_harms_nobody,
        records_full_of_noise_are_refused,
        nobody_publishes_as_somebody_else;
    "../it/drain.rs" drain:
        what_was_sent_is_answered_and_everybody_is_told;
    "../it/replay.rs" replay:
        replays_that_nobody_reads_give_their_turns_back;
}

/// Runs a test whose worlds know of no cluster at an edge of one.
fn at_an_edge(test: fn()) {
    let servers = servers::Servers::start(1, "");
    world::around(Some(sealcast_broker::Servers::read(&servers.store()).expect("they are up")));
    let passed = std::panic::catch_unwind(test);
    world::around(None);
    if let Err(panic) = passed {
        std::panic::resume_unwind(panic);
    }
}

fn main() -> ExitCode {
    let own: &[runner::Test] = &tests![
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
        trims::three_servers_are_trimmed_and_edges_begin_and_go_on_there,
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
    ];
    runner::run(&[own, PROMISES].concat())
}
