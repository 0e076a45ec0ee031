//! Brokers, publishers and subscribers as processes of their own, in one [`World`].

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::program::World;

/// A running process whose stdout and stderr are read line by line by threads, so that it never waits for the test.
pub(crate) struct Party {
    child: Child,
    stdin: Option<ChildStdin>,
    stderr: Receiver<String>,
    said: Vec<String>,
    stdout: Option<Receiver<Vec<u8>>>,
    out: Vec<u8>,
}

impl Party {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).spawn().expect("the binary runs");
        let stdin = child.stdin.take();
        let stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let (to_stderr, from_stderr) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if to_stderr.send(line).is_err() {
                    return;
                }
            }
        });
        let stdout = child.stdout.take().map(|mut stdout| {
            let (to_stdout, from_stdout) = channel();
            std::thread::spawn(move || {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(len @ 1..) = stdout.read(&mut buffer) {
                    if to_stdout.send(buffer[..len].to_vec()).is_err() {
                        return;
                    }
                }
            });
            from_stdout
        });
        Self { child, stdin, stderr: from_stderr, said: Vec::new(), stdout, out: Vec::new() }
    }

    /// Waits until stderr has a line that holds `text`, and returns it.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) -> String {
        loop {
            match self.stderr.recv() {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("it ended without saying {text:?}: {:#?}", self.said),
            }
        }
    }

    /// Waits until stdout holds at least `lines` lines.
    #[track_caller]
    pub(crate) fn wrote_lines(&mut self, lines: usize) {
        let mut count = self.out.iter().filter(|byte| **byte == b'\n').count();
        while count < lines {
            match self.stdout.as_ref().and_then(|stdout| stdout.recv().ok()) {
                Some(bytes) => {
                    count += bytes.iter().filter(|byte| **byte == b'\n').count();
                    self.out.extend(bytes);
                }
                None => panic!(
                    "it ended after {count} of {lines} lines: {:#?}",
                    self.stderr.iter().collect::<Vec<_>>()
                ),
            }
        }
    }

    /// Waits for the first line of stdout.
    #[track_caller]
    pub(crate) fn wrote_line(&mut self) -> String {
        self.wrote_lines(1);
        let text = String::from_utf8(self.out.clone()).expect("text");
        text.lines().next().expect("a line").to_owned()
    }

    /// Writes to its stdin.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stdin.as_mut().expect("stdin is open").write_all(bytes) {
            panic!("it no longer reads its stdin: {error}: {:#?}", self.stderr.iter().collect::<Vec<_>>());
        }
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("it is ours to kill");
        self.child.wait().expect("it died");
    }

    /// Asks it to stop, as a terminal or an init system does.
    pub(crate) fn signal(&self, signal: &str) {
        // The shell's own: the program of that name is not everywhere.
        let command = format!("kill {signal} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &command]).status().expect("a shell runs");
        assert!(status.success());
    }

    /// Waits for its end: its status, stdout and stderr.
    pub(crate) fn end(mut self) -> (ExitStatus, Vec<u8>, Vec<String>) {
        self.stdin = None;
        let status = self.child.wait().expect("its end");
        let mut out = std::mem::take(&mut self.out);
        if let Some(stdout) = &self.stdout {
            stdout.iter().for_each(|bytes| out.extend(bytes));
        }
        let mut said = std::mem::take(&mut self.said);
        said.extend(self.stderr.iter());
        assert!(!said.iter().any(|line| line.contains("panicked")), "{said:#?}");
        (status, out, said)
    }

    /// Waits for its end with success; returns its stdout.
    #[track_caller]
    pub(crate) fn ok(self) -> Vec<u8> {
        let (status, out, said) = self.end();
        assert!(status.success(), "{status}: {said:#?}");
        out
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A broker process on loopback with a data directory in the world.
pub(crate) struct Broker {
    process: Option<Party>,
    listen: String,
    /// Its settings beside these.
    settings: Vec<String>,
    data: PathBuf,
    pub(crate) link: String,
}

impl Broker {
    pub(crate) fn start(world: &World) -> Self {
        Self::with(world, &[])
    }

    /// With these flags.
    pub(crate) fn with(world: &World, settings: &[&str]) -> Self {
        Self::at(world, "127.0.0.1:0", settings)
    }

    /// On this address, with these flags.
    pub(crate) fn at(world: &World, listen: &str, settings: &[&str]) -> Self {
        let mut broker = Self {
            process: None,
            listen: listen.into(),
            settings: settings.iter().map(|flag| (*flag).into()).collect(),
            data: world.path("data"),
            link: String::new(),
        };
        broker.restart(world);
        let (_, rest) = broker.link.split_once("://").expect("a link");
        broker.listen = rest.split(['?', '/']).next().expect("an address").to_owned();
        broker
    }

    /// Starts it (again), on the same address and directory.
    pub(crate) fn restart(&mut self, world: &World) {
        let mut command = world.command([
            OsStr::new("broker"),
            OsStr::new("--listen"),
            OsStr::new(&self.listen),
            OsStr::new("--data"),
            self.data.as_os_str(),
        ]);
        command.args(&self.settings);
        let mut process = Party::start(command);
        // Its link is the one line of data it prints, once it listens.
        self.link = process.wrote_line();
        self.process = Some(process);
    }

    /// See [`Party::says`].
    pub(crate) fn says(&mut self, text: &str) -> String {
        self.process.as_mut().expect("it runs").says(text)
    }

    /// Stops it in an orderly way. Returns all it said.
    pub(crate) fn last_words(&mut self) -> Vec<String> {
        let process = self.process.take().expect("it runs");
        process.signal("-TERM");
        let (status, _, said) = process.end();
        assert!(status.success(), "{said:#?}");
        said
    }

    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Stops it in an orderly way.
    pub(crate) fn stop(&mut self) {
        self.last_words();
    }
}

/// A broker, a topic, its owner, and as many members as wanted.
pub(crate) struct Feed {
    pub(crate) world: World,
    pub(crate) broker: Broker,
    pub(crate) link: String,
}

impl Feed {
    /// A topic whose readers are `readers` (identity files of these names are made).
    pub(crate) fn new(readers: &[&str]) -> Self {
        Self::with(readers, &[])
    }

    /// The same, at a broker with these flags.
    pub(crate) fn with(readers: &[&str], settings: &[&str]) -> Self {
        let world = World::new();
        let broker = Broker::with(&world, settings);
        let (owner, _) = world.identity("owner");
        let mut args: Vec<OsString> =
            ["topic", "create", "prices", "--broker", &broker.link, "-i"].map(Into::into).into();
        args.push(owner.into());
        // One identity has one state: the owner's, as in everything it does below.
        args.extend(["--state".into(), world.path("state-owner").into()]);
        for reader in readers {
            let (_, key) = world.identity(reader);
            args.extend(["-r".into(), key.into()]);
        }
        let link = world.run(args).ok().trim().to_owned();
        Self { world, broker, link }
    }

    fn with_state(&self, name: &str, args: &[&str]) -> Command {
        let identity = self.world.path(name);
        let state = self.world.path(format!("state-{name}"));
        let mut command = self.world.command(args.iter().map(OsStr::new));
        command.arg("-i").arg(identity).arg("--state").arg(state);
        command
    }

    /// `sub` as `name`, which has said that it is subscribed.
    pub(crate) fn sub(&self, name: &str, args: &[&str]) -> Party {
        let mut party = self.begin_sub(name, args);
        party.says("subscribed at offset");
        party
    }

    /// `sub` as `name`, which may have to wait.
    pub(crate) fn begin_sub(&self, name: &str, args: &[&str]) -> Party {
        let mut all = vec!["sub", &self.link];
        all.extend(args);
        Party::start(self.with_state(name, &all))
    }

    /// `pub` as `name`.
    pub(crate) fn publish(&self, name: &str, args: &[&str]) -> Party {
        let mut all = vec!["pub", &self.link];
        all.extend(args);
        Party::start(self.with_state(name, &all))
    }

    /// `topic add` or `topic remove`, to its end. Returns what it said.
    #[track_caller]
    pub(crate) fn member(&self, how: &str, name: &str) -> Vec<String> {
        let key = self.key(name);
        let (status, _, said) =
            Party::start(self.with_state("owner", &["topic", how, &self.link, "-r", &key])).end();
        assert!(status.success(), "{said:#?}");
        said
    }

    /// The public key of an identity made before, or made now.
    pub(crate) fn key(&self, name: &str) -> String {
        let path = self.world.path(name);
        if path.exists() {
            let args = [OsStr::new("keygen"), OsStr::new("-y"), path.as_os_str()];
            return self.world.run(args).ok().trim().to_owned();
        }
        self.world.identity(name).1
    }
}

/// Lines that tell where they belong.
pub(crate) fn lines(range: std::ops::Range<usize>) -> Vec<u8> {
    range.flat_map(|n| format!("line {n} of a feed that somebody wants to read\n").into_bytes()).collect()
}
