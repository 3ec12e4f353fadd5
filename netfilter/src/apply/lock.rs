//! The lock of iptables, for versions before 1.6.2 whose iptables-restore does not take it.

use super::ApplyError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

const FILE: &str = "/run/xtables.lock";
/// Versions before 1.4.22 lock each other out by binding this name.
const SOCKET: &str = "xtables";
const EVERY: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(2);

/// Both locks, as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
    _socket: UnixListener,
}

/// Takes both locks, the file first.
pub(super) fn take() -> Result<Lock, ApplyError> {
    let _file = until_free(FILE, || lock_file(FILE))?;
    let _socket = until_free(SOCKET, || bind(SOCKET))?;
    Ok(Lock { _file, _socket })
}

/// Tries until it is free; any other error ends the trying.
fn until_free<T>(what: &'static str, attempt: impl Fn() -> io::Result<Option<T>>) -> Result<T, ApplyError> {
    let end = Instant::now() + PATIENCE;
    loop {
        match attempt() {
            Ok(Some(taken)) => return Ok(taken),
            Ok(None) if Instant::now() >= end => return Err(ApplyError::Locked(what)),
            Ok(None) => thread::sleep(EVERY),
            Err(source) => return Err(ApplyError::Run { program: what.to_owned(), source }),
        }
    }
}

fn lock_file(path: &str) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn bind(name: &str) -> io::Result<Option<UnixListener>> {
    match UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_free_again_when_its_holder_lets_go() {
        let folder = std::env::temp_dir().join(format!("xtables-lock-test-{}", std::process::id()));
        let path = folder.to_str().unwrap();
        let held = lock_file(path).unwrap();
        assert!(held.is_some() && lock_file(path).unwrap().is_none());
        drop(held);
        assert!(lock_file(path).unwrap().is_some());
        std::fs::remove_file(path).unwrap();
        let name = format!("xtables-test-{}", std::process::id());
        let held = bind(&name).unwrap();
        assert!(held.is_some() && bind(&name).unwrap().is_none());
    }
}
