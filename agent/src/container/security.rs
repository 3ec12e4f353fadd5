//! `securityContext` of pod and container: what the runtime is told, and the check that nobody runs as root by mistake.

use std::path::Path;

use cri_proto::v1;
use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};

use super::users::Range;
use super::{ConfigError, ImageFacts, namespaces};

const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// A container's security context. `profiles` is where localhost seccomp profiles are.
///
/// # Errors
/// A broken `runAsNonRoot`, or a localhost profile without a name.
pub fn container_security(
    pod: &Pod,
    container: &Container,
    image: &ImageFacts,
    profiles: &Path,
    ids: Option<Range>,
) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
    let of_pod = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    must_not_be_root(pod, container, image)?;
    let user = run_as_user(&own, &of_pod).or(image.uid);
    let unmasked = own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| list.iter().filter(|_| !unmasked).map(|path| (*path).to_owned()).collect();
    Ok(v1::LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|caps| v1::Capability {
            add_capabilities: caps.add.clone().unwrap_or_default(),
            drop_capabilities: caps.drop.clone().unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: own.privileged.unwrap_or(false),
        namespace_options: Some(namespaces::namespace_options(pod, ids)),
        selinux_options: own.se_linux_options.as_ref().or(of_pod.se_linux_options.as_ref()).map(selinux),
        run_as_user: user.or(image.username.is_empty().then_some(0)).map(int),
        run_as_group: own.run_as_group.or(of_pod.run_as_group).map(int),
        run_as_username: if user.is_some() { String::new() } else { image.username.clone() },
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(&of_pod),
        supplemental_groups_policy: groups_policy(&of_pod),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(of_pod.seccomp_profile.as_ref()), profiles)?),
        apparmor: apparmor(pod, container, &own, &of_pod),
        ..Default::default()
    })
}

/// The sandbox's security context.
pub fn sandbox_security(pod: &Pod, ids: Option<Range>) -> v1::LinuxSandboxSecurityContext {
    let of_pod = pod_context(pod);
    let privileged = |container: &Container| {
        container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
    };
    v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces::namespace_options(pod, ids)),
        selinux_options: of_pod.se_linux_options.as_ref().map(selinux),
        run_as_user: of_pod.run_as_user.map(int),
        run_as_group: of_pod.run_as_group.map(int),
        supplemental_groups: groups(&of_pod),
        supplemental_groups_policy: groups_policy(&of_pod),
        privileged: super::all_containers(pod).any(privileged),
        seccomp: Some(profile(v1::security_profile::ProfileType::RuntimeDefault, String::new())),
        ..Default::default()
    }
}

fn pod_context(pod: &Pod) -> PodSecurityContext {
    pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default()
}

fn run_as_user(own: &SecurityContext, of_pod: &PodSecurityContext) -> Option<i64> {
    own.run_as_user.or(of_pod.run_as_user)
}

fn groups(of_pod: &PodSecurityContext) -> Vec<i64> {
    of_pod.fs_group.into_iter().chain(of_pod.supplemental_groups.iter().flatten().copied()).collect()
}

fn groups_policy(of_pod: &PodSecurityContext) -> i32 {
    match of_pod.supplemental_groups_policy.as_deref() {
        Some("Strict") => v1::SupplementalGroupsPolicy::Strict as i32,
        _ => v1::SupplementalGroupsPolicy::Merge as i32,
    }
}

fn int(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    v1::SeLinuxOption {
        user: of(&options.user),
        role: of(&options.role),
        r#type: of(&options.type_),
        level: of(&options.level),
    }
}

fn profile(kind: v1::security_profile::ProfileType, localhost_ref: String) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind as i32, localhost_ref }
}

fn seccomp(wanted: Option<&SeccompProfile>, profiles: &Path) -> Result<v1::SecurityProfile, ConfigError> {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    match wanted.map(|wanted| wanted.type_.as_str()) {
        Some("RuntimeDefault") => Ok(profile(RuntimeDefault, String::new())),
        Some("Localhost") => {
            let name = wanted.and_then(|wanted| wanted.localhost_profile.as_deref()).filter(|name| !name.is_empty());
            let name = name.ok_or(ConfigError::SeccompWithoutName)?;
            if Path::new(name).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
                return Err(ConfigError::SeccompOutside(name.to_owned()));
            }
            Ok(profile(Localhost, profiles.join(name).to_string_lossy().into_owned()))
        }
        _ => Ok(profile(Unconfined, String::new())),
    }
}

fn apparmor(
    pod: &Pod,
    container: &Container,
    own: &SecurityContext,
    of_pod: &PodSecurityContext,
) -> Option<v1::SecurityProfile> {
    if let Some(field) = &own.app_armor_profile {
        return Some(apparmor_field(field));
    }
    let key = format!("{APPARMOR_ANNOTATION}{}", container.name);
    let noted = pod.metadata.annotations.as_ref().and_then(|notes| notes.get(&key));
    noted.and_then(|noted| apparmor_annotation(noted)).or_else(|| of_pod.app_armor_profile.as_ref().map(apparmor_field))
}

fn apparmor_field(field: &AppArmorProfile) -> v1::SecurityProfile {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    match field.type_.as_str() {
        "Localhost" => profile(Localhost, field.localhost_profile.clone().unwrap_or_default()),
        "Unconfined" => profile(Unconfined, String::new()),
        _ => profile(RuntimeDefault, String::new()),
    }
}

fn apparmor_annotation(noted: &str) -> Option<v1::SecurityProfile> {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    match noted {
        "runtime/default" => Some(profile(RuntimeDefault, String::new())),
        "unconfined" => Some(profile(Unconfined, String::new())),
        other => other.strip_prefix("localhost/").map(|name| profile(Localhost, name.to_owned())),
    }
}

fn must_not_be_root(pod: &Pod, container: &Container, image: &ImageFacts) -> Result<(), ConfigError> {
    let of_pod = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    if own.run_as_non_root.or(of_pod.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let at = || super::place(pod, &container.name);
    match (run_as_user(&own, &of_pod), image.uid) {
        (Some(0), _) => Err(ConfigError::RunAsUserIsRoot { at: at() }),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => Err(ConfigError::ImageIsRoot { at: at() }),
        (None, Some(_)) => Ok(()),
        (None, None) if !image.username.is_empty() => {
            Err(ConfigError::ImageUserUnknown { user: image.username.clone(), at: at() })
        }
        (None, None) => Err(ConfigError::ImageIsRoot { at: at() }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::pod;
    use super::*;

    fn of(spec: serde_json::Value, image: &ImageFacts) -> Result<v1::LinuxContainerSecurityContext, String> {
        let pod = pod(spec);
        let container = &pod.spec.as_ref().unwrap().containers[0];
        container_security(&pod, container, image, Path::new("/seccomp"), None).map_err(|error| error.to_string())
    }

    fn user(uid: Option<i64>, username: &str) -> ImageFacts {
        ImageFacts { uid, username: username.to_owned(), ..ImageFacts::default() }
    }

    #[test]
    fn the_container_overrides_the_pod_and_the_pod_the_image() {
        let spec = json!({"securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4]},
            "containers": [{"name": "c", "securityContext": {"runAsUser": 10, "allowPrivilegeEscalation": false}}]});
        let context = of(spec, &user(Some(99), "")).unwrap();
        assert_eq!(context.run_as_user, Some(int(10)));
        assert_eq!(context.run_as_group, Some(int(2)));
        assert_eq!(context.supplemental_groups, [3, 4]);
        assert!(context.no_new_privs && !context.privileged);
        assert_eq!(context.masked_paths.len(), MASKED.len());
    }

    #[test]
    fn without_a_wish_the_image_decides() {
        let spec = || json!({"containers": [{"name": "c"}]});
        assert_eq!(of(spec(), &user(Some(99), "")).unwrap().run_as_user, Some(int(99)));
        let named = of(spec(), &user(None, "www")).unwrap();
        assert_eq!((named.run_as_user, named.run_as_username.as_str()), (None, "www"));
        assert_eq!(of(spec(), &user(None, "")).unwrap().run_as_user, Some(int(0)));
        let seccomp = of(spec(), &user(None, "")).unwrap().seccomp.unwrap();
        assert_eq!(seccomp.profile_type(), v1::security_profile::ProfileType::Unconfined);
    }

    #[test]
    fn nobody_is_root_by_mistake() {
        let check = |context: serde_json::Value, image: &ImageFacts, want: Result<(), &str>| {
            let got = of(
                json!({"securityContext": {"runAsNonRoot": true}, "containers": [{"name": "c", "securityContext": context}]}),
                image,
            );
            assert_eq!(got.as_ref().map(|_| ()).map_err(String::as_str), want);
        };
        check(
            json!({"runAsUser": 0}),
            &user(Some(7), ""),
            Err("container's runAsUser breaks non-root policy (pod: \"web_shop(u-1)\", container: c)"),
        );
        check(
            json!({}),
            &user(None, "www"),
            Err(
                "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: \"web_shop(u-1)\", container: c)",
            ),
        );
        check(
            json!({}),
            &user(None, ""),
            Err("container has runAsNonRoot and image will run as root (pod: \"web_shop(u-1)\", container: c)"),
        );
        check(
            json!({}),
            &user(Some(0), ""),
            Err("container has runAsNonRoot and image will run as root (pod: \"web_shop(u-1)\", container: c)"),
        );
        check(json!({}), &user(Some(7), ""), Ok(()));
        check(json!({"runAsNonRoot": false}), &user(None, ""), Ok(()));
    }

    #[test]
    fn a_localhost_profile_cannot_leave_its_folder() {
        let spec = |name: &str| json!({"containers": [{"name": "c", "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": name}}}]});
        assert_eq!(of(spec("a/b.json"), &user(None, "")).unwrap().seccomp.unwrap().localhost_ref, "/seccomp/a/b.json");
        for bad in ["../x", "/etc/passwd", ""] {
            assert!(of(spec(bad), &user(None, "")).is_err(), "{bad:?}");
        }
    }
}
