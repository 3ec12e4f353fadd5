//! One process for each set of directories: locks that the kernel takes back when their holder dies.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rustix::fs::{FlockOperation, flock};

/// How long it is waited for what a dead holder left. What it was about to start when it was killed has the lock until it
/// runs its program: moments, or a second on a machine that is overloaded.
const LEFT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Held for as long as this lives.
#[derive(Debug)]
pub struct Lock(#[cfg_attr(not(test), expect(dead_code, reason = "its life is its use"))] File);

/// The lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("it is held by another process{}", pid.map(|pid| format!(", {pid}")).unwrap_or_default())]
    Taken {
        /// Which one, when it could be read.
        pid: Option<i32>,
    },
    /// The file could not be made, locked or written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes the lock at `path` and writes our process id into it. Blocks for a moment where the last holder has just been killed.
///
/// # Errors
/// [`LockError`].
pub fn take(path: &Path) -> Result<Lock, LockError> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let by = Instant::now() + LEFT;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io::Error::from(error).into());
        }
        let pid = holder(&mut file);
        if pid.is_none_or(lives) || Instant::now() > by {
            return Err(LockError::Taken { pid });
        }
        std::thread::sleep(POLL);
    }
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())?;
    Ok(Lock(file))
}

/// Whoever holds it may be about to write its number.
fn holder(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn lives(pid: i32) -> bool {
    kill(Pid::from_raw(pid), None) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_second_one_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = take(&path).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(take(&path), Err(LockError::Taken { pid: Some(pid) }) if pid == own));
        drop(first);
        take(&path).unwrap();
    }

    #[test]
    fn what_a_dead_holder_left_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut dead = Command::new("true").spawn().unwrap();
        dead.wait().unwrap();
        let lock = take(&path).unwrap();
        std::fs::write(&path, format!("{}\n", dead.id())).unwrap();
        // The lock is of the open file: a process that has it open too keeps it beyond its first holder.
        let inherited = lock.0.try_clone().unwrap();
        drop(lock);
        let rest = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(inherited);
        });
        take(&path).unwrap();
        rest.join().unwrap();
    }
}
