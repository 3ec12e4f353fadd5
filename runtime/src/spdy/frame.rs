//! Frames: eight bytes of head and a payload (draft 3, sections 2.2 and 2.6; draft 3.1 for windows).

use bytes::Bytes;

use super::headers::{Deflate, Headers};

/// The version in the head of every control frame, of SPDY/3.1 too.
pub(super) const VERSION: u16 = 3;

/// Length of a frame's head.
pub(super) const HEAD: usize = 8;

/// This is the last frame of its sender on this stream.
pub(super) const FIN: u8 = 1;
/// SYN_STREAM: the other side sends nothing on this stream.
pub(super) const UNIDIRECTIONAL: u8 = 2;

pub(super) const SYN_STREAM: u16 = 1;
pub(super) const SYN_REPLY: u16 = 2;
pub(super) const RST_STREAM: u16 = 3;
pub(super) const SETTINGS: u16 = 4;
pub(super) const PING: u16 = 6;
pub(super) const GOAWAY: u16 = 7;
pub(super) const HEADERS: u16 = 8;
pub(super) const WINDOW_UPDATE: u16 = 9;

/// The setting that says how much may be sent on a fresh stream.
pub(super) const INITIAL_WINDOW_SIZE: u32 = 7;

/// One stream of a connection: odd when the client opened it. Zero, in a window update, is the whole connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

/// The whole connection.
pub(super) const CONNECTION: StreamId = StreamId(0);

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResetStatus(pub u32);

impl ResetStatus {
    /// The stream broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// There is no such stream.
    pub const INVALID_STREAM: Self = Self(2);
    /// It was not begun.
    pub const REFUSED_STREAM: Self = Self(3);
    /// Whoever opened it needs it no more.
    pub const CANCEL: Self = Self(5);
    /// A window grew beyond what a window may be.
    pub const FLOW_CONTROL_ERROR: Self = Self(7);
}

/// A frame. The payload of a data frame may come as several of [`Frame::Data`], of which the last carries `fin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream { stream: StreamId, fin: bool, unidirectional: bool, headers: Headers },
    SynReply { stream: StreamId, fin: bool, headers: Headers },
    Reset { stream: StreamId, status: ResetStatus },
    Settings(Vec<(u32, u32)>),
    Ping(u32),
    GoAway { last_good: StreamId, status: u32 },
    Headers { stream: StreamId, fin: bool, headers: Headers },
    WindowUpdate { stream: StreamId, delta: u32 },
    Data { stream: StreamId, fin: bool, data: Bytes },
}

impl Frame {
    /// Appends the frame to `out`.
    pub(super) fn encode(&self, deflate: &mut Deflate, out: &mut Vec<u8>) {
        match self {
            Self::SynStream { stream, fin, unidirectional, headers } => {
                let flags = (u8::from(*fin) * FIN) | (u8::from(*unidirectional) * UNIDIRECTIONAL);
                // No associated stream, the highest priority, no credential slot.
                let fixed = [&stream.0.to_be_bytes()[..], &[0; 6]].concat();
                control(out, SYN_STREAM, flags, &[&fixed, &deflate.block(headers)]);
            }
            Self::SynReply { stream, fin, headers } => {
                let payload = [&stream.0.to_be_bytes()[..], &deflate.block(headers)];
                control(out, SYN_REPLY, u8::from(*fin) * FIN, &payload);
            }
            Self::Headers { stream, fin, headers } => {
                let payload = [&stream.0.to_be_bytes()[..], &deflate.block(headers)];
                control(out, HEADERS, u8::from(*fin) * FIN, &payload);
            }
            Self::Settings(settings) => {
                let mut payload = (settings.len() as u32).to_be_bytes().to_vec();
                payload.extend(settings.iter().flat_map(|(id, value)| [id, value]).flat_map(|word| word.to_be_bytes()));
                control(out, SETTINGS, 0, &[&payload]);
            }
            Self::Reset { stream, status } => two_words(out, RST_STREAM, stream.0, status.0),
            Self::Ping(id) => control(out, PING, 0, &[&id.to_be_bytes()]),
            Self::GoAway { last_good, status } => two_words(out, GOAWAY, last_good.0, *status),
            Self::WindowUpdate { stream, delta } => two_words(out, WINDOW_UPDATE, stream.0, *delta),
            Self::Data { stream, fin, data } => data_frame(out, *stream, *fin, data),
        }
    }
}

/// Appends a data frame; `data` is shorter than 16 MiB.
pub(super) fn data_frame(out: &mut Vec<u8>, stream: StreamId, fin: bool, data: &[u8]) {
    out.extend((stream.0 & 0x7fff_ffff).to_be_bytes());
    length(out, u8::from(fin) * FIN, data.len());
    out.extend(data);
}

fn two_words(out: &mut Vec<u8>, kind: u16, first: u32, second: u32) {
    control(out, kind, 0, &[&first.to_be_bytes(), &second.to_be_bytes()]);
}

fn control(out: &mut Vec<u8>, kind: u16, flags: u8, payload: &[&[u8]]) {
    out.extend((VERSION | 0x8000).to_be_bytes());
    out.extend(kind.to_be_bytes());
    length(out, flags, payload.iter().map(|part| part.len()).sum());
    payload.iter().for_each(|part| out.extend(*part));
}

fn length(out: &mut Vec<u8>, flags: u8, length: usize) {
    out.extend(((u32::from(flags) << 24) | (length as u32 & 0x00ff_ffff)).to_be_bytes());
}
