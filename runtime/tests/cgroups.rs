//! Groups in the machine's real hierarchies, below `/longshore-test-<pid>-<name>`, removed also when a test fails.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use runtime::cgroups::{CgroupPath, Cgroups, DeviceRule, Resources, Version};
use runtime::containers::{DeviceFacts, HostFacts, Identity, ImageDefaults, SandboxFacts, spec};

const PATIENCE: Duration = Duration::from_secs(10);

/// A group made for one test.
struct Group {
    cgroups: Cgroups,
    top: CgroupPath,
}

impl Group {
    fn new(name: &str) -> Self {
        let top = CgroupPath::new(&format!("/longshore-test-{}-{name}", std::process::id())).unwrap();
        Self { cgroups: Cgroups::detect().unwrap(), top }
    }

    fn leaf(&self) -> CgroupPath {
        self.top.child("pod1").unwrap().child("c1").unwrap()
    }

    /// Starts `sh -c script` in the leaf.
    fn start(&self, script: &str) -> Child {
        let files: Vec<PathBuf> = self.cgroups.procs_files(&self.leaf());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // SAFETY: opens and writes files; the allocator is whole in a child of one thread that forks here.
        unsafe {
            command.pre_exec(move || {
                files.iter().try_for_each(|file| OpenOptions::new().write(true).open(file)?.write_all(b"0"))
            })
        };
        command.spawn().unwrap()
    }

    fn run(&self, script: &str) -> (ExitStatus, String) {
        let output = self.start(script).wait_with_output().unwrap();
        (output.status, String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.cgroups.remove(&self.top, PATIENCE);
    }
}

fn limits(memory: i64) -> Resources {
    Resources {
        cpu_shares: Some(512),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(memory),
        pids_limit: Some(50),
        ..Resources::default()
    }
}

/// The rules of an ordinary container, as its spec has them.
fn ordinary_rules() -> Vec<DeviceRule> {
    let (config, pod) = (
        cri_proto::v1::ContainerConfig { command: vec!["x".into()], ..Default::default() },
        cri_proto::v1::PodSandboxConfig::default(),
    );
    let sandbox =
        SandboxFacts { namespaces: runtime::containers::SandboxNamespaces::of_process(1), ..SandboxFacts::default() };
    let built = spec::build(&spec::Request {
        id: "c1",
        sandbox_id: "s1",
        config: &config,
        pod: &pod,
        image: &ImageDefaults::default(),
        identity: &Identity::default(),
        sandbox: &sandbox,
        host: &HostFacts::default(),
        devices: &DeviceFacts::default(),
        seccomp_profile: None,
        root: "/nowhere".as_ref(),
        cgroup: &CgroupPath::new("/x").unwrap(),
    });
    let linux = built.unwrap().spec.linux().clone().unwrap();
    DeviceRule::of_spec(linux.resources().as_ref().unwrap().devices().as_deref().unwrap())
}

/// kmsg (1:11) is there on every machine and in no container's rules.
const TRY_DEVICES: &str = "cd $(mktemp -d); mknod kmsg c 1 11 && echo made; (: < kmsg) && echo read; \
                           (: > /dev/null) && echo null; rm -r $PWD";

#[test]
fn limits_are_in_force_and_can_be_changed_both_ways() {
    let group = Group::new("limits");
    group.cgroups.create(&group.top, &Resources::default()).unwrap();
    group.cgroups.create_container(&group.leaf(), &limits(64 << 20), &[DeviceRule::EVERYTHING]).unwrap();
    let memory = || group.cgroups.stats(&group.leaf()).unwrap().memory.unwrap().limit;
    assert_eq!(memory(), Some(64 << 20));
    let both = |bytes| Resources { memory_limit: Some(bytes), memory_swap_limit: Some(bytes), ..Resources::default() };
    for bytes in [128 << 20, 32 << 20, 256 << 20] {
        group.cgroups.update(&group.leaf(), &both(bytes)).unwrap();
        assert_eq!(memory(), Some(bytes as u64));
    }
    group.cgroups.update(&group.leaf(), &both(-1)).unwrap();
    assert_eq!(memory(), None);
    // A quota that the old period forbids, and the other way round.
    let cpu = |quota, period| Resources { cpu_quota: Some(quota), cpu_period: Some(period), ..Resources::default() };
    group.cgroups.update(&group.leaf(), &cpu(900_000, 1_000_000)).unwrap();
    group.cgroups.update(&group.leaf(), &cpu(5_000, 10_000)).unwrap();
}

#[test]
fn a_group_is_made_twice_and_removed_twice() {
    let group = Group::new("twice");
    for _ in 0..2 {
        group.cgroups.create_container(&group.leaf(), &limits(64 << 20), &[DeviceRule::EVERYTHING]).unwrap();
        assert!(group.cgroups.exists(&group.leaf()));
    }
    for _ in 0..2 {
        group.cgroups.remove(&group.top, PATIENCE).unwrap();
        assert!(!group.cgroups.exists(&group.top));
    }
    assert!(group.cgroups.pids(&group.leaf()).unwrap().is_empty());
    assert!(group.cgroups.stats(&group.leaf()).is_err());
}

/// Fifty pods arrive at once, and none of their ancestors is there yet.
#[test]
fn groups_made_at_once_below_one_new_parent_are_all_usable() {
    let group = Group::new("at-once");
    let made = |number: usize| {
        let leaf = group.top.child("burstable").unwrap().child(&format!("pod{number}")).unwrap().child("c1").unwrap();
        group.cgroups.create_container(&leaf, &limits(64 << 20), &[DeviceRule::EVERYTHING]).unwrap();
        leaf
    };
    let leaves: Vec<CgroupPath> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|number| scope.spawn(move || made(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for leaf in &leaves {
        let memory = group.cgroups.stats(leaf).unwrap().memory.unwrap();
        assert_eq!(memory.limit, Some(64 << 20));
        let cpus = format!("/sys/fs/cgroup/cpuset{leaf}/cpuset.cpus");
        assert_ne!(
            std::fs::read_to_string(cpus).unwrap_or("v2 inherits".to_owned()).trim(),
            "",
            "an empty cpuset takes no process"
        );
    }
}

#[test]
fn a_process_enters_everywhere_and_is_counted() {
    let group = Group::new("counted");
    group.cgroups.create_container(&group.leaf(), &limits(64 << 20), &[DeviceRule::EVERYTHING]).unwrap();
    let mut child = group.start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; read line; true");
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(group.cgroups.pids(&group.leaf()).unwrap(), [pid]);
    assert_eq!(group.cgroups.pids(&group.top).unwrap(), [pid], "from above");
    let of_pod = group.cgroups.stats(&group.leaf()).unwrap();
    assert_eq!(of_pod.pids, Some(1));
    assert!(of_pod.memory.unwrap().usage > 0);
    child.stdin.take();
    assert!(child.wait().unwrap().success());
    assert!(group.cgroups.stats(&group.leaf()).unwrap().cpu_usage_ns.unwrap() > 0);
}

#[test]
fn memory_beyond_the_limit_kills_and_the_kill_is_counted() {
    let group = Group::new("oom");
    group.cgroups.create_container(&group.leaf(), &limits(16 << 20), &[DeviceRule::EVERYTHING]).unwrap();
    assert_eq!(group.cgroups.oom_kills(&group.leaf()), 0);
    let (status, _) = group.run("exec dd if=/dev/zero of=/dev/null bs=200M count=1");
    assert_eq!(status.signal(), Some(libc::SIGKILL));
    assert_eq!(group.cgroups.oom_kills(&group.leaf()), 1);
}

#[test]
fn the_number_of_processes_is_limited() {
    let group = Group::new("pids");
    let few = Resources { pids_limit: Some(3), ..Resources::default() };
    group.cgroups.create_container(&group.leaf(), &few, &[DeviceRule::EVERYTHING]).unwrap();
    let (status, _) = group.run("sleep 0.1 & sleep 0.1 & sleep 0.1 & sleep 0.1 & wait");
    assert!(!status.success());
}

#[test]
fn whatever_still_runs_is_killed_before_the_group_goes() {
    let group = Group::new("kill");
    group.cgroups.create_container(&group.leaf(), &limits(64 << 20), &[DeviceRule::EVERYTHING]).unwrap();
    let mut child = group.start("trap '' TERM; sleep 1000 & sleep 1000 & wait");
    wait_for(|| group.cgroups.pids(&group.leaf()).unwrap().len() == 3);
    group.cgroups.freeze(&group.leaf(), true).unwrap();
    let reaped = std::thread::spawn(move || child.wait().unwrap());
    group.cgroups.remove(&group.top, PATIENCE).unwrap();
    assert_eq!(reaped.join().unwrap().signal(), Some(libc::SIGKILL));
    assert!(!group.cgroups.exists(&group.top));
}

#[test]
fn a_frozen_group_stands_still() {
    let group = Group::new("freeze");
    group.cgroups.create_container(&group.leaf(), &limits(64 << 20), &[DeviceRule::EVERYTHING]).unwrap();
    group.cgroups.freeze(&group.leaf(), true).unwrap();
    group.cgroups.freeze(&group.leaf(), false).unwrap();
    let mut child = group.start("read line");
    group.cgroups.freeze(&group.leaf(), true).unwrap();
    child.stdin.take();
    wait_for(|| group.cgroups.is_frozen(&group.leaf()));
    assert!(child.try_wait().unwrap().is_none());
    group.cgroups.freeze(&group.leaf(), false).unwrap();
    child.wait().unwrap();
}

#[test]
fn an_ordinary_container_makes_any_node_and_opens_only_harmless_ones() {
    let group = Group::new("devices");
    group.cgroups.create_container(&group.leaf(), &limits(64 << 20), &ordinary_rules()).unwrap();
    assert_eq!(group.run(TRY_DEVICES).1, "made\nnull\n");
}

#[test]
fn a_privileged_container_opens_every_device() {
    let group = Group::new("privileged");
    group.cgroups.create_container(&group.leaf(), &limits(64 << 20), &[DeviceRule::EVERYTHING]).unwrap();
    assert_eq!(group.run(TRY_DEVICES).1, "made\nread\nnull\n");
}

/// What the root of v2 hands down, given back as it was when dropped.
struct HandedDown(String);

impl HandedDown {
    const FILE: &str = "/sys/fs/cgroup/cgroup.subtree_control";

    fn now() -> Self {
        Self(std::fs::read_to_string(Self::FILE).unwrap())
    }
}

impl Drop for HandedDown {
    fn drop(&mut self) {
        let now = std::fs::read_to_string(Self::FILE).unwrap_or_default();
        for name in now.split_whitespace().filter(|name| !self.0.split_whitespace().any(|before| before == *name)) {
            let _ = std::fs::write(Self::FILE, format!("-{name}"));
        }
    }
}

/// The same code on a v2 layout: on a v1 machine in a mount namespace of its own, where no controller but the
/// core of v2 is there; device programs, freezing and killing are part of that core.
#[test]
fn on_v2_devices_freezing_and_killing_work() {
    let work = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        if Cgroups::detect().unwrap().version() != Version::V2 {
            mount(Some("none"), "/sys/fs/cgroup", Some("cgroup2"), MsFlags::empty(), none).unwrap();
        }
        let _handed_down = HandedDown::now();
        let group = Group::new("v2");
        assert_eq!(group.cgroups.version(), Version::V2);
        let mut limits = limits(64 << 20);
        // Usually the one controller that a hybrid machine leaves to v2: it has to be handed down from the root.
        let huge = group.cgroups.controllers().hugepage_sizes.first().cloned();
        limits.hugepage_limits = huge.iter().map(|size| (size.clone(), 0)).collect();
        group.cgroups.create_container(&group.leaf(), &limits, &ordinary_rules()).unwrap();
        if let Some(size) = huge {
            let file = format!("/sys/fs/cgroup{}/hugetlb.{size}.max", group.leaf());
            assert_eq!(std::fs::read_to_string(file).unwrap(), "0\n");
        }
        assert_eq!(group.run(TRY_DEVICES).1, "made\nnull\n");
        let mut child = group.start("sleep 1000 & sleep 1000 & wait");
        wait_for(|| group.cgroups.pids(&group.leaf()).unwrap().len() == 3);
        group.cgroups.freeze(&group.leaf(), true).unwrap();
        let reaped = std::thread::spawn(move || child.wait().unwrap());
        group.cgroups.remove(&group.top, PATIENCE).unwrap();
        assert_eq!(reaped.join().unwrap().signal(), Some(libc::SIGKILL));
    };
    // A thread of its own: its mount namespace ends with it.
    std::thread::spawn(work).join().unwrap();
}

fn wait_for(condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "the awaited state did not come");
        std::thread::yield_now();
    }
}
