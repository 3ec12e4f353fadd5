//! The host's procfs, held open from before the root changes: what is written there must not land in a file that an
//! image put in its place.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Doing, Failure};
use crate::sys;

/// `/proc` of the host; its entries show the namespaces of whoever looks.
pub(super) struct Proc(OwnedFd);

impl Proc {
    pub(super) fn open() -> Result<Self, Failure> {
        let doing = || "opening the host's /proc".to_owned();
        let directory = sys::open(Path::new("/proc"), libc::O_PATH | libc::O_DIRECTORY).doing(doing)?;
        #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
        if sys::filesystem(directory.as_fd()).doing(doing)? == libc::PROC_SUPER_MAGIC as i64 {
            Ok(Self(directory))
        } else {
            Err(Failure::plain("/proc of the host is not procfs".into(), libc::EINVAL))
        }
    }

    pub(super) fn write(&self, path: &CStr, value: &[u8]) -> Result<(), Failure> {
        let doing = || format!("writing {} to /proc/{}", String::from_utf8_lossy(value), path.to_string_lossy());
        let file = sys::openat(self.0.as_fd(), path, libc::O_WRONLY, 0).doing(doing)?;
        sys::write_value(file.as_fd(), value).doing(doing)
    }

    /// Kernel parameters of the namespaces the caller is in.
    pub(super) fn sysctls(&self, sysctls: &[(PathBuf, Vec<u8>)]) -> Result<(), Failure> {
        for (path, value) in sysctls {
            let doing = || format!("setting sysctl {} to {}", path.display(), String::from_utf8_lossy(value));
            let below = [b"sys/", path.as_os_str().as_bytes()].concat();
            let name = CString::new(below).map_err(|_| Failure::new(doing(), libc::EINVAL))?;
            let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
            let file = sys::openat2(self.0.as_fd(), &name, libc::O_WRONLY, 0, resolve).doing(doing)?;
            sys::write_value(file.as_fd(), value).doing(doing)?;
        }
        Ok(())
    }

    /// The profile of the next exec. Kernels since 5.8 have AppArmor's own file, older ones the one it shares.
    pub(super) fn apparmor(&self, profile: &CStr) -> Result<(), Failure> {
        let value = [b"exec ", profile.to_bytes()].concat();
        self.write(c"self/attr/apparmor/exec", &value).or_else(|failure| match failure.errno {
            libc::ENOENT => self.write(c"self/attr/exec", &value),
            _ => Err(failure),
        })
    }
}
