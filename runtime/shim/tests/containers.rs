//! The shim on a real kernel: containers from start to exit. Needs root, busybox-static.

mod pod;

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use pod::{Pod, text, user};
use shim::client::CallError;
use shim::wire::{Event, Reply, Request};

fn reason(error: CallError) -> (String, i32) {
    match error {
        CallError::Refused { reason, errno } => (reason, errno),
        CallError::Io(error) => panic!("no answer: {error}"),
    }
}

#[test]
fn a_container_runs_and_its_exit_code_is_on_disk() {
    let mut pod = Pod::new();
    let (code, output) = pod.run(&pod.plan("echo one; echo two >&2; exit 7"));
    assert_eq!(code, 7);
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["one", "two"]);
}

#[test]
fn log_lines_are_in_cri_format() {
    let mut pod = Pod::new();
    pod.run(&pod.plan("echo out; exec 1>&2; echo err; printf tail"));
    let log = pod.log("run1");
    for (line, ending) in log.lines().zip([" stdout F out", " stderr F err", " stderr F tail"]) {
        let time = line.strip_suffix(ending).unwrap_or_else(|| panic!("{line} ends with {ending}"));
        assert_eq!(time.len(), "2026-11-20T21:43:04.000000007Z".len());
        assert!(time.starts_with("20") && time.ends_with('Z'));
    }
    assert_eq!(log.lines().count(), 3);
    let mode = fs::metadata(pod.log_path("run1")).expect("there is a log").mode();
    assert_eq!(mode & 0o7777, 0o640);
}

#[test]
fn a_line_beyond_16_kib_is_logged_in_parts() {
    let mut pod = Pod::new();
    pod.run(&pod.plan("head -c 40000 /dev/zero | tr '\\0' x; echo"));
    let log = pod.log("run1");
    let tags: Vec<_> = log.lines().map(|line| line.split(' ').nth(2).unwrap_or_default().to_owned()).collect();
    assert_eq!(tags, ["P", "P", "F"]);
    assert_eq!(pod.output("run1"), "x".repeat(40_000) + "\n");
}

#[test]
fn everything_a_fast_writer_wrote_is_in_the_log() {
    let mut pod = Pod::new();
    let (_, output) = pod.run(&pod.plan("seq 1 200000"));
    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(output == expected, "{} of {} bytes", output.len(), expected.len());
}

#[test]
fn a_killed_container_exits_with_128_and_the_signal() {
    let mut pod = Pod::new();
    pod.start("web", &pod.plan("trap '' TERM; echo up; while :; do sleep 1000 & wait; done"));
    pod.wait_for_output("web", "up");
    pod.watch();
    assert_eq!(
        pod.call(Request::Signal { id: "web".into(), signal: 9, whole_session: false }).expect("a signal"),
        Reply::Done
    );
    assert_eq!(pod.wait("web"), 137);
}

#[test]
fn a_signal_reaches_the_handler_of_pid_1() {
    let mut pod = Pod::new();
    pod.start("web", &pod.plan("trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1000 & wait; done"));
    pod.wait_for_output("web", "up");
    pod.watch();
    pod.call(Request::Signal { id: "web".into(), signal: 15, whole_session: false }).expect("a signal");
    assert_eq!(pod.wait("web"), 3);
    assert!(pod.output("web").contains("bye"));
}

#[test]
fn no_descriptor_of_the_host_leaks_into_a_container() {
    let mut pod = Pod::new();
    let (_, output) = pod.run(&pod.plan("exec ls /proc/self/fd"));
    // ls itself has the directory open as 3.
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

#[test]
fn namespaces_are_the_pods_and_its_own() {
    let mut pod = Pod::new();
    let (_, output) = pod.run(&pod.plan("hostname; echo $$; ls /sys/class/net; ls / | tr '\\n' ' '"));
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..3], ["web-0", "1", "lo"]);
    assert!(lines[3].contains("bin") && !lines[3].contains("work"));
}

#[test]
fn capabilities_and_no_new_privs_are_what_was_asked_for() {
    let mut pod = Pod::new();
    let (_, output) = pod.run(&pod.plan("grep -E 'Cap|NoNew' /proc/self/status"));
    let value =
        |name: &str| output.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned());
    for (name, expected) in [
        ("CapInh:", 0),
        ("CapPrm:", pod::USUAL_CAPABILITIES),
        ("CapEff:", pod::USUAL_CAPABILITIES),
        ("CapBnd:", pod::USUAL_CAPABILITIES),
        ("CapAmb:", 0),
    ] {
        assert_eq!(value(name), Some(format!("{expected:016x}")), "{name}");
    }
    assert_eq!(value("NoNewPrivs:").as_deref(), Some("1"));
    let (code, _) = pod.run(&pod.plan("mount -t tmpfs none /tmp"));
    assert_ne!(code, 0);
}

#[test]
fn a_user_has_its_ids_groups_umask_and_ambient_capabilities() {
    let mut pod = Pod::new();
    let mut plan =
        pod.plan("id -u; id -g; id -G; umask; grep -E 'CapEff|CapAmb' /proc/self/status; echo again > /dev/stdout");
    plan.user = user(1000);
    plan.capabilities.inheritable = 1 << 10;
    plan.capabilities.ambient = 1 << 10;
    let (code, output) = pod.run(&plan);
    assert_eq!(
        output.split_whitespace().collect::<Vec<_>>(),
        ["1000", "1000", "1000", "4242", "0022", "CapEff:", "0000000000000400", "CapAmb:", "0000000000000400", "again"]
    );
    assert_eq!(code, 0);
}

#[test]
fn limits_and_the_oom_score_are_set() {
    let mut pod = Pod::new();
    let mut plan = pod.plan("ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj");
    plan.rlimits = vec![(libc::RLIMIT_NOFILE, 123, 456)];
    let (_, output) = pod.run(&plan);
    assert_eq!(output, "123\n456\n500\n");
}

#[test]
fn masked_paths_show_nothing_and_read_only_paths_can_not_be_written() {
    let mut pod = Pod::new();
    let script = "wc -c < /proc/interrupts; wc -c < /proc/keys; ls /sys/firmware | wc -l; touch /sys/firmware/x 2>/dev/null; echo $?; \
                  echo 1 2>/dev/null > /proc/sys/kernel/domainname; echo $?; echo h 2>/dev/null > /proc/sysrq-trigger; echo $?";
    let (_, output) = pod.run(&pod.plan(script));
    assert_eq!(output.split_whitespace().collect::<Vec<_>>(), ["0", "0", "0", "1", "1", "1"]);
}

#[test]
fn a_read_only_root_is_one_and_its_mounts_are_not() {
    let mut pod = Pod::new();
    let mut plan = pod.plan("touch /x 2>/dev/null; echo $?; touch /dev/shm/x; echo $?; pwd");
    plan.root.as_mut().expect("a container has one").readonly = true;
    plan.cwd = text("/made/for/me");
    let (_, output) = pod.run(&plan);
    assert_eq!(output, "1\n0\n/made/for/me\n");
}

#[test]
fn devices_and_links_are_there() {
    let mut pod = Pod::new();
    let (_, output) = pod.run(&pod.plan("stat -c '%F %t:%T %a' /dev/null /dev/full; readlink /dev/fd; head -c 3 /dev/zero | wc -c; touch /tmp/f && chmod 4755 /tmp/f; stat -c %a /tmp/f"));
    assert_eq!(output, "character special file 1:3 666\ncharacter special file 1:7 666\n/proc/self/fd\n3\n4755\n");
}

#[test]
fn binds_have_their_flags_and_missing_targets_are_made() {
    let mut pod = Pod::new();
    let volume = pod.path("volume");
    fs::create_dir(&volume).expect("a volume");
    fs::write(volume.join("f"), "from outside\n").expect("a file");
    let mut plan = pod.plan("cat /data/sub/f /etc/one; touch /data/sub/g 2>/dev/null; echo $?; touch /rw/h; echo $?; grep -c '/data/sub ro,nosuid' /proc/self/mounts || cat /proc/self/mounts");
    let bind = |source: &std::path::Path, target: &str, flags| shim::plan::Mount {
        source: text(&source.to_string_lossy()),
        target: target.into(),
        flags: libc::MS_BIND | libc::MS_REC | flags,
        propagation: libc::MS_PRIVATE | libc::MS_REC,
        ..Default::default()
    };
    let mounts = &mut plan.root.as_mut().expect("a container has one").mounts;
    mounts.push(bind(&volume, "/data/sub", libc::MS_RDONLY | libc::MS_NOSUID));
    mounts.push(bind(&volume.join("f"), "/etc/one", 0));
    mounts.push(bind(&volume, "/rw", 0));
    let (_, output) = pod.run(&plan);
    assert_eq!(output.lines().take(4).collect::<Vec<_>>(), ["from outside", "from outside", "1", "0"]);
    assert!(volume.join("h").exists());
}

#[test]
fn a_mount_target_never_leaves_the_root() {
    let mut pod = Pod::new();
    let outside = pod.path("outside");
    fs::create_dir(&outside).expect("a neighbour");
    std::os::unix::fs::symlink(&outside, pod.path("root/way-out")).expect("a link");
    let mut plan = pod.plan("ls /way-out/");
    let target = format!("/way-out/../../../../{}/x", outside.display());
    plan.root.as_mut().expect("a container has one").mounts.push(shim::plan::Mount {
        source: text("tmpfs"),
        target: target.into(),
        fstype: text("tmpfs"),
        ..Default::default()
    });
    pod.run(&plan);
    assert_eq!(fs::read_dir(&outside).expect("the neighbour").count(), 0);
}

#[test]
fn a_bind_of_nothing_is_not_a_bind_of_the_hosts_root() {
    let pod = Pod::new();
    let mut plan = pod.plan("true");
    let bind = shim::plan::Mount { target: "/host".into(), flags: libc::MS_BIND, ..Default::default() };
    plan.root.as_mut().expect("a container has one").mounts.push(bind);
    let (reason, _) = reason(pod.try_start("web", &plan, "no").expect_err("it must not start"));
    assert_eq!(reason, "mounting  at /host: its source is not an absolute path");
}

#[test]
fn proc_behind_a_link_is_refused() {
    let pod = Pod::new();
    fs::create_dir(pod.path("root/fake")).expect("a directory");
    std::os::unix::fs::symlink("fake", pod.path("root/proc")).expect("a link");
    let (reason, errno) = reason(pod.try_start("web", &pod.plan("true"), "no").expect_err("it must not start"));
    assert_eq!((reason.as_str(), errno), ("mounting proc at /proc: Too many levels of symbolic links", libc::ELOOP));
}

#[test]
fn a_missing_program_is_said_to_be_missing() {
    let pod = Pod::new();
    let check = |args: &[&str], expected: &str, number: i32| {
        let mut plan = pod.plan("");
        plan.args = args.iter().map(|arg| text(arg)).collect();
        let (reason, errno) = reason(pod.try_start("web", &plan, "no").expect_err("it must not start"));
        assert_eq!((reason.as_str(), errno), (expected, number));
        for file in ["pid", "exit", "out"] {
            assert!(!pod.directory().join("c/web").join(file).exists(), "{file} is left behind");
        }
    };
    fs::write(pod.path("root/etc/script"), "#!/no/such/shell\n").expect("a script");
    fs::set_permissions(pod.path("root/etc/script"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("its mode");
    fs::write(pod.path("root/etc/plain"), "x").expect("a file");
    check(&["nginx"], "exec: \"nginx\": executable file not found in $PATH", libc::ENOENT);
    check(&["/bin/nginx"], "exec: \"/bin/nginx\": no such file or directory", libc::ENOENT);
    check(&["/etc/plain"], "exec: \"/etc/plain\": permission denied", libc::EACCES);
    check(
        &["/etc/script"],
        "exec: \"/etc/script\": the interpreter or loader it names: no such file or directory",
        libc::ENOENT,
    );
    check(&[""], "there is no program to start", libc::ENOENT);
    assert_eq!(pod.start("web", &pod.plan("true")).signum(), 1, "the id is free after a failed start");
}

#[test]
fn a_bad_working_directory_is_named() {
    let pod = Pod::new();
    let mut plan = pod.plan("true");
    plan.cwd = text("/bin/busybox");
    let (reason, errno) = reason(pod.try_start("web", &plan, "no").expect_err("it must not start"));
    assert_eq!(
        (reason.as_str(), errno),
        ("entering the working directory /bin/busybox: Not a directory", libc::ENOTDIR)
    );
}

#[test]
fn a_working_directory_outside_the_root_is_refused() {
    let pod = Pod::new();
    let mut plan = pod.plan("true");
    plan.cwd = text("/proc/self/fd/3/../../..");
    let (reason, _) = reason(pod.try_start("web", &plan, "no").expect_err("it must not start"));
    assert!(reason.contains("working directory /proc/self/fd/3"), "{reason}");
}

#[test]
fn a_user_namespace_is_not_made_like_the_others() {
    let pod = Pod::new();
    let mut plan = pod.plan("true");
    plan.create |= libc::CLONE_NEWUSER as u64;
    let (reason, errno) = reason(pod.try_start("web", &plan, "no").expect_err("it must not start"));
    assert_eq!((reason.as_str(), errno), ("a user namespace is not joined or made like others", libc::EINVAL));
}

#[test]
fn what_a_mount_option_is_wrong_about_is_said() {
    let pod = Pod::new();
    let mut plan = pod.plan("true");
    plan.root.as_mut().expect("a container has one").mounts[1].data = text("size=65536k,colour=red");
    let (reason, errno) = reason(pod.try_start("web", &plan, "no").expect_err("it must not start"));
    assert_eq!((reason.as_str(), errno), ("mounting tmpfs at /dev: tmpfs: Unknown parameter 'colour'", libc::EINVAL));
}

#[test]
fn a_damaged_launch_is_refused() {
    let pod = Pod::new();
    pod.write_container("web", &pod.plan("true"), "no");
    fs::write(pod.directory().join("c/web/launch"), b"\x01nonsense").expect("damage");
    let (text, errno) = reason(pod.call(Request::Start { id: "web".into() }).expect_err("it must not start"));
    assert!(text.ends_with("c/web/launch: it ends in the middle of a field") && errno == libc::EINVAL, "{text}");
    let (text, _) = reason(pod.call(Request::Start { id: "../web".into() }).expect_err("it is no id"));
    assert_eq!(text, "\"../web\" is not an id");
}

#[test]
fn an_id_is_taken_until_it_is_forgotten() {
    let mut pod = Pod::new();
    pod.watch();
    pod.start("web", &pod.plan("exit 1"));
    assert_eq!(pod.wait("web"), 1);
    let (text, errno) = reason(pod.try_start("web", &pod.plan("true"), "no").expect_err("it is taken"));
    assert_eq!((text.as_str(), errno), ("web was started already", libc::EEXIST));
    assert_eq!(pod.call(Request::Forget { id: "web".into() }).expect("it has ended"), Reply::Done);
    assert_eq!(pod.call(Request::Forget { id: "web".into() }).expect("can be repeated"), Reply::Done);
    pod.start("web", &pod.plan("exit 0"));
    assert_eq!(pod.wait("web"), 0);
}

#[test]
fn a_late_watcher_hears_what_was_not_forgotten() {
    let mut pod = Pod::new();
    let (code, _) = pod.run(&pod.plan("exit 5"));
    let late = pod.client();
    late.call(&Request::Watch, &[]).expect("watching");
    let (packet, _) = late.receive().expect("an event");
    assert!(
        matches!(packet, shim::wire::Packet::Event(Event::Exited { id, code: 5, .. }) if id == "run1" && code == 5)
    );
}

#[test]
fn the_state_names_what_runs() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("exec sleep 1000"));
    pod.run(&pod.plan("true"));
    let state = pod.call(Request::State).expect("the state");
    assert_eq!(state, Reply::State { pause: pod.pause(), tasks: vec![("web".into(), pid), ("run1".into(), 0)] });
}

#[test]
fn the_log_goes_on_under_its_name_after_a_rotation() {
    let mut pod = Pod::new();
    pod.watch();
    pod.try_start("web", &pod.plan("echo one; read x; echo two"), "open").expect("it starts");
    pod.wait_for_output("web", "one");
    fs::rename(pod.log_path("web"), pod.path("log/old")).expect("rotating");
    assert_eq!(pod.call(Request::ReopenLog { id: "web".into() }).expect("reopening"), Reply::Done);
    fs::write(pod.directory().join("c/web/in"), "\n").expect("typing");
    pod.wait("web");
    assert_eq!(pod.output("web"), "two\n");
    assert!(fs::read_to_string(pod.path("log/old")).expect("the old log").ends_with(" stdout F one\n"));
}

#[test]
fn a_log_behind_a_link_is_refused() {
    let pod = Pod::new();
    fs::write(pod.path("victim"), "").expect("a file");
    std::os::unix::fs::symlink(pod.path("victim"), pod.log_path("web")).expect("a link");
    let (text, _) = reason(pod.try_start("web", &pod.plan("echo x"), "no").expect_err("it must not start"));
    assert!(text.starts_with("preparing the streams of web: "), "{text}");
    assert_eq!(fs::read_to_string(pod.path("victim")).expect("it is there"), "");
}

#[test]
fn a_full_disk_costs_log_lines_and_nothing_else() {
    let mut pod = Pod::new();
    pod.watch();
    let small = tempfile::tempdir().expect("a directory");
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "none"]).arg(small.path()).status();
    assert!(mounted.expect("running mount").success());
    let log = small.path().join("web.log");
    pod.write_container("web", &pod.plan("read x; seq 1 20000; echo full; read x; echo after; exit 4"), "open");
    fs::write(pod.directory().join("c/web/log"), log.to_string_lossy().as_bytes()).expect("its log path");
    fs::write(small.path().join("ballast"), vec![0; 20_000]).expect("ballast");
    pod.call(Request::Start { id: "web".into() }).expect("it starts");
    // Somebody who is attached sees when everything has gone through the shim's hands.
    let (null, (mut out, their_out)) = (fs::File::open("/dev/null").expect("it"), std::io::pipe().expect("a pipe"));
    let request = Request::Attach { id: "web".into() };
    pod.client().call(&request, &[null.as_fd(), their_out.as_fd(), null.as_fd()]).expect("attaching");
    drop(their_out);
    fs::write(pod.directory().join("c/web/in"), "x\n").expect("typing");
    let mut seen = String::new();
    while !seen.ends_with("full\n") {
        let mut byte = [0];
        out.read_exact(&mut byte).expect("its output");
        seen.push(byte[0].into());
    }
    fs::remove_file(small.path().join("ballast")).expect("room again");
    fs::write(pod.directory().join("c/web/in"), "x\n").expect("typing");
    let code = pod.wait("web");
    let text = fs::read_to_string(&log).expect("there is a log");
    let unmounted = std::process::Command::new("umount").arg("-l").arg(small.path()).status();
    assert!(unmounted.expect("running umount").success());
    assert_eq!(code, 4);
    assert!(text.contains(" stdout F 1\n") && text.ends_with(" stdout F after\n"), "{text}");
    assert!(text.lines().all(|line| line.split(' ').count() >= 4), "no half line");
    let note = text.lines().rev().nth(1).expect("a line before the last");
    assert!(
        note.contains(" stderr F longshore: ") && note.ends_with(" bytes of log were lost: No space left on device")
    );
}

#[test]
fn shutdown_ends_everything_and_the_shim() {
    let mut pod = Pod::new();
    let pids =
        [pod.start("a", &pod.plan("exec sleep 1000")), pod.start("b", &pod.plan("exec sleep 1000")), pod.pause()];
    assert_eq!(pod.call(Request::Shutdown).expect("the end"), Reply::Done);
    assert_eq!(pod.wait_for_shim(), Some(0));
    for pid in pids {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid} is left");
    }
    assert_eq!(pod.exit_record("a").expect("its exit").code, 137);
    assert!(!pod.directory().join("shim.sock").exists());
}

#[test]
fn the_end_of_the_pause_is_told() {
    let mut pod = Pod::new();
    pod.watch();
    // SAFETY: only numbers; the pause is this test's own.
    unsafe { libc::kill(pod.pause(), libc::SIGKILL) };
    assert!(matches!(pod.event(), Event::PauseExited { code: 137, .. }));
    let state = pod.call(Request::State).expect("the state");
    assert_eq!(state, Reply::State { pause: 0, tasks: vec![] });
}

#[test]
fn a_shared_pid_namespace_is_reaped_by_the_pause_which_shows_nothing() {
    let mut pod =
        Pod::with_pause((libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWPID) as u64);
    let mut plan = pod.plan("cat /proc/1/comm; (sleep 0 & exec sleep 0) & wait; ls /proc/1/root 2>&1 | grep -c denied; (setsid sh -c 'exit 0' &); echo $$");
    plan.create &= !(libc::CLONE_NEWPID as u64);
    plan.join.push(shim::plan::JoinNamespace {
        kind: libc::CLONE_NEWPID as u64,
        path: format!("/proc/{}/ns/pid", pod.pause()).into(),
    });
    let (_, output) = pod.run(&plan);
    let lines: Vec<_> = output.lines().collect();
    assert_eq!(lines[..2], ["pause", "1"]);
    assert_ne!(lines[2], "1", "the container is not the first in the namespace");
    let root = fs::read_dir(format!("/proc/{}/root", pod.pause())).expect("we may look");
    assert_eq!(root.count(), 0, "even who may look finds an empty root");
}

#[test]
fn a_second_shim_on_the_same_directory_is_refused() {
    let mut pod = Pod::new();
    let said = pod.start_shim().expect_err("it must not start");
    assert!(said.starts_with("another shim serves"), "{said}");
    assert_eq!(
        pod.call(Request::State).expect("the first one serves"),
        Reply::State { pause: pod.pause(), tasks: vec![] }
    );
}

#[test]
fn a_pause_that_can_not_start_is_reported_on_stdout_and_on_disk() {
    let mut pod = Pod::without_shim();
    let pause = shim::plan::Launch { hostname: Some(text("x")), cwd: text("/"), ..Default::default() };
    fs::write(pod.directory().join("pause.launch"), pause.encode()).expect("its launch");
    let said = pod.start_shim().expect_err("it must not start");
    assert_eq!(said, "a hostname needs a UTS namespace of its own");
    assert_eq!(fs::read_to_string(pod.directory().join("shim.error")).expect("it is there"), said);
    assert!(!pod.directory().join("pause.pid").exists());
}
