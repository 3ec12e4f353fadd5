//! Connections and their bounds: how many there are, how long they may take to say what they want.
//!
//! Whoever has not been let in yet may hold a few connections for a short time, and when there are too many of those the
//! oldest goes: a flood of half-open connections cannot keep others out. A connection that was let in once stays for as
//! long as its streams do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::answers::{Answer, text};
use super::tls::Serving;

/// Connections that were not let in yet.
const MOST_STRANGERS: usize = 256;
/// Connections that were: followers of logs and terminals hold one each.
const MOST_GUESTS: usize = 8_192;
/// A handshake; the API server's takes milliseconds.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of a request, and the pause before the next one: Go's clients keep idle connections for 90 s, and one that
/// is closed under them costs a failed call.
const HEAD: Duration = Duration::from_secs(100);
/// Request line and headers. The longest are commands of an exec; hyper takes no line longer than 64 KiB.
const LARGEST_HEAD: usize = 128 << 10;
/// After an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Who is connected.
#[derive(Default)]
pub(super) struct Connections {
    next: AtomicU64,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    /// By number: the first is the oldest.
    strangers: BTreeMap<u64, CancellationToken>,
    guests: usize,
}

impl Connections {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>) -> Seat {
        let (number, leave) = (self.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        let mut table = self.table();
        if table.strangers.len() >= MOST_STRANGERS
            && let Some((_, oldest)) = table.strangers.pop_first()
        {
            oldest.cancel();
        }
        table.strangers.insert(number, leave.clone());
        Seat { connections: Arc::clone(self), number, leave, is_guest: Mutex::new(false) }
    }
}

/// One connection's place.
pub(super) struct Seat {
    connections: Arc<Connections>,
    number: u64,
    leave: CancellationToken,
    is_guest: Mutex<bool>,
}

impl Seat {
    /// Lets it stay. False when there are too many guests.
    pub(super) fn let_in(&self) -> bool {
        let mut is_guest = self.is_guest.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_guest {
            return true;
        }
        let mut table = self.connections.table();
        // Whoever was shown out in this moment stays out.
        *is_guest = table.guests < MOST_GUESTS && table.strangers.remove(&self.number).is_some();
        table.guests += usize::from(*is_guest);
        *is_guest
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let is_guest = *self.is_guest.get_mut().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.connections.table();
        match is_guest {
            true => table.guests -= 1,
            false => drop(table.strangers.remove(&self.number)),
        }
    }
}

/// What is known of whoever asks before the first request.
pub(super) struct Peer {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) seat: Seat,
}

/// Answers requests of one port.
pub(super) trait Answers: Send + Sync + 'static {
    fn answer(&self, peer: &Peer, request: Request<Incoming>) -> impl Future<Output = Answer> + Send;
}

/// A port.
pub(super) struct Port<A> {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<Arc<Serving>>,
    pub(super) connections: Arc<Connections>,
    pub(super) answers: Arc<A>,
}

impl<A: Answers> Port<A> {
    /// Takes connections until `stop`; those that are there end with it too.
    pub(super) async fn run(self, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => self.take(stream, stop.clone()),
                Err(error) => {
                    debug!("taking a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn take(&self, stream: TcpStream, stop: CancellationToken) {
        let (tls, answers, seat) = (self.tls.clone(), Arc::clone(&self.answers), self.connections.enter());
        let leave = seat.leave.clone();
        let held = async move {
            let _ = stream.set_nodelay(true);
            let _ = keep_alive(&stream);
            match tls {
                None => http(stream, Peer { certificates: Vec::new(), seat }, answers).await,
                Some(tls) => {
                    let acceptor = TlsAcceptor::from(tls.current());
                    let Ok(Ok(stream)) = timeout(HANDSHAKE, acceptor.accept(stream)).await else { return };
                    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                    let certificates = chain.iter().map(|one| one.clone().into_owned()).collect();
                    http(stream, Peer { certificates, seat }, answers).await;
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = held => {}
                () = leave.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// A peer that is gone without a word is noticed after half a minute of silence.
fn keep_alive(stream: &TcpStream) -> rustix::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5))?;
    sockopt::set_tcp_keepcnt(stream, 3)
}

async fn http<A: Answers>(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer, answers: Arc<A>) {
    let peer = Arc::new(peer);
    let service = service_fn(move |request| {
        let (peer, answers) = (Arc::clone(&peer), Arc::clone(&answers));
        async move { Ok::<_, std::convert::Infallible>(answers.answer(&peer, request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(LARGEST_HEAD);
    // Whatever ends a connection, nobody is left to be told.
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await {
        debug!("a connection: {error}");
    }
}

/// The answer to somebody for whom there is no place.
pub(super) fn full() -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, "too many connections\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_make_room_for_newer_ones_and_guests_stay() {
        let connections = Arc::new(Connections::default());
        let guest = connections.enter();
        assert!(guest.let_in() && guest.let_in());
        let strangers: Vec<_> = (0..=MOST_STRANGERS).map(|_| connections.enter()).collect();
        assert!(strangers[0].leave.is_cancelled() && !strangers[1].leave.is_cancelled());
        assert!(!guest.leave.is_cancelled());
        assert!(!strangers[0].let_in(), "it is on its way out");
        drop((guest, strangers));
        let table = connections.table();
        assert_eq!((table.guests, table.strangers.len()), (0, 0));
    }
}
