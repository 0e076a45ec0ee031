use std::ffi::{OsStr, OsString};
use std::time::Instant;

use crate::parties::{Party, lines};
use crate::program::World;
use crate::servers::Servers;

/// Lines that every member gets.
const ALL: usize = 20_000;
const READERS: usize = 5;

/// Two brokers on three servers, and a topic whose link names both.
struct Cluster {
    world: World,
    servers: Servers,
    brokers: [Option<Party>; 2],
    listen: [String; 2],
    link: String,
}

impl Cluster {
    fn new() -> Self {
        let (world, servers) = (World::new(), Servers::start(3, ""));
        let listen = ["127.0.0.1:0".to_owned(), "127.0.0.1:0".to_owned()];
        let mut it = Self { world, servers, brokers: [None, None], listen, link: String::new() };
        let links = [it.start(0), it.start(1)];
        let split = |link: &String| {
            let (host, keys) =
                link.strip_prefix("sealcast://").and_then(|rest| rest.split_once('?')).expect("a link");
            (host.to_owned(), keys.to_owned())
        };
        let [(one, its), (two, others)] = [split(&links[0]), split(&links[1])];
        let both = format!("sealcast://{one},{two}?{its}&{others}");
        it.listen = [one, two];
        let (owner, _) = it.world.identity("owner");
        let mut args: Vec<OsString> =
            ["topic", "create", "prices", "--broker", &both, "-i"].map(Into::into).into();
        args.extend([owner.into(), "--state".into(), it.world.path("state-owner").into()]);
        for n in 0..READERS {
            let (_, key) = it.world.identity(&format!("reader-{n}"));
            args.extend(["-r".into(), key.into()]);
        }
        it.link = it.world.run(args).ok().trim().to_owned();
        it
    }

    /// Starts a broker (again); its link.
    fn start(&mut self, n: usize) -> String {
        let data = self.world.path(format!("data-{n}"));
        let store = self.servers.store();
        let args = ["broker", "--listen", &self.listen[n], "--store", &store, "--data"].map(OsStr::new);
        let mut command = self.world.command(args);
        command.arg(data);
        let mut broker = Party::start(command);
        let link = broker.wrote_line();
        self.brokers[n] = Some(broker);
        link
    }

    fn party(&self, name: &str, args: &[&str]) -> Party {
        let mut command = self.world.command(args.iter().map(OsStr::new));
        command
            .arg("-i")
            .arg(self.world.path(name))
            .arg("--state")
            .arg(self.world.path(format!("state-{name}")));
        Party::start(command)
    }

    fn readers(&self) -> Vec<Party> {
        let count = ALL.to_string();
        let reader = |n| {
            let mut party = self.party(&format!("reader-{n}"), &["sub", &self.link, "-n", &count]);
            party.says("subscribed at offset");
            party
        };
        (0..READERS).map(reader).collect()
    }
}

pub(crate) fn every_member_gets_every_line_whoever_is_killed() {
    let mut it = Cluster::new();
    let mut readers = it.readers();
    let mut publisher = it.party("owner", &["pub", &it.link, "--lines"]);
    let steps = 5;
    for step in 0..steps {
        publisher.write(&lines(step * ALL / steps..(step + 1) * ALL / steps));
        // Somewhere in the middle of this part.
        readers[0].wrote_lines(step * ALL / steps + 500);
        let begun = Instant::now();
        match step {
            0 | 1 => {
                it.brokers[step].take().expect("it runs").kill();
                readers[0].wrote_lines(step * ALL / steps + ALL / steps);
                it.start(step);
            }
            2 | 3 => {
                it.servers.kill(step - 2);
                readers[0].wrote_lines((step + 1) * ALL / steps);
                it.servers.restart(step - 2);
            }
            _ => {}
        }
        println!("step {step}: on after {:?}", begun.elapsed());
    }
    publisher.close_stdin();
    publisher.ok();
    for reader in readers {
        assert!(reader.ok() == lines(0..ALL), "byte for byte");
    }
}

pub(crate) fn a_broker_that_stops_in_order_hands_its_clients_over() {
    let mut it = Cluster::new();
    let mut readers = it.readers();
    let mut publisher = it.party("owner", &["pub", &it.link, "--lines"]);
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
