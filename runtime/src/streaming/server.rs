//! The loopback listener: reads a head, redeems its token, hands the connection to a pump.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::head::{self, Head, Parsed};
use super::tokens::{TokenError, Tokens};
use super::upgrade::{self, Kind, Protocol, Verdict};
use super::{Session, forward, lanes, pairs, process, websocket};
use crate::idle::{Watched, watch};

/// A client sends its head at once; this is for a machine under load.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// The kubelet's idle time-out.
const IDLE: Duration = Duration::from_secs(4 * 3600);

/// Connections at the same time, sessions included: what a node of 250 pods could want, and a bound.
const MOST_CONNECTIONS: usize = 1024;

/// Largest message a client may send; kubectl sends 32 KiB at most.
const LARGEST_MESSAGE: usize = 1 << 20;

/// A WebSocket connection whose upgrade is done.
pub(super) type Socket = WebSocketStream<Watched<TcpStream>>;

/// The streaming server.
#[derive(Debug)]
pub(crate) struct StreamServer {
    address: SocketAddr,
    tokens: Arc<Tokens<Session>>,
}

impl StreamServer {
    /// Listens on a free port of 127.0.0.1; serves in `tasks` until `stop`.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub(crate) async fn start(tasks: &TaskTracker, stop: CancellationToken) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let tokens = Arc::new(Tokens::default());
        tasks.spawn(accept(listener, tokens.clone(), tasks.clone(), stop));
        Ok(Self { address, tokens })
    }

    /// A URL of the kind `what` (`exec`, `attach`, `portforward`) at which `session` can be had once.
    ///
    /// # Errors
    /// When too many URLs wait for their clients.
    pub(crate) fn offer(&self, what: &'static str, session: Session) -> Result<String, TokenError> {
        let token = self.tokens.give(session, Instant::now())?;
        Ok(format!("http://{}/{what}/{token}", self.address))
    }
}

async fn accept(listener: TcpListener, tokens: Arc<Tokens<Session>>, tasks: TaskTracker, stop: CancellationToken) {
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors: wait for some to be closed instead of spinning.
                    warn!(%error, "accepting a streaming connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        let (tokens, stop) = (tokens.clone(), stop.clone());
        tasks.spawn(async move {
            let _place = place;
            tokio::select! {
                result = serve(stream, &tokens) => if let Err(error) = result {
                    debug!(%error, "a streaming connection ended");
                },
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn serve(mut stream: TcpStream, tokens: &Tokens<Session>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Ok(read) = timeout(HEAD_TIME, read_head(&mut stream)).await else { return Ok(()) };
    let Some((head, rest)) = read? else {
        return say_no(stream, &head::refusal("400 Bad Request", "this is not an HTTP/1.1 request")).await;
    };
    let token = head.path.rsplit('/').next().unwrap_or_default();
    let Some(session) = tokens.redeem(token, Instant::now()) else {
        return say_no(stream, &head::refusal("404 Not Found", "this URL was used already, or is too old")).await;
    };
    let kind = if matches!(session, Session::Process(..)) { Kind::Process } else { Kind::Forward };
    let (protocol, response) = match upgrade::judge(&head, kind) {
        Verdict::Upgrade { protocol, response } => (protocol, response),
        Verdict::Refuse { response } => return say_no(stream, &response).await,
    };
    stream.write_all(response.as_bytes()).await?;
    let (stream, silence) = watch(stream, IDLE);
    tokio::select! {
        () = carry(stream, rest, protocol, &head, session) => {}
        () = silence => debug!(path = head.path, "a streaming connection was idle for too long"),
    }
    Ok(())
}

/// What the connection is for, until its end. `rest` followed the head.
async fn carry(stream: Watched<TcpStream>, rest: Vec<u8>, protocol: Protocol, head: &Head, session: Session) {
    match (protocol, session) {
        (Protocol::Lanes(lanes), Session::Process(wanted, begin)) => {
            lanes::run(stream, &rest, lanes, wanted, begin).await;
        }
        (Protocol::Channels(channels), Session::Process(_, begin)) => {
            let (speaker, listener) = websocket::halves(socket(stream, rest).await, channels);
            process::run(speaker, listener, begin).await;
        }
        (Protocol::Pairs, Session::Forward(dial)) => pairs::run(stream, &rest, dial).await,
        (Protocol::TunnelledPairs, Session::Forward(dial)) => {
            pairs::run(websocket::tunnel(socket(stream, rest).await), &[], dial).await;
        }
        (Protocol::Channels(channels), Session::Forward(dial)) => {
            forward::run(socket(stream, rest).await, channels, &head.query, dial).await;
        }
        // `judge` was told the kind and offers no other.
        (Protocol::Pairs | Protocol::TunnelledPairs, Session::Process(..))
        | (Protocol::Lanes(_), Session::Forward(_)) => {}
    }
}

async fn socket(stream: Watched<TcpStream>, rest: Vec<u8>) -> Socket {
    WebSocketStream::from_partially_read(stream, rest, Role::Server, Some(limits())).await
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(LARGEST_MESSAGE))
        .max_frame_size(Some(LARGEST_MESSAGE))
        .read_buffer_size(32 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(256 << 10)
}

/// The head and what followed it, or `None` for what is not one.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<(Head, Vec<u8>)>> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        match head::parse(&bytes) {
            Parsed::Done(head, taken) => return Ok(Some((head, bytes.split_off(taken)))),
            Parsed::Bad => return Ok(None),
            Parsed::More => {}
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
}

/// Answers and closes: a refused upgrade leaves no connection on which anything could follow.
async fn say_no(mut stream: TcpStream, response: &str) -> io::Result<()> {
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}
