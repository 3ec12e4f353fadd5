use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn request() -> impl Strategy<Value = Request> {
    let id = || "[a-z0-9]{0,64}";
    prop_oneof![
        Just(Request::State),
        Just(Request::Watch),
        Just(Request::Shutdown),
        id().prop_map(|id| Request::Start { id }),
        id().prop_map(|id| Request::Exec { id }),
        id().prop_map(|id| Request::Attach { id }),
        id().prop_map(|id| Request::ReopenLog { id }),
        id().prop_map(|id| Request::Forget { id }),
        (id(), any::<i32>(), any::<bool>()).prop_map(|(id, signal, whole_session)| Request::Signal {
            id,
            signal,
            whole_session
        }),
        (id(), any::<u16>(), any::<u16>()).prop_map(|(id, width, height)| Request::Resize { id, width, height }),
    ]
}

fn packet() -> impl Strategy<Value = Packet> {
    prop_oneof![
        Just(Packet::Reply(Reply::Done)),
        any::<i32>().prop_map(|pid| Packet::Reply(Reply::Started { pid })),
        (any::<i32>(), vec(("[a-z]{0,9}", any::<i32>()), 0..9))
            .prop_map(|(pause, tasks)| Packet::Reply(Reply::State { pause, tasks })),
        (".{0,40}", any::<i32>()).prop_map(|(reason, errno)| Packet::Reply(Reply::Failed { reason, errno })),
        ("[a-z]{0,9}", any::<i32>(), any::<i64>()).prop_map(|(id, code, at)| Packet::Event(Event::Exited {
            id,
            code,
            at
        })),
        (any::<i32>(), any::<i64>()).prop_map(|(code, at)| Packet::Event(Event::PauseExited { code, at })),
    ]
}

proptest! {
    #[test]
    fn a_request_comes_back_as_it_was_sent(request in request()) {
        prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
    }

    #[test]
    fn a_packet_comes_back_as_it_was_sent(packet in packet()) {
        prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
    }

    #[test]
    fn foreign_bytes_are_an_error_and_never_a_panic(mut bytes in vec(any::<u8>(), 1..99)) {
        bytes[0] = codec::VERSION;
        let _ = Request::decode(&bytes);
        let _ = Packet::decode(&bytes);
    }

    #[test]
    fn records_come_back_as_they_were_written(
        pid in 1..i32::MAX, start: u64, at: i64, code: i32, note in proptest::option::of("[a-z][a-z ]{0,20}")
    ) {
        let record = PidRecord { pid, start, at };
        prop_assert_eq!(record.to_string().parse(), Ok(record));
        let exit = ExitRecord { code, at, note };
        prop_assert_eq!(exit.to_string().parse(), Ok(exit));
    }

    #[test]
    fn a_foreign_record_is_an_error_and_never_a_panic(text in ".{0,40}") {
        let _ = text.parse::<PidRecord>();
        let _ = text.parse::<ExitRecord>();
    }
}

#[test]
fn a_pid_file_cut_short_is_refused() {
    assert_eq!("4711".parse::<PidRecord>(), Err(BadRecord));
    assert_eq!("0 1 2".parse::<PidRecord>(), Err(BadRecord));
    assert_eq!("1 2 3 4".parse::<PidRecord>(), Err(BadRecord));
    assert_eq!("".parse::<ExitRecord>(), Err(BadRecord));
}
