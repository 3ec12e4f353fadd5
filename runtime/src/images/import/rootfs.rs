//! A root file system folder becomes an image of one layer.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use super::{ImportError, Problem, failed, tar_writer};
use crate::images::config::Image;
use crate::images::digest::{DiffId, Hasher};
use crate::images::error::ImageError;
use crate::images::layers::tree;
use crate::images::manifest::Platform;
use crate::images::progress::PullProgress;
use crate::images::reference::ImageRef;
use crate::images::store::{Hold, ImageStore, LayerSource, NewNames};

/// The folder is read twice, for its digest and for its content: an image's id must be known before it is stored, and
/// the same folder must give the same id. A folder that changes in between is refused by the layer's digest.
pub(super) async fn import(
    store: &ImageStore,
    path: &Path,
    name: &ImageRef,
    platform: &Platform,
) -> Result<Vec<Image>, ImageError> {
    let opened = path.to_owned();
    let (diff_id, has_shell) = store
        .blocking("reading a folder", move |_| {
            measure(&opened).map_err(|error| failed(&opened, Problem::Import(error)))
        })
        .await?;
    let config = config_json(&diff_id, has_shell, platform);
    let hold = Hold::new(&store.0, std::slice::from_ref(&diff_id));
    let lock = store.0.layer_locks.lock(&diff_id).await;
    let progress = PullProgress::default().add(diff_id.0.clone(), 0);
    let source = LayerSource { diff_id: diff_id.clone(), blob: None, progress };
    let path = path.to_owned();
    store
        .blocking("copying a folder", move |inner| {
            let _lock = lock;
            let folder = tree::open_folder(&path).map_err(|error| failed(&path, Problem::Import(unreadable(error))))?;
            ImageStore::put_layer(inner, &source, tar_writer::stream(folder))
        })
        .await?;
    let names = NewNames { tags: BTreeSet::from([name.to_string()]), ..NewNames::default() };
    Ok(vec![store.put(config, vec![diff_id], names, hold).await?])
}

fn measure(path: &Path) -> Result<(DiffId, bool), ImportError> {
    let folder = tree::open_folder(path).map_err(unreadable)?;
    let has_shell = has_shell(&folder);
    let mut stream = tar_writer::stream(folder);
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; 128 * 1024];
    let mut length = 0u64;
    loop {
        match io::Read::read(&mut stream, &mut buffer).map_err(unreadable)? {
            0 => break,
            count => {
                hasher.update(&buffer[..count]);
                length += count as u64;
            }
        }
    }
    if length <= tar_writer::EMPTY_LENGTH { Err(ImportError::Empty) } else { Ok((DiffId(hasher.finish()), has_shell)) }
}

fn unreadable(source: io::Error) -> ImportError {
    ImportError::Read { name: "the folder".to_owned(), source }
}

fn has_shell(folder: &OwnedFd) -> bool {
    tree::open_in_root(folder, b"bin/sh", rustix::fs::OFlags::PATH).is_ok()
}

/// No date: the same folder gives the same id.
fn config_json(diff_id: &DiffId, has_shell: bool, platform: &Platform) -> Vec<u8> {
    let cmd: &[&str] = if has_shell { &["/bin/sh"] } else { &[] };
    let config = serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": cmd,
        },
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    config.to_string().into_bytes()
}
