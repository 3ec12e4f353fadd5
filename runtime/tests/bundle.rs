//! One configuration, two ways: runc reads our `config.json`, our shim carries out the launch made of it. What a
//! container then finds is the same.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cri_proto::v1;
use expect_test::{Expect, expect};
use oci_spec::runtime::Spec;
use runtime::cgroups::{CgroupPath, Cgroups, DeviceRule, Resources};
use runtime::containers::seccomp::Programs;
use runtime::containers::spec::{Request, build};
use runtime::containers::{
    DeviceFacts, ExecRequest, HostFacts, Identity, ImageDefaults, LaunchFacts, SandboxFacts, SandboxNamespaces, launch,
};
use shim::client::Client;
use shim::plan::Launch;
use shim::wire::{Event, Packet, Reply};

/// A process with a network, UTS and IPC namespace, as a sandbox's pause has them.
struct Pause(Child);

impl Pause {
    fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "--uts", "--ipc", "sh", "-c", "hostname pod; echo up; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        Self(child)
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn root_with_busybox(root: &Path) {
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "grep", "mount", "id", "hostname", "ls", "mknod", "unshare", "touch", "env", "wc", "sort", "cut",
        "tr", "sleep",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}

/// A container about to run, and what has to be given back after it.
struct Bundle {
    place: tempfile::TempDir,
    _pause: Pause,
    id: String,
    cgroups: Cgroups,
    spec: Spec,
}

impl Bundle {
    fn new(name: &str, identity: &Identity, config: &v1::ContainerConfig) -> Self {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("rootfs");
        root_with_busybox(&root);
        fs::write(place.path().join("resolv.conf"), "nameserver 10.96.0.10\n").unwrap();
        fs::create_dir(place.path().join("shm")).unwrap();
        let pause = Pause::start();
        let id = format!("longshore-test-{}-{name}", std::process::id());
        let cgroups = Cgroups::detect().unwrap();
        let sandbox = SandboxFacts {
            namespaces: SandboxNamespaces::of_process(i32::try_from(pause.0.id()).unwrap()),
            hostname: "pod".into(),
            resolv_conf: Some(place.path().join("resolv.conf")),
            shm: Some(place.path().join("shm")),
            ..SandboxFacts::default()
        };
        let built = build(&Request {
            id: "c1",
            sandbox_id: "s1",
            config,
            pod: &v1::PodSandboxConfig::default(),
            image: &ImageDefaults::default(),
            identity,
            sandbox: &sandbox,
            host: &HostFacts::read(&cgroups).unwrap(),
            devices: &DeviceFacts::read(config).unwrap(),
            seccomp_profile: None,
            root: &root,
            cgroup: &CgroupPath::new(&format!("/{id}/c1")).unwrap(),
        });
        Self { place, _pause: pause, id, cgroups, spec: built.unwrap().spec }
    }

    fn run_by_runc(&self) -> Option<String> {
        if Command::new("runc").arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("CI").is_none(), "runc is missing");
            #[expect(clippy::print_stdout, reason = "a silent skip reads as a pass")]
            {
                println!("skipped: runc is not installed");
            }
            return None;
        }
        self.spec.save(self.place.path().join("config.json")).unwrap();
        let state = self.place.path().join("state");
        let mut command = Command::new("runc");
        command.arg("--root").arg(&state).arg("run").arg("--bundle").arg(self.place.path()).arg(&self.id);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let _ = Command::new("runc").arg("--root").arg(&state).args(["delete", "--force", &self.id]).output();
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap())
    }

    fn run_by_shim(&self) -> String {
        let programs = Programs::default();
        let launch = launch::container(&self.spec, &self.prepare(&programs)).unwrap();
        Shim::start(&self.place.path().join("s")).run(&launch)
    }

    /// Makes the container's cgroup, as the runtime does before a start.
    fn prepare<'a>(&self, programs: &'a Programs) -> LaunchFacts<'a> {
        let linux = self.spec.linux().as_ref().unwrap();
        let path = CgroupPath::new(linux.cgroups_path().as_ref().unwrap().to_str().unwrap()).unwrap();
        let resources = linux.resources().clone().unwrap();
        let rules = DeviceRule::of_spec(resources.devices().as_deref().unwrap());
        self.cgroups.create_container(&path, &Resources::from(&resources), &rules).unwrap();
        LaunchFacts {
            cgroups: self.cgroups.procs_files(&path),
            cgroup_binds: self.cgroups.container_binds(&path),
            programs,
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.cgroups.remove(&CgroupPath::new(&format!("/{}", self.id)).unwrap(), Duration::from_secs(5));
    }
}

/// A shim with a pause of its own, which the container does not join.
struct Shim {
    child: Child,
    directory: PathBuf,
}

impl Shim {
    fn start(directory: &Path) -> Self {
        fs::create_dir_all(directory.join("c/c1")).unwrap();
        let pause = Launch { create: libc::CLONE_NEWIPC as u64, cwd: c"/".to_owned(), ..Launch::default() };
        fs::write(directory.join("pause.launch"), pause.encode()).unwrap();
        let program = runtime::binaries::executable_path(runtime::binaries::shim().unwrap());
        let mut child =
            Command::new(program).arg(directory).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        // It closes its stdout when it is ready; what it says is why it is not.
        let mut said = String::new();
        child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said, "");
        Self { child, directory: directory.to_owned() }
    }

    fn run(&self, launch: &Launch) -> String {
        let watcher = self.client();
        watcher.call(&shim::wire::Request::Watch, &[]).unwrap();
        self.start_container(launch);
        let code = wait(&watcher, "c1");
        let text = contents(&fs::read_to_string(self.directory.join("log")).unwrap());
        assert_eq!(code, 0, "{text}");
        text
    }

    fn client(&self) -> Client {
        let client = Client::connect(&self.directory).unwrap();
        client.set_timeout(Some(Duration::from_secs(20))).unwrap();
        client
    }

    fn start_container(&self, launch: &Launch) -> i32 {
        let container = self.directory.join("c/c1");
        fs::write(container.join("launch"), launch.encode()).unwrap();
        fs::write(container.join("log"), format!("{}\n", self.directory.join("log").display())).unwrap();
        fs::write(container.join("stdin"), "no").unwrap();
        match self.client().call(&shim::wire::Request::Start { id: "c1".into() }, &[]).unwrap().0 {
            Reply::Started { pid } => pid,
            other => panic!("a start is answered with {other:?}"),
        }
    }

    fn exec(&self, launch: &Launch) -> (i32, String) {
        let directory = self.directory.join("x/e1");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("launch"), launch.encode()).unwrap();
        let watcher = self.client();
        watcher.call(&shim::wire::Request::Watch, &[]).unwrap();
        let null = fs::File::open("/dev/null").unwrap();
        let (mut out, end) = std::io::pipe().unwrap();
        let request = shim::wire::Request::Exec { id: "e1".into() };
        self.client().call(&request, &[null.as_fd(), end.as_fd(), end.as_fd()]).unwrap();
        drop(end);
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        (wait(&watcher, "e1"), text)
    }
}

/// The exit code of a container or exec.
fn wait(watcher: &Client, wanted: &str) -> i32 {
    loop {
        if let Packet::Event(Event::Exited { id, code, .. }) = watcher.receive().unwrap().0
            && id == wanted
        {
            return code;
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let end = Client::connect(&self.directory).map(|client| client.call(&shim::wire::Request::Shutdown, &[]));
        if end.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// What was written, without time, stream and tag.
fn contents(log: &str) -> String {
    log.lines().map(|line| format!("{}\n", line.splitn(4, ' ').nth(3).unwrap_or_default())).collect()
}

/// A container as the kubelet asks for it.
fn config(script: &str) -> v1::ContainerConfig {
    let security = v1::LinuxContainerSecurityContext {
        masked_paths: vec!["/proc/kcore".into(), "/proc/timer_list".into(), "/sys/firmware".into()],
        readonly_paths: vec!["/proc/sys".into()],
        namespace_options: Some(v1::NamespaceOption { pid: 1, ..Default::default() }),
        ..Default::default()
    };
    let resources = v1::LinuxContainerResources {
        cpu_shares: 102,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 999,
        ..Default::default()
    };
    v1::ContainerConfig {
        command: vec!["sh".into(), "-c".into(), script.into()],
        linux: Some(v1::LinuxContainerConfig { resources: Some(resources), security_context: Some(security) }),
        ..Default::default()
    }
}

fn check(name: &str, config: &v1::ContainerConfig, identity: &Identity, expected: Expect) {
    let ours = Bundle::new(name, identity, config).run_by_shim();
    expected.assert_eq(&ours);
    if let Some(theirs) = Bundle::new(name, identity, config).run_by_runc() {
        assert_eq!(ours, theirs);
    }
}

#[test]
fn an_ordinary_container_is_what_its_configuration_says() {
    let identity = Identity { uid: 0, gid: 0, groups: vec![0, 7] };
    let script = "id -G; hostname; echo $HOSTNAME; grep -E '^Cap(Bnd|Eff|Amb)|^Seccomp:|^NoNew' /proc/self/status; \
                  cat /proc/self/oom_score_adj /etc/resolv.conf; touch /proc/sys/kernel/hostname /sys/x 2>&1; \
                  unshare -n true 2>&1; echo $(ls /dev | grep -v core); cat /proc/timer_list | wc -c; \
                  mount | grep -E ' (/proc|/proc/sys|/sys|/dev|/dev/pts|/dev/mqueue) ' | cut -d' ' -f3,5,6 | sed s/,inode64// | sort; \
                  cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2> /dev/null; \
                  touch /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/memory/cgroup.procs 2>&1 | grep -q Read-only && echo guarded";
    check(
        "ordinary",
        &config(script),
        &identity,
        expect![[r#"
        0 7
        pod
        pod
        CapEff:	00000000a80425fb
        CapBnd:	00000000a80425fb
        CapAmb:	0000000000000000
        NoNewPrivs:	0
        Seccomp:	2
        999
        nameserver 10.96.0.10
        touch: /proc/sys/kernel/hostname: Read-only file system
        touch: /sys/x: Read-only file system
        unshare: unshare(0x40000000): Operation not permitted
        fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero
        0
        /dev tmpfs (rw,nosuid,size=65536k,mode=755)
        /dev/mqueue mqueue (rw,nosuid,nodev,noexec,relatime)
        /dev/pts devpts (rw,nosuid,noexec,relatime,gid=5,mode=620,ptmxmode=666)
        /proc proc (rw,nosuid,nodev,noexec,relatime)
        /proc/sys proc (ro,nosuid,nodev,noexec,relatime)
        /sys sysfs (ro,nosuid,nodev,noexec,relatime)
        67108864
        guarded
    "#]],
    );
}

#[test]
fn a_user_with_nothing_has_nothing() {
    let identity = Identity { uid: 1000, gid: 1000, groups: vec![1000] };
    let script = "id; pwd; grep -E '^Cap(Bnd|Eff)|^NoNew' /proc/self/status; touch /x 2>&1; true";
    let mut config = config(script);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.capabilities = Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
    security.no_new_privs = true;
    security.readonly_rootfs = true;
    config.working_dir = "/etc".into();
    check(
        "nothing",
        &config,
        &identity,
        expect![[r#"
        uid=1000 gid=1000 groups=1000
        /etc
        CapEff:	0000000000000000
        CapBnd:	0000000000000000
        NoNewPrivs:	1
        touch: /x: Read-only file system
    "#]],
    );
}

#[test]
fn a_privileged_container_is_free() {
    let script = "grep -E '^Seccomp:' /proc/self/status; mount -t tmpfs none /etc && echo mounted; ls -d /dev/kmsg; \
                  (: < /dev/kmsg) && echo read; touch /proc/sys/kernel/hostname && echo writable";
    let mut config = config(script);
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    check(
        "privileged",
        &config,
        &Identity::default(),
        expect![[r#"
        Seccomp:	0
        mounted
        /dev/kmsg
        read
        writable
    "#]],
    );
}

#[test]
fn volumes_are_mounted_as_they_are_wanted() {
    let host = tempfile::tempdir().unwrap();
    fs::create_dir_all(host.path().join("deep")).unwrap();
    fs::write(host.path().join("file"), "content\n").unwrap();
    let volume = |from: &str, to: &str, readonly: bool| v1::Mount {
        host_path: host.path().join(from).display().to_string(),
        container_path: to.into(),
        readonly,
        ..Default::default()
    };
    let script = "cat /conf/app.ini; touch /data/deep/new && echo writable; touch /ro/x 2>&1; touch /rro/x 2>&1; true";
    let mut config = config(script);
    config.mounts = vec![
        volume("file", "/conf/app.ini", true),
        volume("deep", "/data/deep", false),
        volume("", "/data", false),
        volume("", "/ro", true),
        v1::Mount { recursive_read_only: true, ..volume("", "/rro", true) },
    ];
    let expected = expect![[r#"
        content
        writable
        touch: /ro/x: Read-only file system
        touch: /rro/x: Read-only file system
    "#]];
    // The runc of Debian 12 does not know recursively read-only mounts.
    let bundle = Bundle::new("volumes", &Identity::default(), &config);
    expected.assert_eq(&bundle.run_by_shim());
    assert!(host.path().join("deep/new").exists());
}

#[test]
fn an_exec_finds_itself_in_the_container() {
    let identity = Identity { uid: 1000, gid: 1000, groups: vec![1000] };
    let bundle = Bundle::new("exec", &identity, &config("exec sleep 1000"));
    let programs = Programs::default();
    let facts = bundle.prepare(&programs);
    let shim = Shim::start(&bundle.place.path().join("s"));
    let init_pid = shim.start_container(&launch::container(&bundle.spec, &facts).unwrap());
    let script = "id; hostname; cat /proc/1/cmdline | tr '\\0' ' '; echo; ls /; mount | grep -c cgroup > /dev/null; \
                  grep -E '^Cap(Bnd|Eff)|^Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj; exit 3";
    let command = ["sh", "-c", script].map(str::to_owned);
    let alike = launch::beside(&bundle.spec, init_pid, &facts).unwrap();
    let request = ExecRequest { command: &command, terminal: None };
    let (code, text) = shim.exec(&launch::exec(&alike, &request).unwrap());
    assert_eq!(code, 3, "{text}");
    expect![[r#"
        uid=1000 gid=1000 groups=1000
        pod
        sleep 1000 
        bin
        dev
        etc
        proc
        sys
        CapEff:	0000000000000000
        CapBnd:	00000000a80425fb
        Seccomp:	2
        999
    "#]]
    .assert_eq(&text);
    let leaf = CgroupPath::new(&format!("/{}/c1", bundle.id)).unwrap();
    assert_eq!(bundle.cgroups.pids(&leaf).unwrap(), [init_pid]);
}

#[test]
fn where_apparmor_is_active_its_default_profile_holds() {
    let facts = HostFacts::read(&Cgroups::detect().unwrap()).unwrap();
    if !facts.apparmor {
        #[expect(clippy::print_stdout, reason = "a silent skip reads as a pass")]
        {
            println!("skipped: this kernel has no AppArmor");
        }
        return;
    }
    let script = "cat /proc/self/attr/current; mount -t tmpfs none /etc 2>&1; kill -0 1 && echo signals; \
                  touch /data && sh -c 'echo programs'";
    let mut config = config(script);
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    let admin = v1::Capability { add_capabilities: vec!["SYS_ADMIN".into()], ..Default::default() };
    security.capabilities = Some(admin);
    let expected = expect![[r#"
        longshore-default (enforce)
        mount: mounting none on /etc failed: Permission denied
        signals
        programs
    "#]];
    check("apparmor", &config, &Identity::default(), expected);
}
