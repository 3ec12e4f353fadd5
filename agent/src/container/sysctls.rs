//! Kernel parameters that a pod may set for itself: a few are safe, others an administrator has to allow.

use k8s_openapi::api::core::v1::Pod;

/// What a pod can set without its neighbours noticing, on every kernel that this agent runs on.
const SAFE: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// The namespace that keeps a parameter (or all with a prefix) apart from the node's; `None` where none is known to.
fn namespace(name: &str) -> Option<&'static str> {
    const IPC: [&str; 9] = [
        "kernel.sem",
        "kernel.shm",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.msg",
        "kernel.msgmax",
        "kernel.msgmnb",
    ];
    match name {
        name if name.starts_with("net.") => Some("Net"),
        name if name.starts_with("fs.mqueue.") || name == "kernel.msgmni" || IPC.contains(&name) => Some("IPC"),
        _ => None,
    }
}

/// `a/b.c` and `a.b/c` mean what sysctl(8) makes of them: with dots, those inside a name as slashes.
fn with_dots(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// A pattern that may be allowed: the name of a parameter that a namespace keeps apart, or the beginning of some with
/// a `*` after it.
///
/// # Errors
/// What is wrong with it, for the person who wrote it.
pub fn check_pattern(pattern: &str) -> Result<(), String> {
    let name = with_dots(pattern);
    let begin = name.strip_suffix('*').unwrap_or(&name);
    if namespace(begin).is_none() || begin.contains('*') {
        return Err(format!("the sysctls {pattern:?} are not known to be namespaced"));
    }
    Ok(())
}

/// Why the pod may not set what it wants to, in the kubelet's words; `allowed` are patterns beside the safe ones.
pub fn forbidden(pod: &Pod, allowed: &[String]) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let on = |field: Option<bool>| field.unwrap_or(false);
    let wanted = spec.security_context.as_ref()?.sysctls.iter().flatten();
    let why = wanted.map(|sysctl| with_dots(&sysctl.name)).find_map(|name| {
        let matches = |pattern: &String| match with_dots(pattern).strip_suffix('*') {
            Some(begin) => name.starts_with(begin),
            None => with_dots(pattern) == name,
        };
        if !SAFE.contains(&name.as_str()) && !allowed.iter().any(matches) {
            return Some(format!("{name:?} not allowlisted"));
        }
        let shared = match namespace(&name) {
            Some("Net") => on(spec.host_network),
            _ => on(spec.host_ipc),
        };
        shared.then(|| format!("{name:?} not allowed with host {} enabled", namespace(&name).unwrap_or("IPC")))
    });
    why.map(|why| format!("forbidden sysctl: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::pod;
    use super::*;

    fn why(name: &str, allowed: &[&str], more: serde_json::Value) -> Option<String> {
        let mut spec = more;
        spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
        let allowed: Vec<_> = allowed.iter().map(|pattern| (*pattern).to_owned()).collect();
        forbidden(&pod(spec), &allowed)
    }

    #[test]
    fn the_safe_ones_are_free_and_others_must_be_allowed() {
        assert_eq!(why("net.ipv4.tcp_syncookies", &[], json!({})), None);
        assert_eq!(why("net/ipv4/tcp_syncookies", &[], json!({})), None);
        let text = "forbidden sysctl: \"kernel.msgmax\" not allowlisted";
        assert_eq!(why("kernel.msgmax", &["net.*"], json!({})).as_deref(), Some(text));
        for allowed in ["kernel.msgmax", "kernel.msg*"] {
            assert_eq!(why("kernel.msgmax", &[allowed], json!({})), None, "{allowed}");
        }
        assert_eq!(why("net.ipv4.conf.eth0/1.forwarding", &["net.ipv4.*"], json!({})), None);
    }

    #[test]
    fn the_nodes_own_are_out_of_reach() {
        let text = "forbidden sysctl: \"net.ipv4.tcp_rmem\" not allowed with host Net enabled";
        assert_eq!(why("net.ipv4.tcp_rmem", &[], json!({"hostNetwork": true})).as_deref(), Some(text));
        let text = "forbidden sysctl: \"kernel.shm_rmid_forced\" not allowed with host IPC enabled";
        assert_eq!(why("kernel.shm_rmid_forced", &[], json!({"hostIPC": true})).as_deref(), Some(text));
    }

    #[test]
    fn only_what_a_namespace_keeps_apart_can_be_allowed() {
        for good in ["kernel.msg*", "kernel.sem", "net.ipv6.neigh.*", "fs.mqueue.msg_max", "net/core/somaxconn"] {
            assert_eq!(check_pattern(good), Ok(()), "{good}");
        }
        for bad in ["vm.swappiness", "kernel.*", "*", "kernel.core_pattern", "ne*"] {
            assert!(check_pattern(bad).is_err(), "{bad}");
        }
    }
}
