//! Folders that a layer has only because something in it lies below them.
//!
//! Some builders leave folders out of a layer that lower layers have already. Unpacked by itself such a layer shows
//! them with root's ownership and mode 0755, and would turn `/tmp` or a home into something else.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Stat, Uid};

use crate::images::layers::tree;

/// A layer's content, and the folders it only implies.
pub(super) struct LayerView {
    pub(super) content: PathBuf,
    pub(super) implied: BTreeSet<String>,
}

/// Gives implied folders in the mounted `root` owner and mode of the highest layer that says something about them.
/// `layers` are highest first. Folders that the writable layer has already are left alone: they are the container's.
/// `base` is what user and group 0 of the container are in `root`.
pub(super) fn restore(layers: &[LayerView], upper: &Path, root: &Path, base: (u32, u32)) -> io::Result<()> {
    let paths: BTreeSet<&String> = layers.iter().flat_map(|layer| &layer.implied).filter(|p| !p.is_empty()).collect();
    if paths.is_empty() {
        return Ok(());
    }
    let (upper, root) = (tree::open_folder(upper)?, tree::open_folder(root)?);
    for path in paths {
        if tree::open_plain(&upper, path.as_bytes(), OFlags::PATH).is_ok() {
            continue;
        }
        let Some(wanted) = owner(layers, path)? else { continue };
        // Hidden by a higher layer, or something else there: nothing to set.
        let Ok(folder) = tree::open_plain(&root, path.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY) else { continue };
        let now = rustix::fs::fstat(&folder)?;
        let (uid, gid) = (wanted.st_uid.saturating_add(base.0), wanted.st_gid.saturating_add(base.1));
        if (now.st_mode, now.st_uid, now.st_gid) != (wanted.st_mode, uid, gid) {
            rustix::fs::fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(wanted.st_mode & 0o7777))?;
        }
    }
    Ok(())
}

/// The folder as the highest layer has it that names it; none if a layer on the way hides those below.
fn owner(layers: &[LayerView], path: &str) -> io::Result<Option<Stat>> {
    for layer in layers {
        let (found, hides) = look(tree::open_folder(&layer.content)?, path)?;
        match found {
            Some(stat) if !layer.implied.contains(path) => return Ok(Some(stat)),
            _ if hides => return Ok(None),
            _ => {}
        }
    }
    Ok(None)
}

/// The folder in one layer, and whether this layer hides what lower ones have at its name.
fn look(mut folder: OwnedFd, path: &str) -> io::Result<(Option<Stat>, bool)> {
    let mut hides = false;
    for part in path.split('/') {
        match tree::stat(&folder, part.as_bytes())? {
            None => return Ok((None, hides)),
            Some(stat) if !tree::is_folder(&stat) => return Ok((None, true)),
            Some(_) => folder = tree::open_plain(&folder, part.as_bytes(), OFlags::DIRECTORY | OFlags::RDONLY)?,
        }
        let mut value = [0];
        let read = rustix::fs::fgetxattr(&folder, "trusted.overlay.opaque", &mut value);
        hides |= read.is_ok() && value == *b"y";
    }
    Ok((Some(rustix::fs::fstat(&folder)?), hides))
}
