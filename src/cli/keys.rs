//! Where keys come from: files that nobody else may read, and the command line. What stands in them: `sealcast::key_text`.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use sealcast::key_text::{self, NotAKey, SECRET_PREFIX};
use sealcast_proto::{Identity, PublicKey};
use zeroize::Zeroizing;

use super::failure::{Exit, Failure};

/// An identity file, bytes: a key is under 1 KiB, comments are short.
const MAX_IDENTITY_FILE: u64 = 64 << 10;

/// Who acts.
#[derive(Debug, Args)]
pub(crate) struct IdentityArg {
    /// The private key to act with: an identity file (`sealcast keygen`) or an OpenSSH ed25519 private key
    #[arg(short, long, value_name = "FILE", env = "SEALCAST_IDENTITY")]
    identity: Option<PathBuf>,
}

impl IdentityArg {
    pub(crate) fn read(&self) -> Result<Identity, Failure> {
        let path = self.identity.as_deref().ok_or_else(|| {
            Failure::usage("whose private key? -i FILE is missing")
                .hint("make one with `sealcast keygen -o FILE`; SEALCAST_IDENTITY can name it too")
        })?;
        read_identity(path)
    }

    pub(crate) fn read_if_given(&self) -> Result<Option<Identity>, Failure> {
        self.identity.as_deref().map(read_identity).transpose()
    }
}

/// Who is meant.
#[derive(Debug, Args)]
pub(crate) struct MembersArg {
    /// Public keys: seal1… or 'ssh-ed25519 AAAA…'
    #[arg(short = 'r', long = "member", value_name = "KEY", num_args = 1.., env = "SEALCAST_MEMBERS")]
    keys: Vec<String>,
    /// Files of public keys, one a line; # begins a comment; - is stdin
    #[arg(short = 'R', long = "members-file", value_name = "FILE", env = "SEALCAST_MEMBERS_FILE")]
    files: Vec<PathBuf>,
}

impl MembersArg {
    /// All of them, each once, in the order given. May be none.
    pub(crate) fn read(&self) -> Result<Vec<PublicKey>, Failure> {
        let mut members = public_keys(&self.keys)?;
        for file in &self.files {
            members.extend(read_members(file)?);
        }
        let mut seen = HashSet::new();
        members.retain(|key| seen.insert(*key));
        Ok(members)
    }

    /// At least one.
    pub(crate) fn read_some(&self) -> Result<Vec<PublicKey>, Failure> {
        let members = self.read()?;
        if members.is_empty() {
            return Err(
                Failure::usage("which members? no key was given").hint("name them with -r KEY or -R FILE")
            );
        }
        Ok(members)
    }
}

/// Public keys of the command line; several may stand in one argument, with commas between.
pub(crate) fn public_keys(texts: &[String]) -> Result<Vec<PublicKey>, Failure> {
    let mut keys = Vec::new();
    for text in texts {
        // An ssh key's comment may hold a comma; a seal1 key never does.
        let parts: Vec<&str> = if text.starts_with("ssh-") { vec![text] } else { text.split(',').collect() };
        for part in parts {
            let key = key_text::public_key(part);
            keys.push(key.map_err(|not| NotAKey { why: format!("the command line: {}", not.why), ..not })?);
        }
    }
    Ok(keys)
}

/// Reads the private key in a file.
pub(crate) fn read_identity(path: &Path) -> Result<Identity, Failure> {
    // A path is not a secret and an argument is no place for one: `ps` shows it to everybody.
    if path.to_string_lossy().to_ascii_uppercase().starts_with(SECRET_PREFIX) {
        return Err(Failure::usage("a secret key stands on the command line, where other users can see it")
            .hint(
                "put it into a file (chmod 600) and name the file; make a new key if the machine is shared",
            ));
    }
    let text = read_private_file(path)?;
    Ok(key_text::identity(&text, &path.display().to_string())?)
}

fn read_private_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let doing = || format!("read the identity file {}", path.display());
    let missing = |error: &io::Error| {
        let failure = Failure::new(Exit::Usage, format!("cannot {}: {error}", doing()));
        match error.kind() {
            io::ErrorKind::NotFound => failure.hint("`sealcast keygen -o FILE` makes one"),
            _ => failure,
        }
    };
    let file = File::open(path).map_err(|error| missing(&error))?;
    // Of the open file, not of the path: nobody can swap it in between.
    refuse_exposed(path, &file.metadata().map_err(|error| missing(&error))?)?;
    // Full size from the start, so that growing leaves no copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_IDENTITY_FILE as usize + 1));
    file.take(MAX_IDENTITY_FILE + 1).read_to_end(&mut bytes).map_err(|error| missing(&error))?;
    let not_a_key = || {
        Failure::usage(format!("{} is not an identity file", path.display()))
            .hint(format!("an identity file is text with one line {SECRET_PREFIX}…"))
    };
    if bytes.len() as u64 > MAX_IDENTITY_FILE {
        return Err(not_a_key());
    }
    std::str::from_utf8(&bytes).map(|text| Zeroizing::new(text.to_owned())).map_err(|_| not_a_key())
}

#[cfg(unix)]
fn refuse_exposed(path: &Path, metadata: &Metadata) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = metadata.permissions().mode() & 0o777;
    // A pipe (`-i <(…)`) has no readers but its own ends.
    if metadata.is_file() && mode & 0o077 != 0 {
        let name = path.display();
        return Err(Failure::usage(format!(
            "the identity file {name} can be read by other users (mode {mode:04o})"
        ))
        .hint(format!("chmod 600 {name}")));
    }
    Ok(())
}

#[cfg(not(unix))]
fn refuse_exposed(_path: &Path, _metadata: &Metadata) -> Result<(), Failure> {
    Ok(())
}

fn read_members(path: &Path) -> Result<Vec<PublicKey>, Failure> {
    let name = if path == Path::new("-") { "stdin".into() } else { path.display().to_string() };
    let text =
        if path == Path::new("-") { io::read_to_string(io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot read members from {name}: {error}"))
            .hint("-R takes a file of public keys, one a line; - is standard input")
    })?;
    Ok(key_text::members(&text, &name)?)
}

impl From<NotAKey> for Failure {
    fn from(not: NotAKey) -> Self {
        Self::usage(not.why).hint(not.hint)
    }
}
