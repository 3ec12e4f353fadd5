use std::fs::File;
use std::io::{PipeReader, Read};

use super::*;

/// A client with a pipe for its output, nothing else.
fn client() -> (Client, PipeReader) {
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").expect("/dev/null"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (Client::new(1, vec![null(), writer.into(), null()]).expect("a client"), reader)
}

/// Output until the client holds the container up.
fn fill(client: &mut Client, now: i64) {
    while client.sinks[0].as_ref().is_some_and(|sink| sink.deadline().is_none()) {
        client.put(0, &[b'x'; 16 * 1024], now);
    }
}

fn lag(client: &Client) -> usize {
    client.sinks[0].as_ref().map_or(0, |sink| sink.lag.len())
}

#[test]
fn what_is_not_wanted_is_not_kept() {
    let (mut client, _reader) = client();
    assert!(client.typing.is_none() && client.sinks[1].is_none());
    client.put(1, b"to nobody", 0);
    assert!(!client.gone());
}

#[test]
fn a_client_that_keeps_up_has_no_lag() {
    let (mut client, mut reader) = client();
    client.put(0, b"hello", 0);
    assert_eq!(lag(&client), 0);
    let mut seen = [0; 5];
    reader.read_exact(&mut seen).expect("what was put");
    assert_eq!(&seen, b"hello");
}

#[test]
fn lag_is_bounded_by_one_read_more_than_the_limit() {
    let (mut client, _reader) = client();
    fill(&mut client, 0);
    assert!((LARGEST_LAG..LARGEST_LAG + 16 * 1024).contains(&lag(&client)));
}

#[test]
fn a_client_that_takes_nothing_is_let_go_after_the_longest_stall() {
    let (mut client, _reader) = client();
    fill(&mut client, 1000);
    client.sweep(false, 999 + LONGEST_STALL);
    assert!(!client.gone(), "a moment before");
    client.sweep(false, 1000 + LONGEST_STALL);
    assert!(client.gone());
}

#[test]
fn a_client_that_takes_a_little_may_stay() {
    let (mut client, mut reader) = client();
    fill(&mut client, 0);
    let mut some = vec![0; 32 * 1024];
    reader.read_exact(&mut some).expect("what was put");
    client.flush(0, false, LONGEST_STALL - 1);
    client.sweep(false, LONGEST_STALL);
    assert!(!client.gone());
}

#[test]
fn a_client_hears_everything_after_the_exit_and_then_the_end() {
    let (mut client, mut reader) = client();
    fill(&mut client, 0);
    client.sweep(true, 0);
    let reader = std::thread::spawn(move || {
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).expect("everything, then the end");
        seen.len()
    });
    let mut rounds = 0u64;
    while !client.gone() {
        client.flush(0, false, 0);
        client.sweep(true, 0);
        rounds += 1;
        std::thread::yield_now();
    }
    assert!(rounds > 0 && reader.join().expect("the reader") >= LARGEST_LAG);
}

#[test]
fn a_client_that_closed_is_gone() {
    let (mut client, reader) = client();
    drop(reader);
    client.put(0, b"x", 0);
    assert!(client.gone());
}
