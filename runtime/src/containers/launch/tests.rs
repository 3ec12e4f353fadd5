use super::*;
use crate::cgroups::{CgroupPath, Version};
use crate::containers::spec::{Request, build};
use crate::containers::{DeviceFacts, HostFacts, Identity, ImageDefaults, SandboxFacts, SandboxNamespaces, UserIds};
use cri_proto::v1;
use expect_test::expect;

fn spec(change: impl FnOnce(&mut v1::ContainerConfig)) -> Spec {
    spec_in(None, change)
}

fn spec_in(user: Option<UserIds>, change: impl FnOnce(&mut v1::ContainerConfig)) -> Spec {
    let security = v1::LinuxContainerSecurityContext {
        masked_paths: vec!["/proc/kcore".into()],
        readonly_paths: vec!["/proc/sys".into()],
        no_new_privs: true,
        namespace_options: Some(v1::NamespaceOption { pid: 1, ..Default::default() }),
        ..Default::default()
    };
    let mut config = v1::ContainerConfig {
        command: vec!["sh".into(), "-c".into(), "true".into()],
        linux: Some(v1::LinuxContainerConfig { resources: None, security_context: Some(security) }),
        ..Default::default()
    };
    change(&mut config);
    let namespaces = SandboxNamespaces { user, ..SandboxNamespaces::of_process(42) };
    let sandbox = SandboxFacts { namespaces, hostname: "pod".into(), ..Default::default() };
    let built = build(&Request {
        id: "c1",
        sandbox_id: "s1",
        config: &config,
        pod: &v1::PodSandboxConfig::default(),
        image: &ImageDefaults::default(),
        identity: &Identity { uid: 1000, gid: 100, groups: vec![100] },
        sandbox: &sandbox,
        host: &HostFacts { cgroups: Version::Hybrid, ..HostFacts::default() },
        devices: &DeviceFacts::default(),
        seccomp_profile: None,
        root: Path::new("/r"),
        cgroup: &CgroupPath::new("/p/c1").unwrap(),
    });
    built.unwrap().spec
}

fn facts(programs: &Programs) -> LaunchFacts<'_> {
    let bind = CgroupBind { source: "/sys/fs/cgroup/cpu/p/c1".into(), target: "/sys/fs/cgroup/cpu".into() };
    LaunchFacts { cgroups: vec!["/sys/fs/cgroup/cpu/p/c1/cgroup.procs".into()], cgroup_binds: vec![bind], programs }
}

/// A launch without the filter's bytes.
fn text(mut launch: plan::Launch) -> String {
    launch.seccomp.truncate(0);
    format!("{launch:#?}\n")
}

#[test]
fn a_container_becomes_numbers_and_masks() {
    let programs = Programs::default();
    let mut launch = container(&spec(|_| {}), &facts(&programs)).unwrap();
    assert!(launch.seccomp.len() > 100 && launch.seccomp.len().is_multiple_of(8));
    let root = launch.root.take().unwrap();
    expect![[r#"
        Launch {
            cgroups: [
                "/sys/fs/cgroup/cpu/p/c1/cgroup.procs",
            ],
            oom_score_adj: Some(
                0,
            ),
            users: None,
            join: [
                JoinNamespace {
                    kind: 1073741824,
                    path: "/proc/42/ns/net",
                },
                JoinNamespace {
                    kind: 67108864,
                    path: "/proc/42/ns/uts",
                },
                JoinNamespace {
                    kind: 134217728,
                    path: "/proc/42/ns/ipc",
                },
            ],
            create: 537001984,
            root: None,
            hostname: None,
            sysctls: [],
            rlimits: [],
            user: User {
                uid: 1000,
                gid: 100,
                groups: [
                    100,
                ],
                umask: None,
            },
            capabilities: Capabilities {
                bounding: 2818844155,
                effective: 2818844155,
                permitted: 2818844155,
                inheritable: 0,
                ambient: 0,
            },
            no_new_privileges: true,
            seccomp: [],
            seccomp_flags: 0,
            apparmor: None,
            cwd: "/",
            args: [
                "sh",
                "-c",
                "true",
            ],
            env: [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=pod",
            ],
            terminal: None,
        }
    "#]]
    .assert_eq(&text(launch));
    let mounts = root.mounts.iter().map(|m| {
        let (source, fstype, data) = (m.source.to_string_lossy(), m.fstype.to_string_lossy(), m.data.to_string_lossy());
        format!("{} <- {source} {fstype} {:#x} {:#x} {data}\n", m.target.display(), m.flags, m.propagation)
    });
    let devices = root.devices.iter().map(|d| format!("{} {:o} {}:{}\n", d.path.display(), d.mode, d.major, d.minor));
    let links = root.links.iter().map(|(to, at)| format!("{} -> {}\n", at.display(), to.to_string_lossy()));
    expect![[r#"
        /proc <- proc proc 0xe 0x0 
        /dev <- tmpfs tmpfs 0x1000002 0x0 mode=755,size=65536k
        /sys <- sysfs sysfs 0xf 0x0 
        /dev/pts <- devpts devpts 0xa 0x0 newinstance,ptmxmode=0666,mode=0620,gid=5
        /dev/mqueue <- mqueue mqueue 0xe 0x0 
        /sys/fs/cgroup <- /sys/fs/cgroup  0x20100f 0x40000 
        /sys/fs/cgroup/cpu <- /sys/fs/cgroup/cpu/p/c1  0x20100f 0x40000 
        /dev/null 20666 1:3
        /dev/zero 20666 1:5
        /dev/full 20666 1:7
        /dev/random 20666 1:8
        /dev/urandom 20666 1:9
        /dev/tty 20666 5:0
        /dev/fd -> /proc/self/fd
        /dev/stdin -> /proc/self/fd/0
        /dev/stdout -> /proc/self/fd/1
        /dev/stderr -> /proc/self/fd/2
        /dev/ptmx -> pts/ptmx
    "#]]
    .assert_eq(&mounts.chain(devices).chain(links).collect::<String>());
    assert_eq!((root.path.to_str(), root.readonly), (Some("/r"), false));
    assert_eq!(root.propagation, libc::MS_SLAVE | libc::MS_REC);
    assert_eq!((root.masked, root.readonly_paths), (vec!["/proc/kcore".into()], vec!["/proc/sys".into()]));
}

#[test]
fn an_exec_is_as_confined_as_the_container_and_joins_all_it_has() {
    let programs = Programs::default();
    let command = ["ps".to_owned()];
    let request = ExecRequest { command: &command, terminal: Some((80, 25)) };
    let spec = spec(|_| {});
    let init = container(&spec, &facts(&programs)).unwrap();
    let alike = beside(&spec, 77, &facts(&programs)).unwrap();
    let launch = exec(&alike, &request).unwrap();
    assert_eq!(
        (launch.seccomp.clone(), launch.capabilities, launch.user.clone()),
        (init.seccomp, init.capabilities, init.user)
    );
    assert_eq!(
        (&launch.cgroups, launch.no_new_privileges, launch.rlimits.clone()),
        (&init.cgroups, true, init.rlimits)
    );
    assert_eq!((launch.root.clone(), launch.create), (None, 0));
    expect![[r#"
        Launch {
            cgroups: [
                "/sys/fs/cgroup/cpu/p/c1/cgroup.procs",
            ],
            oom_score_adj: Some(
                0,
            ),
            users: None,
            join: [
                JoinNamespace {
                    kind: 134217728,
                    path: "/proc/77/ns/ipc",
                },
                JoinNamespace {
                    kind: 67108864,
                    path: "/proc/77/ns/uts",
                },
                JoinNamespace {
                    kind: 1073741824,
                    path: "/proc/77/ns/net",
                },
                JoinNamespace {
                    kind: 536870912,
                    path: "/proc/77/ns/pid",
                },
                JoinNamespace {
                    kind: 131072,
                    path: "/proc/77/ns/mnt",
                },
            ],
            create: 0,
            root: None,
            hostname: None,
            sysctls: [],
            rlimits: [],
            user: User {
                uid: 1000,
                gid: 100,
                groups: [
                    100,
                ],
                umask: None,
            },
            capabilities: Capabilities {
                bounding: 2818844155,
                effective: 2818844155,
                permitted: 2818844155,
                inheritable: 0,
                ambient: 0,
            },
            no_new_privileges: true,
            seccomp: [],
            seccomp_flags: 0,
            apparmor: None,
            cwd: "/",
            args: [
                "ps",
            ],
            env: [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "HOSTNAME=pod",
                "TERM=xterm",
            ],
            terminal: Some(
                (
                    80,
                    25,
                ),
            ),
        }
    "#]]
    .assert_eq(&text(launch));
    let empty = ExecRequest { command: &[], ..request };
    assert!(matches!(exec(&alike, &empty), Err(LaunchError::Missing("command"))));
}

#[test]
fn a_filter_is_compiled_once() {
    let programs = Programs::default();
    let spec = spec(|_| {});
    let profile = spec.linux().as_ref().unwrap().seccomp().as_ref().unwrap();
    let (first, second) = (programs.of(profile).unwrap(), programs.of(profile).unwrap());
    assert!(std::sync::Arc::ptr_eq(&first.bytes, &second.bytes));
}

#[test]
fn on_v2_one_file_system_shows_the_cgroup() {
    let programs = Programs::default();
    let facts = LaunchFacts { cgroup_binds: Vec::new(), ..facts(&programs) };
    let launch = container(&spec(|_| {}), &facts).unwrap();
    let mounts = launch.root.unwrap().mounts;
    let cgroup: Vec<_> = mounts.iter().filter(|mount| mount.target.starts_with("/sys/fs/cgroup")).collect();
    assert_eq!(cgroup.len(), 1);
    assert_eq!(cgroup[0].fstype.as_c_str(), c"cgroup2");
    assert_ne!(cgroup[0].flags & libc::MS_RDONLY, 0);
}

#[test]
fn a_container_with_its_own_dev_gets_nothing_made_in_it() {
    let programs = Programs::default();
    let dev = v1::Mount { host_path: "/dev".into(), container_path: "/dev".into(), ..Default::default() };
    let root = container(&spec(|config| config.mounts = vec![dev]), &facts(&programs)).unwrap().root.unwrap();
    assert!(root.devices.is_empty() && root.links.is_empty());
}

#[test]
fn an_option_that_would_change_the_meaning_is_refused() {
    let programs = Programs::default();
    let mut spec = spec(|_| {});
    for option in ["idmap", "remount", "size=1m"] {
        let mut mount = oci_spec::runtime::Mount::default();
        mount.set_destination("/m".into()).set_source(Some("/s".into())).set_typ(Some("bind".into()));
        mount.set_options(Some(vec!["rbind".into(), option.into()]));
        spec.set_mounts(Some(vec![mount]));
        let refused = container(&spec, &facts(&programs));
        assert!(matches!(refused, Err(LaunchError::MountOption { .. })), "{option}");
    }
}

#[test]
fn namespaces_of_users_are_refused() {
    let programs = Programs::default();
    let mut spec = spec(|_| {});
    let mut user = oci_spec::runtime::LinuxNamespace::default();
    user.set_typ(Kind::User);
    spec.linux_mut().as_mut().unwrap().set_namespaces(Some(vec![user]));
    assert!(matches!(container(&spec, &facts(&programs)), Err(LaunchError::Namespace(Kind::User))));
}

#[test]
fn a_pods_user_namespace_is_entered_on_its_own_way_by_the_container_and_by_every_exec() {
    let ids = UserIds { path: "/s/user".into(), uid: 65_536, gid: 131_072, length: 65_536 };
    let spec = spec_in(Some(ids), |_| {});
    let programs = Programs::default();
    let launch = container(&spec, &facts(&programs)).unwrap();
    let want = |path: &str| Some(plan::UserNamespace { path: path.into(), uid: 65_536, gid: 131_072 });
    assert_eq!(launch.users, want("/s/user"));
    assert!(launch.join.iter().all(|join| join.kind != Kind::User as u64));
    let root = launch.root.unwrap();
    let cgroup = root.mounts.iter().find(|mount| mount.target == Path::new("/sys/fs/cgroup")).unwrap();
    assert_eq!(cgroup.fstype, c"tmpfs".to_owned(), "the kernel would not show the host's without what lies on it");
    assert_eq!(beside(&spec, 7, &facts(&programs)).unwrap().users, want("/proc/7/ns/user"));
}
