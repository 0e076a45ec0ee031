use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use sealcast_proto::BrokerLink;

fn broker(data: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sealcast-broker"));
    command.args(["--listen", "127.0.0.1:0"]).arg("--data").arg(data).args(args);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SEALCAST_")) {
        command.env_remove(name);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Killed when dropped: a test that fails leaves no broker behind.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_link_on_stdout_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut running = Running(broker(&data, &[]).spawn().unwrap());
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    line.parse::<BrokerLink>().unwrap();

    let rival = broker(&data, &[]).output().unwrap();
    assert_eq!(rival.status.code(), Some(1));
    assert!(stderr(&rival).contains("error: the data directory") && stderr(&rival).contains("\nhint: "));
    let term = Command::new("kill").args(["-TERM", &running.0.id().to_string()]).status().unwrap();
    assert!(term.success());
    assert!(running.0.wait().unwrap().success());
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn what_is_wrong_is_said_in_one_line_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let busy = socket.local_addr().unwrap().to_string();
    let start = |listen: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealcast-broker"));
        command.args(["--listen", listen, "--data"]).arg(dir.path().join("data")).output().unwrap()
    };
    let open = start("0.0.0.0:0");
    assert_eq!(open.status.code(), Some(2));
    assert!(stderr(&open).contains("hint: --owners KEY…"), "{}", stderr(&open));
    let taken = start(&busy);
    assert_eq!((taken.status.code(), taken.stdout.len()), (Some(1), 0), "{}", stderr(&taken));
    assert!(
        stderr(&taken).contains(&format!("error: the UDP port {busy} is in use\nhint: ")),
        "{}",
        stderr(&taken)
    );
}

#[test]
fn a_running_broker_is_neither_exported_nor_imported_into() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("file"));
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealcast-broker"));
        command.args(args).arg("--data").arg(&data).output().unwrap()
    };
    let file = file.to_str().unwrap();
    let none = run(&["export", "-o", file]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("is no broker's data directory\nhint: "), "{}", stderr(&none));
    assert!(!data.exists(), "looking makes nothing");
    let mut running = Running(broker(&data, &[]).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let busy = run(&["export", "-o", file]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(stderr(&busy).contains("\nhint: the broker is running: stop it first"), "{}", stderr(&busy));
    drop(running);
    let done = run(&["export", "-o", file]);
    assert!(done.status.success() && done.stdout.is_empty(), "{}", stderr(&done));
    assert!(stderr(&done).contains("exported 0 topics"), "{}", stderr(&done));
    let again = run(&["import", file]);
    assert!(again.status.success(), "{}", stderr(&again));
}
