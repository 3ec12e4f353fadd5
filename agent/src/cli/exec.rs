//! `longshore exec`: a command in a container, with this terminal as its own where asked.
//!
//! Speaks `v5.channel.k8s.io`: every binary message begins with its channel (0 stdin, 1 stdout, 2 stderr, 3 error,
//! 4 resize); `[255, channel]` closes one.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;

use anyhow::{Context, bail};
use futures::{SinkExt, StreamExt};
use nix::sys::termios::{self, SetArg, Termios};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

const PROTOCOL: &str = "v5.channel.k8s.io";

/// What is connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wiring {
    /// Send our standard input.
    pub stdin: bool,
    /// The command has a terminal.
    pub tty: bool,
}

/// Connects to the one-time `url` that the runtime gave and stays until the command ends. Returns its exit code.
///
/// # Errors
/// When the connection breaks or the command could not be run.
pub(super) async fn attach(url: &str, wiring: Wiring) -> anyhow::Result<u8> {
    let socket = connect(url).await?;
    let raw = wiring.tty.then(RawTerminal::enter).flatten();
    let result = relay(socket, wiring).await;
    drop(raw);
    result
}

async fn connect(url: &str) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let url = url.replacen("http://", "ws://", 1);
    let mut request = url.as_str().into_client_request().context("the runtime's streaming address")?;
    request.headers_mut().insert("sec-websocket-protocol", PROTOCOL.parse()?);
    let authority = request.uri().authority().context("the runtime's streaming address names no host")?.to_string();
    let stream =
        TcpStream::connect(&authority).await.with_context(|| format!("connecting to the runtime at {authority}"))?;
    stream.set_nodelay(true)?;
    let (socket, _) = client_async(request, stream).await.context("opening the stream")?;
    Ok(socket)
}

async fn relay(socket: WebSocketStream<TcpStream>, wiring: Wiring) -> anyhow::Result<u8> {
    let (mut sink, mut source) = socket.split();
    let mut resized = signal(SignalKind::window_change())?;
    let mut stdin = wiring.stdin.then(tokio::io::stdin);
    let mut buffer = vec![0; 32 << 10];
    if wiring.tty {
        sink.send(Message::binary(size_message())).await?;
    }
    loop {
        tokio::select! {
            message = source.next() => match message {
                Some(message) => if let Some(code) = receive(message.context("the stream broke")?)? {
                    return Ok(code);
                },
                None => bail!("the stream ended before the command did"),
            },
            read = read_some(stdin.as_mut(), &mut buffer) => {
                let sent = match read.context("reading standard input")? {
                    0 => { stdin = None; vec![255, 0] }
                    n => [&[0], &buffer[..n]].concat(),
                };
                sink.send(Message::binary(sent)).await?;
            }
            _ = resized.recv(), if wiring.tty => sink.send(Message::binary(size_message())).await?,
        }
    }
}

async fn read_some(stdin: Option<&mut tokio::io::Stdin>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match stdin {
        Some(stdin) => stdin.read(buffer).await,
        None => std::future::pending().await,
    }
}

/// Writes what came; an exit code once the error channel has spoken.
fn receive(message: Message) -> anyhow::Result<Option<u8>> {
    let Message::Binary(bytes) = message else { return Ok(None) };
    match bytes.split_first() {
        Some((1, data)) => forward(&mut std::io::stdout(), data)?,
        Some((2, data)) => forward(&mut std::io::stderr(), data)?,
        Some((3, data)) => return outcome(data).map(Some),
        _ => {}
    }
    Ok(None)
}

fn forward(to: &mut impl Write, data: &[u8]) -> anyhow::Result<()> {
    to.write_all(data).and_then(|()| to.flush()).context("writing the command's output")
}

#[derive(Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    details: Details,
}

#[derive(Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

fn outcome(status: &[u8]) -> anyhow::Result<u8> {
    let status: Status = serde_json::from_slice(status).context("reading how the command ended")?;
    if status.status == "Success" {
        return Ok(0);
    }
    let code = status.details.causes.iter().find(|cause| cause.reason == "ExitCode");
    match code.and_then(|cause| cause.message.parse::<i32>().ok()) {
        Some(code) if status.reason == "NonZeroExitCode" => Ok(u8::try_from(code).unwrap_or(255)),
        _ => bail!("{}", status.message),
    }
}

fn size_message() -> Vec<u8> {
    let (width, height) = terminal_size().unwrap_or((80, 24));
    [&[4], format!("{{\"Width\":{width},\"Height\":{height}}}").as_bytes()].concat()
}

/// Columns and rows of the terminal on standard output.
pub(super) fn terminal_size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// The terminal passes every key on while this lives.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = termios::tcgetattr(stdin.as_fd()).ok()?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(stdin.as_fd(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // The shell will do it too; there is nobody left to tell.
        let _ = termios::tcsetattr(std::io::stdin().as_fd(), SetArg::TCSADRAIN, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_commands_own() {
        assert_eq!(outcome(br#"{"metadata":{},"status":"Success"}"#).unwrap(), 0);
        let failed = br#"{"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with non-zero exit code: 3",
            "details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        assert_eq!(outcome(failed).unwrap(), 3);
        let broken = br#"{"status":"Failure","reason":"InternalError","message":"no such container"}"#;
        assert_eq!(outcome(broken).unwrap_err().to_string(), "no such container");
    }
}
