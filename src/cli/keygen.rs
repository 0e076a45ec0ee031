//! `sealcast keygen`: a new identity, or the public key of one.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use sealcast_proto::Identity;
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};
use super::keys::read_identity;
use super::output::to_stdout;
use super::say::{hint, say};
use super::times::{now_ms, rfc3339};

/// Make an identity: a private key that names a member
///
/// The file is for its owner alone; the public key (seal1…) is what others are given. One identity has one state
/// directory: on a second machine, make a second identity and add it too.
#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// Write the identity to this file, mode 0600; never overwrites. Default: stdout
    #[arg(short, long, value_name = "FILE", env = "SEALCAST_KEYGEN_OUTPUT")]
    output: Option<PathBuf>,
    /// Print the public key of this identity file or OpenSSH private key instead
    #[arg(
        short = 'y',
        long = "public",
        value_name = "FILE",
        conflicts_with = "output",
        env = "SEALCAST_KEYGEN_PUBLIC"
    )]
    public: Option<PathBuf>,
}

impl Keygen {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if let Some(path) = self.public {
            return to_stdout(format!("{}\n", read_identity(&path)?.public()).as_bytes());
        }
        let identity = Identity::generate(&mut rand::rng());
        let text = Zeroizing::new(format!(
            "# created: {}\n# public key: {}\n{}\n",
            rfc3339(now_ms()),
            identity.public(),
            *identity.to_text()
        ));
        match self.output {
            Some(path) => write_new(&path, text.as_bytes())?,
            None => {
                to_stdout(text.as_bytes())?;
                warn_if_exposed();
            }
        }
        say!("public key {}", identity.public());
        Ok(())
    }
}

fn write_new(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::new(Exit::Failure, format!("{} exists and is never overwritten", path.display()))
                .hint("choose another name; `sealcast keygen -y FILE` prints the public key of a file")
        }
        _ => Failure::io(format!("create {}", path.display()), &error),
    })?;
    let written = file.write_all(content).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a key helps nobody and would stop the next try.
        let _ = std::fs::remove_file(path);
        Failure::io(format!("write {}", path.display()), &error)
    })
}

/// `sealcast keygen > file` makes the file as the umask says.
#[cfg(unix)]
fn warn_if_exposed() {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::PermissionsExt as _;
    let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let Ok(metadata) = stdout.and_then(|stdout| stdout.metadata()) else { return };
    if metadata.is_file() && metadata.permissions().mode() & 0o077 != 0 {
        say!("the secret key went to a file that other users can read");
        hint!("chmod 600 it, or use -o FILE");
    }
}

#[cfg(not(unix))]
fn warn_if_exposed() {}
