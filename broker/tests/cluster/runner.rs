//! Runs tests that need a nats-server: as libtest does, one after another, except that without a server they are reported as
//! ignored, with the reason, which libtest can only do at compile time.
#![allow(unreachable_pub)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// A test and its name.
pub type Test = (&'static str, fn());

/// Names the server's program, where it is not on the path.
pub const SERVER: &str = "SEALCAST_NATS_SERVER";
/// If set, a server that is missing is a failure.
const NEEDED: &str = "SEALCAST_NATS_NEEDED";
/// The oldest server that will do.
const OLDEST: (u32, u32) = (2, 12);

/// Why a test that was begun cannot be run here.
struct Skipped(String);

/// Ends a test that cannot be run here: it is reported as ignored, with the reason.
#[allow(dead_code, reason = "of use to one of the two binaries")]
pub fn skip(why: &str) -> ! {
    // Not a panic that anybody is told of.
    resume_unwind(Box::new(Skipped(why.to_owned())))
}

/// The server's program; else why there is none.
pub fn server() -> Result<PathBuf, String> {
    let path = std::env::var_os(SERVER).map_or_else(|| PathBuf::from("nats-server"), PathBuf::from);
    let missing = || format!("no nats-server: put one on the path or name it in {SERVER} (docs/cluster.md)");
    let output = Command::new(&path).arg("--version").output().map_err(|_| missing())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().last().unwrap_or_default().trim_start_matches('v').to_owned();
    let mut numbers = version.split('.').map_while(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= OLDEST => Ok(path),
        _ => Err(format!("nats-server {version:?} is too old: {}.{} is needed", OLDEST.0, OLDEST.1)),
    }
}

/// Runs `tests`, or those whose names hold an argument.
pub fn run(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let is = |name: &str, part: &str| if exact { name == part } else { name.contains(part) };
    let chosen: Vec<&Test> = tests
        .iter()
        .filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| is(name, part)))
        .collect();
    if arguments.iter().any(|argument| argument == "--list") {
        chosen.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    println!("\nrunning {} tests", chosen.len());
    let (mut failed, mut ignored) = (Vec::new(), 0);
    let missing = server().err();
    for (name, test) in &chosen {
        match &missing {
            Some(why) if std::env::var_os(NEEDED).is_none() => {
                ignored += 1;
                println!("test {name} ... ignored, {why}");
            }
            Some(why) => {
                println!("test {name} ... FAILED: {why}");
                failed.push(*name);
            }
            None => {
                println!("test {name} ...");
                match catch_unwind(AssertUnwindSafe(test)) {
                    Ok(()) => println!("test {name} ... ok"),
                    Err(why) => match why.downcast::<Skipped>() {
                        Ok(why) => {
                            ignored += 1;
                            println!("test {name} ... ignored, {}", why.0);
                        }
                        Err(_) => {
                            failed.push(*name);
                            println!("test {name} ... FAILED");
                        }
                    },
                }
            }
        }
    }
    let (passed, bad) = (chosen.len() - failed.len() - ignored, failed.len());
    let verdict = if bad == 0 { "ok" } else { "FAILED" };
    println!("\ntest result: {verdict}. {passed} passed; {bad} failed; {ignored} ignored {failed:?}\n");
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
