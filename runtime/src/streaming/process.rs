//! Exec and attach: a process's streams on the channels of one WebSocket.

use std::pin::Pin;
use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::channels::{self, ERROR, FromClient, STDERR, STDOUT};
use super::head::Protocol;
use super::server::Socket;
use super::{Begin, Ended, Input, Output, Streams};

/// The kubelet's idle time-out.
const IDLE: Duration = Duration::from_secs(4 * 3600);

/// A process's own children may hold its output open after its end; what it wrote itself is in the pipe already.
const DRAIN: Duration = Duration::from_millis(200);

/// And they may go on writing: a slow client gets this long to take what there is.
const LONGEST_DRAIN: Duration = Duration::from_secs(10);

/// One read; kubectl uses the same.
const PIECE: usize = 32 << 10;

type Sink = SplitSink<Socket, Message>;

/// Begins the session and carries its streams until the process ends or the client goes away.
pub(super) async fn run(socket: Socket, protocol: Protocol, begin: Begin<Streams>) {
    let (mut sink, source) = socket.split();
    let ended = match begin().await {
        Ok(streams) => carry(&mut sink, source, protocol, streams).await,
        Err(why) => Some(Ended::Failed(why)),
    };
    if let Some(ended) = ended {
        finish(&mut sink, &ended).await;
    }
}

/// `None` when the client went away first.
async fn carry(
    sink: &mut Sink,
    mut source: SplitStream<Socket>,
    protocol: Protocol,
    streams: Streams,
) -> Option<Ended> {
    let Streams { stdin, stdout, stderr, resize, ended, abandon } = streams;
    let outcome = tokio::select! {
        ended = send_output(sink, stdout, stderr, ended) => ended,
        () = take_input(&mut source, protocol, stdin, resize) => None,
    };
    if outcome.is_none() {
        abandon();
    }
    outcome
}

/// Both outputs until the end of the process, and then what is left in them.
async fn send_output(
    sink: &mut Sink,
    stdout: Option<Output>,
    stderr: Option<Output>,
    ended: impl Future<Output = Ended>,
) -> Option<Ended> {
    let (mut out, mut err) = (Reader::new(STDOUT, stdout), Reader::new(STDERR, stderr));
    let mut ended = std::pin::pin!(ended);
    let mut known: Option<(Ended, Instant)> = None;
    loop {
        let patience = match &known {
            Some((end, since)) if out.is_done() && err.is_done() || since.elapsed() > LONGEST_DRAIN => {
                return Some(end.clone());
            }
            Some(_) => DRAIN,
            None => IDLE,
        };
        let piece = tokio::select! {
            // Output first: an end that is told while output waits would cut it off.
            biased;
            piece = out.read() => piece,
            piece = err.read() => piece,
            end = &mut ended, if known.is_none() => { known = Some((end, Instant::now())); None }
            () = tokio::time::sleep(patience) => return known.map(|(end, _)| end),
        };
        if let Some(message) = piece {
            sink.send(Message::binary(message)).await.ok()?;
        }
    }
}

/// One output stream; a finished one waits for ever, so that a `select!` passes it by.
struct Reader {
    channel: u8,
    stream: Option<Output>,
    buffer: Vec<u8>,
}

impl Reader {
    fn new(channel: u8, stream: Option<Output>) -> Self {
        let buffer = if stream.is_some() { vec![0; PIECE] } else { Vec::new() };
        Self { channel, stream, buffer }
    }

    fn is_done(&self) -> bool {
        self.stream.is_none()
    }

    /// The next message, or `None` at the end of the stream. Cancelled, it has read nothing.
    async fn read(&mut self) -> Option<Vec<u8>> {
        let Some(stream) = &mut self.stream else { return std::future::pending().await };
        match stream.read(&mut self.buffer).await {
            Ok(length) if length > 0 => Some(channels::message(self.channel, &self.buffer[..length])),
            // A terminal whose last user is gone reads as EIO.
            _ => {
                self.stream = None;
                None
            }
        }
    }
}

/// Ends when the client goes away or breaks the protocol.
async fn take_input(
    source: &mut SplitStream<Socket>,
    protocol: Protocol,
    mut stdin: Option<Input>,
    resize: Option<tokio::sync::mpsc::Sender<(u16, u16)>>,
) {
    while let Some(Ok(message)) = source.next().await {
        let data = match message {
            Message::Binary(data) => data,
            Message::Close(_) | Message::Text(_) => return,
            _ => continue,
        };
        match channels::understand(&data, protocol) {
            FromClient::Input(bytes) => write_input(&mut stdin, bytes).await,
            FromClient::EndOfInput => stdin = None,
            FromClient::Resize(columns, rows) => {
                if let Some(resize) = &resize {
                    // A size that finds the queue full is outdated by those in it.
                    let _ = resize.try_send((columns, rows));
                }
            }
            FromClient::Nothing => {}
            FromClient::Bad(_) => return,
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

/// Tells how it ended and closes.
async fn finish(sink: &mut Sink, ended: &Ended) {
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    let said = async {
        sink.send(Message::binary(channels::message(ERROR, &channels::status(ended)))).await?;
        sink.send(Message::Close(Some(close))).await?;
        sink.close().await
    };
    // A client that does not read any more gets no more of our time.
    let _ = timeout(Duration::from_secs(10), said).await;
}
