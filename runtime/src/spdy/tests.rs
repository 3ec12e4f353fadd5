use bytes::Bytes;
use proptest::prelude::*;

use super::session::{Event, MOST_STREAMS, Role, Session, WINDOW};
use super::{Headers, ResetStatus, StreamId, Violation};

const ONE: StreamId = StreamId(1);

/// What `echo hi | kubectl exec -i p -- cat` (v1.32.4) sent, stream by stream.
pub(super) const FROM_KUBECTL: &str = "80030001000000290000000100000000000078f9e3c6a7c26260606004a7b392a2d4c45c6851c29a0a0a6800000000ffff\
    800300010000001700000003000000000000c22e555c92929907000000ffff\
    800300010000001900000005000000000000c22ac5565c92925f5a02000000ffff\
    800300010000001500000007000000000000c229975a5404000000ffff\
    000000030000000368690a0000000301000000";

pub(super) fn bytes(hex: &str) -> Vec<u8> {
    hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn opened(id: u32, kind: &str) -> Event {
    Event::Opened(StreamId(id), Headers::new([("streamtype", kind)]))
}

fn events(session: &mut Session, input: &[u8]) -> Vec<Event> {
    session.input().extend_from_slice(input);
    std::iter::from_fn(|| session.event().unwrap()).collect()
}

/// A server, and a client with one stream open.
fn both() -> (Session, Session) {
    let (mut client, mut server) = (Session::new(Role::Client), Session::new(Role::Server));
    assert_eq!(client.open(Headers::new([("streamtype", "data")])), Some(ONE));
    assert_eq!(pass(&mut client, &mut server), [opened(1, "data")]);
    (client, server)
}

/// What `to` hears of what `from` had to send.
fn pass(from: &mut Session, to: &mut Session) -> Vec<Event> {
    let sent = std::mem::take(from.output());
    events(to, &sent)
}

/// A control frame of SPDY/3.
pub(super) fn control(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&[0x80, 3, 0, kind, flags], &length[1..], payload].concat()
}

#[test]
fn what_kubectl_sends_is_understood_in_pieces_of_any_size() {
    let expected = [
        opened(1, "error"),
        opened(3, "stdin"),
        opened(5, "stdout"),
        opened(7, "stderr"),
        Event::Data(StreamId(3), Bytes::from_static(b"hi\n")),
        Event::Ended(StreamId(3)),
    ];
    let sent = bytes(FROM_KUBECTL);
    assert_eq!(events(&mut Session::new(Role::Server), &sent), expected);
    let mut slowly = Session::new(Role::Server);
    let heard = sent.iter().flat_map(|byte| events(&mut slowly, &[*byte])).filter_map(|event| match event {
        Event::Data(_, data) => Some(data),
        _ => None,
    });
    assert_eq!(heard.collect::<Vec<_>>().concat(), b"hi\n");
}

#[test]
fn a_stream_lives_until_both_sides_have_ended_it() {
    let (mut client, mut server) = both();
    server.reply(ONE);
    assert_eq!(server.send(ONE, b"page"), 4);
    server.finish(ONE);
    assert_eq!(server.room(ONE), None);
    let heard = pass(&mut server, &mut client);
    assert_eq!(heard, [Event::Replied(ONE), Event::Data(ONE, "page".into()), Event::Ended(ONE)]);
    assert_eq!((client.send(ONE, b"more"), client.open_streams()), (4, 1));
    client.finish(ONE);
    assert_eq!(pass(&mut client, &mut server), [Event::Data(ONE, "more".into()), Event::Ended(ONE)]);
    assert_eq!((client.open_streams(), server.open_streams()), (0, 0));
}

#[test]
fn a_reset_ends_both_sides_and_what_was_on_its_way_is_dropped() {
    let (mut client, mut server) = both();
    client.send(ONE, b"late");
    server.reset(ONE, ResetStatus::CANCEL);
    assert_eq!(pass(&mut client, &mut server), []);
    assert_eq!(pass(&mut server, &mut client), [Event::Reset(ONE, ResetStatus::CANCEL)]);
    assert_eq!((client.send(ONE, b"x"), server.send(ONE, b"x"), client.output().len()), (0, 0, 0));
}

#[test]
fn windows_bind_from_the_first_one_that_is_spoken_of() {
    let (_, mut server) = both();
    let much = vec![7; 32 << 10];
    for _ in 0..10 {
        assert_eq!(server.send(ONE, &much), much.len(), "kubectl never tells of windows");
    }
    // One that does tell, of as much as it has taken.
    let update = |stream: u32, delta: u32| control(9, 0, &[stream.to_be_bytes(), delta.to_be_bytes()].concat());
    assert_eq!(events(&mut server, &update(0, 320 << 10)), [Event::Room]);
    assert_eq!(server.send(ONE, b"x"), 0);
    assert_eq!(events(&mut server, &update(1, 320 << 10)), [Event::Room]);
    let sent: usize = (0..10).map(|_| server.send(ONE, &much)).sum();
    assert_eq!(sent, WINDOW as usize);
}

#[test]
fn a_smaller_initial_window_counts_for_streams_that_are_open() {
    let (_, mut server) = both();
    let settings = [&1u32.to_be_bytes()[..], &[0, 0, 0, 7], &1000u32.to_be_bytes()].concat();
    assert_eq!(events(&mut server, &control(4, 0, &settings)), [Event::Room]);
    assert_eq!((server.send(ONE, &[0; 4000]), server.send(ONE, &[0; 4000])), (1000, 0));
}

#[test]
fn a_window_too_large_ends_its_stream_alone() {
    let (_, mut server) = both();
    let update = [&1u32.to_be_bytes()[..], &0x7fff_ffff_u32.to_be_bytes()].concat();
    let heard = events(&mut server, &control(9, 0, &update));
    assert_eq!(heard, [Event::Reset(ONE, ResetStatus::FLOW_CONTROL_ERROR)]);
    assert_eq!(*server.output(), control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 7]));
}

#[test]
fn who_keeps_to_windows_is_told_of_half_a_window_at_a_time() {
    let (mut client, mut server) = both();
    server.consumed(ONE, 32_767);
    assert!(server.output().is_empty());
    server.consumed(ONE, 1);
    assert_eq!(pass(&mut server, &mut client), [Event::Room, Event::Room]);
}

#[test]
fn pings_are_answered_and_unknown_frames_passed_over() {
    let mut server = Session::new(Role::Server);
    let sent = [control(6, 0, &[0, 0, 0, 5]), control(10, 0, &[9; 300]), control(6, 0, &[0, 0, 0, 2])].concat();
    assert_eq!(events(&mut server, &sent), []);
    assert_eq!(*server.output(), control(6, 0, &[0, 0, 0, 5]));
    assert_eq!(events(&mut server, &control(7, 0, &[0; 8])), [Event::GoAway]);
}

#[test]
fn streams_that_may_not_be_are_refused_one_by_one() {
    let (mut client, mut server) = both();
    for _ in 0..MOST_STREAMS {
        client.open(Headers::default());
    }
    assert_eq!((client.open_streams(), server.open_streams()), (MOST_STREAMS, 1));
    assert_eq!(pass(&mut client, &mut server).len(), MOST_STREAMS - 1);
    let mut other = Session::new(Role::Client);
    other.open(Headers::default());
    // Its compression is a connection's own; the number is not.
    let refused = events(&mut Session::new(Role::Client), other.output());
    assert_eq!(refused, [], "a client is opened no stream of an odd number");
    assert_eq!(events(&mut server, &[0, 0, 0x7f, 1, 0, 0, 0, 1, b'x']), []);
    assert_eq!(*server.output(), control(3, 0, &[0, 0, 0x7f, 1, 0, 0, 0, 2]));
}

#[test]
fn what_cannot_be_a_frame_ends_the_connection_and_says_so() {
    let broken = |input: &[u8]| {
        let mut server = Session::new(Role::Server);
        server.input().extend_from_slice(input);
        let violation = server.event().unwrap_err();
        assert_eq!(*server.output(), control(7, 0, &[0, 0, 0, 0, 0, 0, 0, 1]));
        violation
    };
    assert_eq!(broken(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]), Violation::Version(2));
    assert_eq!(broken(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]), Violation::FrameTooLarge);
    assert_eq!(broken(&control(1, 0, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4])), Violation::Compression);
    for (kind, length) in [(1, 9), (2, 3), (3, 7), (4, 3), (4, 9), (6, 5), (7, 9), (8, 0), (9, 4)] {
        assert!(matches!(broken(&control(kind, 0, &vec![0; length])), Violation::Frame(_)), "{kind} of {length}");
    }
    assert!(matches!(broken(&[0; 8]), Violation::Frame("data on stream 0")));
}

#[derive(Clone, Debug)]
enum Does {
    Open,
    Send(u8, Vec<u8>),
    Finish(u8),
    Reset(u8),
    Consume(u8, u16),
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![
        Just(Does::Open),
        (any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(id, data)| Does::Send(id, data)),
        any::<u8>().prop_map(Does::Finish),
        any::<u8>().prop_map(Does::Reset),
        (any::<u8>(), any::<u16>()).prop_map(|(id, length)| Does::Consume(id, length)),
    ]
}

proptest! {
    #[test]
    fn both_ends_agree_whatever_they_do(script in prop::collection::vec((any::<bool>(), does()), 0..60)) {
        let mut ends = [Session::new(Role::Client), Session::new(Role::Server)];
        for (first, what) in script {
            let own = &mut ends[usize::from(!first)];
            let id = |n: u8| StreamId(u32::from(n % 16) + 1);
            match what {
                Does::Open => drop(own.open(Headers::new([("streamtype", "data")]))),
                Does::Send(n, data) => drop(own.send(id(n), &data)),
                Does::Finish(n) => own.finish(id(n)),
                Does::Reset(n) => own.reset(id(n), ResetStatus::CANCEL),
                Does::Consume(n, length) => own.consumed(id(n), usize::from(length)),
            }
            let [a, b] = &mut ends;
            // Resets are answered by nothing, so that twice there and back is all there is.
            for _ in 0..2 {
                pass(a, b);
                pass(b, a);
            }
            prop_assert_eq!(a.open_streams(), b.open_streams());
            prop_assert!(a.output().is_empty() && b.output().is_empty());
        }
    }

    #[test]
    fn garbage_neither_panics_nor_piles_up(head in any::<bool>(), chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..40)) {
        let mut server = Session::new(Role::Server);
        if head {
            events(&mut server, &bytes(FROM_KUBECTL));
        }
        for mut chunk in chunks {
            // Half of them begin like frames.
            if chunk.len() > 8 && chunk[0] < 128 {
                let kind = chunk[3] % 12;
                chunk[..4].copy_from_slice(&[0x80, 3, 0, kind]);
                chunk[5..7].fill(0);
            }
            server.input().extend_from_slice(&chunk);
            let heard: Result<Vec<_>, _> = std::iter::from_fn(|| server.event().transpose()).collect();
            prop_assert!(server.input().len() < super::decode::LARGEST_CONTROL);
            if heard.is_err() {
                return Ok(());
            }
        }
    }
}
