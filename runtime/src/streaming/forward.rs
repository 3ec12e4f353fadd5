//! Port-forward over the legacy WebSocket form: `?port=80&port=443`, and for the i-th port channel 2i carries data
//! and channel 2i+1 errors. The first message on each is the port as two bytes, little-endian.

use std::time::Duration;

use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::Dial;
use super::channels::Parted;
use super::server::Socket;
use super::upgrade::Channels;

/// Channels are one byte: two for each port.
const MOST_PORTS: usize = 64;

/// Forwards until the client goes away or nothing is left to forward.
pub(super) async fn run(socket: Socket, channels: &'static Channels, query: &str, dial: Dial) {
    let (mut sink, mut source) = socket.split();
    let Some(ports) = ports(query) else {
        let _ = sink.send(channels.message(1, b"one to 64 port=<number> are expected in the query")).await;
        let _ = sink.close().await;
        return;
    };
    // Eight pieces of 32 KiB: a slow client holds the pod's sender back, not our memory.
    let (outgoing, from_pods) = mpsc::channel(8);
    let mut pumps = JoinSet::new();
    let feed = async {
        let mut inputs = Vec::with_capacity(ports.len());
        for (index, port) in ports.into_iter().enumerate() {
            inputs.push(open(index as u8, port, &dial, &outgoing, &mut pumps).await);
        }
        drop(outgoing);
        take_all(&mut source, channels, &mut inputs).await;
    };
    tokio::select! {
        () = send_all(&mut sink, channels, from_pods) => {}
        () = feed => {}
    }
    let _ = timeout(Duration::from_secs(10), sink.close()).await;
}

/// The ports of a query; `None` when there is none, too many, or one is not a port.
fn ports(query: &str) -> Option<Vec<u16>> {
    let values = query.split('&').filter_map(|pair| pair.strip_prefix("port="));
    let ports = values
        .flat_map(|value| value.split(','))
        .map(|port| port.parse().ok().filter(|port| *port != 0))
        .collect::<Option<Vec<u16>>>()?;
    (1..=MOST_PORTS).contains(&ports.len()).then_some(ports)
}

/// Bytes for a channel.
type Piece = (u8, Vec<u8>);

async fn open(
    index: u8,
    port: u16,
    dial: &Dial,
    outgoing: &mpsc::Sender<Piece>,
    pumps: &mut JoinSet<()>,
) -> Option<OwnedWriteHalf> {
    let (data, error) = (index * 2, index * 2 + 1);
    outgoing.send((data, port.to_le_bytes().into())).await.ok()?;
    outgoing.send((error, port.to_le_bytes().into())).await.ok()?;
    match dial(port).await {
        Ok(stream) => {
            let (read, write) = stream.into_split();
            pumps.spawn(pump(data, read, outgoing.clone()));
            Some(write)
        }
        Err(why) => {
            let _ = outgoing.send((error, why.into_bytes())).await;
            None
        }
    }
}

async fn pump(channel: u8, mut from: OwnedReadHalf, outgoing: mpsc::Sender<Piece>) {
    let mut buffer = vec![0; 32 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if outgoing.send((channel, buffer[..length].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn send_all(sink: &mut SplitSink<Socket, Message>, channels: &Channels, mut from_pods: mpsc::Receiver<Piece>) {
    while let Some((channel, piece)) = from_pods.recv().await {
        if sink.send(channels.message(channel, &piece)).await.is_err() {
            return;
        }
    }
}

async fn take_all(source: &mut SplitStream<Socket>, channels: &Channels, inputs: &mut [Option<OwnedWriteHalf>]) {
    while let Some(Ok(received)) = source.next().await {
        let (channel, bytes) = match channels.part(received) {
            Parted::On(channel, bytes) => (channel, bytes),
            Parted::Nothing => continue,
            Parted::End => return,
        };
        let Some(input) = inputs.get_mut(usize::from(channel / 2)).filter(|_| channel % 2 == 0) else { return };
        if let Some(stream) = input
            && stream.write_all(&bytes).await.is_err()
        {
            *input = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_one_to_64_numbers() {
        assert_eq!(ports("port=80&port=443"), Some(vec![80, 443]));
        assert_eq!(ports("port=80,443"), Some(vec![80, 443]));
        for bad in ["", "port=0", "port=65536", "port=a", &"port=1&".repeat(65)] {
            assert_eq!(ports(bad), None, "{bad:?}");
        }
    }
}
