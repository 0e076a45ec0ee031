//! The real binary in a world of its own: a temporary directory, no environment of the caller's.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory that ends with the test, and the binary run in it.
pub(crate) struct World {
    dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file that only its owner can read.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).expect("a file");
        mode(&path, 0o600);
        path
    }

    /// The binary, in this directory, with nothing of the caller's environment but what a program needs.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sealcast"));
        command.args(args).current_dir(self.dir.path()).env_clear().env("HOME", self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        Ran::new(self.command(args).output().expect("the binary runs"))
    }

    /// Runs it to its end on this input.
    pub(crate) fn run_on<A: AsRef<OsStr>>(&self, input: &[u8], args: impl IntoIterator<Item = A>) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("the binary runs");
        // A program that fails early closes its stdin: that is its right.
        let _ = child.stdin.take().expect("stdin").write_all(input);
        Ran::new(child.wait_with_output().expect("its end"))
    }

    /// An identity file and its public key.
    pub(crate) fn identity(&self, name: &str) -> (PathBuf, String) {
        let path = self.path(name);
        self.run([OsStr::new("keygen"), OsStr::new("-o"), path.as_os_str()]).ok();
        let key = self.run([OsStr::new("keygen"), OsStr::new("-y"), path.as_os_str()]).ok().trim().to_owned();
        (path, key)
    }
}

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ran {
    pub(crate) fn new(output: Output) -> Self {
        let stderr = String::from_utf8(output.stderr).expect("stderr is text");
        assert!(!stderr.contains("panicked"), "{stderr}");
        Self { code: output.status.code(), stdout: output.stdout, stderr }
    }

    /// Its stdout, after it succeeded.
    #[track_caller]
    pub(crate) fn ok(&self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        String::from_utf8(self.stdout.clone()).expect("text")
    }

    /// It failed with this code, one error line that holds `error`, one hint line that holds `hint`, and no data.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, error: &str, hint: &str) {
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        let line = |kind: &str| {
            let lines: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with(kind)).collect();
            assert_eq!(lines.len(), 1, "one {kind} line: {}", self.stderr);
            lines[0].to_owned()
        };
        assert!(line("error: ").contains(error), "{error:?} in {}", self.stderr);
        assert!(line("hint: ").contains(hint), "{hint:?} in {}", self.stderr);
        for line in self.stderr.lines() {
            assert!(
                ["sealcast: ", "error: ", "hint: "].iter().any(|kind| line.starts_with(kind)),
                "{line:?}"
            );
        }
    }
}

/// Sets a file's permission bits.
pub(crate) fn mode(path: &Path, mode: u32) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("permissions");
    }
    #[cfg(not(unix))]
    let _ = (path, mode);
}
