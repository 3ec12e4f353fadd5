//! One agent per set of directories.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use runtime::lock;
pub use runtime::lock::Lock;

/// The lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another agent has it.
    #[error("another agent{} already runs with the run directory {}; stop it, or choose other directories", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), dir.display())]
    Taken {
        /// Its process id, when it could be read.
        pid: Option<i32>,
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
    lock::take(path).map_err(|error| match error {
        lock::LockError::Taken { pid } => LockError::Taken { pid, dir: dir.to_owned() },
        lock::LockError::Io(source) => io(source),
    })
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
