use super::*;
use crate::cgroups::Version;
use crate::containers::{HostDevice, SandboxNamespaces, Warning};
use expect_test::{Expect, expect};
use serde_json::Value;

/// Everything a test may change.
struct Case {
    config: v1::ContainerConfig,
    host: HostFacts,
    sandbox: SandboxFacts,
    devices: DeviceFacts,
    profile: Option<LinuxSeccomp>,
}

impl Case {
    /// A pod's container as the kubelet asks for it.
    fn new() -> Self {
        let security = v1::LinuxContainerSecurityContext {
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            namespace_options: Some(v1::NamespaceOption { pid: 1, ..Default::default() }),
            ..Default::default()
        };
        let resources = v1::LinuxContainerResources { cpu_shares: 102, oom_score_adj: 999, ..Default::default() };
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: "web".into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: "busybox".into(), ..Default::default() }),
            labels: [("from".to_owned(), "image".to_owned())].into(),
            linux: Some(v1::LinuxContainerConfig { resources: Some(resources), security_context: Some(security) }),
            ..Default::default()
        };
        let sandbox = SandboxFacts {
            namespaces: SandboxNamespaces::of_process(42),
            hostname: "pod".into(),
            resolv_conf: Some("/s/resolv.conf".into()),
            shm: Some("/s/shm".into()),
            ..SandboxFacts::default()
        };
        Self { config, host: HostFacts::default(), sandbox, devices: DeviceFacts::default(), profile: None }
    }

    fn security(&mut self) -> &mut v1::LinuxContainerSecurityContext {
        self.config.linux.as_mut().unwrap().security_context.as_mut().unwrap()
    }

    fn options(&mut self) -> &mut v1::NamespaceOption {
        self.security().namespace_options.as_mut().unwrap()
    }

    fn build(&self) -> Result<Built, SpecError> {
        let image = ImageDefaults { cmd: vec!["sh".into()], working_dir: "/srv".into(), ..ImageDefaults::default() };
        let metadata =
            v1::PodSandboxMetadata { name: "pod".into(), uid: "u1".into(), namespace: "ns".into(), attempt: 0 };
        build(&Request {
            id: "c1",
            sandbox_id: "s1",
            config: &self.config,
            pod: &v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() },
            image: &image,
            identity: &Identity { uid: 1000, gid: 100, groups: vec![100, 7] },
            sandbox: &self.sandbox,
            host: &self.host,
            devices: &self.devices,
            seccomp_profile: self.profile.as_ref(),
            root: Path::new("/r"),
            cgroup: &CgroupPath::new("/kubepods/podu1/c1").unwrap(),
        })
    }

    /// One part of the spec as JSON on few lines; the order of sets is made stable.
    fn part(&self, pointer: &str) -> String {
        let spec = match self.build() {
            Ok(built) => built.spec,
            Err(error) => return format!("refused: {error}"),
        };
        let mut value = serde_json::to_value(spec).unwrap().pointer(pointer).cloned().unwrap_or(Value::Null);
        settle(&mut value);
        value.to_string()
    }

    fn check(&self, pointer: &str, expected: Expect) {
        expected.assert_eq(&self.part(pointer));
    }
}

fn settle(value: &mut Value) {
    match value {
        Value::Array(all) => {
            all.iter_mut().for_each(settle);
            if all.iter().all(|one| one.as_str().is_some_and(|text| text.starts_with("CAP_"))) {
                all.sort_by_key(ToString::to_string);
            }
        }
        Value::Object(all) => all.values_mut().for_each(settle),
        _ => {}
    }
}

#[test]
fn the_process_is_what_the_image_and_the_pod_say() {
    let mut case = Case::new();
    case.security().capabilities =
        Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..v1::Capability::default() });
    case.security().no_new_privs = true;
    case.check("/process", expect![[r#"{"args":["sh"],"capabilities":{"ambient":[],"bounding":[],"effective":[],"inheritable":[],"permitted":[]},"cwd":"/srv","env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","HOSTNAME=pod"],"noNewPrivileges":true,"oomScoreAdj":999,"rlimits":[],"terminal":false,"user":{"additionalGids":[100,7],"gid":100,"uid":1000}}"#]]);
}

#[test]
fn a_spec_holds_only_what_it_was_given() {
    let case = Case::new();
    case.check("/hostname", expect!["null"]);
    case.check("/hooks", expect!["null"]);
    case.check("/root", expect![[r#"{"path":"/r","readonly":false}"#]]);
    case.check("/annotations", expect![[r#"{"io.kubernetes.cri.container-name":"web","io.kubernetes.cri.container-type":"container","io.kubernetes.cri.image-name":"busybox","io.kubernetes.cri.sandbox-id":"s1","io.kubernetes.cri.sandbox-name":"pod","io.kubernetes.cri.sandbox-namespace":"ns","io.kubernetes.cri.sandbox-uid":"u1"}"#]]);
    case.check("/linux/cgroupsPath", expect![[r#""/kubepods/podu1/c1""#]]);
    case.check("/linux/maskedPaths", expect![[r#"["/proc/kcore"]"#]]);
    case.check("/linux/readonlyPaths", expect![[r#"["/proc/sys"]"#]]);
    case.check("/linux/resources/cpu", expect![[r#"{"shares":102}"#]]);
    case.check("/linux/resources/memory", expect!["{}"]);
}

#[test]
fn namespaces_are_the_sandboxs_except_mount_pid_and_cgroup() {
    let mut case = Case::new();
    case.check("/linux/namespaces", expect![[r#"[{"type":"mount"},{"path":"/proc/42/ns/net","type":"network"},{"path":"/proc/42/ns/uts","type":"uts"},{"path":"/proc/42/ns/ipc","type":"ipc"},{"type":"pid"},{"type":"cgroup"}]"#]]);
    case.host.cgroups = Version::Hybrid;
    case.options().pid = v1::NamespaceMode::Pod as i32;
    case.check("/linux/namespaces", expect![[r#"[{"type":"mount"},{"path":"/proc/42/ns/net","type":"network"},{"path":"/proc/42/ns/uts","type":"uts"},{"path":"/proc/42/ns/ipc","type":"ipc"},{"path":"/proc/42/ns/pid","type":"pid"}]"#]]);
    case.options().pid = v1::NamespaceMode::Target as i32;
    case.check("/linux/namespaces", expect!["refused: the sandbox has no target container's pid namespace to join"]);
    case.sandbox.target_pid = Some(77);
    case.check("/linux/namespaces/4", expect![[r#"{"path":"/proc/77/ns/pid","type":"pid"}"#]]);
}

#[test]
fn the_nodes_namespaces_are_no_namespaces_of_the_spec() {
    let mut case = Case::new();
    let node = v1::NamespaceMode::Node as i32;
    *case.options() = v1::NamespaceOption { network: node, ipc: node, pid: node, ..Default::default() };
    case.sandbox.namespaces = SandboxNamespaces::default();
    case.check("/linux/namespaces", expect![[r#"[{"type":"mount"},{"type":"cgroup"}]"#]]);
    assert!(
        case.part("/mounts")
            .contains(r#""destination":"/dev/shm","options":["rbind","rprivate","rw"],"source":"/dev/shm""#)
    );
    case.options().network = v1::NamespaceMode::Pod as i32;
    case.check("/linux/namespaces", expect!["refused: the sandbox has no network namespace to join"]);
}

#[test]
fn a_privileged_container_is_confined_by_nothing_here() {
    let mut case = Case::new();
    case.security().privileged = true;
    case.host.capabilities = 0b101;
    let tty = HostDevice { path: "/dev/ttyS0".into(), block: false, major: 4, minor: 64, mode: 0o620, uid: 0, gid: 5 };
    case.devices.all = vec![tty];
    case.check("/process/capabilities/bounding", expect![[r#"["CAP_CHOWN","CAP_DAC_READ_SEARCH"]"#]]);
    case.check("/linux/seccomp", expect!["null"]);
    case.check("/linux/maskedPaths", expect!["[]"]);
    case.check("/linux/resources/devices", expect![[r#"[{"access":"rwm","allow":true,"type":"a"}]"#]]);
    case.check(
        "/linux/devices",
        expect![[r#"[{"fileMode":400,"gid":5,"major":4,"minor":64,"path":"/dev/ttyS0","type":"c","uid":0}]"#]],
    );
    assert!(case.part("/mounts").contains(r#""destination":"/sys","options":["nosuid","noexec","nodev","rw"]"#));
    assert_eq!(case.build().unwrap().warnings, [], "what this machine cannot give a privileged container is no news");
}

#[test]
fn seccomp_is_on_unless_it_is_switched_off_by_name() {
    let mut case = Case::new();
    case.check("/linux/seccomp/defaultAction", expect![[r#""SCMP_ACT_ERRNO""#]]);
    let profile =
        |kind: ProfileType, name: &str| v1::SecurityProfile { profile_type: kind as i32, localhost_ref: name.into() };
    case.security().seccomp = Some(profile(ProfileType::RuntimeDefault, ""));
    case.check("/linux/seccomp/defaultAction", expect![[r#""SCMP_ACT_ERRNO""#]]);
    case.security().seccomp = Some(profile(ProfileType::Unconfined, ""));
    case.check("/linux/seccomp", expect!["null"]);
    case.security().seccomp = Some(profile(ProfileType::Localhost, "/p.json"));
    case.check("/linux/seccomp", expect![[r#"refused: seccomp profile "/p.json" was not loaded"#]]);
    case.profile = Some(LinuxSeccomp::default());
    case.check("/linux/seccomp", expect![[r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#]]);
    case.security().seccomp = Some(v1::SecurityProfile { profile_type: 9, localhost_ref: String::new() });
    case.check("/linux/seccomp", expect!["refused: seccomp has the unknown value 9"]);
}

#[test]
fn apparmor_is_asked_for_only_where_it_is() {
    let mut case = Case::new();
    case.check("/process/apparmorProfile", expect!["null"]);
    let localhost = v1::SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: "mine".into() };
    case.security().apparmor = Some(localhost);
    case.check(
        "/process",
        expect![[r#"refused: AppArmor profile "mine" cannot be enforced: AppArmor is not active on this machine"#]],
    );
    case.host.apparmor = true;
    case.check("/process/apparmorProfile", expect![[r#""mine""#]]);
    case.security().apparmor = None;
    assert_eq!(case.build().unwrap().warnings, [], "the node has said so already");
    case.security().apparmor = Some(v1::SecurityProfile::default());
    assert_eq!(case.build().unwrap().warnings, [Warning::NoDefaultAppArmor]);
    case.host.apparmor_default = Some("default".into());
    case.check("/process/apparmorProfile", expect![[r#""default""#]]);
}

#[test]
fn selinux_options_are_ignored_with_a_word_and_refused_where_they_would_count() {
    let mut case = Case::new();
    case.security().selinux_options = Some(v1::SeLinuxOption { level: "s0".into(), ..Default::default() });
    assert_eq!(case.build().unwrap().warnings, [Warning::SelinuxIgnored]);
    case.host.selinux = true;
    assert_eq!(case.build(), Err(SpecError::SelinuxActive));
}

#[test]
fn what_this_runtime_does_not_have_is_refused_by_name() {
    let mut case = Case::new();
    case.config.cdi_devices = vec![v1::CdiDevice { name: "vendor.com/gpu=0".into() }];
    assert_eq!(case.build(), Err(SpecError::CdiDevice("vendor.com/gpu=0".into())));
    let mut case = Case::new();
    case.options().userns_options =
        Some(v1::UserNamespace { mode: v1::NamespaceMode::Pod as i32, ..Default::default() });
    assert_eq!(case.build(), Err(SpecError::UserNamespace { what: "the pod".into() }));
    let mut case = Case::new();
    case.options().userns_options =
        Some(v1::UserNamespace { mode: v1::NamespaceMode::Node as i32, ..Default::default() });
    assert!(case.build().is_ok());
}

#[test]
fn a_score_this_machine_cannot_give_is_raised_with_a_word() {
    let mut case = Case::new();
    case.config.linux.as_mut().unwrap().resources.as_mut().unwrap().oom_score_adj = -997;
    case.check("/process/oomScoreAdj", expect!["-997"]);
    case.host.sys_resource = false;
    case.check("/process/oomScoreAdj", expect!["0"]);
    assert_eq!(case.build().unwrap().warnings, [Warning::OomScoreAdjRaised { asked: -997, given: 0 }]);
}

#[test]
fn mounts_bring_what_must_exist_and_the_roots_propagation() {
    let mut case = Case::new();
    case.config.mounts = vec![v1::Mount {
        host_path: "/data".into(),
        container_path: "/d".into(),
        propagation: v1::MountPropagation::PropagationBidirectional as i32,
        ..Default::default()
    }];
    case.security().readonly_rootfs = true;
    case.check("/linux/rootfsPropagation", expect![[r#""rshared""#]]);
    case.check("/root/readonly", expect!["true"]);
    assert_eq!(case.build().unwrap().mount_sources, [Path::new("/data")]);
}

#[test]
fn a_container_without_a_word_about_linux_is_an_ordinary_one() {
    let mut case = Case::new();
    case.config.linux = None;
    case.sandbox.namespaces.pid = Some("/proc/42/ns/pid".into());
    case.check("/linux/seccomp/defaultErrnoRet", expect!["1"]);
    case.check("/process/oomScoreAdj", expect!["0"]);
}

#[test]
fn a_pods_cgroup_holds_its_containers_by_id() {
    let pod = |parent: &str| v1::PodSandboxConfig {
        linux: Some(v1::LinuxPodSandboxConfig { cgroup_parent: parent.into(), ..Default::default() }),
        ..Default::default()
    };
    assert_eq!(cgroup_path(&pod("/kubepods/pod1"), "c1").unwrap().as_str(), "/kubepods/pod1/c1");
    assert_eq!(cgroup_path(&v1::PodSandboxConfig::default(), "c1").unwrap().as_str(), "/longshore/c1");
    assert!(cgroup_path(&pod("/kubepods.slice/kubepods-pod1.slice"), "c1").is_err());
    assert!(cgroup_path(&pod("/kubepods/../.."), "c1").is_err());
}
