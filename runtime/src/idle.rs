//! Notices that nothing moves on a connection any more, in either direction.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A connection whose traffic is noticed.
#[derive(Debug)]
pub struct Watched<T> {
    inner: T,
    clock: Clock,
}

#[derive(Clone, Debug)]
struct Clock {
    start: Instant,
    /// Milliseconds after `start`.
    last: Arc<AtomicU64>,
}

impl Clock {
    fn note<R>(&self, polled: Poll<R>) -> Poll<R> {
        if polled.is_ready() {
            self.last.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        }
        polled
    }
}

/// The connection, and what resolves when it has been silent for `longest`.
pub fn watch<T>(inner: T, longest: Duration) -> (Watched<T>, impl Future<Output = ()>) {
    let clock = Clock { start: Instant::now(), last: Arc::default() };
    let of_watch = clock.clone();
    let silence = async move {
        loop {
            let silent_at = clock.start + Duration::from_millis(clock.last.load(Ordering::Relaxed)) + longest;
            if Instant::now() >= silent_at {
                return;
            }
            tokio::time::sleep_until(silent_at).await;
        }
    };
    (Watched { inner, clock: of_watch }, silence)
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        self.clock.note(polled)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.clock.note(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn silence_is_counted_from_the_last_traffic() {
        let longest = Duration::from_millis(100);
        let (mut here, there) = tokio::io::duplex(64);
        let (mut there, silence) = watch(there, longest);
        let mut silence = std::pin::pin!(silence);
        assert!(silence.as_mut().now_or_never().is_none());
        tokio::time::sleep(longest / 2).await;
        here.write_all(b"x").await.unwrap();
        let start = Instant::now();
        there.read_u8().await.unwrap();
        silence.await;
        // Whole milliseconds are noted.
        assert!(start.elapsed() + Duration::from_millis(1) >= longest);
    }
}
