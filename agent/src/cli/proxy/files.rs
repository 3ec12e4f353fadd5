//! Which files are read: those that are named, those of folders, and standard input.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::objects::Objects;
use crate::sources::{Held, LARGEST_FILE, Root, read_file};

/// The name of standard input in messages.
const STDIN: &str = "standard input";

/// Reads everything. What is wrong inside of files is among the objects.
///
/// # Errors
/// A path that does not exist.
pub(super) fn read(paths: &[PathBuf]) -> Result<Objects> {
    let mut objects = Objects::default();
    for path in paths {
        if path == Path::new("-") {
            stdin(&mut objects)?;
            continue;
        }
        let looking = || format!("looking for manifests in {}", path.display());
        for file in Root::of(path, false).and_then(|root| root.files()).with_context(looking)? {
            match read_file(&file) {
                Held::Bytes(bytes) => objects.read(&file, &bytes),
                Held::Gone => objects.problem(&file, 0, "has gone"),
                Held::Unreadable(why) => objects.problem(&file, 0, &why),
            }
        }
    }
    Ok(objects)
}

fn stdin(objects: &mut Objects) -> Result<()> {
    let mut bytes = Vec::new();
    io::stdin().lock().take(LARGEST_FILE + 1).read_to_end(&mut bytes).context("reading standard input")?;
    match bytes.len() as u64 > LARGEST_FILE {
        true => objects.problem(Path::new(STDIN), 0, "is larger than 10 MiB, the limit for one manifest file"),
        false => objects.read(Path::new(STDIN), &bytes),
    }
    Ok(())
}
