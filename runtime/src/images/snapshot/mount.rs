//! The mount calls of a snapshot.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

/// What mountinfo shows as the device.
const SOURCE: &str = "longshore";

/// Whether something is mounted on `path`; false when nothing is there.
pub(super) fn is_mounted(path: &Path) -> io::Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Mounts an overlay of `lower` (highest first) with `upper` on `root`.
pub(super) fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, root: &Path) -> io::Result<()> {
    match one_option_per_layer(lower, upper, work, root) {
        // Before Linux 6.5 `lowerdir+` is not known; before 5.2 there is no fsopen.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
            all_layers_in_one_option(lower, upper, work, root)
        }
        result => result,
    }
}

/// No limit of one page on all options together, which is 38 layers with full paths.
fn one_option_per_layer(lower: &[PathBuf], upper: &Path, work: &Path, root: &Path) -> io::Result<()> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", SOURCE)?;
    for layer in lower {
        fsconfig_set_string(&context, "lowerdir+", layer)?;
    }
    fsconfig_set_string(&context, "upperdir", upper)?;
    fsconfig_set_string(&context, "workdir", work)?;
    // An index would refuse layers that were mounted before in another stack.
    fsconfig_set_string(&context, "index", "off")?;
    // The container's files need not outlive a power cut, and without this every unmount flushes the whole disk.
    fsconfig_set_flag(&context, "volatile")?;
    fsconfig_create(&context)?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    Ok(move_mount(&mount, "", CWD, root, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Layers by descriptor: short, and nothing to escape whatever the store's path is.
fn all_layers_in_one_option(lower: &[PathBuf], upper: &Path, work: &Path, root: &Path) -> io::Result<()> {
    let open = |path: &Path| -> io::Result<(OwnedFd, String)> {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
        let name = format!("/proc/self/fd/{}", folder.as_raw_fd());
        Ok((folder, name))
    };
    let lower = lower.iter().map(|layer| open(layer)).collect::<io::Result<Vec<_>>>()?;
    let (upper, work) = (open(upper)?, open(work)?);
    let layers: Vec<&str> = lower.iter().map(|(_, name)| name.as_str()).collect();
    let options = format!("lowerdir={},upperdir={},workdir={},index=off", layers.join(":"), upper.1, work.1);
    let try_with = |extra: &str| {
        let options = CString::new(format!("{options}{extra}"))?;
        Ok(rustix::mount::mount(SOURCE, root, "overlay", MountFlags::empty(), Some(options.as_c_str()))?)
    };
    // `volatile` came with Linux 5.10.
    try_with(",volatile").or_else(|error: io::Error| match error.raw_os_error() {
        Some(libc::EINVAL) => try_with(""),
        _ => Err(error),
    })
}

pub(super) fn unmount(root: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(root, UnmountFlags::NOFOLLOW)?)
}

/// Takes the mount out of sight at once; it ends when its last user does.
pub(super) fn detach(root: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(root, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    type Way = fn(&[PathBuf], &Path, &Path, &Path) -> io::Result<()>;

    fn stack(way: Way) {
        let tmp = tempfile::tempdir().unwrap();
        let path = |name: &str| tmp.path().join(name);
        // A name with everything that mount options split at.
        let names = ["low:er,1\\", "lower2", "upper", "work", "root"];
        names.iter().for_each(|name| fs::create_dir(path(name)).unwrap());
        fs::write(path(names[0]).join("a"), "high").unwrap();
        fs::write(path(names[1]).join("a"), "low").unwrap();
        fs::write(path(names[1]).join("b"), "low").unwrap();
        assert!(!is_mounted(&path("root")).unwrap());
        way(&[path(names[0]), path(names[1])], &path("upper"), &path("work"), &path("root")).unwrap();
        let seen = ["a", "b"].map(|name| fs::read_to_string(path("root").join(name)).unwrap());
        let mounted = is_mounted(&path("root")).unwrap();
        unmount(&path("root")).unwrap();
        assert_eq!((seen, mounted), (["high".to_owned(), "low".to_owned()], true));
        assert!(!is_mounted(&path("root")).unwrap());
    }

    #[test]
    fn layers_are_stacked_in_order_by_the_new_calls() {
        stack(one_option_per_layer);
    }

    #[test]
    fn layers_are_stacked_in_order_by_the_old_call() {
        stack(all_layers_in_one_option);
    }
}
