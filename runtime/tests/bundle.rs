//! Another OCI runtime reads our `config.json`: what it makes of a spec is what we meant.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cri_proto::v1;
use runtime::cgroups::{CgroupPath, Cgroups};
use runtime::containers::spec::{Request, build};
use runtime::containers::{DeviceFacts, HostFacts, Identity, ImageDefaults, SandboxFacts, SandboxNamespaces};

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
    for name in ["sh", "cat", "grep", "mount", "id", "hostname", "ls", "mknod", "unshare", "touch", "env", "wc"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}

/// Runs the container with runc and returns what it printed.
fn run(name: &str, change: impl FnOnce(&mut v1::ContainerConfig), identity: &Identity, script: &str) -> Option<String> {
    if Command::new("runc").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("CI").is_none(), "runc is missing");
        #[expect(clippy::print_stdout, reason = "a silent skip reads as a pass")]
        {
            println!("skipped: runc is not installed");
        }
        return None;
    }
    let bundle = tempfile::tempdir().unwrap();
    let root = bundle.path().join("rootfs");
    root_with_busybox(&root);
    fs::write(bundle.path().join("resolv.conf"), "nameserver 10.96.0.10\n").unwrap();
    let pause = Pause::start();
    let id = format!("longshore-test-{}-{name}", std::process::id());
    let cgroup = CgroupPath::new(&format!("/{id}/c1")).unwrap();
    let cgroups = Cgroups::detect().unwrap();
    let security = v1::LinuxContainerSecurityContext {
        masked_paths: vec!["/proc/kcore".into(), "/sys/firmware".into()],
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
    let mut config = v1::ContainerConfig {
        command: vec!["sh".into(), "-c".into(), script.into()],
        linux: Some(v1::LinuxContainerConfig { resources: Some(resources), security_context: Some(security) }),
        ..Default::default()
    };
    change(&mut config);
    let namespaces = SandboxNamespaces::of_process(i32::try_from(pause.0.id()).unwrap());
    let sandbox = SandboxFacts {
        namespaces,
        hostname: "pod".into(),
        resolv_conf: Some(bundle.path().join("resolv.conf")),
        ..SandboxFacts::default()
    };
    let built = build(&Request {
        id: "c1",
        sandbox_id: "s1",
        config: &config,
        pod: &v1::PodSandboxConfig::default(),
        image: &ImageDefaults::default(),
        identity,
        sandbox: &sandbox,
        host: &HostFacts::read(&cgroups).unwrap(),
        devices: &DeviceFacts::read(&config).unwrap(),
        seccomp_profile: None,
        root: &root,
        cgroup: &cgroup,
    });
    built.unwrap().spec.save(bundle.path().join("config.json")).unwrap();
    let state = bundle.path().join("state");
    let mut command = Command::new("runc");
    command.arg("--root").arg(&state).arg("run").arg("--bundle").arg(bundle.path()).arg(&id);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let _ = Command::new("runc").arg("--root").arg(&state).args(["delete", "--force", &id]).output();
    cgroups.remove(&CgroupPath::new(&format!("/{id}")).unwrap(), Duration::from_secs(5)).unwrap();
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn an_ordinary_container_is_what_its_configuration_says() {
    let identity = Identity { uid: 0, gid: 0, groups: vec![0, 7] };
    let script = "id -G; hostname; echo $HOSTNAME; grep -E '^Cap(Bnd|Eff|Amb)|^Seccomp:|^NoNew' /proc/self/status; \
                  cat /proc/self/oom_score_adj /etc/resolv.conf; touch /proc/sys/kernel/hostname /sys/x 2>&1; \
                  unshare -n true 2>&1; ls /dev; cat /proc/kcore | wc -c; mount | grep -c ' /sys/fs/cgroup'";
    let Some(text) = run("ordinary", |_| {}, &identity, script) else { return };
    let (text, binds) = text.trim_end().rsplit_once('\n').unwrap();
    assert!(binds.parse::<u32>().unwrap() > 0);
    expect_test::expect![[r#"
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
        fd
        full
        mqueue
        null
        ptmx
        pts
        random
        stderr
        stdin
        stdout
        tty
        urandom
        zero
        0"#]]
    .assert_eq(text);
}

#[test]
fn a_user_with_nothing_has_nothing() {
    let identity = Identity { uid: 1000, gid: 1000, groups: vec![1000] };
    let change = |config: &mut v1::ContainerConfig| {
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.capabilities = Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
        security.no_new_privs = true;
        security.readonly_rootfs = true;
        config.working_dir = "/etc".into();
    };
    let script = "id; pwd; grep -E '^Cap(Bnd|Eff)|^NoNew' /proc/self/status; touch /x 2>&1; true";
    let Some(text) = run("nothing", change, &identity, script) else { return };
    expect_test::expect![[r#"
        uid=1000 gid=1000 groups=1000
        /etc
        CapEff:	0000000000000000
        CapBnd:	0000000000000000
        NoNewPrivs:	1
        touch: /x: Read-only file system
    "#]]
    .assert_eq(&text);
}

#[test]
fn a_privileged_container_is_free() {
    let change = |config: &mut v1::ContainerConfig| {
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().privileged = true;
    };
    let script = "grep -E '^Seccomp:' /proc/self/status; mount -t tmpfs none /etc && echo mounted; ls -d /dev/kmsg; \
                  (: < /dev/kmsg) && echo read; touch /proc/sys/kernel/hostname && echo writable";
    let Some(text) = run("privileged", change, &Identity::default(), script) else { return };
    expect_test::expect![[r#"
        Seccomp:	0
        mounted
        /dev/kmsg
        read
        writable
    "#]]
    .assert_eq(&text);
}
