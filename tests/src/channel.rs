//! A client of the WebSocket channel protocols, written by hand: what is under test does not test itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// Nothing takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to a streaming URL.
pub struct Channel {
    stream: TcpStream,
}

/// What came until the connection was closed.
#[derive(Debug)]
pub struct Said {
    /// Channel 1.
    pub stdout: Vec<u8>,
    /// Channel 2.
    pub stderr: Vec<u8>,
    /// Channel 3.
    pub status: Value,
}

/// Connects with one subprotocol.
///
/// # Errors
/// When the upgrade is refused; the text holds the answer.
pub fn connect(url: &str, protocol: &str) -> Result<Channel> {
    let (address, path) =
        url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("not such a URL")?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 101") && head.contains(protocol), "{head}");
    // RFC 6455's own example.
    ensure!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    Ok(Channel { stream })
}

impl Channel {
    /// Sends one binary message on a channel, masked as a client must.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let length = u16::try_from(data.len() + 1)?;
        let mut frame = vec![0x82];
        match u8::try_from(length).ok().filter(|length| *length < 126) {
            Some(short) => frame.push(0x80 | short),
            None => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend(mask);
        let payload = std::iter::once(&channel).chain(data);
        frame.extend(payload.zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        Ok(self.stream.write_all(&frame)?)
    }

    /// The next message: channel and data; `None` once the other side has closed.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn receive(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        loop {
            let mut head = [0; 2];
            self.stream.read_exact(&mut head)?;
            let mut payload = vec![0; self.length(head[1])?];
            self.stream.read_exact(&mut payload)?;
            match head[0] {
                0x82 if payload.is_empty() => bail!("an empty message"),
                0x82 => return Ok(Some((payload[0], payload.split_off(1)))),
                0x88 => return Ok(None),
                0x89 | 0x8a => {}
                other => bail!("a frame {other:#x}"),
            }
        }
    }

    fn length(&mut self, short: u8) -> Result<usize> {
        Ok(match short {
            126 => {
                let mut bytes = [0; 2];
                self.stream.read_exact(&mut bytes)?;
                u16::from_be_bytes(bytes).into()
            }
            127 => {
                let mut bytes = [0; 8];
                self.stream.read_exact(&mut bytes)?;
                usize::try_from(u64::from_be_bytes(bytes))?
            }
            length => length.into(),
        })
    }

    /// Everything until the other side closes.
    ///
    /// # Errors
    /// When the connection breaks.
    pub fn until_closed(&mut self) -> Result<Said> {
        let mut said = Said { stdout: Vec::new(), stderr: Vec::new(), status: Value::Null };
        while let Some((channel, data)) = self.receive()? {
            match channel {
                1 => said.stdout.extend(data),
                2 => said.stderr.extend(data),
                3 => said.status = serde_json::from_slice(&data)?,
                other => bail!("channel {other}"),
            }
        }
        Ok(said)
    }
}
