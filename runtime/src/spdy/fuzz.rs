//! Nearly good frames against a session: it neither panics nor keeps more than its bounds, it hears the same however the
//! bytes are cut, and what it answers is always understood.

use bytes::Bytes;

use super::decode::LARGEST_CONTROL;
use super::session::{Event, MOST_STREAMS, Role, Session};
use super::tests::{FROM_KUBECTL, bytes, control};
use super::{Headers, ResetStatus, StreamId, Violation};
use crate::fuzz::{Rng, bent, rounds};

#[test]
fn fuzz_spdy() {
    rounds("spdy", |rng| {
        let sent = bent(&frames(rng), rng);
        let (mut whole, mut pieces) = (Session::new(Role::Server), Session::new(Role::Server));
        let heard = hear(&mut whole, &sent);
        let mut in_pieces = (Vec::new(), None);
        let mut rest = &sent[..];
        while !rest.is_empty() && in_pieces.1.is_none() {
            let (piece, after) = rest.split_at(1 + rng.below(rest.len().min(40)));
            let (events, violation) = hear(&mut pieces, piece);
            in_pieces.0.extend(events);
            in_pieces.1 = violation;
            rest = after;
        }
        assert_eq!((joined(heard.0), heard.1), (joined(in_pieces.0), in_pieces.1), "it matters how bytes are cut");
        assert_eq!(whole.output(), pieces.output(), "the answers differ");
        let mut client = Session::new(Role::Client);
        let answers = std::mem::take(whole.output());
        assert!(answers.len() <= 64 * sent.len() + 64, "{} bytes for {}", answers.len(), sent.len());
        assert_eq!(hear(&mut client, &answers).1, None, "an answer that is no SPDY");
    });
}

/// Everything of these bytes, or all until they went wrong.
fn hear(session: &mut Session, bytes: &[u8]) -> (Vec<Event>, Option<Violation>) {
    session.input().extend_from_slice(bytes);
    let mut heard = Vec::new();
    loop {
        assert!(session.open_streams() <= MOST_STREAMS);
        match session.event() {
            Ok(Some(event)) => heard.push(event),
            Ok(None) => {
                assert!(session.input().len() < LARGEST_CONTROL, "{} bytes are kept", session.input().len());
                return (heard, None);
            }
            Err(violation) => return (heard, Some(violation)),
        }
    }
}

/// Data of one stream in one event, as it was cut nowhere.
fn joined(events: Vec<Event>) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    for event in events {
        match (all.last_mut(), event) {
            (Some(Event::Data(last, before)), Event::Data(id, data)) if *last == id => {
                *before = Bytes::from([&before[..], &data[..]].concat());
            }
            (_, event) => all.push(event),
        }
    }
    all
}

/// What a client could send, frame by frame: kubectl's own words, or those of a session of ours with some frames between.
fn frames(rng: &mut Rng) -> Vec<Vec<u8>> {
    if rng.one_in(4) {
        return split(&bytes(FROM_KUBECTL));
    }
    let mut client = Session::new(Role::Client);
    let mut all = Vec::new();
    for _ in 0..rng.below(40) {
        let id = StreamId(1 + 2 * u32::try_from(rng.below(8)).unwrap_or(0));
        match rng.below(8) {
            0 | 1 => drop(client.open(Headers::new([("streamtype", "data"), ("port", "80"), ("requestid", "7")]))),
            2 | 3 => drop(client.send(id, &rng.bytes(300))),
            4 => client.finish(id),
            5 => client.reset(id, ResetStatus::CANCEL),
            6 => {
                let number = rng.next().to_be_bytes();
                let kinds: [(u8, usize); 5] = [(6, 4), (7, 8), (9, 8), (4, 4), (12, 8)];
                let (kind, length) = kinds[rng.below(kinds.len())];
                all.push(control(kind, 0, &number[..length]));
            }
            _ => client.consumed(id, rng.below(70_000)),
        }
        all.extend(split(&std::mem::take(client.output())));
    }
    all
}

/// Frame by frame.
fn split(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let [_, _, _, _, _, a, b, c, ..] = *bytes {
        let length = 8 + u32::from_be_bytes([0, a, b, c]) as usize;
        let (frame, rest) = bytes.split_at(length.min(bytes.len()));
        all.push(frame.to_vec());
        bytes = rest;
    }
    all
}
