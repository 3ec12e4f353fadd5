//! `fsGroup`: a group gets access to what is in a volume (see `volumes`, section 9).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags};
use rustix::io::Errno;
use tracing::warn;

use super::SetUpError;
use super::error::io;

/// Deeper directories keep their owner: neither the stack nor the number of open files is up to a container.
const DEEPEST: usize = 128;

/// `fsGroupChangePolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Policy {
    /// Every file, each time a pod comes.
    #[default]
    Always,
    /// None, where the top looks right already.
    OnRootMismatch,
}

/// Gives all of `dir` to `group`, contents before their directory.
pub(super) fn give(dir: &Path, group: u32, read_only: bool) -> Result<(), SetUpError> {
    give_with(dir, group, read_only, Policy::Always)
}

/// The same by a policy. Only the top must succeed: single files in it may be anything (see `volumes`, section 9).
pub(super) fn give_with(dir: &Path, group: u32, read_only: bool, policy: Policy) -> Result<(), SetUpError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(dir, flags, Mode::empty()).map_err(io("opening", dir))?;
    let group = Gid::from_raw(group);
    if policy == Policy::OnRootMismatch && matches(&root, group, read_only).map_err(io("looking at", dir))? {
        return Ok(());
    }
    let mut failed = Failed::default();
    contents(&root, group, read_only, 0, &mut failed);
    if let Some((name, error)) = failed.first {
        warn!(dir = %dir.display(), count = failed.count, first = name, %error, "files that keep their group");
    }
    one(root.as_fd(), group, read_only, true).map_err(io("giving the fsGroup", dir))
}

/// What could not be changed: told once, not for each of a million files.
#[derive(Default)]
struct Failed {
    count: u64,
    first: Option<(String, Errno)>,
}

impl Failed {
    fn add(&mut self, name: &std::ffi::CStr, error: Errno) {
        self.count += 1;
        self.first.get_or_insert_with(|| (name.to_string_lossy().into_owned(), error));
    }
}

fn matches(dir: &OwnedFd, group: Gid, read_only: bool) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(dir)?;
    let mask = mask(read_only, true);
    Ok(stat.st_gid == group.as_raw() && stat.st_mode & mask == mask)
}

fn mask(read_only: bool, is_dir: bool) -> u32 {
    let access = if read_only { 0o440 } else { 0o660 };
    if is_dir { access | 0o2110 } else { access }
}

fn contents(dir: &OwnedFd, group: Gid, read_only: bool, depth: usize, failed: &mut Failed) {
    let entries = match Dir::read_from(dir) {
        Ok(entries) => entries,
        Err(error) => return failed.add(c".", error),
    };
    for entry in entries {
        match entry {
            Ok(entry) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            Ok(entry) => {
                if let Err(error) = self::entry(dir, entry.file_name(), group, read_only, depth, failed) {
                    failed.add(entry.file_name(), error);
                }
            }
            Err(error) => return failed.add(c".", error),
        }
    }
}

fn entry(
    dir: &OwnedFd,
    name: &std::ffi::CStr,
    group: Gid,
    read_only: bool,
    depth: usize,
    failed: &mut Failed,
) -> Result<(), Errno> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if depth == DEEPEST => Err(Errno::LOOP),
        FileType::Directory => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let below = rustix::fs::openat(dir, name, flags, Mode::empty())?;
            contents(&below, group, read_only, depth + 1, failed);
            one(below.as_fd(), group, read_only, true)
        }
        FileType::Symlink => rustix::fs::chownat(dir, name, None, Some(group), AtFlags::SYMLINK_NOFOLLOW),
        _ => {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            one(rustix::fs::openat(dir, name, flags, Mode::empty())?.as_fd(), group, read_only, false)
        }
    }
}

fn one(file: BorrowedFd<'_>, group: Gid, read_only: bool, is_dir: bool) -> Result<(), Errno> {
    rustix::fs::chownat(file, "", None, Some(group), AtFlags::EMPTY_PATH)?;
    let mode = rustix::fs::fstat(file)?.st_mode & 0o7777 | mask(read_only, is_dir);
    // A path descriptor cannot be changed itself; its link in /proc can, and names nothing but this file.
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::chmodat(CWD, link, Mode::from_raw_mode(mode), AtFlags::empty())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_top_decides_where_the_policy_says_so() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/file"), "x").unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        let before = fs::metadata("/etc/passwd").unwrap().gid();
        give_with(dir.path(), 4711, false, Policy::OnRootMismatch).unwrap();
        let of = |name: &str| {
            let found = fs::symlink_metadata(dir.path().join(name)).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(of("below").0, 4711);
        assert_eq!(of("below").1 & 0o2770, 0o2770);
        assert_eq!((of("below/file").0, of("below/file").1 & 0o660), (4711, 0o660));
        assert_eq!(of("link").0, 4711, "the link, and not what it names");
        assert_eq!(fs::metadata("/etc/passwd").unwrap().gid(), before);

        let strange = || {
            let file = dir.path().join("below/file");
            std::os::unix::fs::chown(&file, None, Some(7)).unwrap();
            fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
        };
        strange();
        give_with(dir.path(), 4711, false, Policy::OnRootMismatch).unwrap();
        assert_eq!(of("below/file"), (7, 0o600), "the top is right: nothing is looked at");
        give_with(dir.path(), 4711, false, Policy::Always).unwrap();
        assert_eq!(of("below/file"), (4711, 0o660));
        strange();
        give_with(dir.path(), 12, false, Policy::OnRootMismatch).unwrap();
        assert_eq!(of("below/file").0, 12, "another group is a mismatch");
    }
}
