//! System call filters and what a container can reach, on a real kernel.

mod pod;

use pod::{Pod, user};
use shim::plan::Launch;

/// Classic BPF that answers the system calls named with EPERM and allows the rest.
fn deny(calls: &[libc::c_long]) -> Vec<u8> {
    let mut program = vec![(0x20u16, 0u8, 0u8, 0u32)]; // load the number
    for (index, call) in calls.iter().enumerate() {
        program.push((0x15, (calls.len() - index) as u8, 0, *call as u32)); // equal: to the last instruction
    }
    program.push((0x06, 0, 0, 0x7fff_0000)); // allow
    program.push((0x06, 0, 0, 0x0005_0000 | libc::EPERM as u32));
    let bytes = |(code, yes, no, value): (u16, u8, u8, u32)| {
        [code.to_ne_bytes().to_vec(), vec![yes, no], value.to_ne_bytes().to_vec()].concat()
    };
    program.into_iter().flat_map(bytes).collect()
}

fn mkdir() -> Vec<libc::c_long> {
    vec![
        libc::SYS_mkdirat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir,
    ]
}

fn filtered(pod: &Pod, script: &str, calls: &[libc::c_long], no_new_privileges: bool) -> Launch {
    Launch { seccomp: deny(calls), no_new_privileges, ..pod.plan(script) }
}

#[test]
fn a_filter_holds_with_and_without_no_new_privs_for_root_and_others() {
    let mut pod = Pod::new();
    let script = "mkdir /tmp/d 2>&1; grep -E 'Seccomp:|NoNew|CapEff' /proc/self/status | tr '\\n' ' '";
    for (no_new_privileges, id) in [(true, 0), (false, 0), (true, 1000), (false, 1000)] {
        let mut plan = filtered(&pod, script, &mkdir(), no_new_privileges);
        plan.user = user(id);
        let (_, output) = pod.run(&plan);
        assert!(output.contains("Operation not permitted"), "{output}");
        assert!(output.contains("Seccomp:\t2"), "{output}");
        assert!(output.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privileges))), "{output}");
        let effective = if id == 0 { pod::USUAL_CAPABILITIES } else { 0 };
        assert!(
            output.contains(&format!("CapEff:\t{effective:016x}")),
            "nothing is left over for the filter: {output}"
        );
    }
}

#[test]
fn a_filter_may_forbid_what_the_start_itself_needs() {
    let mut pod = Pod::new();
    let calls = [
        libc::SYS_setresuid,
        libc::SYS_setresgid,
        libc::SYS_setgroups,
        libc::SYS_read,
        libc::SYS_chdir,
        libc::SYS_prctl,
    ];
    let mut plan = filtered(&pod, "", &calls, false);
    plan.args = ["/bin/echo", "alive"].map(pod::text).into();
    plan.user = user(1000);
    assert_eq!(pod.run(&plan), (0, "alive\n".into()));
}

#[test]
fn half_an_instruction_is_refused() {
    let pod = Pod::new();
    let mut plan = filtered(&pod, "true", &mkdir(), true);
    plan.seccomp.pop();
    match pod.try_start("web", &plan, "no") {
        Err(shim::client::CallError::Refused { reason, errno }) => {
            assert_eq!((reason.as_str(), errno), ("loading the seccomp filter: Invalid argument", libc::EINVAL));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_exec_is_filtered_as_well() {
    let mut pod = Pod::new();
    let pid = pod.start("web", &pod.plan("exec sleep 1000"));
    let plan = Launch { seccomp: deny(&mkdir()), ..pod.exec_plan(pid, "mkdir /tmp/d") };
    let (code, _, err) = pod.exec("e1", &plan, None).expect("it runs");
    assert_eq!(code, 1);
    assert!(err.contains("Operation not permitted"), "{err}");
}

#[test]
fn sysctls_are_the_namespaces_own() {
    let mut pod = Pod::new();
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("the host's");
    let mut plan = pod.plan("cat /proc/sys/net/ipv4/ip_unprivileged_port_start");
    plan.sysctls = vec![("net/ipv4/ip_unprivileged_port_start".into(), b"7".to_vec())];
    assert_eq!(pod.run(&plan), (0, "7\n".into()));
    let after = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("the host's");
    assert_eq!(before, after);
    plan.sysctls = vec![("../self/comm".into(), b"x".to_vec())];
    assert!(pod.try_start("web", &plan, "no").is_err(), "a name does not lead out of /proc/sys");
}

#[test]
fn the_hosts_mounts_and_the_containers_are_apart() {
    let mut pod = Pod::new();
    let (_, output) = pod.run(&pod.plan("cat /proc/self/mountinfo"));
    assert!(!output.contains("/sys/fs/cgroup"), "{output}");
    let host = std::fs::read_to_string("/proc/self/mountinfo").expect("ours");
    assert!(!host.contains(&*pod.path("root").to_string_lossy()));
}
