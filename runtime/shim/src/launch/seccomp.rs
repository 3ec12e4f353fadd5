//! The system call filter.

use shim::plan::Launch;

use super::{Doing, Failure};
use crate::sys::process;

/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` would leave a descriptor that nobody serves.
const LISTENER: u32 = 1 << 3;

/// Loads the plan's filter if it has one.
pub(super) fn load(launch: &Launch) -> Result<(), Failure> {
    if launch.seccomp.is_empty() {
        return Ok(());
    }
    let doing = || "loading the seccomp filter".to_owned();
    if !launch.seccomp.len().is_multiple_of(8) || launch.seccomp_flags & LISTENER != 0 {
        return Err(Failure::new(doing(), libc::EINVAL));
    }
    process::seccomp(&launch.seccomp, launch.seccomp_flags).doing(doing)
}
