//! A process's streams on SPDY streams: the client opens `error`, those it asked for, and `resize` with a terminal.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tracing::debug;

use super::channels::{Sizes, tell};
use super::process::{self, Asked, Listener, Lost, Outlet, Speaker};
use super::upgrade::Lanes;
use super::{Begin, Ended, Streams, Wanted};
use crate::spdy::connection::{Connection, Stream};
use crate::spdy::session::Role;

/// A client opens all of its streams at once; this is the kubelet's patience.
const OPENING: Duration = Duration::from_secs(30);

/// After the end the client closes; one that does not is left.
const LINGER: Duration = Duration::from_secs(10);

/// One read; kubectl uses the same.
const PIECE: usize = 32 << 10;

/// The streams of one process, as they are opened.
#[derive(Default)]
struct Opened {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

/// Runs `begin`'s process over a connection that was just upgraded; `read` was read from it already.
pub(super) async fn run<T>(socket: T, read: &[u8], lanes: &'static Lanes, wanted: Wanted, begin: Begin<Streams>)
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (connection, driver) = Connection::over(socket, Role::Server, read);
    let work = async {
        let opened = timeout(OPENING, opened(&connection, lanes, wanted)).await;
        if let Ok(Some((error, opened))) = opened {
            let Opened { stdin, stdout, stderr, resize, .. } = opened;
            let speaker = Speaks { error, stdout, stderr, lanes };
            let ended_input = stdin.is_none();
            let listener = Listens { connection: &connection, stdin, resize, sizes: Sizes::default(), ended_input };
            process::run(speaker, listener, begin).await;
        }
        connection.close();
    };
    serve(driver, work).await;
}

/// Both until the work is done and the client has closed. The end of the driver is heard by the work as the client's.
pub(super) async fn serve(driver: impl Future<Output = std::io::Result<()>>, work: impl Future<Output = ()>) {
    let (mut driver, mut work) = (std::pin::pin!(driver), std::pin::pin!(work));
    tokio::select! {
        () = &mut work => drop(timeout(LINGER, driver).await),
        result = &mut driver => {
            if let Err(error) = result {
                debug!(%error, "a SPDY connection ended");
            }
            work.await;
        }
    }
}

/// Waits until all streams that were asked for are open; `None` when the client is gone before.
async fn opened(connection: &Connection, lanes: &Lanes, wanted: Wanted) -> Option<(Stream, Opened)> {
    let mut opened = Opened::default();
    loop {
        let (stream, headers) = connection.accept().await?;
        let place = match headers.get("streamtype") {
            Some("error") => Some(&mut opened.error),
            Some("stdin") if wanted.stdin => Some(&mut opened.stdin),
            Some("stdout") if wanted.stdout => Some(&mut opened.stdout),
            Some("stderr") if wanted.stderr => Some(&mut opened.stderr),
            Some("resize") if wanted.tty && lanes.resizes => Some(&mut opened.resize),
            _ => None,
        };
        // Dropped, a stream that nobody asked for, or asked for once, is reset.
        if let Some(place) = place.filter(|place| place.is_none()) {
            stream.reply();
            *place = Some(stream);
        }
        let Opened { error, stdin, stdout, stderr, resize } = &opened;
        let all = [
            error.is_some(),
            stdin.is_some() == wanted.stdin,
            stdout.is_some() == wanted.stdout,
            stderr.is_some() == wanted.stderr,
            resize.is_some() == (wanted.tty && lanes.resizes),
        ];
        if all.iter().all(|done| *done) {
            return opened.error.take().map(|error| (error, opened));
        }
    }
}

struct Speaks {
    error: Stream,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    lanes: &'static Lanes,
}

impl Speaker for Speaks {
    async fn output(&mut self, outlet: Outlet, data: &[u8]) -> Result<(), Lost> {
        let stream = match outlet {
            Outlet::Stdout => &mut self.stdout,
            Outlet::Stderr => &mut self.stderr,
        };
        match stream {
            Some(stream) => stream.write_all(data).await.map_err(|_| Lost),
            None => Ok(()),
        }
    }

    async fn finish(mut self, ended: &Ended) -> Result<(), Lost> {
        let said = tell(ended, self.lanes.told);
        self.error.write_all(&said).await.map_err(|_| Lost)?;
        // kubectl waits for the end of its outputs before it reads how it ended.
        for stream in [&mut self.stdout, &mut self.stderr].into_iter().flatten().chain([&mut self.error]) {
            stream.shutdown().await.map_err(|_| Lost)?;
        }
        Ok(())
    }
}

struct Listens<'a> {
    connection: &'a Connection,
    stdin: Option<Stream>,
    resize: Option<Stream>,
    sizes: Sizes,
    /// The process knows that there is no more input.
    ended_input: bool,
}

impl Listener for Listens<'_> {
    async fn next(&mut self) -> Option<Asked> {
        let mut sizes = [0; 256];
        let mut input = vec![0; if self.stdin.is_some() { PIECE } else { 0 }];
        loop {
            tokio::select! {
                read = read(&mut self.stdin, &mut input) => match read {
                    Some(length) => {
                        input.truncate(length);
                        return Some(Asked::Input(input));
                    }
                    None if !self.ended_input => {
                        self.ended_input = true;
                        return Some(Asked::EndOfInput);
                    }
                    None => {}
                },
                read = read(&mut self.resize, &mut sizes) => match read.map(|length| self.sizes.take(&sizes[..length])) {
                    Some(Ok(Some((columns, rows)))) => return Some(Asked::Resize(columns, rows)),
                    Some(Ok(None)) | None => {}
                    Some(Err(_wrong)) => return None,
                },
                () = self.connection.gone() => return None,
            }
        }
    }
}

/// What came on a stream; `None` at its end, after which it waits for ever.
async fn read(from: &mut Option<Stream>, into: &mut [u8]) -> Option<usize> {
    let Some(stream) = from else { return std::future::pending().await };
    match stream.read(into).await {
        Ok(length) if length > 0 => Some(length),
        _ => {
            *from = None;
            None
        }
    }
}
