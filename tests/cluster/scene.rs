//! Two brokers on three servers, and a topic whose link names both.

use std::ffi::{OsStr, OsString};

use crate::parties::Party;
use crate::program::World;
use crate::servers::{Place, Servers};

pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) servers: Servers,
    pub(crate) brokers: [Option<Party>; 2],
    pub(crate) link: String,
    listen: [String; 2],
}

impl Scene {
    /// Three servers beside each other.
    pub(crate) fn on_loopback(publishers: usize, readers: usize) -> Self {
        Self::new((0..3).map(|_| Place::loopback()).collect(), publishers, readers)
    }

    /// With so many publishers (`publisher-0` …) and readers (`reader-0` …) in the topic.
    pub(crate) fn new(places: Vec<Place>, publishers: usize, readers: usize) -> Self {
        let (world, servers) = (World::new(), Servers::at(places, "", ""));
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
        for (flag, name, count) in [("-p", "publisher", publishers), ("-r", "reader", readers)] {
            for n in 0..count {
                let (_, key) = it.world.identity(&format!("{name}-{n}"));
                args.extend([flag.into(), key.into()]);
            }
        }
        it.link = it.world.run(args).ok().trim().to_owned();
        it
    }

    /// Starts a broker (again); its link.
    pub(crate) fn start(&mut self, n: usize) -> String {
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

    /// `pub` or `sub`, as one of the members; what becomes of its stdout, where that is not the party's.
    pub(crate) fn party(&self, name: &str, args: &[&str], stdout: Option<std::io::PipeWriter>) -> Party {
        let mut command = self.world.command(args.iter().map(OsStr::new));
        command
            .arg("-i")
            .arg(self.world.path(name))
            .arg("--state")
            .arg(self.world.path(format!("state-{name}")));
        if let Some(stdout) = stdout {
            command.stdout(stdout);
        }
        Party::start(command)
    }
}

impl Drop for Scene {
    /// Where a test failed, the brokers' words are what tells why.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (n, broker) in self.brokers.iter_mut().enumerate() {
                let Some(broker) = broker.take() else { continue };
                broker.signal("-TERM");
                println!("broker {n} said: {:#?}", broker.end().2);
            }
        }
    }
}
