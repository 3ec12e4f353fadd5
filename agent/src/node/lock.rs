//! One agent per set of directories: a lock that the kernel takes back when its holder dies.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Held for as long as this lives.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "its life is its use")] Flock<File>);

/// The lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another agent{} already runs with the run directory {}; stop it, or choose other directories", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), dir.display())]
    Taken {
        /// Its process id, when it could be read.
        pid: Option<u32>,
        /// The directory.
        dir: PathBuf,
    },
    /// The file could not be made.
    #[error("taking the lock {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Takes the lock at `path` and writes our process id into it.
///
/// # Errors
/// [`LockError`].
pub fn take(path: &Path) -> Result<Lock, LockError> {
    let io = |source| LockError::Io { path: path.to_owned(), source };
    let dir = path.parent().unwrap_or(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
    match Flock::lock(open.map_err(io)?, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            held.set_len(0).map_err(io)?;
            held.seek(SeekFrom::Start(0)).map_err(io)?;
            writeln!(held, "{}", std::process::id()).map_err(io)?;
            Ok(Lock(held))
        }
        Err((file, nix::errno::Errno::EWOULDBLOCK)) => Err(LockError::Taken { pid: holder(file), dir: dir.to_owned() }),
        Err((_, errno)) => Err(io(errno.into())),
    }
}

fn holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/agent.lock");
        let first = take(&path).unwrap();
        let text = take(&path).unwrap_err().to_string();
        assert!(text.contains(&format!("(pid {})", std::process::id())), "{text}");
        drop(first);
        take(&path).unwrap();
    }
}
