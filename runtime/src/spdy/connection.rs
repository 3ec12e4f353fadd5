//! A session on a socket: one future drives it, each stream is read and written like a socket of its own.
//!
//! Back-pressure, both ways: nothing is read from the socket while a stream holds a window that nobody takes, or while our
//! answers wait to be sent; nobody may write while so much waits.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::session::{Event, Role, Session, WINDOW};
use super::{Headers, ResetStatus, StreamId};

/// Bytes that wait to be sent before writers have to wait: two frames of the largest kind we send.
const MOST_UNSENT: usize = 64 << 10;

/// Bytes that wait to be sent before nothing more is read. Data alone never are so many: two ends that both write must not
/// wait for each other to read. Answers to pings and the like can be.
const MOST_ANSWERS: usize = 2 * MOST_UNSENT;

/// Bytes of all streams that wait to be taken before nothing more is read. Who keeps to windows has a [`WINDOW`] for all.
const MOST_UNREAD: usize = 1 << 20;

/// Streams that wait to be accepted; opened and reset again they do not count as open.
const MOST_OPENED: usize = 64;

/// One read.
const READ: usize = 32 << 10;

/// A connection: hands out the other side's streams.
#[derive(Debug)]
pub struct Connection(Arc<Mutex<Shared>>);

/// A stream. Dropped before both sides have ended it, it is reset.
#[derive(Debug)]
pub struct Stream {
    id: StreamId,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    session: Session,
    inboxes: HashMap<StreamId, Inbox>,
    unread: usize,
    opened: VecDeque<(StreamId, Headers)>,
    end: End,
    driver: Option<Waker>,
    acceptor: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// We want no more; what was written is still sent.
    Closing,
    /// The other side is gone, or was sent away.
    Gone,
}

#[derive(Debug, Default)]
struct Inbox {
    bytes: BytesMut,
    ended: bool,
    reset: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Inbox {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connection {
    /// A connection over `socket`, and what has to be awaited for it to live: it ends when the other side has closed, or
    /// with what it did wrong. `read` was read from the socket before.
    pub fn over<T>(socket: T, role: Role, read: &[u8]) -> (Self, impl Future<Output = io::Result<()>>)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let mut session = Session::new(role);
        session.input().extend_from_slice(read);
        let shared = Shared {
            session,
            inboxes: HashMap::new(),
            unread: 0,
            opened: VecDeque::new(),
            end: End::Open,
            driver: None,
            acceptor: None,
        };
        let shared = Arc::new(Mutex::new(shared));
        (Self(shared.clone()), drive(shared, socket))
    }

    /// The next stream that the other side opens; `None` when it will open no more.
    pub async fn accept(&self) -> Option<(Stream, Headers)> {
        std::future::poll_fn(|context| {
            let mut shared = lock(&self.0);
            if let Some((id, headers)) = shared.opened.pop_front() {
                shared.wake_driver();
                return Poll::Ready(Some((Stream { id, shared: self.0.clone() }, headers)));
            }
            if shared.end != End::Open {
                return Poll::Ready(None);
            }
            shared.acceptor = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Opens a stream; `None` when there are too many, or the connection is over.
    pub fn open(&self, headers: Headers) -> Option<Stream> {
        let mut shared = lock(&self.0);
        let id = (shared.end == End::Open).then(|| shared.session.open(headers)).flatten()?;
        shared.inboxes.insert(id, Inbox::default());
        shared.wake_driver();
        Some(Stream { id, shared: self.0.clone() })
    }

    /// Resolves when the other side is gone.
    pub async fn gone(&self) {
        while self.accept().await.is_some() {}
    }

    /// Says goodbye: what was written is sent, then our side of the socket is closed.
    pub fn close(&self) {
        let mut shared = lock(&self.0);
        if shared.end == End::Open {
            shared.session.go_away(0);
            shared.end = End::Closing;
            shared.wake_driver();
        }
    }
}

impl Stream {
    /// Its number.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Tells the other side that its stream is taken.
    pub fn reply(&self) {
        let mut shared = lock(&self.shared);
        shared.session.reply(self.id);
        shared.wake_driver();
    }
}

/// Reads and writes while there is something to read and write.
async fn drive<T: AsyncRead + AsyncWrite + Unpin>(shared: Arc<Mutex<Shared>>, mut socket: T) -> io::Result<()> {
    let result = std::future::poll_fn(|context| lock(&shared).turn(Pin::new(&mut socket), context)).await;
    lock(&shared).is_gone();
    // Why the other side is sent away, if it still listens; it gets no time to read it in peace.
    let last = std::mem::take(lock(&shared).session.output());
    if result.is_err() {
        let _ = std::future::poll_fn(|context| Pin::new(&mut socket).poll_write(context, &last)).now_or_never();
    }
    result
}

impl Shared {
    fn turn<T: AsyncRead + AsyncWrite>(
        &mut self,
        mut socket: Pin<&mut T>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.driver = Some(cx.waker().clone());
        loop {
            let sent = self.send(socket.as_mut(), cx)?;
            if self.end == End::Closing && sent.is_ready() {
                let _ = socket.as_mut().poll_shutdown(cx)?;
            }
            while !self.is_full() {
                match self.session.event().map_err(|wrong| io::Error::new(io::ErrorKind::InvalidData, wrong))? {
                    Some(event) => self.hear(event),
                    None => break,
                }
            }
            if self.is_full() {
                match self.session.output().is_empty() || sent.is_pending() {
                    true => return Poll::Pending,
                    false => continue,
                }
            }
            match self.receive(socket.as_mut(), cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(())),
                Poll::Ready(_) => {}
                // Answers to what was heard.
                Poll::Pending if sent.is_ready() && !self.session.output().is_empty() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_full(&mut self) -> bool {
        let full = |inbox: &Inbox| inbox.bytes.len() >= WINDOW as usize;
        self.unread >= MOST_UNREAD
            || self.opened.len() >= MOST_OPENED
            || self.session.output().len() >= MOST_ANSWERS
            || self.inboxes.values().any(full)
    }

    fn send<T: AsyncWrite>(&mut self, mut socket: Pin<&mut T>, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        let before = self.session.output().len();
        let mut done = 0;
        let result = loop {
            let left = &self.session.output()[done..];
            if left.is_empty() {
                break socket.as_mut().poll_flush(cx)?;
            }
            match socket.as_mut().poll_write(cx, left)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(length) => done += length,
                Poll::Pending => break Poll::Pending,
            }
        };
        self.session.output().drain(..done);
        if before >= MOST_UNSENT && before - done < MOST_UNSENT {
            self.wake_writers();
        }
        Ok(result)
    }

    fn receive<T: AsyncRead>(&mut self, socket: Pin<&mut T>, cx: &mut Context<'_>) -> io::Result<Poll<usize>> {
        let input = self.session.input();
        let before = input.len();
        input.resize(before + READ, 0);
        let mut buffer = ReadBuf::new(&mut input[before..]);
        let read = socket.poll_read(cx, &mut buffer);
        let length = buffer.filled().len();
        input.truncate(before + length);
        match read {
            Poll::Ready(result) => result.map(|()| Poll::Ready(length)),
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Opened(id, headers) if self.end == End::Open => {
                self.inboxes.insert(id, Inbox::default());
                self.opened.push_back((id, headers));
                self.acceptor.take().into_iter().for_each(Waker::wake);
            }
            Event::Opened(id, _) => self.session.reset(id, ResetStatus::REFUSED_STREAM),
            Event::Replied(_) => {}
            Event::Data(id, data) => match self.inboxes.get_mut(&id) {
                Some(inbox) if self.end == End::Open => {
                    self.unread += data.len();
                    inbox.bytes.extend_from_slice(&data);
                    inbox.reader.take().into_iter().for_each(Waker::wake);
                }
                _ => self.session.dropped(data.len()),
            },
            Event::Ended(id) => self.with(id, |inbox| inbox.ended = true),
            Event::Reset(id, _) => self.with(id, |inbox| inbox.reset = true),
            Event::Room => self.wake_writers(),
            // kubectl says so when it leaves, after it has reset its streams.
            Event::GoAway => self.is_gone(),
        }
    }

    fn with(&mut self, id: StreamId, change: impl FnOnce(&mut Inbox)) {
        if let Some(inbox) = self.inboxes.get_mut(&id) {
            change(inbox);
            inbox.wake();
        }
    }

    fn is_gone(&mut self) {
        self.end = End::Gone;
        self.inboxes.values_mut().for_each(Inbox::wake);
        self.acceptor.take().into_iter().for_each(Waker::wake);
    }

    fn wake_writers(&mut self) {
        self.inboxes.values_mut().filter_map(|inbox| inbox.writer.take()).for_each(Waker::wake);
    }

    fn wake_driver(&mut self) {
        self.driver.take().into_iter().for_each(Waker::wake);
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.shared);
        let shared = &mut *shared;
        let Some(inbox) = shared.inboxes.get_mut(&self.id) else { return Poll::Ready(Ok(())) };
        let length = inbox.bytes.len().min(buffer.remaining());
        if length > 0 {
            buffer.put_slice(&inbox.bytes[..length]);
            inbox.bytes.advance(length);
            shared.unread -= length;
            shared.session.consumed(self.id, length);
            shared.wake_driver();
            return Poll::Ready(Ok(()));
        }
        match (inbox.ended, inbox.reset || shared.end == End::Gone) {
            (true, _) => Poll::Ready(Ok(())),
            (false, true) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            (false, false) => {
                inbox.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut shared = lock(&self.shared);
        if shared.end != End::Open || shared.session.room(self.id).is_none() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let sent = match shared.session.output().len() < MOST_UNSENT {
            true => shared.session.send(self.id, bytes),
            false => 0,
        };
        if sent > 0 || bytes.is_empty() {
            shared.wake_driver();
            return Poll::Ready(Ok(sent));
        }
        if let Some(inbox) = shared.inboxes.get_mut(&self.id) {
            inbox.writer = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The driver sends what was written; there is nothing to wait for.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = lock(&self.shared);
        shared.session.finish(self.id);
        shared.wake_driver();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        shared.session.reset(self.id, ResetStatus::CANCEL);
        if let Some(inbox) = shared.inboxes.remove(&self.id) {
            shared.unread -= inbox.bytes.len();
            shared.session.dropped(inbox.bytes.len());
        }
        shared.wake_driver();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves `work` on one end of a pipe and gives the other, as a client.
    fn between<F: Future<Output = ()> + Send + 'static>(work: impl FnOnce(Connection) -> F) -> Connection {
        let (here, there) = tokio::io::duplex(4096);
        let (server, driver) = Connection::over(there, Role::Server, &[]);
        tokio::spawn(driver);
        tokio::spawn(work(server));
        let (client, driver) = Connection::over(here, Role::Client, &[]);
        tokio::spawn(driver);
        client
    }

    async fn echo(server: Connection) {
        while let Some((stream, _)) = server.accept().await {
            stream.reply();
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(stream);
                tokio::io::copy(&mut from, &mut to).await.unwrap();
                to.shutdown().await.unwrap();
            });
        }
    }

    #[tokio::test]
    async fn many_streams_carry_much_at_once_and_end_each_by_itself() {
        let client = between(echo);
        let mut all = tokio::task::JoinSet::new();
        for n in 0..50u8 {
            let (mut from, mut to) = tokio::io::split(client.open(Headers::default()).unwrap());
            all.spawn(async move {
                let sent = vec![n; 200_000];
                let mut heard = Vec::new();
                let write = async {
                    to.write_all(&sent).await.unwrap();
                    to.shutdown().await.unwrap();
                };
                let (_, read) = tokio::join!(write, from.read_to_end(&mut heard));
                read.unwrap();
                assert!(heard == sent);
            });
        }
        all.join_all().await;
    }

    /// What comes of `work` when everybody else has done all they can.
    async fn at_last<T>(work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        for _ in 0..1000 {
            if let Some(done) = work.as_mut().now_or_never() {
                return Some(done);
            }
            tokio::task::yield_now().await;
        }
        None
    }

    #[tokio::test]
    async fn a_reader_who_stalls_holds_the_writer_back_within_bounds() {
        let (stalled, waits) = tokio::sync::oneshot::channel();
        let client = between(async |server| {
            let (mut stream, _) = server.accept().await.unwrap();
            let heard = waits.await.unwrap();
            let mut all = vec![0; heard];
            stream.read_exact(&mut all).await.unwrap();
            server.gone().await;
        });
        let mut stream = client.open(Headers::default()).unwrap();
        let mut sent = 0;
        while let Some(written) = at_last(stream.write(&[1; 9000])).await {
            sent += written.unwrap();
        }
        assert!((WINDOW as usize..WINDOW as usize + MOST_UNSENT + 2 * READ + 4096).contains(&sent), "{sent}");
        stalled.send(sent).unwrap();
        stream.write_all(&[1; 9000]).await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_connection_is_heard_on_its_streams() {
        let (tell, told) = tokio::sync::oneshot::channel();
        let client = between(async |server| {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut heard = Vec::new();
            let end = stream.read_to_end(&mut heard).await.map_err(|error| error.kind());
            tell.send((heard, end)).unwrap();
        });
        let mut stream = client.open(Headers::default()).unwrap();
        stream.write_all(b"half").await.unwrap();
        client.close();
        assert_eq!(told.await.unwrap(), (b"half".to_vec(), Err(io::ErrorKind::ConnectionReset)));
    }

    #[tokio::test]
    async fn garbage_ends_the_connection_with_a_goaway() {
        let (mut here, there) = tokio::io::duplex(4096);
        let (server, driver) = Connection::over(there, Role::Server, b"\x80\x02 is not a frame of SPDY/3");
        assert_eq!(driver.await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(server.accept().await.is_none());
        let mut heard = Vec::new();
        here.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard[..4], [0x80, 3, 0, 7]);
    }
}
