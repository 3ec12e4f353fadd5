//! Exec, terminals, stdin and attach on a real kernel.

mod pod;

use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use pod::{Pod, text, user};
use shim::client::CallError;
use shim::plan::Launch;
use shim::wire::{Reply, Request};

/// The other ends of what an attached client has.
struct Attached {
    typing: PipeWriter,
    out: PipeReader,
    err: PipeReader,
}

fn attach(pod: &Pod, id: &str) -> Attached {
    let (their_in, typing) = std::io::pipe().expect("a pipe");
    let (out, their_out) = std::io::pipe().expect("a pipe");
    let (err, their_err) = std::io::pipe().expect("a pipe");
    let request = Request::Attach { id: id.into() };
    let (reply, _) =
        pod.client().call(&request, &[their_in.as_fd(), their_out.as_fd(), their_err.as_fd()]).expect("attaching");
    assert_eq!(reply, Reply::Done);
    Attached { typing, out, err }
}

/// Reads until the text has come.
fn read_until(file: &mut impl Read, wanted: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        let mut byte = [0];
        file.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", String::from_utf8_lossy(&seen)));
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn with_terminal(mut launch: Launch) -> Launch {
    launch.terminal = Some((91, 33));
    launch
}

#[test]
fn an_exec_runs_inside_the_container_with_the_streams_it_was_given() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("echo mine > /tmp/f; echo up; exec sleep 1000"));
    pod.wait_for_output("web", "up");
    let (input, mut typing) = std::io::pipe().expect("a pipe");
    typing.write_all(b"typed\n").expect("typing");
    drop(typing);
    let plan = pod.exec_plan(pid, "cat; cat /tmp/f; cat /proc/1/comm; hostname; ls /proc/self/fd >&2; exit 6");
    let (code, out, err) = pod.exec("e1", &plan, Some(input.into())).expect("it runs");
    assert_eq!((code, out.as_str()), (6, "typed\nmine\nsleep\nweb-0\n"));
    assert_eq!(err.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

#[test]
fn an_exec_is_its_user_and_can_open_its_streams_again() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("exec sleep 1000"));
    let mut plan = pod.exec_plan(pid, "id -u; echo again > /dev/stderr; grep CapEff /proc/self/status");
    plan.user = user(1000);
    let (code, out, err) = pod.exec("e1", &plan, None).expect("it runs");
    assert_eq!((code, out.as_str(), err.as_str()), (0, "1000\nCapEff:\t0000000000000000\n", "again\n"));
}

#[test]
fn an_exec_without_its_program_says_so() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("exec sleep 1000"));
    let mut plan = pod.exec_plan(pid, "");
    plan.args = vec![text("nginx")];
    match pod.exec("e1", &plan, None) {
        Err(CallError::Refused { reason, errno: libc::ENOENT }) => {
            assert_eq!(reason, "exec: \"nginx\": executable file not found in $PATH");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pod.exec("e1", &pod.exec_plan(pid, "exit 2"), None).expect("the id is free").0, 2);
}

#[test]
fn an_exec_that_overran_its_time_is_killed_with_its_children() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("exec sleep 1000"));
    pod.watch();
    let directory = pod.directory().join("x/e1");
    fs::create_dir_all(&directory).expect("its directory");
    let plan = pod.exec_plan(pid, "sleep 1000 & (sleep 1000 & echo up; sleep 1000)");
    fs::write(directory.join("launch"), plan.encode()).expect("its launch");
    let (mut out, their_out) = std::io::pipe().expect("a pipe");
    let out_end: OwnedFd = their_out.into();
    pod.client().call(&Request::Exec { id: "e1".into() }, &pod::thrice(&out_end)).expect("it starts");
    drop(out_end);
    read_until(&mut out, "up\n");
    let kill = Request::Signal { id: "e1".into(), signal: 9, whole_session: true };
    assert_eq!(pod.call(kill).expect("killing"), Reply::Done);
    assert_eq!(pod.wait("e1"), 137);
    // The end of the pipe comes only when nobody has it open any more.
    out.read_to_end(&mut Vec::new()).expect("the end");
}

#[test]
fn an_exec_in_an_ended_container_is_refused() {
    let mut pod = Pod::new();
    pod.watch();
    let pid = pod.start("web", &pod.plan("exec sleep 1000"));
    let plan = pod.exec_plan(pid, "true");
    pod.call(Request::Signal { id: "web".into(), signal: 9, whole_session: false }).expect("killing");
    pod.wait("web");
    match pod.exec("e1", &plan, None) {
        Err(CallError::Refused { reason, .. }) => assert!(reason.starts_with("joining /proc/"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_container_ends_although_an_exec_runs_in_it() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("trap 'exit 0' TERM; echo up; while :; do sleep 1000 & wait; done"));
    pod.wait_for_output("web", "up");
    let directory = pod.directory().join("x/e1");
    fs::create_dir_all(&directory).expect("its directory");
    fs::write(directory.join("launch"), pod.exec_plan(pid, "exec sleep 1000").encode()).expect("its launch");
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").expect("/dev/null").into();
    pod.watch();
    pod.client().call(&Request::Exec { id: "e1".into() }, &pod::thrice(&null)).expect("it starts");
    pod.call(Request::Signal { id: "web".into(), signal: 15, whole_session: false }).expect("a signal");
    assert_eq!(pod.wait("e1"), 137);
    assert_eq!(pod.wait("web"), 0);
}

#[test]
fn an_exec_with_a_terminal_gets_one_of_the_container() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("exec sleep 1000"));
    pod.watch();
    let directory = pod.directory().join("x/e1");
    fs::create_dir_all(&directory).expect("its directory");
    let plan = with_terminal(pod.exec_plan(pid, "tty; stty size; read x; echo got $x; ps | grep -c sleep; exit 3"));
    fs::write(directory.join("launch"), plan.encode()).expect("its launch");
    let (reply, mut descriptors) = pod.client().call(&Request::Exec { id: "e1".into() }, &[]).expect("it starts");
    assert!(matches!(reply, Reply::Started { pid } if pid > 0));
    let mut master = File::from(descriptors.pop().expect("the master comes beside the reply"));
    let seen = read_until(&mut master, "33 91\r\n");
    assert!(seen.starts_with("/dev/pts/0\r\n"), "{seen}");
    master.write_all(b"it\n").expect("typing");
    read_until(&mut master, "got it\r\n");
    assert_eq!(pod.wait("e1"), 3);
}

#[test]
fn a_terminal_is_the_containers_console_and_controls_it() {
    let mut pod = Pod::new();
    let script = "tty; stty size; echo on console > /dev/console; read x; stty size; echo got $x; read y; exit 0";
    let mut plan = with_terminal(pod.plan(script));
    plan.user = user(1000);
    pod.try_start("web", &plan, "open").expect("it starts");
    pod.wait_for_output("web", "on console");
    assert!(pod.output("web").starts_with("/dev/pts/0\r\n33 91\r\n"), "{}", pod.output("web"));
    let resize = Request::Resize { id: "web".into(), width: 120, height: 50 };
    assert_eq!(pod.call(resize).expect("resizing"), Reply::Done);
    let mut client = attach(&pod, "web");
    client.typing.write_all(b"it\n").expect("typing");
    let seen = read_until(&mut client.out, "got it\r\n");
    assert!(seen.contains("50 120\r\n"), "{seen}");
    client.typing.write_all(&[0x03]).expect("^C");
    assert_eq!(pod.wait("web"), 130, "^C reaches the foreground process");
    client.out.read_to_end(&mut Vec::new()).expect("the client sees the end");
    assert!(pod.log("web").contains(" stdout F got it\r\n"));
}

#[test]
fn stdin_no_is_empty() {
    let mut pod = Pod::new();
    let (code, output) = pod.run(&pod.plan("cat; echo end"));
    assert_eq!((code, output.as_str()), (0, "end\n"));
}

#[test]
fn stdin_stays_open_from_one_client_to_the_next() {
    let mut pod = Pod::new();
    pod.watch();
    pod.try_start("web", &pod.plan("while read x; do echo got $x; [ $x = end ] && exit 5; done; exit 1"), "open")
        .expect("it starts");
    for word in ["one", "two"] {
        let mut client = attach(&pod, "web");
        client.typing.write_all(format!("{word}\n").as_bytes()).expect("typing");
        read_until(&mut client.out, &format!("got {word}\n"));
    }
    let mut client = attach(&pod, "web");
    client.typing.write_all(b"end\n").expect("typing");
    assert_eq!(pod.wait("web"), 5);
    let mut seen = String::new();
    client.out.read_to_string(&mut seen).expect("its output, then the end");
    client.err.read_to_string(&mut seen).expect("the end");
    assert_eq!(seen, "got end\n");
    assert_eq!(pod.output("web"), "got one\ngot two\ngot end\n");
}

#[test]
fn stdin_once_ends_with_its_first_client() {
    let mut pod = Pod::new();
    pod.watch();
    pod.try_start("web", &pod.plan("wc -c; exit 8"), "once").expect("it starts");
    let mut client = attach(&pod, "web");
    let typed = vec![b'x'; 300_000];
    client.typing.write_all(&typed).expect("typing");
    drop(client.typing);
    assert_eq!(pod.wait("web"), 8);
    let mut seen = String::new();
    client.out.read_to_string(&mut seen).expect("its output");
    assert_eq!(seen.trim(), "300000");
}

#[test]
fn a_client_without_streams_of_its_own_only_looks() {
    let mut pod = Pod::new();
    pod.watch();
    pod.try_start("web", &pod.plan("read x; echo out; echo err >&2"), "once").expect("it starts");
    let null: OwnedFd = File::options().read(true).write(true).open("/dev/null").expect("/dev/null").into();
    let (mut err, their_err) = std::io::pipe().expect("a pipe");
    pod.client()
        .call(&Request::Attach { id: "web".into() }, &[null.as_fd(), null.as_fd(), their_err.as_fd()])
        .expect("attaching");
    drop(their_err);
    let mut typist = attach(&pod, "web");
    typist.typing.write_all(b"go\n").expect("stdin did not end with a client that had none");
    assert_eq!(pod.wait("web"), 0);
    let mut seen = String::new();
    err.read_to_string(&mut seen).expect("its stderr");
    assert_eq!(seen, "err\n");
}

#[test]
fn a_slow_client_misses_nothing_and_costs_the_log_nothing() {
    let mut pod = Pod::new();
    pod.watch();
    pod.try_start("web", &pod.plan("read x; seq 1 150000; echo end"), "open").expect("it starts");
    let (mut slow, mut quick) = (attach(&pod, "web"), attach(&pod, "web"));
    quick.typing.write_all(b"go\n").expect("typing");
    // As much as both pipes and the shim's buffer may hold comes to the quick one although the slow one reads nothing.
    let mut first = vec![0; 100_000];
    quick.out.read_exact(&mut first).expect("it goes on");
    let rest = std::thread::spawn(move || {
        let mut rest = Vec::new();
        quick.out.read_to_end(&mut rest).expect("its output");
        rest
    });
    let mut seen = String::new();
    slow.out.read_to_string(&mut seen).expect("its output");
    let expected: String = (1..=150_000).map(|number| format!("{number}\n")).chain(["end\n".into()]).collect();
    assert!(seen == expected, "{} of {} bytes", seen.len(), expected.len());
    first.extend(rest.join().expect("the reader"));
    assert!(first == expected.as_bytes());
    pod.wait("web");
    assert!(pod.output("web") == expected);
}

#[test]
fn a_client_that_goes_away_disturbs_nobody() {
    let mut pod = Pod::new();
    pod.watch();
    pod.try_start("web", &pod.plan("read x; seq 1 50000; echo end"), "open").expect("it starts");
    let mut gone = attach(&pod, "web");
    gone.typing.write_all(b"go\n").expect("typing");
    read_until(&mut gone.out, "\n100\n");
    drop(gone);
    assert_eq!(pod.wait("web"), 0);
    assert!(pod.output("web").ends_with("50000\nend\n"));
}

#[test]
fn attaching_to_what_has_exited_is_refused() {
    let mut pod = Pod::new();
    pod.run(&pod.plan("true"));
    let null: OwnedFd = File::open("/dev/null").expect("/dev/null").into();
    let refused = pod.client().call(&Request::Attach { id: "run1".into() }, &pod::thrice(&null));
    assert!(matches!(refused, Err(CallError::Refused { errno: libc::ESRCH, .. })), "{refused:?}");
}

#[test]
fn garbage_on_the_socket_closes_that_connection_only() {
    let pod = Pod::new();
    let client = pod.client();
    shim::packet::send(client.as_fd(), b"\x01\xffgarbage", &[], 0).expect("sending");
    assert!(client.receive().is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof));
    assert!(matches!(pod.call(Request::State), Ok(Reply::State { .. })));
    assert!(client.as_raw_fd() > 2);
}
