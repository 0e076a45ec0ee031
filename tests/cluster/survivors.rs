use crate::crowd::{Crowd, PUBLISHERS, READERS};
use crate::net::Net;
use crate::parties::lines;
use crate::scene::Scene;

/// Lines that every member gets of a publisher that ends.
const ALL: usize = 20_000;
/// Readers of those.
const FEW: usize = 5;

/// Of the brokers or servers to which something happens one after another: the first, or all (minutes instead of one).
fn some(count: usize) -> std::ops::Range<usize> {
    let all = std::env::var("SEALCAST_SURVIVORS").is_ok_and(|which| which == "all");
    0..if all { count } else { 1 }
}

pub(crate) fn every_member_gets_every_line_whoever_is_killed() {
    let mut scene = Scene::on_loopback(PUBLISHERS, READERS);
    let crowd = Crowd::gather(&scene);
    for n in some(2) {
        let broker = scene.brokers[n].take().expect("it runs");
        crowd.outlives("kill -9 of a broker", || broker.kill());
        scene.start(n);
    }
    for n in some(3) {
        crowd.outlives("kill -9 of a server", || scene.servers.kill(n));
        scene.servers.restart(n);
        scene.servers.is_whole(n);
    }
    for n in 0..3 {
        crowd.outlives("restart of a server", || scene.servers.stop(n));
        scene.servers.restart(n);
        scene.servers.is_whole(n);
    }
    crowd.end();
}

pub(crate) fn every_member_gets_every_line_whichever_server_is_cut_off() {
    let Some(net) = Net::enter("survivors::every_member_gets_every_line_whichever_server_is_cut_off") else {
        return;
    };
    let scene = Scene::new(net.places(), PUBLISHERS, READERS);
    let crowd = Crowd::gather(&scene);
    // First those that a broker is connected to: it must notice.
    let mut order = [0, 1, 2];
    order.sort_by_key(|n| !scene.servers.serves(*n, "sealcast-broker"));
    for n in some(3).map(|at| order[at]) {
        crowd.outlives("cut of a server from all", || net.cut(n));
        crowd.outlives("its return", || net.join(n).unwrap());
        scene.servers.is_whole(n);
    }
    order.sort_by_key(|n| !scene.servers.serves(*n, "sealcast-broker"));
    for n in some(3).map(|at| order[at]) {
        crowd.outlives("cut of a server from its peers", || net.part(n));
        crowd.outlives("its return", || net.unite(n));
        scene.servers.is_whole(n);
    }
    crowd.end();
}

pub(crate) fn a_broker_that_stops_in_order_hands_its_clients_over() {
    let mut it = Scene::on_loopback(0, FEW);
    let count = ALL.to_string();
    let reader = |n| {
        let mut party = it.party(&format!("reader-{n}"), &["sub", &it.link, "-n", &count], None);
        party.says("subscribed at offset");
        party
    };
    let mut readers: Vec<_> = (0..FEW).map(reader).collect();
    let mut publisher = it.party("owner", &["pub", &it.link, "--lines"], None);
    let steps = 4;
    for step in 0..steps {
        publisher.write(&lines(step * ALL / steps..(step + 1) * ALL / steps));
        readers[0].wrote_lines(step * ALL / steps + 500);
        let broker = it.brokers[step % 2].take().expect("it runs");
        broker.signal("-TERM");
        let (status, _, said) = broker.end();
        assert!(status.success(), "{said:#?}");
        it.start(step % 2);
    }
    publisher.close_stdin();
    publisher.ok();
    for reader in readers {
        assert!(reader.ok() == lines(0..ALL), "byte for byte");
    }
}
