use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

/// What volumes need of the kernel's mount table, and nothing more. Calls block.
pub trait Mounts: Send + Sync + 'static {
    /// A fresh tmpfs of at most `size` bytes at `target` (0: the kernel's default, half of the memory); `quiet`
    /// forbids devices and set-uid programs.
    ///
    /// # Errors
    /// The kernel's.
    fn tmpfs(&self, target: &Path, size: u64, quiet: bool) -> io::Result<()>;

    /// Huge pages of `page` bytes at `target`, of at most `size` bytes (0: as many as there are).
    ///
    /// # Errors
    /// The kernel's; `EINVAL` where it has no pages of that size.
    fn huge_pages(&self, target: &Path, page: u64, size: u64) -> io::Result<()>;

    /// The mount at `target` gets exactly these flags.
    ///
    /// # Errors
    /// The kernel's.
    fn restrict(&self, target: &Path, flags: MountFlags) -> io::Result<()>;

    /// `target` becomes a mount, if it is none, and shares what is mounted below it with its copies.
    ///
    /// # Errors
    /// The kernel's.
    fn share(&self, target: &Path) -> io::Result<()>;

    /// What `source` is open on also appears at `target`.
    ///
    /// # Errors
    /// The kernel's.
    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()>;

    /// Takes the topmost mount at `target` away. A link is not followed.
    ///
    /// # Errors
    /// `EBUSY` while somebody uses it.
    fn unmount(&self, target: &Path) -> io::Result<()>;

    /// The same for a network file system whose server may be gone: what waits for it fails.
    ///
    /// # Errors
    /// As [`Mounts::unmount`].
    fn unmount_by_force(&self, target: &Path) -> io::Result<()>;

    /// Something is mounted at `target`. A link is not followed; what does not exist is no mount.
    ///
    /// # Errors
    /// The kernel's, other than that it does not exist.
    fn is_mounted(&self, target: &Path) -> io::Result<bool>;
}

/// The kernel itself, in the mount namespace of the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelMounts;

impl Mounts for KernelMounts {
    fn tmpfs(&self, target: &Path, size: u64, quiet: bool) -> io::Result<()> {
        let flags = if quiet { MountFlags::NODEV | MountFlags::NOSUID } else { MountFlags::empty() };
        let mount = |options: String| {
            let options = CString::new(options)?;
            rustix::mount::mount("tmpfs", target, "tmpfs", flags, options.as_c_str()).map_err(io::Error::from)
        };
        // To tmpfs itself, 0 would mean without bounds.
        let size = if size == 0 { String::new() } else { format!("size={size}") };
        // What may be secret should not reach a swap device; kernels before 6.4 do not know the option.
        match mount(format!("{size},noswap").trim_start_matches(',').to_owned()) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => mount(size),
            result => result,
        }
    }

    fn huge_pages(&self, target: &Path, page: u64, size: u64) -> io::Result<()> {
        let size = if size == 0 { String::new() } else { format!(",size={size}") };
        let options = CString::new(format!("pagesize={page}{size}"))?;
        Ok(rustix::mount::mount("nodev", target, "hugetlbfs", MountFlags::empty(), options.as_c_str())?)
    }

    fn restrict(&self, target: &Path, flags: MountFlags) -> io::Result<()> {
        Ok(rustix::mount::mount_remount(target, MountFlags::BIND | flags, "")?)
    }

    fn share(&self, target: &Path) -> io::Result<()> {
        if !self.is_mounted(target)? {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let own = rustix::fs::open(target, flags, Mode::empty())?;
            self.bind(own.as_fd(), target)?;
        }
        Ok(rustix::mount::mount_change(target, MountPropagationFlags::SHARED | MountPropagationFlags::REC)?)
    }

    fn bind(&self, source: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
        let tree = rustix::mount::open_tree(
            source,
            "",
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH,
        )?;
        rustix::mount::move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(())
    }

    fn unmount(&self, target: &Path) -> io::Result<()> {
        Ok(rustix::mount::unmount(target, UnmountFlags::NOFOLLOW)?)
    }

    fn unmount_by_force(&self, target: &Path) -> io::Result<()> {
        Ok(rustix::mount::unmount(target, UnmountFlags::NOFOLLOW | UnmountFlags::FORCE)?)
    }

    fn is_mounted(&self, target: &Path) -> io::Result<bool> {
        is_mount_root(CWD, target)
    }
}

/// Whether the entry `name` of `dir` is the root of a mount. A link is not followed.
pub(super) fn is_mount_root(dir: BorrowedFd<'_>, name: &Path) -> io::Result<bool> {
    // A server that is gone is not asked: whether it is a mount is known here.
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    match rustix::fs::statx(dir, name, flags, StatxFlags::empty()) {
        // The kernel says since 5.8 whether it can tell.
        Ok(stat) if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) => {
            Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Ok(_) => Err(Errno::NOSYS.into()),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
