//! Nearly good requests against the streaming server, from the head of the upgrade to the last frame: connections end, and
//! what is answered and what reaches the process is bounded by what was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::server::StreamServer;
use super::{Ended, Session, Streams, Wanted};
use crate::fuzz::{Rng, bent, rounds};

/// More than any machine needs for a few kilobytes.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the process says.
const SAID: &[u8] = b"said by the process\n";

#[test]
fn fuzz_websocket() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut target = runtime.block_on(Target::new());
    rounds("websocket", |rng| runtime.block_on(connection(&mut target, rng)));
}

struct Target {
    server: StreamServer,
    stop: CancellationToken,
}

impl Target {
    async fn new() -> Self {
        let stop = CancellationToken::new();
        Self { server: StreamServer::start(&TaskTracker::new(), stop.clone()).await.unwrap(), stop }
    }

    /// URLs that nobody used wait for a minute, and there is a bound to them: then it goes on with another server.
    async fn offer(&mut self, taken: &Arc<AtomicUsize>) -> String {
        if let Ok(url) = self.server.offer("exec", process(taken)) {
            return url;
        }
        self.stop.cancel();
        *self = Self::new().await;
        self.server.offer("exec", process(taken)).unwrap()
    }
}

async fn connection(target: &mut Target, rng: &mut Rng) {
    let taken = Arc::new(AtomicUsize::new(0));
    let url = target.offer(&taken).await;
    let (address, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut pieces = vec![head(path, rng)];
    pieces.extend((0..rng.below(20)).map(|_| frame(rng)));
    // A head that is wrong is refused, and nothing after it is looked at: most rounds are for frames.
    let sent = match rng.one_in(4) {
        true => bent(&pieces, rng),
        false => [pieces[0].clone(), bent(&pieces[1..], rng)].concat(),
    };
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Thousands of connections that wait out their end would leave no port for others.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    let talk = async {
        // It may hang up in the middle.
        let _ = stream.write_all(&sent).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, talk).await.expect("the connection does not end");
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 "), "{:?}", String::from_utf8_lossy(&answer));
    // A pong for each ping, the head, what the process says, its end.
    assert!(answer.len() <= sent.len() + 1_000, "{} bytes for {}", answer.len(), sent.len());
    assert!(taken.load(Ordering::Relaxed) <= sent.len(), "the process read more than was sent");
}

/// A process that says a line, reads all, and ends when it is abandoned.
fn process(taken: &Arc<AtomicUsize>) -> Session {
    let taken = Arc::clone(taken);
    let begin = move || {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok(length @ 1..) = theirs.read(&mut buffer).await {
                taken.fetch_add(length, Ordering::Relaxed);
            }
        });
        let gone = CancellationToken::new();
        let abandon = gone.clone();
        let streams = Streams {
            stdin: Some(Box::pin(ours)),
            stdout: Some(Box::pin(SAID)),
            stderr: None,
            resize: Some(tokio::sync::mpsc::channel(1).0),
            ended: async move {
                gone.cancelled().await;
                Ended::Exited(0)
            }
            .boxed(),
            abandon: Box::new(move || abandon.cancel()),
        };
        async move { Ok(streams) }.boxed()
    };
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
    Session::Process(wanted, Box::new(begin))
}

fn head(path: &str, rng: &mut Rng) -> Vec<u8> {
    let all = [
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
    ];
    let protocol = all[rng.below(all.len())];
    format!(
        "GET /{path} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
    .into_bytes()
}

/// A frame as a client sends it, masked.
fn frame(rng: &mut Rng) -> Vec<u8> {
    let (kind, payload) = match rng.below(8) {
        0 => (0x89, rng.bytes(125)),
        1 => (0x8a, rng.bytes(125)),
        2 => (0x81, b"0aGVsbG8=".to_vec()),
        3 => (0x82, [&[4][..], br#"{"Width":80,"Height":24}"#].concat()),
        4 => (0x82, vec![255, 0]),
        5 => (0x02, [&[0][..], &rng.bytes(200)].concat()),
        6 if rng.one_in(4) => (0x88, vec![0x03, 0xe8]),
        _ => (0x82, [&[0][..], &rng.bytes(1_000)].concat()),
    };
    let mask: Vec<u8> = (0..4).map(|_| rng.byte()).collect();
    let length = match payload.len() {
        short @ 0..=125 => vec![0x80 | short as u8],
        long => [&[0x80 | 126][..], &(long as u16).to_be_bytes()].concat(),
    };
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    [vec![kind], length, mask.clone(), masked].concat()
}
