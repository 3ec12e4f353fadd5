//! One connection as a state machine: streams, windows and limits; it reads and writes buffers, never a socket.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::Violation;
use super::decode::Decoder;
use super::frame::{CONNECTION, Frame, INITIAL_WINDOW_SIZE, ResetStatus, StreamId, data_frame};
use super::headers::{Deflate, Headers};

/// What either side may send on a fresh stream, and on the connection, before it is told of more (draft 3.1).
pub const WINDOW: u32 = 64 << 10;

/// Streams at the same time: 500 forwarded connections of two streams each, and a bound.
pub const MOST_STREAMS: usize = 1024;

/// Largest data frame we send, as kubectl's.
const PIECE: usize = 32 << 10;

/// Which end of a connection we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams of odd numbers.
    Client,
    /// Is asked.
    Server,
}

/// What the other side did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It opened a stream; it may have ended its side of it at once.
    Opened(StreamId, Headers),
    /// It took a stream that we opened.
    Replied(StreamId),
    /// It sent bytes, never none.
    Data(StreamId, Bytes),
    /// It sends no more on this stream.
    Ended(StreamId),
    /// It gave the stream up, in both directions.
    Reset(StreamId, ResetStatus),
    /// It lets us send again on one stream, or on all.
    Room,
    /// It opens no more streams and takes none.
    GoAway,
}

#[derive(Debug)]
struct Stream {
    /// We have ended our side.
    ended_here: bool,
    /// They have ended theirs.
    ended_there: bool,
    /// What may be sent; negative once a smaller initial window was set, or while nobody keeps to windows.
    may_send: i64,
    /// Consumed, and not told to the sender yet.
    consumed: u32,
}

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    role: Role,
    decoder: Decoder,
    deflate: Deflate,
    out: Vec<u8>,
    streams: HashMap<StreamId, Stream>,
    last_opened: u32,
    /// The last stream that never was and that data came for: it is refused once, and not once for each piece of a frame.
    refused: Option<StreamId>,
    next: u32,
    may_send: i64,
    initial: i64,
    consumed: u32,
    /// moby/spdystream, which kubectl, API servers and the CRI are built on, neither sends nor reads window updates: who
    /// waited for its windows would hang after 64 KiB. They bind us from the first one that the other side mentions.
    windows_bind: bool,
    waiting: Option<Event>,
}

impl Session {
    /// A connection that has just been upgraded.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            decoder: Decoder::new(),
            deflate: Deflate::new(),
            out: Vec::new(),
            streams: HashMap::new(),
            last_opened: 0,
            refused: None,
            next: 1 + u32::from(role == Role::Server),
            may_send: i64::from(WINDOW),
            initial: i64::from(WINDOW),
            consumed: 0,
            windows_bind: false,
            waiting: None,
        }
    }

    /// Where bytes that were read are put. It is empty but for part of a frame once [`Self::event`] answered `None`.
    pub fn input(&mut self) -> &mut BytesMut {
        self.decoder.input()
    }

    /// Bytes to be sent; the caller takes from the front what it has sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Streams that are open on either side.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// What the other side did next, or `None` until there is more input. One call takes one frame at most, so that a
    /// caller who is full can stop between two.
    ///
    /// # Errors
    /// When the other side broke the protocol: a GOAWAY is in the output, and the connection is to be closed.
    pub fn event(&mut self) -> Result<Option<Event>, Violation> {
        if let Some(event) = self.waiting.take() {
            return Ok(Some(event));
        }
        loop {
            let frame = match self.decoder.frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(None),
                Err(violation) => {
                    self.go_away(1);
                    return Err(violation);
                }
            };
            if let Some(event) = self.take(frame) {
                return Ok(Some(event));
            }
        }
    }

    fn take(&mut self, frame: Frame) -> Option<Event> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                return self.opened(stream, fin, unidirectional, headers);
            }
            Frame::SynReply { stream, fin, .. } => {
                let known = self.streams.contains_key(&stream);
                self.waiting = if fin { self.ended_there(stream) } else { None };
                return known.then_some(Event::Replied(stream));
            }
            Frame::Headers { stream, fin, .. } => return if fin { self.ended_there(stream) } else { None },
            Frame::Reset { stream, status } => {
                return self.streams.remove(&stream).map(|_| Event::Reset(stream, status));
            }
            Frame::Data { stream, fin, data } => return self.data(stream, fin, data),
            Frame::Settings(settings) => return self.settings(&settings),
            Frame::WindowUpdate { stream, delta } => return self.window_update(stream, i64::from(delta)),
            // Theirs are of their parity, answers to ours of our own, which we never send.
            Frame::Ping(id) if self.is_theirs(StreamId(id)) => self.put(&Frame::Ping(id)),
            Frame::Ping(_) => {}
            Frame::GoAway { .. } => return Some(Event::GoAway),
        }
        None
    }

    /// Whether the other side opens streams of this number.
    fn is_theirs(&self, id: StreamId) -> bool {
        (id.0 % 2 == 1) == (self.role == Role::Server)
    }

    fn never_was(&self, id: StreamId) -> bool {
        if self.is_theirs(id) { id.0 > self.last_opened } else { id.0 >= self.next }
    }

    fn opened(&mut self, id: StreamId, fin: bool, unidirectional: bool, headers: Headers) -> Option<Event> {
        let theirs = self.is_theirs(id);
        let refused = match () {
            () if !theirs || id.0 <= self.last_opened => Some(ResetStatus::PROTOCOL_ERROR),
            () if self.streams.len() >= MOST_STREAMS => Some(ResetStatus::REFUSED_STREAM),
            () => None,
        };
        self.last_opened = self.last_opened.max(if theirs { id.0 } else { 0 });
        if let Some(status) = refused {
            self.put(&Frame::Reset { stream: id, status });
            return None;
        }
        self.add(id, unidirectional);
        self.waiting = if fin { self.ended_there(id) } else { None };
        Some(Event::Opened(id, headers))
    }

    fn add(&mut self, id: StreamId, ended_here: bool) {
        let stream = Stream { ended_here, ended_there: false, may_send: self.initial, consumed: 0 };
        self.streams.insert(id, stream);
    }

    fn ended_there(&mut self, id: StreamId) -> Option<Event> {
        let stream = self.streams.get_mut(&id).filter(|stream| !stream.ended_there)?;
        stream.ended_there = true;
        if stream.ended_here {
            self.streams.remove(&id);
        }
        Some(Event::Ended(id))
    }

    fn data(&mut self, id: StreamId, fin: bool, data: Bytes) -> Option<Event> {
        match self.streams.get(&id) {
            Some(stream) if !stream.ended_there => {}
            // Ours may have been given up while this was on its way; the connection's window has to know of it.
            unknown => {
                if unknown.is_none() && self.never_was(id) && self.refused != Some(id) {
                    self.refused = Some(id);
                    self.put(&Frame::Reset { stream: id, status: ResetStatus::INVALID_STREAM });
                }
                self.credit(CONNECTION, data.len());
                return None;
            }
        }
        let end = if fin { self.ended_there(id) } else { None };
        if data.is_empty() {
            return end;
        }
        self.waiting = end;
        Some(Event::Data(id, data))
    }

    fn settings(&mut self, settings: &[(u32, u32)]) -> Option<Event> {
        let initial = settings.iter().find(|(id, _)| *id == INITIAL_WINDOW_SIZE)?.1;
        let initial = i64::from(initial.min(i32::MAX as u32));
        let more = initial - self.initial;
        self.initial = initial;
        self.windows_bind = true;
        self.streams.values_mut().for_each(|stream| stream.may_send += more);
        Some(Event::Room)
    }

    fn window_update(&mut self, id: StreamId, delta: i64) -> Option<Event> {
        self.windows_bind = true;
        let window = match id {
            CONNECTION => &mut self.may_send,
            id => &mut self.streams.get_mut(&id)?.may_send,
        };
        *window += delta;
        if *window <= i64::from(i32::MAX) {
            return Some(Event::Room);
        }
        // A window may not be larger; the connection's own is only held to it.
        *window = i64::from(i32::MAX);
        if id == CONNECTION {
            return Some(Event::Room);
        }
        self.reset(id, ResetStatus::FLOW_CONTROL_ERROR);
        Some(Event::Reset(id, ResetStatus::FLOW_CONTROL_ERROR))
    }

    /// Opens a stream, as a client; `None` when there are too many.
    pub fn open(&mut self, headers: Headers) -> Option<StreamId> {
        let id = StreamId(self.next);
        if self.streams.len() >= MOST_STREAMS || id.0 > 0x7fff_fffd {
            return None;
        }
        self.next += 2;
        self.add(id, false);
        self.put(&Frame::SynStream { stream: id, fin: false, unidirectional: false, headers });
        Some(id)
    }

    /// Takes a stream that the other side opened.
    pub fn reply(&mut self, id: StreamId) {
        if self.streams.contains_key(&id) {
            self.put(&Frame::SynReply { stream: id, fin: false, headers: Headers::default() });
        }
    }

    /// How much may be sent on a stream now; `None` when nothing may be ever again.
    pub fn room(&self, id: StreamId) -> Option<usize> {
        let stream = self.streams.get(&id).filter(|stream| !stream.ended_here)?;
        let room = if self.windows_bind { stream.may_send.min(self.may_send).max(0) } else { i64::from(WINDOW) };
        Some(usize::try_from(room).unwrap_or(0))
    }

    /// Sends what there is room for, one frame; answers how much that was.
    pub fn send(&mut self, id: StreamId, data: &[u8]) -> usize {
        let length = data.len().min(self.room(id).unwrap_or(0)).min(PIECE);
        let Some(stream) = self.streams.get_mut(&id).filter(|_| length > 0) else { return 0 };
        stream.may_send -= length as i64;
        self.may_send -= length as i64;
        data_frame(&mut self.out, id, false, &data[..length]);
        length
    }

    /// Ends our side of a stream.
    pub fn finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.ended_here) else { return };
        stream.ended_here = true;
        if stream.ended_there {
            self.streams.remove(&id);
        }
        data_frame(&mut self.out, id, true, &[]);
    }

    /// Gives a stream up.
    pub fn reset(&mut self, id: StreamId, status: ResetStatus) {
        if self.streams.remove(&id).is_some() {
            self.put(&Frame::Reset { stream: id, status });
        }
    }

    /// Bytes of a stream have gone where they belong: the other side may send as many more. It is told of half a window at
    /// a time.
    pub fn consumed(&mut self, id: StreamId, length: usize) {
        self.credit(id, length);
        self.credit(CONNECTION, length);
    }

    /// Bytes that were kept for a stream that is no more were dropped.
    pub fn dropped(&mut self, length: usize) {
        self.credit(CONNECTION, length);
    }

    fn credit(&mut self, id: StreamId, length: usize) {
        let consumed = match id {
            CONNECTION => &mut self.consumed,
            id => match self.streams.get_mut(&id) {
                Some(stream) if !stream.ended_there => &mut stream.consumed,
                _ => return,
            },
        };
        *consumed += length as u32;
        if *consumed >= WINDOW / 2 {
            let delta = std::mem::take(consumed);
            self.put(&Frame::WindowUpdate { stream: id, delta });
        }
    }

    /// Tells the other side that no more streams are taken: 0 at the end of the work, 1 after it broke the protocol.
    pub fn go_away(&mut self, status: u32) {
        let last_good = StreamId(if self.role == Role::Server { self.last_opened } else { 0 });
        self.put(&Frame::GoAway { last_good, status });
    }

    fn put(&mut self, frame: &Frame) {
        frame.encode(&mut self.deflate, &mut self.out);
    }
}
