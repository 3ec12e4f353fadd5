//! Bytes in, frames out, with a bound on everything that has to be kept.

use bytes::{Buf, BytesMut};

use super::Violation;
use super::frame::{
    FIN, Frame, GOAWAY, HEAD, HEADERS, PING, RST_STREAM, ResetStatus, SETTINGS, SYN_REPLY, SYN_STREAM, StreamId,
    UNIDIRECTIONAL, VERSION, WINDOW_UPDATE,
};
use super::headers::{Headers, Inflate};

/// Largest control frame: it is kept until it is whole. Data frames are passed on in pieces and may be of any length.
pub(super) const LARGEST_CONTROL: usize = 16 << 10;

/// Reads frames from what a connection brings.
#[derive(Debug)]
pub(super) struct Decoder {
    bytes: BytesMut,
    at: At,
    inflate: Inflate,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Head,
    Control {
        kind: u16,
        flags: u8,
        length: usize,
    },
    Data {
        stream: StreamId,
        fin: bool,
        left: usize,
    },
    /// Frames of kinds that nobody knows are passed over, as the draft asks.
    Skip {
        left: usize,
    },
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self { bytes: BytesMut::new(), at: At::Head, inflate: Inflate::new() }
    }

    /// Where what was read goes; nothing is put here before [`Self::frame`] has said that there is nothing more.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next frame, or `None` until there are more bytes. After an error there is no next one.
    pub(super) fn frame(&mut self) -> Result<Option<Frame>, Violation> {
        loop {
            match self.at {
                At::Head if self.bytes.len() < HEAD => return Ok(None),
                At::Head => self.at = self.head()?,
                At::Skip { left: 0 } => self.at = At::Head,
                At::Skip { .. } if self.bytes.is_empty() => return Ok(None),
                At::Skip { left } => {
                    let now = left.min(self.bytes.len());
                    self.bytes.advance(now);
                    self.at = At::Skip { left: left - now };
                }
                At::Data { stream, fin, left } => return Ok(self.data(stream, fin, left)),
                At::Control { length, .. } if self.bytes.len() < length => return Ok(None),
                At::Control { kind, flags, length } => {
                    self.at = At::Head;
                    let payload = self.bytes.split_to(length);
                    return self.control(kind, flags, &payload).map(Some);
                }
            }
        }
    }

    fn head(&mut self) -> Result<At, Violation> {
        let (first, second) = (self.bytes.get_u32(), self.bytes.get_u32());
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if first & 0x8000_0000 == 0 {
            return match first {
                0 => Err(Violation::Frame("data on stream 0")),
                _ => Ok(At::Data { stream: StreamId(first), fin: flags & FIN != 0, left: length }),
            };
        }
        let (version, kind) = ((first >> 16) as u16 & 0x7fff, first as u16);
        match kind {
            _ if version != VERSION => Err(Violation::Version(version)),
            SYN_STREAM..=SETTINGS | PING..=WINDOW_UPDATE if length > LARGEST_CONTROL => Err(Violation::FrameTooLarge),
            SYN_STREAM..=SETTINGS | PING..=WINDOW_UPDATE => Ok(At::Control { kind, flags, length }),
            _ => Ok(At::Skip { left: length }),
        }
    }

    /// What is there of a data frame; all of an empty one is.
    fn data(&mut self, stream: StreamId, fin: bool, left: usize) -> Option<Frame> {
        if left > 0 && self.bytes.is_empty() {
            return None;
        }
        let now = left.min(self.bytes.len());
        let last = now == left;
        self.at = if last { At::Head } else { At::Data { stream, fin, left: left - now } };
        Some(Frame::Data { stream, fin: fin && last, data: self.bytes.split_to(now).freeze() })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: &[u8]) -> Result<Frame, Violation> {
        let fin = flags & FIN != 0;
        Ok(match kind {
            SYN_STREAM => {
                let stream = stream(&mut payload)?;
                // Associated stream, priority and slot mean nothing here.
                let (_, block) = payload.split_at_checked(6).ok_or(Violation::Frame("a short SYN_STREAM"))?;
                let unidirectional = flags & UNIDIRECTIONAL != 0;
                Frame::SynStream { stream, fin, unidirectional, headers: self.inflate.block(block)? }
            }
            SYN_REPLY => Frame::SynReply { stream: stream(&mut payload)?, fin, headers: self.headers(payload)? },
            HEADERS => Frame::Headers { stream: stream(&mut payload)?, fin, headers: self.headers(payload)? },
            RST_STREAM => {
                let [id, status] = words(payload)?;
                Frame::Reset { stream: positive(id)?, status: ResetStatus(status) }
            }
            GOAWAY => {
                let [last_good, status] = words(payload)?;
                Frame::GoAway { last_good: StreamId(last_good), status }
            }
            WINDOW_UPDATE => {
                let [id, delta] = words(payload)?;
                Frame::WindowUpdate { stream: StreamId(id & 0x7fff_ffff), delta: delta & 0x7fff_ffff }
            }
            PING => words(payload).map(|[id]| Frame::Ping(id))?,
            _ => settings(payload)?,
        })
    }

    fn headers(&mut self, block: &[u8]) -> Result<Headers, Violation> {
        self.inflate.block(block)
    }
}

fn stream(payload: &mut &[u8]) -> Result<StreamId, Violation> {
    let (bytes, rest) = payload.split_first_chunk().ok_or(Violation::Frame("a frame without its stream"))?;
    *payload = rest;
    positive(u32::from_be_bytes(*bytes))
}

fn positive(id: u32) -> Result<StreamId, Violation> {
    match id & 0x7fff_ffff {
        0 => Err(Violation::Frame("a stream of number 0")),
        id => Ok(StreamId(id)),
    }
}

/// A payload of exactly so many numbers.
fn words<const N: usize>(payload: &[u8]) -> Result<[u32; N], Violation> {
    let mut words = [0; N];
    if payload.len() != 4 * N {
        return Err(Violation::Frame("a frame of a wrong length"));
    }
    for (word, bytes) in words.iter_mut().zip(payload.chunks_exact(4)) {
        *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    Ok(words)
}

fn settings(payload: &[u8]) -> Result<Frame, Violation> {
    let wrong = Violation::Frame("a SETTINGS frame of a wrong length");
    let (count, entries) = payload.split_first_chunk().ok_or(wrong)?;
    if entries.len() / 8 != u32::from_be_bytes(*count) as usize || entries.len() % 8 != 0 {
        return Err(wrong);
    }
    let entry = |bytes| words(bytes).map(|[id, value]| (id & 0x00ff_ffff, value));
    entries.chunks_exact(8).map(entry).collect::<Result<_, _>>().map(Frame::Settings)
}
