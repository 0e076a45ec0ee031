//! nats-servers on loopback, for a test.
#![allow(unreachable_pub, dead_code)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::runner::server;

/// Long enough for any machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Some servers, their data in a directory that ends with them.
pub struct Servers {
    dir: TempDir,
    running: Vec<Option<Child>>,
    places: Vec<Place>,
    ports: Vec<u16>,
    /// Where they say how they are.
    health: Vec<u16>,
}

/// Where a server runs.
pub struct Place {
    pub address: String,
    /// The network namespace that has the address.
    pub namespace: Option<String>,
}

impl Place {
    pub fn loopback() -> Self {
        Self { address: "127.0.0.1".into(), namespace: None }
    }
}

impl Servers {
    /// Starts `count` servers on loopback, with `more` in what is said of JetStream.
    pub fn start(count: usize, more: &str) -> Self {
        Self::start_beside(count, more, "")
    }

    /// As [`Servers::start`], and with `beside` in their configuration.
    pub fn start_beside(count: usize, more: &str, beside: &str) -> Self {
        Self::at((0..count).map(|_| Place::loopback()).collect(), more, beside)
    }

    /// Starts a server at each of these places.
    pub fn at(places: Vec<Place>, more: &str, beside: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let count = places.len();
        let ports = free_ports(3 * count);
        let (clients, routes, health) = (&ports[..count], &ports[count..2 * count], &ports[2 * count..]);
        let all: Vec<_> =
            (0..count).map(|n| format!("\"nats://{}:{}\"", places[n].address, routes[n])).collect();
        for n in 0..count {
            let (address, client, route, health) = (&places[n].address, clients[n], routes[n], health[n]);
            let among = match count {
                1 => String::new(),
                _ => format!(
                    "cluster {{ name: sealcast, listen: \"{address}:{route}\", routes: [{}] }}\n",
                    all.join(", ")
                ),
            };
            let data = dir.path().join(format!("server-{n}"));
            let text = format!(
                "server_name: s{n}\nlisten: \"{address}:{client}\"\nhttp: \"{address}:{health}\"\n\
                 jetstream {{ store_dir: {data:?} {more} }}\n{among}"
            );
            std::fs::write(dir.path().join(format!("{n}.base")), text).expect("a configuration");
        }
        let (ports, health) = (clients.to_vec(), health.to_vec());
        let mut servers = Self { dir, running: Vec::new(), places, ports, health };
        servers.running.resize_with(count, || None);
        (0..count).for_each(|n| servers.configure(n, beside));
        (0..count).for_each(|n| servers.begin(n));
        (0..count).for_each(|n| servers.is_up(n));
        servers
    }

    /// As `--store` names them.
    pub fn store(&self) -> String {
        let hosts: Vec<_> = (0..self.count()).map(|n| self.host(n)).collect();
        format!("nats://{}", hosts.join(","))
    }

    /// One URL each.
    pub fn urls(&self) -> Vec<String> {
        (0..self.count()).map(|n| format!("nats://{}", self.host(n))).collect()
    }

    fn host(&self, n: usize) -> String {
        format!("{}:{}", self.places[n].address, self.ports[n])
    }

    fn configure(&self, n: usize, beside: &str) {
        let base =
            std::fs::read_to_string(self.dir.path().join(format!("{n}.base"))).expect("it was written");
        let conf = self.dir.path().join(format!("{n}.conf"));
        std::fs::write(conf, format!("{base}\n{beside}\n")).expect("a configuration");
    }

    /// Has one read its configuration again, with something else in it.
    pub fn reload(&mut self, n: usize, beside: &str) {
        self.configure(n, beside);
        let pid = self.running[n].as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args(["-HUP", &pid]).status().expect("kill").success());
    }

    fn begin(&mut self, n: usize) {
        let log = std::fs::File::options().create(true).append(true).open(self.log(n)).expect("a log");
        let program = server().expect("it was there before");
        let mut command = match &self.places[n].namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        command.arg("-c").arg(self.dir.path().join(format!("{n}.conf")));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.running[n] = Some(child.expect("the server starts"));
    }

    fn log(&self, n: usize) -> std::path::PathBuf {
        self.dir.path().join(format!("{n}.log"))
    }

    /// Starts one again.
    pub fn restart(&mut self, n: usize) {
        self.begin(n);
        self.is_up(n);
    }

    /// `kill -9`.
    pub fn kill(&mut self, n: usize) {
        let mut child = self.running[n].take().expect("it runs");
        child.kill().expect("it is ours to kill");
        child.wait().expect("its end");
    }

    /// Stops one as its operator does.
    pub fn stop(&mut self, n: usize) {
        let mut child = self.running[n].take().expect("it runs");
        // The shell's own: the program of that name is not everywhere.
        let asked = Command::new("sh").args(["-c", &format!("kill -TERM {}", child.id())]).status();
        assert!(asked.expect("a shell runs").success());
        child.wait().expect("its end");
    }

    /// Waits until it says that it lacks nothing that the others have.
    pub fn is_whole(&self, n: usize) {
        let begun = Instant::now();
        while !self.tells(n, "/healthz").is_ok_and(|answer| answer.starts_with("HTTP/1.0 200")) {
            assert!(begun.elapsed() < PATIENCE, "server {n}: {:?}", self.tells(n, "/healthz"));
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Whether a client of this name is connected to it.
    pub fn serves(&self, n: usize, name: &str) -> bool {
        self.tells(n, "/connz").expect("an answer").contains(&format!("\"{name}\""))
    }

    /// What it answers to those who watch over it.
    fn tells(&self, n: usize, what: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((self.places[n].address.as_str(), self.health[n]))?;
        write!(stream, "GET {what} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ports.len()
    }

    /// Waits until it takes connections and, in a cluster, knows who leads.
    fn is_up(&mut self, n: usize) {
        let begun = Instant::now();
        while TcpStream::connect(self.host(n)).is_err() || !self.knows_a_leader(n) {
            let child = self.running[n].as_mut().expect("it was begun");
            let ended = child.try_wait().expect("its state").is_some();
            assert!(
                !ended && begun.elapsed() < PATIENCE,
                "{}",
                std::fs::read_to_string(self.log(n)).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn knows_a_leader(&self, n: usize) -> bool {
        if self.count() == 1 {
            return true;
        }
        let log = BufReader::new(std::fs::File::open(self.log(n)).expect("its log"));
        log.lines().map_while(Result::ok).any(|line| line.contains("metadata leader"))
    }
}

/// Below those that the system gives out by itself: else a connection that one server makes could take another's.
fn free_ports(count: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let begin = 10_000 + u16::try_from(std::process::id() % 200).expect("small") * 100;
    let tried = std::iter::from_fn(|| Some(begin + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000));
    tried.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(count).collect()
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
