//! The programs that stay with a pod, carried in our own: started from sealed memory, so that nothing has to be
//! installed, and no container can write to them through `/proc/<pid>/exe`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

static SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/longshore-shim"));

/// The shim, see `shim`: `longshore-shim <sandbox directory>`. Always the same descriptor.
///
/// # Errors
/// When the memory for it can't be had.
pub fn shim() -> io::Result<BorrowedFd<'static>> {
    static SEALED: OnceLock<OwnedFd> = OnceLock::new();
    once(&SEALED, "longshore-shim", SHIM)
}

/// The pause. The shim brings its own; this is for a sandbox without one.
///
/// # Errors
/// When the memory for it can't be had.
pub fn pause() -> io::Result<BorrowedFd<'static>> {
    static SEALED: OnceLock<OwnedFd> = OnceLock::new();
    once(&SEALED, "longshore-pause", ::shim::PAUSE)
}

/// A path under which this process (and a child that has not yet called exec) can execute a descriptor.
pub fn executable_path(program: BorrowedFd<'_>) -> PathBuf {
    format!("/proc/self/fd/{}", program.as_raw_fd()).into()
}

fn once(place: &'static OnceLock<OwnedFd>, name: &str, program: &[u8]) -> io::Result<BorrowedFd<'static>> {
    if let Some(sealed) = place.get() {
        return Ok(sealed.as_fd());
    }
    // Two threads that come here first both make one; the second's is dropped.
    let sealed = seal(name, program)?;
    Ok(place.get_or_init(|| sealed).as_fd())
}

fn seal(name: &str, program: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know EXEC, later ones may be set up to insist on it.
    let made = memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut file = File::from(made);
    file.write_all(program)?;
    fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_shim_runs_from_memory_and_says_how_it_is_called() {
        let output = Command::new(executable_path(shim().expect("memory"))).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(output.stdout, b"usage: longshore-shim <absolute path of a sandbox directory>");
    }

    #[test]
    fn nobody_can_write_to_a_program_that_is_in_use() {
        let path = executable_path(pause().expect("memory"));
        let written = File::options().write(true).open(path).and_then(|mut file| file.write_all(b"x"));
        assert!(written.is_err());
        assert_eq!(shim().expect("memory").as_raw_fd(), shim().expect("memory").as_raw_fd());
    }
}
