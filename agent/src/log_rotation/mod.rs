//! Containers' logs are rotated by size: the log is renamed, the runtime opens a new one, older ones are compressed.
//!
//! One task for all; what runs is taken from the views. The runtime alone writes logs, so that between the rename and
//! its answer it goes on in the renamed file, and no line is lost.

mod plan;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Deadline, Runtime, v1};
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::LogRotation;
use crate::container::logs;
use crate::view::{PodView, PodViews};

pub use plan::{Plan, plan, rotated};

/// Looks at all logs now and then until `stop`.
pub async fn run(
    views: PodViews,
    runtime: Arc<dyn Runtime>,
    root: PathBuf,
    settings: LogRotation,
    within: Duration,
    stop: CancellationToken,
) {
    let Some(max_size) = settings.max_size else { return };
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(settings.every) => {}
        }
        let written: Vec<_> = views.borrow().values().flat_map(|view| written(&root, view)).collect();
        for log in written {
            if let Err(error) = look_at(&log, max_size, settings.max_files, runtime.as_ref(), within).await {
                warn!(log = %log.path.display(), %error, "rotating a container's log");
            }
        }
    }
}

/// The log of a container that runs.
struct Log {
    id: String,
    path: PathBuf,
}

fn written(root: &Path, view: &PodView) -> Vec<Log> {
    let lists = [&view.status.container_statuses, &view.status.init_container_statuses];
    let all = lists.into_iter().filter_map(Option::as_deref).flatten();
    let running = all.filter(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()));
    running
        .filter_map(|container| {
            let (_, id) = container.container_id.as_deref()?.split_once("://")?;
            let restarts = u32::try_from(container.restart_count).ok()?;
            let path = logs::pod_dir(root, &view.pod).join(logs::relative(&container.name, restarts));
            Some(Log { id: id.to_owned(), path })
        })
        .collect()
}

async fn look_at(
    log: &Log,
    max_size: u64,
    max_files: usize,
    runtime: &dyn Runtime,
    within: Duration,
) -> io::Result<()> {
    match tokio::fs::metadata(&log.path).await {
        // Somebody took it away, or a rotation was cut off: a new one is made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => reopen(log, runtime, within).await,
        Err(error) => Err(error),
        Ok(found) if found.len() < max_size => Ok(()),
        Ok(_) => rotate(log, max_files, runtime, within).await,
    }
}

async fn rotate(log: &Log, max_files: usize, runtime: &dyn Runtime, within: Duration) -> io::Result<()> {
    // UTC, unlike the kubelet's: names must sort by time when the clocks change, too.
    let stamp = Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let (path, old) = (log.path.clone(), PathBuf::from(format!("{}.{stamp}", log.path.display())));
    let renamed = old.clone();
    let work = move || {
        tidy(&path, max_files)?;
        // Twice within a second: the next look comes soon enough.
        if !renamed.exists() { std::fs::rename(&path, &renamed).map(|()| true) } else { Ok(false) }
    };
    if !tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?? {
        return Ok(());
    }
    if let Err(error) = reopen(log, runtime, within).await {
        tokio::fs::rename(&old, &log.path).await?;
        return Err(error);
    }
    Ok(())
}

async fn reopen(log: &Log, runtime: &dyn Runtime, within: Duration) -> io::Result<()> {
    let request = v1::ReopenContainerLogRequest { container_id: log.id.clone() };
    let answer = runtime.reopen_container_log(request, Deadline::within(within)).await;
    answer.map(drop).map_err(io::Error::other)
}

/// Makes room among the rotated files.
fn tidy(log: &Path, max_files: usize) -> io::Result<()> {
    let dir = log.parent().unwrap_or(log);
    let name = log.file_name().unwrap_or_default().to_string_lossy();
    let files: Vec<_> =
        std::fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let plan = plan(&name, &files, max_files);
    for file in &plan.delete {
        std::fs::remove_file(dir.join(file))?;
    }
    plan.compress.iter().try_for_each(|file| compress(&dir.join(file)))
}

fn compress(path: &Path) -> io::Result<()> {
    let (part, whole) = (format!("{}.gz.tmp", path.display()), format!("{}.gz", path.display()));
    let mut from = File::open(path)?;
    let to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&part)?;
    let mut packer = GzEncoder::new(to, Compression::fast());
    io::copy(&mut from, &mut packer)?;
    packer.finish()?;
    std::fs::rename(part, whole)?;
    std::fs::remove_file(path)
}
