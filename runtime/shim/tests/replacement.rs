//! A shim is killed, and another one takes its place.

mod pod;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use pod::Pod;
use shim::wire::{Event, Reply, Request};

/// Waits until a process that is nobody's child here has ended and was reaped.
fn wait_for_end(pid: i32) {
    // SAFETY: plain numbers and a live pollfd; the descriptor is owned right away.
    unsafe {
        let number = libc::syscall(libc::SYS_pidfd_open, pid, 0) as i32;
        if number < 0 {
            return;
        }
        let pidfd = OwnedFd::from_raw_fd(number);
        let mut ready = libc::pollfd { fd: pidfd.as_fd().as_raw_fd(), events: 0, revents: 0 };
        // Without POLLIN only the reaping is waited for (POLLHUP).
        assert_eq!(libc::poll(&mut ready, 1, pod::PATIENCE.as_millis() as i32), 1, "{pid} does not end");
    }
}

#[test]
fn a_new_shim_knows_what_runs_and_gets_its_exit_code() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 1000 & wait; done"));
    pod.wait_for_output("web", "up");
    pod.kill_shim();
    pod.start_shim().expect("another one starts");
    let state = pod.call(Request::State).expect("the state");
    assert_eq!(state, Reply::State { pause: pod.pause(), tasks: vec![("web".into(), pid)] });
    pod.watch();
    pod.call(Request::Signal { id: "web".into(), signal: 15, whole_session: false }).expect("a signal");
    assert_eq!(pod.wait("web"), 9);
    assert_eq!(pod.exit_record("web").expect("its exit").note, None);
    assert_eq!(pod.output("web"), "up\nbye\n");
}

#[test]
fn a_signal_that_kills_an_adopted_container_is_told() {
    let mut pod = Pod::new();
    pod.start("web", &pod.plan("exec sleep 1000"));
    pod.kill_shim();
    pod.start_shim().expect("another one starts");
    pod.watch();
    pod.call(Request::Signal { id: "web".into(), signal: 9, whole_session: false }).expect("a signal");
    assert_eq!(pod.wait("web"), 137);
}

#[test]
fn nothing_written_while_there_is_no_shim_is_lost_and_no_pipe_breaks() {
    let mut pod = Pod::new();
    pod.try_start("web", &pod.plan("echo up; read x; seq 1 60000; exit 4"), "open").expect("it starts");
    pod.wait_for_output("web", "up");
    pod.kill_shim();
    fs::write(pod.directory().join("c/web/in"), "go\n").expect("typing");
    pod.start_shim().expect("another one starts");
    pod.watch();
    assert_eq!(pod.wait("web"), 4);
    let expected: String = std::iter::once("up\n".into()).chain((1..=60_000).map(|n| format!("{n}\n"))).collect();
    assert!(pod.output("web") == expected, "{} of {} bytes", pod.output("web").len(), expected.len());
}

#[test]
fn an_exit_that_no_shim_saw_is_255_with_a_note() {
    let mut pod = Pod::new();
    let pid = pod.try_start("web", &pod.plan("echo up; read x; exit 3"), "open").expect("it starts");
    pod.wait_for_output("web", "up");
    pod.kill_shim();
    fs::write(pod.directory().join("c/web/in"), "go\n").expect("typing");
    wait_for_end(pid);
    pod.start_shim().expect("another one starts");
    assert_eq!(pod.wait("web"), 255);
    let note = pod.exit_record("web").expect("its exit").note;
    assert_eq!(note.as_deref(), Some("it ended while no shim was there to see it"));
}

#[test]
fn exits_on_disk_are_told_again_by_a_new_shim() {
    let mut pod = Pod::new();
    assert_eq!(pod.run(&pod.plan("exit 6")).0, 6);
    let before = pod.exit_record("run1");
    pod.kill_shim();
    pod.start_shim().expect("another one starts");
    assert_eq!(pod.wait("run1"), 6);
    assert_eq!(pod.exit_record("run1"), before);
}

#[test]
fn an_exec_outlives_its_shim() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("exec sleep 1000"));
    let directory = pod.directory().join("x/e1");
    fs::create_dir_all(&directory).expect("its directory");
    fs::write(directory.join("launch"), pod.exec_plan(pid, "read x; exit 11").encode()).expect("its launch");
    let (stdin, typing) = std::io::pipe().expect("a pipe");
    let stdin: OwnedFd = stdin.into();
    pod.client().call(&Request::Exec { id: "e1".into() }, &pod::thrice(&stdin)).expect("it starts");
    pod.kill_shim();
    pod.start_shim().expect("another one starts");
    pod.watch();
    drop((typing, stdin));
    assert_eq!(pod.wait("e1"), 11);
}

#[test]
fn a_container_can_be_started_by_the_second_shim() {
    let mut pod = Pod::new();
    pod.start("web", &pod.plan("exec sleep 1000"));
    pod.kill_shim();
    pod.start_shim().expect("another one starts");
    assert_eq!(pod.run(&pod.plan("hostname; exit 2")), (2, "web-0\n".into()));
}

#[test]
fn a_pause_that_ended_unseen_is_told_and_not_replaced() {
    let mut pod = Pod::new();
    let pause = pod.pause();
    pod.kill_shim();
    // SAFETY: only numbers; the pause is this test's own.
    unsafe { libc::kill(pause, libc::SIGKILL) };
    wait_for_end(pause);
    pod.start_shim().expect("another one starts");
    assert!(matches!(pod.event(), Event::PauseExited { code: 255, .. }));
    assert_eq!(pod.pause(), pause);
}

#[test]
fn an_adopted_sandbox_is_shut_down_like_any_other() {
    let mut pod = Pod::new();
    let pids = [pod.start("web", &pod.plan("exec sleep 1000")), pod.pause()];
    pod.kill_shim();
    pod.start_shim().expect("another one starts");
    assert_eq!(pod.call(Request::Shutdown).expect("the end"), Reply::Done);
    assert_eq!(pod.wait_for_shim(), Some(0));
    pids.into_iter().for_each(wait_for_end);
}

#[test]
fn a_terminal_is_lost_with_its_shim_and_that_is_said() {
    let mut pod = Pod::new();
    let mut plan = pod.plan("trap '' HUP; echo up; while :; do sleep 1000; done");
    plan.terminal = Some((80, 24));
    pod.try_start("web", &plan, "open").expect("it starts");
    pod.wait_for_output("web", "up");
    pod.kill_shim();
    pod.start_shim().expect("another one starts");
    let null: OwnedFd = fs::File::open("/dev/null").expect("/dev/null").into();
    let refused = pod.client().call(&Request::Attach { id: "web".into() }, &pod::thrice(&null));
    assert!(matches!(refused, Err(shim::client::CallError::Refused { errno: libc::ENXIO, .. })), "{refused:?}");
}

/// Processes whose arguments have this word.
fn with_argument(word: &str) -> Vec<i32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    })
    .collect()
}

#[test]
fn whenever_a_shim_is_killed_nothing_runs_that_is_not_on_record() {
    let mut pod = Pod::new();
    let word = format!("10000{}", std::process::id());
    for round in 0..40u64 {
        let id = format!("web{round}");
        let mut plan = pod.plan("");
        plan.args = ["/bin/sleep", &word].map(pod::text).into();
        pod.write_container(&id, &plan, "no");
        let client = pod.client();
        client.send(&Request::Start { id: id.clone() }, &[]).expect("asking");
        // Spread over the whole of a start, from the fork to after the exec; not a wait for anything.
        std::thread::sleep(std::time::Duration::from_micros(round * 100));
        pod.kill_shim();
        drop(client);
        pod.start_shim().expect("another one starts");
        let Ok(Reply::State { tasks, .. }) = pod.call(Request::State) else { panic!("no state") };
        let known: Vec<i32> = tasks.iter().map(|(_, pid)| *pid).collect();
        let strangers: Vec<_> = with_argument(&word).into_iter().filter(|pid| !known.contains(pid)).collect();
        assert_eq!(strangers, [0; 0], "in round {round}");
        if tasks.iter().any(|(task, _)| *task == id) {
            let gone = pod.call(Request::Signal { id: id.clone(), signal: 9, whole_session: false }).is_err();
            pod.watch();
            let code = pod.wait(&id);
            assert!(code == 137 || code == 255 && (gone || pod.exit_record(&id).is_some()), "{code} in round {round}");
            pod.call(Request::Forget { id }).expect("it has ended");
        }
    }
}
