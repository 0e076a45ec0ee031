use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use crate::hand::key;
use crate::world::http_get;

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealcast-broker"));
    command.args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SEALCAST_")) {
        command.env_remove(name);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_says_what_holds_and_where_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    std::fs::write(&file, "connections = 7\nstall = \"5s\"\nstreams = 9\n").unwrap();
    let path = file.to_str().unwrap();
    let args = ["check", "--config", path, "--streams", "12"];
    let output = program(&args).env("SEALCAST_BROKER_STALL", "6s").output().unwrap();
    let (stdout, stderr) = texts(&output);
    assert!(output.status.success() && stderr.is_empty(), "{stderr}");
    let line = |key: &str| {
        let line = stdout.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(line("connections"), format!("connections = 7 # {path}"));
    assert_eq!(line("stall"), "stall = \"6s\" # SEALCAST_BROKER_STALL");
    assert_eq!(line("streams"), "streams = 12 # --streams");
    assert_eq!(line("hello"), "hello = \"3s\" # default");

    for (text, said, hint) in [
        ("conections = 7\n", "there is no setting \"conections\"", "hint: perhaps connections is meant"),
        ("listen = \"0.0.0.0:7443\"\n", "without owners", "hint: --owners"),
        ("hello = \"0s\"\n", "hello cannot be so", "hint: "),
        ("connections = many\n", "is not TOML", "hint: "),
        ("publish_rate = \"1KiB\"\n", "publish_rate cannot be so", "hint: "),
        ("log = \"loud\"\n", "log cannot be \"loud\"", "hint: a level is error"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output = program(&["check", "--config", path]).output().unwrap();
        let (_, stderr) = texts(&output);
        assert_eq!(output.status.code(), Some(2), "{text} {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(said) && stderr.contains(hint), "{stderr}");
        // The broker itself is as strict.
        let output = program(&["--config", path]).output().unwrap();
        assert_eq!((output.status.code(), texts(&output).1), (Some(2), stderr));
    }
}

/// A broker of a file of its own.
struct Running {
    child: Child,
    log: BufReader<ChildStderr>,
    said: Vec<String>,
}

impl Running {
    fn start(dir: &Path, more: &[(&str, &Path)]) -> Self {
        let config = dir.join("broker.toml");
        let mut command = program(&["--config", config.to_str().unwrap(), "--data"]);
        command.arg(dir.join("data")).envs(more.iter().copied());
        let mut child = command.spawn().unwrap();
        let mut link = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut link).unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut running = Self { child, log, said: vec![] };
        assert!(link.starts_with("sealcast"), "{link} {}", running.rest());
        running
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// The next log line that says this.
    fn says(&mut self, what: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(self.log.read_line(&mut line).unwrap() > 0, "it never said {what:?}: {:?}", self.said);
            self.said.push(line.clone());
            if line.contains(what) {
                return line;
            }
        }
    }

    fn rest(&mut self) -> String {
        let _ = self.child.kill();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        rest
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_hangup_changes_what_may_change_and_names_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let write = |text: &str| {
        let always = "listen = \"127.0.0.1:0\"\nops = \"127.0.0.1:0\"\n";
        std::fs::write(dir.path().join("broker.toml"), format!("{always}{text}")).unwrap();
    };
    write("");
    let mut broker = Running::start(dir.path(), &[]);
    let line = broker.says("health, metrics and topics");
    let line: serde_json::Value = serde_json::from_str(&line).expect("not on a terminal: an object a line");
    let ops = line["fields"]["ops"].as_str().unwrap().parse().unwrap();

    write(&format!("connections = 3\nowners = [\"{}\"]\nring_bytes = \"4MiB\"\nlog = \"debug\"\n", key(1)));
    broker.signal("-HUP");
    let changed = broker.says("\"reloaded\"");
    assert!(changed.contains("owners, log, connections"), "{changed}");
    let kept = broker.says("only with a restart");
    assert!(kept.contains("\"kept\":\"ring_bytes\""), "{kept}");
    assert_eq!(http_get(ops, "/readyz").0, 200);

    write("connections = 4\nconections = 5\n");
    broker.signal("-HUP");
    let wrong = broker.says("everything stays as it is");
    assert!(wrong.contains("conections"), "{wrong}");

    write("connections = 4\n");
    broker.signal("-HUP");
    let changed = broker.says("\"reloaded\"");
    // Of what the wrong file said nothing was taken over.
    assert!(changed.contains("owners, log, connections"), "{changed}");
}

#[test]
fn the_service_manager_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("broker.toml"), "listen = \"127.0.0.1:0\"\n").unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let told = || {
        let mut datagram = [0; 200];
        let len = socket.recv(&mut datagram).unwrap();
        String::from_utf8(datagram[..len].to_vec()).unwrap()
    };
    let mut broker = Running::start(dir.path(), &[("NOTIFY_SOCKET", &path)]);
    assert_eq!(told(), "READY=1");
    broker.signal("-HUP");
    assert_eq!((told(), told()), ("RELOADING=1".into(), "READY=1".into()));
    broker.signal("-TERM");
    assert_eq!(told(), "STOPPING=1");
    assert!(broker.child.wait().unwrap().success());
}
