use std::collections::BTreeSet;
use std::path::Path;

use cri_proto::v1;
use k8s_openapi::api::core::v1::Pod;

use super::dns::Resolver;
use super::users::Range;
use super::{labels, logs, security};

/// What a sandbox is made from.
pub struct SandboxInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Which re-creation this is.
    pub attempt: u32,
    /// What the sandbox calls itself; see [`super::hostname::Hostname::of_sandbox`].
    pub hostname: &'a str,
    /// Name resolution.
    pub resolver: &'a Resolver,
    /// The pod's cgroup.
    pub cgroup_parent: &'a str,
    /// What all of the pod's containers may use together.
    pub resources: v1::LinuxContainerResources,
    /// Root of all pod logs.
    pub logs: &'a Path,
    /// The ids of its user namespace, where it has one.
    pub ids: Option<Range>,
}

/// The sandbox as the runtime is told to make it.
pub fn sandbox_config(inputs: &SandboxInputs<'_>) -> v1::PodSandboxConfig {
    let pod = inputs.pod;
    let of = |value: &Option<String>| value.clone().unwrap_or_default();
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: of(&pod.metadata.name),
            uid: of(&pod.metadata.uid),
            namespace: of(&pod.metadata.namespace),
            attempt: inputs.attempt,
        }),
        hostname: inputs.hostname.to_owned(),
        log_directory: logs::pod_dir(inputs.logs, pod).to_string_lossy().into_owned(),
        dns_config: Some(inputs.resolver.to_cri()),
        port_mappings: port_mappings(pod),
        labels: labels::sandbox_labels(pod).into_iter().collect(),
        annotations: pod.metadata.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: inputs.cgroup_parent.to_owned(),
            security_context: Some(security::sandbox_security(pod, inputs.ids)),
            sysctls: sysctls(pod),
            overhead: None,
            resources: Some(inputs.resources.clone()),
        }),
        windows: None,
    }
}

fn sysctls(pod: &Pod) -> std::collections::HashMap<String, String> {
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let all = context.and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
    all.iter().map(|sysctl| (sysctl.name.replace('/', "."), sysctl.value.clone())).collect()
}

/// All ports of regular containers, also those without a host port; of two with one name the first.
fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut names = BTreeSet::new();
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter(|port| match port.name.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => names.insert(name.to_owned()),
        None => true,
    });
    ports
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp as i32,
                Some("SCTP") => v1::Protocol::Sctp as i32,
                _ => v1::Protocol::Tcp as i32,
            },
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sandbox_says_who_it_is_and_where_its_logs_go() {
        let mut pod = super::super::testing::pod(json!({
            "securityContext": {"sysctls": [{"name": "net/ipv4/ip_local_port_range", "value": "1 2"}]},
            "containers": [
                {"name": "a", "ports": [{"name": "http", "containerPort": 80, "hostPort": 8080}]},
                {"name": "b", "ports": [{"name": "http", "containerPort": 81}, {"containerPort": 53, "protocol": "UDP"}]}]}));
        pod.metadata.labels = Some([("app".to_owned(), "web".to_owned())].into());
        let config = sandbox_config(&SandboxInputs {
            pod: &pod,
            attempt: 2,
            hostname: "web",
            resolver: &Resolver { servers: vec!["192.0.2.53".into()], ..Resolver::default() },
            cgroup_parent: "/kubepods/besteffort/podu-1",
            resources: v1::LinuxContainerResources { cpu_shares: 2, ..Default::default() },
            logs: Path::new("/var/log/pods"),
            ids: None,
        });
        let ports: Vec<_> =
            config.port_mappings.iter().map(|p| (p.container_port, p.host_port, p.protocol().as_str_name())).collect();
        let mut labels: Vec<_> = config.labels.iter().collect();
        labels.sort();
        let linux = config.linux.unwrap();
        expect![[r#"
            Some(PodSandboxMetadata { name: "web", uid: "u-1", namespace: "shop", attempt: 2 })
            web /var/log/pods/shop_web_u-1 /kubepods/besteffort/podu-1
            [(80, 8080, "TCP"), (53, 0, "UDP")]
            [("app", "web"), ("io.kubernetes.pod.name", "web"), ("io.kubernetes.pod.namespace", "shop"), ("io.kubernetes.pod.uid", "u-1")]
            {"net.ipv4.ip_local_port_range": "1 2"}
        "#]]
        .assert_eq(&format!(
            "{:?}\n{} {} {}\n{ports:?}\n{labels:?}\n{:?}\n",
            config.metadata, config.hostname, config.log_directory, linux.cgroup_parent, linux.sysctls
        ));
    }
}
