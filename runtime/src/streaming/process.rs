//! Exec and attach: where a process's streams and a client's meet. Each protocol brings a [`Speaker`] and a [`Listener`].

use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::{Begin, Ended, Input, Output, Streams};

/// A process's own children may hold its output open after its end; what it wrote itself is in the pipe already.
const DRAIN: Duration = Duration::from_millis(200);

/// And they may go on writing: a slow client gets this long to take what there is.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);

/// A client that does not read any more gets no more of our time than this to hear of the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// One read; kubectl uses the same.
const PIECE: usize = 32 << 10;

/// The client is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// Which of its outputs a process wrote to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlet {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a client asks for while its process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// These bytes are for its standard input.
    Input(Vec<u8>),
    /// That was its input.
    EndOfInput,
    /// The terminal has so many columns and rows.
    Resize(u16, u16),
}

/// The way to a client. It returns when the client, or bounded buffers on the way, have taken what was given.
pub(super) trait Speaker {
    async fn output(&mut self, outlet: Outlet, data: &[u8]) -> Result<(), Lost>;
    /// Tells how it ended, after all output.
    async fn finish(self, ended: &Ended) -> Result<(), Lost>;
}

/// The way from a client; `None` when it is gone or broke the protocol.
pub(super) trait Listener {
    async fn next(&mut self) -> Option<Asked>;
}

/// Begins the session and carries its streams until the process ends or the client goes away.
pub(super) async fn run(mut speaker: impl Speaker, listener: impl Listener, begin: Begin<Streams>) {
    let ended = match begin().await {
        Ok(streams) => carry(&mut speaker, listener, streams).await,
        Err(why) => Some(Ended::Failed(why)),
    };
    if let Some(ended) = ended {
        let _ = timeout(FAREWELL, speaker.finish(&ended)).await;
    }
}

/// `None` when the client went away first.
async fn carry(speaker: &mut impl Speaker, mut listener: impl Listener, streams: Streams) -> Option<Ended> {
    let Streams { stdin, stdout, stderr, resize, ended, abandon } = streams;
    let outcome = tokio::select! {
        ended = send_output(speaker, stdout, stderr, ended) => ended,
        () = take_input(&mut listener, stdin, resize) => None,
    };
    if outcome.is_none() {
        abandon();
    }
    outcome
}

/// Both outputs until the end of the process, and then what is left in them.
async fn send_output(
    speaker: &mut impl Speaker,
    stdout: Option<Output>,
    stderr: Option<Output>,
    ended: impl Future<Output = Ended>,
) -> Option<Ended> {
    let (mut out, mut err) = (Reader::new(stdout), Reader::new(stderr));
    let mut ended = std::pin::pin!(ended);
    let mut known: Option<(Ended, Instant)> = None;
    loop {
        if let Some((end, since)) = &known
            && (out.is_done() && err.is_done() || since.elapsed() > LONGEST_DRAIN)
        {
            return Some(end.clone());
        }
        let (outlet, length) = tokio::select! {
            // Output first: an end that is told while output waits would cut it off.
            biased;
            length = out.read() => (Outlet::Stdout, length),
            length = err.read() => (Outlet::Stderr, length),
            end = &mut ended, if known.is_none() => {
                known = Some((end, Instant::now()));
                continue;
            }
            () = tokio::time::sleep(DRAIN), if known.is_some() => return known.map(|(end, _)| end),
        };
        let from = if outlet == Outlet::Stdout { &out } else { &err };
        if length > 0 {
            speaker.output(outlet, &from.buffer[..length]).await.ok()?;
        }
    }
}

/// One output stream; a finished one waits for ever, so that a `select!` passes it by.
struct Reader {
    stream: Option<Output>,
    buffer: Vec<u8>,
}

impl Reader {
    fn new(stream: Option<Output>) -> Self {
        let buffer = if stream.is_some() { vec![0; PIECE] } else { Vec::new() };
        Self { stream, buffer }
    }

    fn is_done(&self) -> bool {
        self.stream.is_none()
    }

    /// How much is in the buffer now, nothing at the end of the stream. Cancelled, it has read nothing.
    async fn read(&mut self) -> usize {
        let Some(stream) = &mut self.stream else { return std::future::pending().await };
        match stream.read(&mut self.buffer).await {
            Ok(length) if length > 0 => length,
            // A terminal whose last user is gone reads as EIO.
            _ => {
                self.stream = None;
                0
            }
        }
    }
}

/// Ends when the client goes away or breaks the protocol.
async fn take_input(
    listener: &mut impl Listener,
    mut stdin: Option<Input>,
    resize: Option<tokio::sync::mpsc::Sender<(u16, u16)>>,
) {
    while let Some(asked) = listener.next().await {
        match asked {
            Asked::Input(bytes) => write_input(&mut stdin, &bytes).await,
            Asked::EndOfInput => stdin = None,
            Asked::Resize(columns, rows) => {
                if let Some(resize) = &resize {
                    // A size that finds the queue full is outdated by those in it.
                    let _ = resize.try_send((columns, rows));
                }
            }
        }
    }
}

/// A process that closed its input goes on without; what is sent to it is dropped.
async fn write_input(stdin: &mut Option<Input>, bytes: &[u8]) {
    let Some(stream) = stdin else { return };
    let stream: &mut Pin<_> = stream;
    if stream.write_all(bytes).await.is_err() || stream.flush().await.is_err() {
        *stdin = None;
    }
}
