//! Port-forward on SPDY streams: for each connection the client opens a pair, `error` and `data`, with the headers `port`
//! and `requestID`.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Dial, lanes};
use crate::spdy::connection::{Connection, Stream};
use crate::spdy::session::Role;
use crate::spdy::{Headers, StreamId};

/// The second stream of a pair follows at once; this is the kubelet's patience.
const PAIRING: Duration = Duration::from_secs(30);

/// One read; kubectl uses the same.
const PIECE: usize = 32 << 10;

/// Which half of a pair a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Error,
    Data,
}

/// What a stream's headers say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asks {
    half: Half,
    port: u16,
    request: String,
}

/// `None` for headers that no client of ports sends.
fn asks(id: StreamId, headers: &Headers) -> Option<Asks> {
    let port = headers.get("port")?.parse().ok().filter(|port| *port > 0)?;
    let half = match headers.get("streamtype")? {
        "error" => Half::Error,
        "data" => Half::Data,
        _ => return None,
    };
    // Clients of old opened the error stream and then, as the next one, its data stream.
    let first = if half == Half::Error { Some(id.0) } else { id.0.checked_sub(2) };
    let request = headers.get("requestid").map(str::to_owned).or_else(|| first.map(|id| id.to_string()))?;
    Some(Asks { half, port, request })
}

/// Halves that wait for their other half.
struct Pairs<S> {
    waiting: HashMap<String, (Asks, S, Instant)>,
}

impl<S> Pairs<S> {
    /// The pair that this stream completes, as port, error and data; a second stream of the same half is dropped.
    fn put(&mut self, asks: Asks, stream: S, now: Instant) -> Option<(u16, S, S)> {
        match self.waiting.remove(&asks.request) {
            Some((first, other, _)) if first.half != asks.half => Some(match asks.half {
                Half::Error => (asks.port, stream, other),
                Half::Data => (asks.port, other, stream),
            }),
            Some(first) => {
                self.waiting.insert(asks.request, first);
                None
            }
            None => {
                self.waiting.insert(asks.request.clone(), (asks, stream, now));
                None
            }
        }
    }

    /// Those that have waited too long.
    fn given_up(&mut self, now: Instant) -> Vec<(Asks, S)> {
        let old = self.waiting.extract_if(|_, (.., since)| now >= *since + PAIRING);
        old.map(|(_, (asks, stream, _))| (asks, stream)).collect()
    }

    fn next_to_give_up(&self) -> Option<Instant> {
        self.waiting.values().map(|(.., since)| *since + PAIRING).min()
    }
}

/// Forwards until the client goes away; `read` was read from the socket already.
pub(super) async fn run<T: AsyncRead + AsyncWrite + Unpin>(socket: T, read: &[u8], dial: Dial) {
    let (connection, driver) = Connection::over(socket, Role::Server, read);
    lanes::serve(driver, forward(&connection, &dial)).await;
}

async fn forward(connection: &Connection, dial: &Dial) {
    let mut pairs = Pairs { waiting: HashMap::new() };
    // Dropped with this, so that nothing of a client outlives it.
    let mut carried = JoinSet::new();
    loop {
        let give_up = pairs.next_to_give_up();
        tokio::select! {
            opened = connection.accept() => {
                let Some((stream, headers)) = opened else { return };
                let Some(asks) = asks(stream.id(), &headers) else { continue };
                stream.reply();
                if let Some((port, error, data)) = pairs.put(asks, stream, Instant::now()) {
                    carried.spawn(carry(dial(port), error, data));
                }
            }
            _ = carried.join_next(), if !carried.is_empty() => {}
            () = tokio::time::sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => {
                for (asks, stream) in pairs.given_up(Instant::now()) {
                    carried.spawn(alone(asks, stream));
                }
            }
        }
    }
}

async fn alone(asks: Asks, stream: Stream) {
    if asks.half == Half::Error {
        let _ = tell(stream, "timed out waiting for the data stream").await;
    }
}

async fn tell(mut error: Stream, why: &str) -> io::Result<()> {
    error.write_all(why.as_bytes()).await?;
    error.shutdown().await
}

/// One connection, from its dialling to the end of both directions.
async fn carry(dialled: impl Future<Output = Result<TcpStream, String>>, mut error: Stream, data: Stream) {
    let pod = match dialled.await {
        Ok(pod) => pod,
        Err(why) => {
            let _ = tell(error, &why).await;
            return;
        }
    };
    let (from_pod, mut to_pod) = pod.into_split();
    let (from_client, mut to_client) = tokio::io::split(data);
    let there = async {
        copy_buf(&mut BufReader::with_capacity(PIECE, from_client), &mut to_pod).await?;
        to_pod.shutdown().await
    };
    let back = async {
        copy_buf(&mut BufReader::with_capacity(PIECE, from_pod), &mut to_client).await?;
        to_client.shutdown().await?;
        // kubectl closes its own connection only when it has heard the end of this one too.
        error.shutdown().await
    };
    // The first failure ends both: the streams are reset and the pod's connection closed.
    let _ = tokio::try_join!(there, back);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(id: u32, headers: &[(&str, &str)]) -> Option<(Half, u16, String)> {
        let asks = asks(StreamId(id), &Headers::new(headers.iter().copied()))?;
        Some((asks.half, asks.port, asks.request))
    }

    #[test]
    fn a_stream_names_its_half_its_port_and_its_request() {
        let error = asked(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "7")]);
        assert_eq!(error, Some((Half::Error, 80, "7".into())));
        // Without requestID the numbers of the streams say what belongs together.
        assert_eq!(asked(5, &[("streamtype", "error"), ("port", "80")]), Some((Half::Error, 80, "5".into())));
        assert_eq!(asked(7, &[("streamtype", "data"), ("port", "80")]), Some((Half::Data, 80, "5".into())));
        for wrong in [("data", "0"), ("data", "65536"), ("data", "x"), ("stdin", "80")] {
            assert_eq!(asked(3, &[("streamtype", wrong.0), ("port", wrong.1)]), None, "{wrong:?}");
        }
        assert_eq!(asked(1, &[("streamtype", "data"), ("port", "80")]), None);
        assert_eq!(asked(1, &[("streamtype", "error")]), None);
    }

    #[test]
    fn halves_meet_in_any_order_and_are_given_up_in_time() {
        let mut pairs = Pairs { waiting: HashMap::new() };
        let noon = Instant::now();
        let asks = |half, request: &str| Asks { half, port: 80, request: request.into() };
        assert_eq!(pairs.put(asks(Half::Error, "1"), 'a', noon), None);
        assert_eq!(pairs.put(asks(Half::Data, "2"), 'b', noon), None);
        assert_eq!(pairs.put(asks(Half::Error, "1"), 'x', noon), None);
        assert_eq!(pairs.put(asks(Half::Data, "1"), 'c', noon), Some((80, 'a', 'c')));
        assert_eq!(pairs.next_to_give_up(), Some(noon + PAIRING));
        assert!(pairs.given_up(noon).is_empty());
        assert_eq!(pairs.given_up(noon + PAIRING), [(asks(Half::Data, "2"), 'b')]);
        assert_eq!(pairs.put(asks(Half::Error, "2"), 'd', noon), None);
    }
}
