//! A file system small enough to fill up.
#![allow(unreachable_pub, missing_docs)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory over a directory, with something in it that takes its space.
pub struct Disk {
    dir: PathBuf,
    ballast: PathBuf,
}

impl Disk {
    /// `None` where this account may not mount.
    pub fn over(dir: &Path, bytes: u64) -> Option<Self> {
        let size = format!("size={bytes}");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(dir).output();
        match mount {
            Ok(done) if done.status.success() => {}
            refused => {
                eprintln!("skipped: a file system of its own needs root: {refused:?}");
                return None;
            }
        }
        Some(Self { dir: dir.into(), ballast: dir.join("ballast") })
    }

    /// Takes space until `free` bytes are left.
    pub fn fill(&self, free: u64) {
        use std::io::Write as _;
        let mut ballast = File::options().create(true).append(true).open(&self.ballast).unwrap();
        let zeros = vec![0; 64 << 10];
        while self.free() > free + zeros.len() as u64 {
            ballast.write_all(&zeros).unwrap();
        }
    }

    pub fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.dir).unwrap();
        stat.f_bavail * stat.f_frsize
    }

    pub fn make_space(&self) {
        std::fs::remove_file(&self.ballast).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}
