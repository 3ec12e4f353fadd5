//! A process's streams on the channels of one WebSocket.

use std::io;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::Ended;
use super::channels::{CLOSE, ERROR, Parted, RESIZE, STDERR, STDIN, STDOUT, Sizes, tell};
use super::process::{Asked, Listener, Lost, Outlet, Speaker};
use super::server::Socket;
use super::upgrade::Channels;

/// What is sent.
pub(super) struct Speaks {
    sink: SplitSink<Socket, Message>,
    channels: &'static Channels,
}

/// What comes.
pub(super) struct Listens {
    source: SplitStream<Socket>,
    channels: &'static Channels,
    sizes: Sizes,
}

/// Both halves of a WebSocket that carries a process.
pub(super) fn halves(socket: Socket, channels: &'static Channels) -> (Speaks, Listens) {
    let (sink, source) = socket.split();
    (Speaks { sink, channels }, Listens { source, channels, sizes: Sizes::default() })
}

impl Speaker for Speaks {
    async fn output(&mut self, outlet: Outlet, data: &[u8]) -> Result<(), Lost> {
        let channel = match outlet {
            Outlet::Stdout => STDOUT,
            Outlet::Stderr => STDERR,
        };
        self.sink.send(self.channels.message(channel, data)).await.map_err(|_| Lost)
    }

    async fn finish(mut self, ended: &Ended) -> Result<(), Lost> {
        let said = tell(ended, self.channels.told);
        if !said.is_empty() {
            self.sink.send(self.channels.message(ERROR, &said)).await.map_err(|_| Lost)?;
        }
        let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        self.sink.send(Message::Close(Some(close))).await.map_err(|_| Lost)?;
        self.sink.close().await.map_err(|_| Lost)
    }
}

impl Listener for Listens {
    async fn next(&mut self) -> Option<Asked> {
        loop {
            let message = self.source.next().await?.ok()?;
            match self.channels.part(message) {
                Parted::On(channel, data) => match understand(channel, &data, self.channels, &mut self.sizes) {
                    Ok(Some(asked)) => return Some(asked),
                    Ok(None) => {}
                    Err(_wrong) => return None,
                },
                Parted::Nothing => {}
                Parted::End => return None,
            }
        }
    }
}

/// What a client asks for on a channel; nothing when it opens one with an empty message. The error says what is wrong.
fn understand(channel: u8, data: &[u8], channels: &Channels, sizes: &mut Sizes) -> Result<Option<Asked>, &'static str> {
    match (channel, data) {
        (STDIN, []) => Ok(None),
        (STDIN, data) => Ok(Some(Asked::Input(data.to_vec()))),
        (RESIZE, json) => Ok(sizes.take(json)?.map(|(columns, rows)| Asked::Resize(columns, rows))),
        (CLOSE, [STDIN]) if channels.half_close => Ok(Some(Asked::EndOfInput)),
        (CLOSE, [_]) if channels.half_close => Ok(None),
        _ => Err("a client sends on channels 0 and 4 only"),
    }
}

/// The binary messages of a WebSocket as one stream of bytes, each way: SPDY is spoken inside.
pub(super) fn tunnel(socket: Socket) -> impl AsyncRead + AsyncWrite + Unpin + Send {
    let (sink, source) = socket.split();
    let bytes = source.map_err(io::Error::other).try_filter_map(|message| {
        std::future::ready(match message {
            Message::Binary(bytes) => Ok(Some(bytes)),
            Message::Text(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a text message in a tunnel of SPDY")),
            _ => Ok(None),
        })
    });
    let messages = sink
        .sink_map_err(io::Error::other)
        .with(|bytes| std::future::ready(Ok::<_, io::Error>(Message::Binary(bytes))));
    tokio::io::join(StreamReader::new(bytes), SinkWriter::new(CopyToBytes::new(messages)))
}

#[cfg(test)]
mod tests {
    use super::super::upgrade::Told;
    use super::*;

    const V5: Channels = Channels { name: "v5", half_close: true, base64: false, told: Told::Status };
    const V4: Channels = Channels { half_close: false, ..V5 };

    #[test]
    fn only_v5_can_end_its_input() {
        let end = |channels| understand(CLOSE, &[STDIN], channels, &mut Sizes::default());
        assert_eq!(end(&V5), Ok(Some(Asked::EndOfInput)));
        assert!(end(&V4).is_err());
    }

    #[test]
    fn input_and_sizes_are_told_apart() {
        let mut sizes = Sizes::default();
        let mut hear = |channel, data: &[u8]| understand(channel, data, &V4, &mut sizes);
        assert_eq!(hear(STDIN, b"hi"), Ok(Some(Asked::Input(b"hi".to_vec()))));
        assert_eq!(hear(STDIN, b""), Ok(None));
        assert_eq!(hear(RESIZE, br#"{"Width":80,"Height":24}"#), Ok(Some(Asked::Resize(80, 24))));
        assert!(hear(STDOUT, b"x").is_err());
    }
}
