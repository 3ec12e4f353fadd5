//! Which system calls a container may make: profiles, and the filter the kernel runs for each call.
//!
//! [`runtime_default`] is the profile of pods that ask for `RuntimeDefault`, [`read_profile`] reads a `Localhost` one;
//! both are OCI values that go into `config.json`. [`Programs`] compiles them for our own shim.

mod bpf;
mod compile;
mod numbers;
mod profile;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::runtime::LinuxSeccomp;

pub use profile::runtime_default;

/// Larger than any real profile (Docker's is 13 kB) by far.
const LARGEST_PROFILE: u64 = 1 << 20;

/// Programs kept: a node has a handful of capability sets and profiles.
const MOST_PROGRAMS: usize = 32;

/// A profile that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Decisions by another process.
    #[error("seccomp notify is not supported by this runtime")]
    Notify,
    /// An errno that is none.
    #[error("{0} is not an errno")]
    Errno(u32),
    /// A system call has six arguments.
    #[error("a system call has no argument {0}")]
    Argument(usize),
    /// More than the kernel takes.
    #[error("the filter would have {0} instructions, more than the kernel's 4096")]
    TooLong(usize),
    /// A profile file that cannot be read.
    #[error("reading seccomp profile {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A profile file that is too large to be one.
    #[error("seccomp profile {0} is larger than 1 MiB")]
    TooLarge(PathBuf),
    /// A profile file that is not one.
    #[error("seccomp profile {path} is not valid")]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
}

/// A compiled filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// `struct sock_filter` array in native byte order.
    pub bytes: Arc<[u8]>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Compiles one profile.
///
/// # Errors
/// [`SeccompError`]: it asks for something no filter of ours does.
pub fn program(profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
    Ok(Program { bytes: bpf::bytes(&compile::compile(profile)?).into(), flags: compile::flags(profile) })
}

/// Compiled filters, kept by profile: pods differ in little, and a filter is asked for at every start and exec.
#[derive(Debug, Default)]
pub struct Programs(Mutex<Vec<(LinuxSeccomp, Program)>>);

impl Programs {
    /// The filter of a profile, compiled at its first use.
    ///
    /// # Errors
    /// As for [`program`].
    pub fn of(&self, profile: &LinuxSeccomp) -> Result<Program, SeccompError> {
        if let Some((_, known)) = self.lock().iter().find(|(known, _)| known == profile) {
            return Ok(known.clone());
        }
        let made = program(profile)?;
        let mut all = self.lock();
        if all.len() == MOST_PROGRAMS {
            all.remove(0);
        }
        all.push((profile.clone(), made.clone()));
        Ok(made)
    }

    /// What is kept is whole after every operation, so a panic elsewhere spoils nothing.
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(LinuxSeccomp, Program)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the profile of a Localhost reference, which the kubelet gives as an absolute path.
///
/// # Errors
/// [`SeccompError`]: missing, too large, or not a profile.
pub fn read_profile(path: &Path) -> Result<LinuxSeccomp, SeccompError> {
    let failed = |source| SeccompError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LARGEST_PROFILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > LARGEST_PROFILE {
        return Err(SeccompError::TooLarge(path.to_owned()));
    }
    serde_json::from_slice(&bytes).map_err(|source| SeccompError::Parse { path: path.to_owned(), source })
}
