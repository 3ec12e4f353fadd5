//! How many bytes and inodes a directory holds on disk. One directory is open at a time: depth is no bound.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::resources::pressure::OnDisk;

/// The kernel takes 4,096 bytes of a path at a time.
const HOP: usize = 3_800;
/// What `st_blocks` counts in.
const BLOCK: u64 = 512;

/// What everything in `root` takes, itself included in the inodes; what is mounted in it and what is named by links does not
/// count, a file with several names counts once. What is not there holds nothing.
pub(crate) fn of(root: &Path) -> io::Result<OnDisk> {
    let top = match rustix::fs::openat(CWD, root, FLAGS, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(OnDisk::default()),
        other => other?,
    };
    let device = rustix::fs::fstat(&top)?.st_dev;
    let (mut used, mut seen, mut left) = (OnDisk { bytes: 0, inodes: 1 }, HashSet::new(), vec![PathBuf::new()]);
    while let Some(path) = left.pop() {
        let dir = match open(&top, &path) {
            // Gone meanwhile, or another thing than it was.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            other => other?,
        };
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if stat.st_dev != device || (stat.st_nlink > 1 && !is_dir(stat.st_mode) && !seen.insert(stat.st_ino)) {
                continue;
            }
            let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK);
            used = used + OnDisk { bytes, inodes: 1 };
            if is_dir(stat.st_mode) {
                left.push(path.join(OsStr::from_bytes(name.to_bytes())));
            }
        }
    }
    Ok(used)
}

const FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

fn is_dir(mode: u32) -> bool {
    FileType::from_raw_mode(mode).is_dir()
}

/// Opens a directory below `top` in as many hops as its path needs, through no link.
fn open(top: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let hop = |from: &OwnedFd, part: &Path| {
        let part = if part.as_os_str().is_empty() { Path::new(".") } else { part };
        rustix::fs::openat2(from, part, FLAGS, Mode::empty(), resolve)
    };
    let (mut at, mut part) = (hop(top, Path::new(""))?, PathBuf::new());
    for component in path {
        if part.as_os_str().len() + component.len() > HOP {
            at = hop(&at, &part)?;
            part = PathBuf::new();
        }
        part.push(component);
    }
    hop(&at, &part)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn everything_counts_once_however_deep_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        assert_eq!(of(&dir.path().join("none")).unwrap(), OnDisk::default());
        let empty = of(&root).unwrap();
        fs::write(dir.path().join("outside"), vec![1; 8 << 20]).unwrap();
        symlink(dir.path().join("outside"), root.join("link")).unwrap();
        symlink(dir.path(), root.join("loop")).unwrap();
        fs::write(root.join("file"), vec![1; 1 << 20]).unwrap();
        fs::hard_link(root.join("file"), root.join("again")).unwrap();
        // A path longer than the kernel takes at once.
        let mut at = rustix::fs::open(&root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let name = "d".repeat(250);
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &*name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &*name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        let deep = rustix::fs::openat(&at, "deep", OFlags::WRONLY | OFlags::CREATE, Mode::RWXU).unwrap();
        std::io::Write::write_all(&mut fs::File::from(deep), &vec![1; 2 << 20]).unwrap();
        let OnDisk { bytes, inodes } = of(&root).unwrap();
        let used = bytes - empty.bytes;
        assert!((3 << 20..4 << 20).contains(&used), "{used}");
        assert_eq!(
            (empty.inodes, inodes),
            (1, 1 + 2 + 1 + 40 + 1),
            "two links, a file of two names, the directories, a deep file"
        );
        super::super::remove::entry(CWD, &root).unwrap();
    }
}
