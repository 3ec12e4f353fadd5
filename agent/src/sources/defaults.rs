//! What the API server would fill in: nothing behind this has to know a default.

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, ObjectFieldSelector, PersistentVolume,
    PersistentVolumeClaim, Pod, PodSpec, Probe, ProjectedVolumeSource, ResourceRequirements, Service, Toleration,
    Volume,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::Amount;

const FILE_MODE: i32 = 0o644;

/// Fills in a pod of a manifest that runs on the node called `node`.
pub(super) fn pod(pod: &mut Pod, node: &str) {
    or(&mut pod.metadata.namespace, "default");
    let Some(spec) = &mut pod.spec else { return };
    or(&mut spec.restart_policy, "Always");
    or(&mut spec.dns_policy, "ClusterFirst");
    or(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.enable_service_links.get_or_insert(true);
    spec.security_context.get_or_insert_default();
    spec.node_name = Some(node.to_owned());
    // Pods of manifests stay where they are, whatever a taint says.
    let stays = Toleration {
        effect: Some("NoExecute".to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    spec.tolerations.get_or_insert_default().push(stays);
    containers(spec);
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral);
    whole(spec);
    spec.volumes.iter_mut().flatten().for_each(volume);
}

fn containers(spec: &mut PodSpec) {
    let on_host = spec.host_network == Some(true);
    let limits = |resources: &mut Option<ResourceRequirements>| {
        let resources = resources.get_or_insert_default();
        requests_from_limits(resources);
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        self::container(container);
        limits(&mut container.resources);
        for port in container.ports.iter_mut().flatten() {
            or(&mut port.protocol, "TCP");
            if on_host {
                port.host_port = port.host_port.filter(|port| *port != 0).or(Some(port.container_port));
            }
        }
    }
}

/// Ephemeral containers have neither probes, hooks nor ports.
fn ephemeral(container: &mut EphemeralContainer) {
    or(&mut container.termination_message_path, "/dev/termination-log");
    or(&mut container.termination_message_policy, "File");
    or(&mut container.image_pull_policy, "IfNotPresent");
    container.env.iter_mut().flatten().for_each(variable);
}

/// A pod's own limits, where it asks for nothing else: what its containers ask for, or the limits themselves.
fn whole(spec: &mut PodSpec) {
    let Some(own) = &mut spec.resources else { return };
    let Some(limits) = own.limits.clone() else { return };
    for (name, limit) in limits {
        let asked = |c: &Container| Amount::try_from(c.resources.as_ref()?.requests.as_ref()?.get(&name)?).ok();
        let sum = spec.containers.iter().filter_map(asked).reduce(|sum, own| sum + own);
        let requests = own.requests.get_or_insert_default();
        requests.entry(name.clone()).or_insert_with(|| sum.map_or(limit, |sum| Quantity(sum.to_string())));
    }
}

fn container(container: &mut Container) {
    or(&mut container.termination_message_path, "/dev/termination-log");
    or(&mut container.termination_message_policy, "File");
    // The API says Always where the tag is `latest`. On a node of its own there may be no registry to ask, and an image
    // that was imported must run: who wants a pull at each start says Always.
    or(&mut container.image_pull_policy, "IfNotPresent");
    container.env.iter_mut().flatten().for_each(variable);
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        hooks(lifecycle);
    }
}

fn requests_from_limits(resources: &mut ResourceRequirements) {
    let Some(limits) = resources.limits.clone() else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

fn variable(variable: &mut EnvVar) {
    if let Some(field) = variable.value_from.as_mut().and_then(|from| from.field_ref.as_mut()) {
        field_ref(field);
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    or(&mut field.api_version, "v1");
}

fn probe(probe: &mut Probe) {
    let positive = |value: &mut Option<i32>, default: i32| {
        *value = value.filter(|value| *value != 0).or(Some(default));
    };
    probe.initial_delay_seconds.get_or_insert(0);
    positive(&mut probe.timeout_seconds, 1);
    positive(&mut probe.period_seconds, 10);
    positive(&mut probe.success_threshold, 1);
    positive(&mut probe.failure_threshold, 3);
    if let Some(action) = &mut probe.http_get {
        http(action);
    }
    if let Some(action) = &mut probe.grpc {
        or(&mut action.service, "");
    }
}

fn hooks(lifecycle: &mut Lifecycle) {
    for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        if let Some(action) = &mut hook.http_get {
            http(action);
        }
    }
}

fn http(action: &mut HTTPGetAction) {
    or(&mut action.path, "/");
    or(&mut action.scheme, "HTTP");
}

fn volume(volume: &mut Volume) {
    // A volume without a kind is an emptyDir.
    let bare = Volume { name: volume.name.clone(), ..Volume::default() };
    if *volume == bare {
        volume.empty_dir = Some(Default::default());
    }
    if let Some(source) = &mut volume.host_path {
        or(&mut source.type_, "");
    }
    if let Some(source) = &mut volume.secret {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.config_map {
        source.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(source) = &mut volume.downward_api {
        source.default_mode.get_or_insert(FILE_MODE);
        source.items.iter_mut().flatten().filter_map(|item| item.field_ref.as_mut()).for_each(field_ref);
    }
    if let Some(source) = &mut volume.projected {
        projected(source);
    }
}

fn projected(source: &mut ProjectedVolumeSource) {
    source.default_mode.get_or_insert(FILE_MODE);
    for part in source.sources.iter_mut().flatten() {
        let items = part.downward_api.iter_mut().flat_map(|api| api.items.iter_mut().flatten());
        items.filter_map(|item| item.field_ref.as_mut()).for_each(field_ref);
    }
}

/// Fills in a Service.
pub(super) fn service(service: &mut Service) {
    or(&mut service.metadata.namespace, "default");
    let Some(spec) = &mut service.spec else { return };
    or(&mut spec.type_, "ClusterIP");
    or(&mut spec.session_affinity, "None");
    or(&mut spec.internal_traffic_policy, "Cluster");
    // One port is read into room for four, and there may be thousands of Services.
    spec.ports.iter_mut().for_each(Vec::shrink_to_fit);
    for port in spec.ports.iter_mut().flatten() {
        or(&mut port.protocol, "TCP");
        let same = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(port.port);
        port.target_port.get_or_insert(same);
    }
}

/// Fills in a PersistentVolume.
pub(super) fn persistent_volume(volume: &mut PersistentVolume) {
    // It has no namespace, and people write one.
    volume.metadata.namespace = None;
    let Some(spec) = &mut volume.spec else { return };
    or(&mut spec.persistent_volume_reclaim_policy, "Retain");
    or(&mut spec.volume_mode, "Filesystem");
    if let Some(source) = &mut spec.host_path {
        or(&mut source.type_, "");
    }
}

/// Fills in a PersistentVolumeClaim.
pub(super) fn claim(claim: &mut PersistentVolumeClaim) {
    or(&mut claim.metadata.namespace, "default");
    let Some(spec) = &mut claim.spec else { return };
    or(&mut spec.volume_mode, "Filesystem");
}

/// Fills in an EndpointSlice.
pub(super) fn endpoint_slice(slice: &mut EndpointSlice) {
    or(&mut slice.metadata.namespace, "default");
    for port in slice.ports.iter_mut().flatten() {
        or(&mut port.name, "");
        or(&mut port.protocol, "TCP");
    }
}

fn or(field: &mut Option<String>, default: &str) {
    field.get_or_insert_with(|| default.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defaulted(spec: serde_json::Value) -> serde_json::Value {
        let mut all = serde_json::from_value(serde_json::json!({"metadata": {"name": "a"}, "spec": spec})).unwrap();
        pod(&mut all, "n1");
        serde_json::to_value(all).unwrap()
    }

    #[test]
    fn a_bare_pod_gets_what_the_api_would_give_it() {
        let all = defaulted(serde_json::json!({
            "containers": [{"name": "c", "image": "busybox", "ports": [{"containerPort": 80}],
                "resources": {"limits": {"memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": 80}, "periodSeconds": 0}}],
            "volumes": [{"name": "e"}, {"name": "s", "secret": {"secretName": "x"}}]}));
        let mut text = serde_json::to_string_pretty(&all).unwrap();
        text.push('\n');
        expect_test::expect![[r#"
            {
              "apiVersion": "v1",
              "kind": "Pod",
              "metadata": {
                "name": "a",
                "namespace": "default"
              },
              "spec": {
                "containers": [
                  {
                    "image": "busybox",
                    "imagePullPolicy": "IfNotPresent",
                    "livenessProbe": {
                      "failureThreshold": 3,
                      "httpGet": {
                        "path": "/",
                        "port": 80,
                        "scheme": "HTTP"
                      },
                      "initialDelaySeconds": 0,
                      "periodSeconds": 10,
                      "successThreshold": 1,
                      "timeoutSeconds": 1
                    },
                    "name": "c",
                    "ports": [
                      {
                        "containerPort": 80,
                        "protocol": "TCP"
                      }
                    ],
                    "resources": {
                      "limits": {
                        "memory": "1Gi"
                      },
                      "requests": {
                        "memory": "1Gi"
                      }
                    },
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "File"
                  }
                ],
                "dnsPolicy": "ClusterFirst",
                "enableServiceLinks": true,
                "nodeName": "n1",
                "restartPolicy": "Always",
                "schedulerName": "default-scheduler",
                "securityContext": {},
                "terminationGracePeriodSeconds": 30,
                "tolerations": [
                  {
                    "effect": "NoExecute",
                    "operator": "Exists"
                  }
                ],
                "volumes": [
                  {
                    "emptyDir": {},
                    "name": "e"
                  },
                  {
                    "name": "s",
                    "secret": {
                      "defaultMode": 420,
                      "secretName": "x"
                    }
                  }
                ]
              }
            }
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn on_the_hosts_network_every_port_is_a_host_port() {
        let all = defaulted(serde_json::json!({"hostNetwork": true,
            "containers": [{"name": "c", "image": "a:1", "ports": [{"containerPort": 80}]}]}));
        assert_eq!(all["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
    }
}
