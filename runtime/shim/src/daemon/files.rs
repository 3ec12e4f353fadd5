//! The files of a sandbox directory, see [`shim::wire`].

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use shim::plan::{LARGEST_LAUNCH, Launch};

use crate::launch::{Doing, Failure};

/// Records are a few words, the longest text is a path.
const LARGEST_TEXT: u64 = 8192;

/// Writes a whole file by renaming it into place.
pub(super) fn replace(path: &Path, content: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content.as_bytes())?;
    fs::rename(&temporary, path)
}

/// A record, or `None` when there is none that can be read.
pub(super) fn record<T: FromStr>(path: &Path) -> Option<T> {
    text(path).ok()?.parse().ok()
}

/// A short text.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    fs::File::open(path)?.take(LARGEST_TEXT).read_to_string(&mut text)?;
    Ok(text)
}

/// A plan.
pub(super) fn launch(path: &Path) -> Result<Launch, Failure> {
    let doing = || format!("reading {}", path.display());
    let mut bytes = Vec::new();
    let limit = LARGEST_LAUNCH as u64 + 1;
    fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).doing(doing)?;
    Launch::decode(&bytes).map_err(|error| Failure::plain(format!("{}: {error}", doing()), libc::EINVAL))
}

/// Removes files that may not be there.
pub(super) fn remove(directory: &Path, names: &[&str]) {
    for name in names {
        let _ = fs::remove_file(directory.join(name));
    }
}

/// Names of the directories in a directory; none when it is not there.
pub(super) fn directories(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    names
}

/// An id becomes a directory's name.
pub(super) fn check_id(id: &str) -> Result<(), Failure> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if !id.is_empty() && id.len() <= 128 && !id.starts_with('.') && id.bytes().all(fine) {
        Ok(())
    } else {
        Err(Failure::plain(format!("{id:?} is not an id"), libc::EINVAL))
    }
}
