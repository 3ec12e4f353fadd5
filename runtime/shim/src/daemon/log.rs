//! A container's log file.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::cri::timestamp;
use crate::sys;

/// The file name and the two directories above it (`<pod>/<container>/<n>.log`) may be reached by containers that
/// have the log directory as a volume; what is above is the administrator's.
const DISTRUSTED: usize = 3;

/// Where whole lines are appended; output that does not fit on the disk is counted instead of waited for.
#[derive(Debug)]
pub(super) struct Log {
    path: Option<PathBuf>,
    file: Option<OwnedFd>,
    /// Bytes lost since the last line that was written, and why.
    lost: Option<(u64, i32)>,
}

impl Log {
    /// Opens the file named, or none when the container has no log.
    pub(super) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let file = path.as_deref().map(open_file).transpose()?;
        Ok(Self { path, file, lost: None })
    }

    /// A log that may be missing its file, for a container that runs whatever became of its log.
    pub(super) fn open_if_possible(path: Option<PathBuf>) -> Self {
        let file = path.as_deref().and_then(|path| open_file(path).ok());
        Self { path, file, lost: None }
    }

    /// Goes on in the file that now has the name; in the old one if that can't be opened.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = Some(open_file(path)?);
        }
        Ok(())
    }

    /// Appends whole lines.
    pub(super) fn write(&mut self, lines: &[u8], now: i64) {
        if self.path.is_none() || lines.is_empty() {
            return;
        }
        if let Some((bytes, errno)) = self.lost {
            let why = sys::describe(errno);
            let note = format!("{} stderr F longshore: {bytes} bytes of log were lost: {why}\n", timestamp(now));
            match self.append(note.as_bytes()) {
                Ok(()) => self.lost = None,
                Err((_, errno)) => return self.lose(lines.len(), errno),
            }
        }
        if let Err((written, errno)) = self.append(lines) {
            self.lose(lines.len() - written, errno);
        }
    }

    fn lose(&mut self, bytes: usize, errno: i32) {
        let before = self.lost.map_or(0, |(bytes, _)| bytes);
        self.lost = Some((before.saturating_add(bytes as u64), errno));
    }

    /// On failure: how many bytes of whole lines are in the file, and why not all. Never leaves half a line.
    fn append(&self, lines: &[u8]) -> Result<(), (usize, i32)> {
        let Some(file) = &self.file else { return Err((0, libc::ENOENT)) };
        let mut written = 0;
        while written < lines.len() {
            match sys::write(file.as_fd(), &lines[written..]) {
                Ok(0) => return Err((self.cut_back(lines, written), libc::EIO)),
                Ok(more) => written += more,
                Err(error) => {
                    let errno = error.raw_os_error().unwrap_or(libc::EIO);
                    return Err((self.cut_back(lines, written), errno));
                }
            }
        }
        Ok(())
    }

    /// Takes the half line at the end of what was `written` off the file again; how much is left of it.
    fn cut_back(&self, lines: &[u8], written: usize) -> usize {
        let whole = lines[..written].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if let (Some(file), true) = (&self.file, whole < written) {
            use std::os::fd::AsRawFd;
            let size = sys::fstat(file.as_fd()).map_or(0, |found| found.st_size);
            // SAFETY: only numbers. On failure a half line stays, which readers have to expect of any log.
            unsafe { libc::ftruncate(file.as_raw_fd(), size - (written - whole) as i64) };
        }
        whole
    }
}

fn open_file(path: &Path) -> io::Result<OwnedFd> {
    let base = path.ancestors().nth(DISTRUSTED).unwrap_or(Path::new("/"));
    let below = path.strip_prefix(base).unwrap_or(path);
    let base = if base == OsStr::new("") { Path::new("/") } else { base };
    let base = sys::open(base, libc::O_PATH | libc::O_DIRECTORY)?;
    // Non-blocking: a pipe in its place must not stop us before we see that it is one.
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let resolve = libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS;
    let file = sys::openat2(base.as_fd(), &sys::c_path(below)?, flags, 0o640, resolve)?;
    if sys::kind(file.as_fd())? == libc::S_IFREG { Ok(file) } else { Err(io::Error::from_raw_os_error(libc::EINVAL)) }
}
