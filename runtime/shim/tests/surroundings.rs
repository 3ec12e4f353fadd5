//! What a container shares with the host, on purpose: cgroups and mounts.

mod pod;

use std::fs;
use std::path::{Path, PathBuf};

use pod::{Pod, text};
use shim::plan::Mount;
use shim::wire::Request;

/// Cgroups of one test, removed with it.
struct Groups(Vec<PathBuf>);

impl Groups {
    /// One in every hierarchy that lets us make it.
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("our mounts");
        let places = mounts.lines().filter(|line| line.contains(" cgroup")).filter_map(|line| line.split(' ').nth(1));
        let named = places.map(|place| Path::new(place).join(format!("shim-test-{name}-{}", std::process::id())));
        // A cpuset group has no processors at first and takes no process.
        let groups: Vec<_> = named.filter(|path| !path.starts_with("/sys/fs/cgroup/cpuset")).collect();
        Self(groups.into_iter().filter(|path| fs::create_dir(path).is_ok()).collect())
    }

    fn files(&self) -> Vec<PathBuf> {
        self.0.iter().map(|group| group.join("cgroup.procs")).collect()
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            let removed = fs::remove_dir(group);
            assert!(removed.is_ok() || std::thread::panicking(), "{}: {removed:?}", group.display());
        }
    }
}

fn bind(source: &Path, target: &str, propagation: u64) -> Mount {
    Mount {
        source: text(&source.to_string_lossy()),
        target: target.into(),
        flags: libc::MS_BIND | libc::MS_REC,
        propagation,
        ..Mount::default()
    }
}

#[test]
fn a_container_and_its_execs_are_in_every_cgroup_they_should_be_in() {
    let groups = Groups::new("enter");
    assert!(!groups.0.is_empty(), "there is a cgroup hierarchy");
    let mut pod = Pod::new();
    let name = format!("shim-test-enter-{}", std::process::id());
    let mut plan = pod.plan("grep -c shim-test-enter /proc/self/cgroup; exec sleep 1000");
    plan.cgroups = groups.files();
    let pid = pod.start("web", &plan);
    pod.wait_for_output("web", &groups.0.len().to_string());
    let mut exec = pod.exec_plan(pid, "cat /proc/self/cgroup");
    exec.cgroups = groups.files();
    let (_, out, _) = pod.exec("e1", &exec, None).expect("it runs");
    assert_eq!(out.matches(&name).count(), groups.0.len(), "{out}");
    drop(pod);
}

#[test]
fn a_cgroup_namespace_begins_at_the_containers_cgroup() {
    let groups = Groups::new("namespace");
    let mut pod = Pod::new();
    let mut plan = pod.plan("cat /proc/self/cgroup");
    plan.cgroups = groups.files();
    plan.create |= libc::CLONE_NEWCGROUP as u64;
    let (_, output) = pod.run(&plan);
    assert_eq!(output.matches("shim-test-namespace").count(), 0, "{output}");
    assert!(output.lines().filter(|line| line.ends_with(":/")).count() >= groups.0.len(), "{output}");
    drop(pod);
}

#[test]
fn a_cgroup_that_is_not_there_is_named() {
    let pod = Pod::new();
    let mut plan = pod.plan("true");
    plan.cgroups = vec!["/sys/fs/cgroup/no/such/group/cgroup.procs".into()];
    match pod.try_start("web", &plan, "no") {
        Err(shim::client::CallError::Refused { reason, errno: libc::ENOENT }) => {
            assert_eq!(reason, "opening cgroup /sys/fs/cgroup/no/such/group: No such file or directory");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_mount_made_in_a_shared_volume_is_seen_outside_and_the_hosts_mounts_stay() {
    let mut pod = Pod::without_shim();
    pod.own_mounts = true;
    pod.start_with_pause(libc::CLONE_NEWNET as u64 | libc::CLONE_NEWIPC as u64 | libc::CLONE_NEWUTS as u64);
    fs::create_dir_all(pod.path("volume/inner")).expect("a volume");
    // Like a snapshot, which is a mount of its own: what is around it stays shared.
    let (target, root) = (pod.shim_pid().to_string(), pod.path("root"));
    let bound =
        std::process::Command::new("nsenter").args(["-t", &target, "-m", "mount", "--bind"]).args([&root; 2]).status();
    assert!(bound.expect("running nsenter").success());
    let mounts = |pod: &Pod| fs::read_to_string(format!("/proc/{}/mounts", pod.shim_pid())).expect("its mounts");
    let before = mounts(&pod);
    let mut plan = pod.plan("mount -t tmpfs mine /volume/inner && echo done; read x");
    plan.capabilities = pod::capabilities(pod::USUAL_CAPABILITIES | 1 << 21) /* sys_admin */;
    let root = plan.root.as_mut().expect("a container has one");
    root.propagation = libc::MS_SHARED | libc::MS_REC;
    root.mounts.push(bind(&pod.path("volume"), "/volume", libc::MS_SHARED | libc::MS_REC));
    pod.watch();
    pod.try_start("web", &plan, "open").expect("it starts");
    pod.wait_for_output("web", "done");
    let during = mounts(&pod);
    let added: Vec<_> = during.lines().filter(|line| !before.contains(line)).collect();
    assert_eq!(added.len(), 1, "{added:#?}");
    assert!(added[0].starts_with("mine ") && added[0].contains("/volume/inner tmpfs"), "{}", added[0]);
    assert!(before.lines().all(|line| during.contains(line)), "nothing of the host was unmounted");
    pod.call(Request::Signal { id: "web".into(), signal: 9, whole_session: false }).expect("a signal");
    pod.wait("web");
}

#[test]
fn a_mount_made_outside_is_seen_by_a_slave_and_not_by_a_private_volume() {
    let mut pod = Pod::without_shim();
    pod.own_mounts = true;
    pod.start_with_pause(libc::CLONE_NEWNET as u64 | libc::CLONE_NEWIPC as u64 | libc::CLONE_NEWUTS as u64);
    fs::create_dir_all(pod.path("volume/inner")).expect("a volume");
    let mut plan = pod.plan("echo up; read x; ls /slave/inner; echo -; ls /private/inner");
    let root = plan.root.as_mut().expect("a container has one");
    root.mounts.push(bind(&pod.path("volume"), "/slave", libc::MS_SLAVE | libc::MS_REC));
    root.mounts.push(bind(&pod.path("volume"), "/private", libc::MS_PRIVATE | libc::MS_REC));
    pod.watch();
    pod.try_start("web", &plan, "open").expect("it starts");
    pod.wait_for_output("web", "up");
    let inner = pod.path("volume/inner");
    let script = format!("mount -t tmpfs none {0} && touch {0}/seen", inner.display());
    let target = pod.shim_pid().to_string();
    let mounted = std::process::Command::new("nsenter").args(["-t", &target, "-m", "sh", "-c", &script]).status();
    assert!(mounted.expect("running nsenter").success());
    fs::write(pod.directory().join("c/web/in"), "go\n").expect("typing");
    pod.wait("web");
    assert_eq!(pod.output("web"), "up\nseen\n-\n");
}

#[test]
fn recursive_read_only_reaches_mounts_below() {
    let mut pod = Pod::without_shim();
    pod.own_mounts = true;
    pod.start_with_pause(libc::CLONE_NEWNET as u64 | libc::CLONE_NEWIPC as u64 | libc::CLONE_NEWUTS as u64);
    fs::create_dir_all(pod.path("volume/inner")).expect("a volume");
    let target = pod.shim_pid().to_string();
    let inner = pod.path("volume/inner");
    let mounted = std::process::Command::new("nsenter")
        .args(["-t", &target, "-m", "mount", "-t", "tmpfs", "none"])
        .arg(&inner)
        .status();
    assert!(mounted.expect("running nsenter").success());
    let mut plan = pod.plan("for f in /all /top; do touch $f/x $f/inner/x 2>&1 | grep -c Read-only; done");
    let root = plan.root.as_mut().expect("a container has one");
    let readonly = Mount { flags: libc::MS_BIND | libc::MS_REC | libc::MS_RDONLY, ..bind(&pod.path("volume"), "", 0) };
    root.mounts.push(Mount { target: "/all".into(), recursive_readonly: true, ..readonly.clone() });
    root.mounts.push(Mount { target: "/top".into(), ..readonly });
    assert_eq!(pod.run(&plan).1, "2\n1\n");
}
