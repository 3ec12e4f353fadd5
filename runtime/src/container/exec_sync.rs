//! A command whose output is collected: what exec probes do every few seconds.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Kind, v1};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::timeout;

use super::Container;
use super::exec::{self, Command, pipe};
use crate::core::Core;
use crate::error::{Doing, LifeError};

/// Both outputs together: what a gRPC answer of 16 MiB holds.
const MOST_OUTPUT: usize = (16 << 20) - (64 << 10);

/// Runs `args` to its end; with a `limit` it is killed with its children when that has passed.
///
/// # Errors
/// It cannot be started, or takes longer than `limit`.
pub(crate) async fn run(
    core: &Arc<Core>,
    container: &Arc<Container>,
    args: Vec<String>,
    limit: Option<Duration>,
) -> Result<v1::ExecSyncResponse, LifeError> {
    let doing = || format!("making pipes for an exec in container {}", container.id);
    let (stdio, stdout, stderr) = stdio().doing(doing)?;
    let words = args.join(" ");
    let mut running = exec::start(core, container, Command { args, terminal: false }, Some(stdio)).await?;
    let mut out = Collector::new(stdout).doing(doing)?;
    let mut err = Collector::new(stderr).doing(doing)?;
    let ended = collect(&mut out, &mut err, &mut running.ended);
    let code = match limit {
        None => ended.await,
        Some(limit) => match timeout(limit, ended).await {
            Ok(code) => code,
            Err(_) => {
                running.kill().await;
                let why = format!("command {words:?} timed out after {}", duration(limit));
                return Err(LifeError::new(Kind::DeadlineExceeded, why));
            }
        },
    };
    let lost =
        || LifeError::new(Kind::Internal, format!("container {} was stopped while {words:?} ran in it", container.id));
    Ok(v1::ExecSyncResponse { exit_code: code.ok_or_else(lost)?, stdout: out.bytes, stderr: err.bytes })
}

type Stdio = ([OwnedFd; 3], OwnedFd, OwnedFd);

fn stdio() -> io::Result<Stdio> {
    let nothing = File::open("/dev/null")?;
    let ((out, out_end), (err, err_end)) = (pipe()?, pipe()?);
    Ok(([nothing.into(), out_end, err_end], out, err))
}

/// Reads both until the command has ended and what it wrote is read; `None` when nobody knows how it ended.
async fn collect(
    out: &mut Collector,
    err: &mut Collector,
    ended: &mut tokio::sync::oneshot::Receiver<i32>,
) -> Option<i32> {
    loop {
        let room = MOST_OUTPUT.saturating_sub(out.bytes.len() + err.bytes.len());
        tokio::select! {
            () = out.read(room) => {}
            () = err.read(room) => {}
            code = &mut *ended => {
                // Everything it wrote itself is in the pipes now; children that live on may hold them open for ever.
                out.drain(room);
                err.drain(MOST_OUTPUT.saturating_sub(out.bytes.len() + err.bytes.len()));
                return code.ok();
            }
        }
    }
}

/// One output. What has no room is read and dropped: a command must not hang because it says too much.
struct Collector {
    pipe: Option<Receiver>,
    bytes: Vec<u8>,
    buffer: Vec<u8>,
}

impl Collector {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: Some(Receiver::from_owned_fd(pipe)?), bytes: Vec::new(), buffer: vec![0; 16 << 10] })
    }

    /// Reads once; waits for ever after the end, so that a `select!` passes it by. Cancelled, it has read nothing.
    async fn read(&mut self, room: usize) {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        match pipe.read(&mut self.buffer).await {
            Ok(length) if length > 0 => self.keep(length, room),
            _ => self.pipe = None,
        }
    }

    /// Takes what there is without waiting: at most a pipe's content many times over, if somebody goes on writing.
    /// The pipe itself is read: the reactor may not have heard yet that there is something.
    fn drain(&mut self, mut room: usize) {
        for _ in 0..1024 {
            let Some(pipe) = &self.pipe else { return };
            match nix::unistd::read(pipe, &mut self.buffer) {
                Ok(length) if length > 0 => {
                    self.keep(length, room);
                    room = room.saturating_sub(length);
                }
                Err(nix::errno::Errno::EINTR) => {}
                _ => return,
            }
        }
    }

    fn keep(&mut self, length: usize, room: usize) {
        self.bytes.extend_from_slice(&self.buffer[..length.min(room)]);
    }
}

/// As Go prints a duration of whole seconds, which is what probes are given in.
fn duration(limit: Duration) -> String {
    let (minutes, seconds) = (limit.as_secs() / 60, limit.as_secs() % 60);
    match minutes {
        0 => format!("{seconds}s"),
        1..60 => format!("{minutes}m{seconds}s"),
        _ => format!("{}h{}m{seconds}s", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_the_kubelet_says_them() {
        let said = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!([said(1), said(60), said(90), said(3600)], ["1s", "1m0s", "1m30s", "1h0m0s"]);
    }

    #[tokio::test]
    async fn what_was_written_before_the_end_is_there_although_nobody_told() {
        let (read, write) = pipe().unwrap();
        let mut collector = Collector::new(read).unwrap();
        io::Write::write_all(&mut File::from(write), b"last words").unwrap();
        collector.drain(100);
        assert_eq!(collector.bytes, b"last words");
    }

    #[tokio::test]
    async fn output_beyond_the_bound_is_dropped_and_read_all_the_same() {
        let (read, write) = pipe().unwrap();
        let mut collector = Collector::new(read).unwrap();
        let writer = std::thread::spawn(move || io::Write::write_all(&mut File::from(write), &vec![b'x'; 100_000]));
        for _ in 0..100 {
            if collector.pipe.is_none() {
                break;
            }
            collector.read(10usize.saturating_sub(collector.bytes.len())).await;
        }
        writer.join().unwrap().unwrap();
        assert_eq!(collector.bytes.len(), 10);
    }
}
