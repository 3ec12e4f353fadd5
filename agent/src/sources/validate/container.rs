use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, EphemeralContainer, PodSpec, Volume, VolumeMount,
};

use super::{Report, image, names, or, probe, resources, security};

/// All containers of a pod: names are unique among both lists.
pub(super) fn all(spec: &PodSpec, report: &mut Report) {
    report.check(!spec.containers.is_empty(), "spec.containers", || "is empty; a pod needs at least one".to_owned());
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, container)| (format!("spec.initContainers[{index}]"), container, true));
    let regular = spec.containers.iter().enumerate();
    let regular = regular.map(|(index, container)| (format!("spec.containers[{index}]"), container, false));
    let mut places = HashMap::new();
    for (at, container, is_init) in init.chain(regular) {
        if let Some(first) = places.insert(container.name.as_str(), at.clone()).filter(|_| !container.name.is_empty()) {
            report.add(format!("{at}.name"), format!("{:?} is taken by {first}; names must differ", container.name));
        }
        one(spec, container, &at, is_init, report);
    }
    let mut names = HashSet::new();
    for (index, own) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let at = format!("spec.ephemeralContainers[{index}]");
        let taken = places.contains_key(own.name.as_str()) || !names.insert(own.name.as_str());
        report.check(!taken, format!("{at}.name"), || format!("{:?} is taken; names must differ", own.name));
        let target = own.target_container_name.as_deref().filter(|name| !name.is_empty());
        report.check(target.is_none_or(|name| places.contains_key(name)), format!("{at}.targetContainerName"), || {
            format!("the pod has no container {:?}", target.unwrap_or_default())
        });
        ephemeral(spec, own, &at, report);
    }
}

/// What is there to look into a pod has nothing that the pod depends on.
fn ephemeral(spec: &PodSpec, own: &EphemeralContainer, at: &str, report: &mut Report) {
    one(spec, &crate::pods::roles::as_container(own), at, false, report);
    let resources = own.resources.as_ref().is_some_and(|own| own.limits.is_some() || own.requests.is_some());
    let sub_path = own.volume_mounts.iter().flatten().any(|m| m.sub_path.is_some() || m.sub_path_expr.is_some());
    for (given, field) in [
        (own.ports.is_some(), "ports"),
        (own.liveness_probe.is_some(), "livenessProbe"),
        (own.readiness_probe.is_some(), "readinessProbe"),
        (own.startup_probe.is_some(), "startupProbe"),
        (own.lifecycle.is_some(), "lifecycle"),
        (resources, "resources"),
        (own.resize_policy.is_some(), "resizePolicy"),
        (own.restart_policy.is_some(), "restartPolicy"),
        (own.restart_policy_rules.is_some(), "restartPolicyRules"),
        (sub_path, "volumeMounts.subPath"),
    ] {
        report.check(!given, format!("{at}.{field}"), || "cannot be set for an ephemeral container".to_owned());
    }
}

/// Rules about exit codes: they refine a policy of the container's own.
fn restart_rules(container: &Container, at: &str, report: &mut Report) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    report.check(rules.is_empty() || container.restart_policy.is_some(), format!("{at}.restartPolicy"), || {
        "is missing; restartPolicyRules need one".to_owned()
    });
    report.check(rules.len() <= 20, format!("{at}.restartPolicyRules"), || "more than 20 are not possible".to_owned());
    for (index, rule) in rules.iter().enumerate() {
        let at = format!("{at}.restartPolicyRules[{index}]");
        report.one_of(Some(&rule.action), &["Restart", "RestartAllContainers"], format!("{at}.action"));
        let Some(codes) = &rule.exit_codes else {
            report.add(format!("{at}.exitCodes"), "is missing");
            continue;
        };
        report.one_of(Some(&codes.operator), &["In", "NotIn"], format!("{at}.exitCodes.operator"));
        let values = codes.values.as_deref().unwrap_or_default();
        report.check((1..=255).contains(&values.len()), format!("{at}.exitCodes.values"), || {
            "must have between 1 and 255 codes".to_owned()
        });
    }
}

/// How a change of resources is made under a running container.
fn resize_policy(container: &Container, at: &str, report: &mut Report) {
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        let at = format!("{at}.resizePolicy[{index}]");
        report.one_of(Some(&policy.resource_name), &["cpu", "memory"], format!("{at}.resourceName"));
        let answers = &["NotRequired", "RestartContainer"];
        report.one_of(Some(&policy.restart_policy), answers, format!("{at}.restartPolicy"));
    }
}

fn one(spec: &PodSpec, container: &Container, at: &str, is_init: bool, report: &mut Report) {
    if container.name.is_empty() {
        report.add(format!("{at}.name"), "is missing");
    } else {
        names::label(&container.name, format!("{at}.name"), report);
    }
    match container.image.as_deref().filter(|image| !image.is_empty()) {
        None => report.add(format!("{at}.image"), "is missing"),
        Some(text) => {
            if let Some(problem) = image::problem(text) {
                report.add(format!("{at}.image"), format!("{text:?}: {problem}"));
            }
        }
    }
    let pull = &["Always", "IfNotPresent", "Never"];
    report.one_of(container.image_pull_policy.as_ref(), pull, format!("{at}.imagePullPolicy"));
    let policies = &["File", "FallbackToLogsOnError"];
    report.one_of(container.termination_message_policy.as_ref(), policies, format!("{at}.terminationMessagePolicy"));
    report.one_of(container.restart_policy.as_ref(), &["Always", "OnFailure", "Never"], format!("{at}.restartPolicy"));
    restart_rules(container, at, report);
    resize_policy(container, at, report);
    ports(spec, container, at, report);
    for (index, variable) in container.env.iter().flatten().enumerate() {
        env(variable, spec.volumes.as_ref(), &format!("{at}.env[{index}]"), report);
    }
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        env_from(source, &format!("{at}.envFrom[{index}]"), report);
    }
    mounts(spec, container, at, report);
    devices(spec, container, at, report);
    resources::check(container.resources.as_ref(), at, report);
    security::container(container.security_context.as_ref(), at, report);
    match is_init && container.restart_policy.as_deref() != Some("Always") {
        true => probe::refuse_all(container, at, report),
        false => probe::check(container, at, report),
    }
}

fn ports(spec: &PodSpec, container: &Container, at: &str, report: &mut Report) {
    let (mut seen, mut taken) = (HashSet::new(), HashSet::new());
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let at = format!("{at}.ports[{index}]");
        self::port(spec, port, &at, report);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            report.check(names::is_port_name(name), format!("{at}.name"), || {
                format!("{name:?} must be up to 15 lower-case letters, digits or '-', with at least one letter")
            });
            report.check(seen.insert(name), format!("{at}.name"), || format!("{name:?} is taken by another port"));
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            let key = (number, port.protocol.as_deref(), port.host_ip.as_deref());
            report.check(taken.insert(key), format!("{at}.hostPort"), || format!("{number} is used twice"));
        }
    }
}

fn port(spec: &PodSpec, port: &ContainerPort, at: &str, report: &mut Report) {
    let number = port.container_port;
    report.check((1..=65_535).contains(&number), format!("{at}.containerPort"), || {
        format!("{number} must be between 1 and 65535")
    });
    let host = port.host_port.unwrap_or(0);
    report.check((0..=65_535).contains(&host), format!("{at}.hostPort"), || {
        format!("{host} must be between 1 and 65535")
    });
    let equal = spec.host_network != Some(true) || host == 0 || host == number;
    report.check(equal, format!("{at}.hostPort"), || {
        format!("must be {number}, the containerPort, because the pod is on the host's network")
    });
    report.one_of(port.protocol.as_ref(), &["TCP", "UDP", "SCTP"], format!("{at}.protocol"));
    if let Some(ip) = port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
        report.check(ip.parse::<std::net::IpAddr>().is_ok(), format!("{at}.hostIP"), || {
            format!("{ip:?} is not an IP address")
        });
    }
}

fn env(variable: &EnvVar, volumes: Option<&Vec<Volume>>, at: &str, report: &mut Report) {
    let name = &variable.name;
    let fine = !name.is_empty() && name.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    report.check(fine, format!("{at}.name"), || format!("{name:?} must be printable characters without '='"));
    let Some(from) = &variable.value_from else { return };
    let at = format!("{at}.valueFrom");
    let both = variable.value.as_ref().is_some_and(|value| !value.is_empty());
    report.check(!both, at.clone(), || "value and valueFrom exclude each other".to_owned());
    let sources = [
        ("fieldRef", from.field_ref.is_some()),
        ("resourceFieldRef", from.resource_field_ref.is_some()),
        ("configMapKeyRef", from.config_map_key_ref.is_some()),
        ("secretKeyRef", from.secret_key_ref.is_some()),
        ("fileKeyRef", from.file_key_ref.is_some()),
    ];
    only_one(&sources, &at, report);
    if let Some(field) = &from.field_ref {
        let fine = is_env_field(&field.field_path);
        report.check(fine, format!("{at}.fieldRef.fieldPath"), || {
            format!("{:?} cannot be a variable; metadata.name, .namespace, .uid, .labels['k'], .annotations['k'], spec.nodeName, spec.serviceAccountName, status.hostIP, .hostIPs, .podIP and .podIPs can", field.field_path)
        });
    }
    if let Some(file) = &from.file_key_ref {
        let at = format!("{at}.fileKeyRef");
        report.check(!file.key.is_empty(), format!("{at}.key"), || "is missing".to_owned());
        let inside =
            !file.path.is_empty() && !file.path.starts_with('/') && !file.path.split('/').any(|part| part == "..");
        report.check(inside, format!("{at}.path"), || format!("{:?} must be a relative path without ..", file.path));
        let volume = volumes.into_iter().flatten().find(|volume| volume.name == file.volume_name);
        let empty_dir = volume.is_some_and(|volume| volume.empty_dir.is_some());
        report.check(empty_dir, format!("{at}.volumeName"), || {
            format!("{:?} is no emptyDir volume of the pod", file.volume_name)
        });
    }
    for (kind, reference) in [
        ("configMapKeyRef", from.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", from.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ] {
        let Some((name, key)) = reference else { continue };
        names::subdomain(name, format!("{at}.{kind}.name"), report);
        report.check(!key.is_empty(), format!("{at}.{kind}.key"), || "is missing".to_owned());
    }
}

fn is_env_field(path: &str) -> bool {
    let keyed = |prefix: &str| path.strip_prefix(prefix).and_then(|rest| rest.strip_suffix("']")).is_some();
    let plain = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.serviceAccountName",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    plain.contains(&path) || keyed("metadata.labels['") || keyed("metadata.annotations['")
}

fn env_from(source: &EnvFromSource, at: &str, report: &mut Report) {
    only_one(
        &[("configMapRef", source.config_map_ref.is_some()), ("secretRef", source.secret_ref.is_some())],
        at,
        report,
    );
    let name = source.config_map_ref.as_ref().map(|r| &r.name).or(source.secret_ref.as_ref().map(|r| &r.name));
    if let Some(name) = name {
        names::subdomain(name, format!("{at}.name"), report);
    }
}

pub(super) fn only_one(sources: &[(&str, bool)], at: &str, report: &mut Report) {
    let names: Vec<_> = sources.iter().map(|(name, _)| *name).collect();
    let given: Vec<_> = sources.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    match given.as_slice() {
        [_] => {}
        [] => report.add(at, format!("is empty; it needs {}", or(&names))),
        more => report.add(at, format!("has {}; only one of them may be given", more.join(" and "))),
    }
}

fn mounts(spec: &PodSpec, container: &Container, at: &str, report: &mut Report) {
    let mut paths = HashSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        self::mount(spec, container, mount, &at, report);
        report.check(paths.insert(mount.mount_path.trim_end_matches('/')), format!("{at}.mountPath"), || {
            format!("{:?} is used by another volumeMount of this container", mount.mount_path)
        });
    }
}

fn devices(spec: &PodSpec, container: &Container, at: &str, report: &mut Report) {
    let mut paths = HashSet::new();
    for (index, device) in container.volume_devices.iter().flatten().enumerate() {
        let at = format!("{at}.volumeDevices[{index}]");
        let claimed = |volume: &&Volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
        let known = spec.volumes.iter().flatten().filter(claimed).any(|volume| volume.name == device.name);
        report.check(known, format!("{at}.name"), || {
            format!("the pod has no volume {:?} that is a persistentVolumeClaim or ephemeral", device.name)
        });
        let mounted = container.volume_mounts.iter().flatten().any(|mount| mount.name == device.name);
        report.check(!mounted, format!("{at}.name"), || format!("{:?} is in volumeMounts too", device.name));
        let path = device.device_path.as_str();
        let fine = path.starts_with('/') && !path.split('/').any(|part| part == "..");
        report.check(fine, format!("{at}.devicePath"), || format!("{path:?} must be an absolute path without .."));
        report.check(paths.insert(path), format!("{at}.devicePath"), || {
            format!("{path:?} is used by another volumeDevice of this container")
        });
    }
}

fn mount(spec: &PodSpec, container: &Container, mount: &VolumeMount, at: &str, report: &mut Report) {
    let mut volumes: Vec<_> = spec.volumes.iter().flatten().map(|volume| volume.name.as_str()).collect();
    volumes.dedup();
    report.check(volumes.contains(&mount.name.as_str()), format!("{at}.name"), || match volumes.as_slice() {
        [] => format!("the pod has no volume {:?}; add it to spec.volumes", mount.name),
        known => format!("the pod has no volume {:?}; it has {}", mount.name, super::and(known)),
    });
    report.check(!mount.mount_path.is_empty(), format!("{at}.mountPath"), || "is missing".to_owned());
    report.check(!mount.mount_path.contains(':'), format!("{at}.mountPath"), || "must not contain ':'".to_owned());
    let sub_path = mount.sub_path.as_deref().filter(|path| !path.is_empty());
    let sub_path_expr = mount.sub_path_expr.as_deref().filter(|path| !path.is_empty());
    report.check(sub_path.is_none() || sub_path_expr.is_none(), format!("{at}.subPathExpr"), || {
        "subPath and subPathExpr exclude each other".to_owned()
    });
    for (field, path) in [("subPath", sub_path), ("subPathExpr", sub_path_expr)] {
        let Some(path) = path else { continue };
        let fine = !path.starts_with('/') && !path.split('/').any(|part| part == "..");
        report.check(fine, format!("{at}.{field}"), || format!("{path:?} must be a relative path without .."));
    }
    let modes = &["None", "HostToContainer", "Bidirectional"];
    report.one_of(mount.mount_propagation.as_ref(), modes, format!("{at}.mountPropagation"));
    let privileged = container.security_context.as_ref().and_then(|context| context.privileged) == Some(true);
    let fine = mount.mount_propagation.as_deref() != Some("Bidirectional") || privileged;
    report
        .check(fine, format!("{at}.mountPropagation"), || "Bidirectional is for privileged containers only".to_owned());
    let recursive = mount.recursive_read_only.as_ref();
    report.one_of(recursive, &["Disabled", "IfPossible", "Enabled"], format!("{at}.recursiveReadOnly"));
    let asked = recursive.is_some_and(|value| value != "Disabled");
    report.check(!asked || mount.read_only == Some(true), format!("{at}.recursiveReadOnly"), || {
        "needs readOnly: true".to_owned()
    });
}
