//! `volumeMounts` -> CRI mounts, with `/etc/hosts` and the termination log at the end.

use std::path::{Path, PathBuf};

use cri_proto::v1;
use k8s_openapi::api::core::v1::{Container, VolumeMount};

use super::ConfigError;
use super::labels::message_path;
use crate::expand::expand_all;

/// Where one `volumeMounts` entry points on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// On this node; with the sub path, where there is one.
    pub host_path: PathBuf,
    /// The volume is only ever read.
    pub read_only: bool,
    /// Ours, and so may be relabelled.
    pub managed: bool,
    /// Not on this node's disk: the runtime mounts this image.
    pub image: Option<ImageSource>,
}

/// An image that is mounted, not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageSource {
    /// Its name.
    pub reference: String,
    /// A path in it; empty for all of it.
    pub sub_path: String,
}

/// The files that the agent itself gives to each container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnFiles {
    /// The pod's hosts file; `None` without an address.
    pub hosts: Option<PathBuf>,
    /// This instance's termination message.
    pub message: PathBuf,
}

/// A container's mounts; `sources` stands in the order of its `volumeMounts`.
pub fn mounts(container: &Container, sources: &[Source], own: &OwnFiles) -> Vec<v1::Mount> {
    let wanted = container.volume_mounts.as_deref().unwrap_or_default();
    let mut out: Vec<_> = wanted.iter().zip(sources).map(|(mount, source)| one(mount, source)).collect();
    let taken = |out: &[v1::Mount], path: &str| out.iter().any(|mount| mount.container_path == path);
    if let Some(hosts) = own.hosts.as_deref().filter(|_| !taken(&out, "/etc/hosts")) {
        out.push(file("/etc/hosts", hosts));
    }
    let message = absolute(message_path(container));
    if !taken(&out, &message) {
        out.push(file(&message, &own.message));
    }
    out
}

fn one(mount: &VolumeMount, source: &Source) -> v1::Mount {
    let read_only = mount.read_only.unwrap_or(false) || source.read_only;
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => v1::MountPropagation::PropagationHostToContainer,
        Some("Bidirectional") => v1::MountPropagation::PropagationBidirectional,
        _ => v1::MountPropagation::PropagationPrivate,
    };
    v1::Mount {
        container_path: absolute(&mount.mount_path),
        host_path: source.host_path.to_string_lossy().into_owned(),
        readonly: read_only,
        selinux_relabel: source.managed,
        propagation: propagation as i32,
        // This runtime can: IfPossible is as good as Enabled.
        recursive_read_only: read_only
            && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        image: source.image.as_ref().map(|image| v1::ImageSpec {
            image: image.reference.clone(),
            user_specified_image: image.reference.clone(),
            ..Default::default()
        }),
        image_sub_path: source.image.as_ref().map(|image| image.sub_path.clone()).unwrap_or_default(),
        ..Default::default()
    }
}

fn file(container_path: &str, host_path: &Path) -> v1::Mount {
    v1::Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        selinux_relabel: true,
        ..Default::default()
    }
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The sub path of a mount, with its variables put in; `None` without one.
///
/// # Errors
/// Variables without a value.
pub fn sub_path(
    mount: &VolumeMount,
    lookup: impl FnMut(&str) -> Option<String>,
) -> Result<Option<String>, ConfigError> {
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty()) {
        let path = expand_all(expression, lookup);
        return path.map(Some).map_err(|names| ConfigError::NoValueFor(names.join(", ")));
    }
    Ok(mount.sub_path.clone().filter(|path| !path.is_empty()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(mounts: serde_json::Value) -> Container {
        serde_json::from_value(json!({"name": "c", "volumeMounts": mounts})).unwrap()
    }

    fn source(path: &str, read_only: bool) -> Source {
        Source { host_path: path.into(), read_only, managed: true, image: None }
    }

    fn own() -> OwnFiles {
        OwnFiles { hosts: Some("/p/etc-hosts".into()), message: "/p/msg".into() }
    }

    #[test]
    fn paths_become_absolute_and_read_only_comes_from_either_side() {
        let container = container(
            json!([{"name": "a", "mountPath": "data"}, {"name": "b", "mountPath": "/b", "readOnly": true, "recursiveReadOnly": "Enabled"}]),
        );
        let out = mounts(&container, &[source("/v/a", true), source("/v/b", false)], &own());
        let shown: Vec<_> = out
            .iter()
            .map(|m| (m.container_path.as_str(), m.host_path.as_str(), m.readonly, m.recursive_read_only))
            .collect();
        assert_eq!(
            shown,
            [
                ("/data", "/v/a", true, false),
                ("/b", "/v/b", true, true),
                ("/etc/hosts", "/p/etc-hosts", false, false),
                ("/dev/termination-log", "/p/msg", false, false)
            ]
        );
    }

    #[test]
    fn a_container_that_mounts_its_own_hosts_file_keeps_it() {
        let container = container(json!([{"name": "a", "mountPath": "/etc/hosts"}]));
        let out = mounts(&container, &[source("/v/a", false)], &own());
        assert_eq!(out.iter().filter(|mount| mount.container_path == "/etc/hosts").count(), 1);
        assert_eq!(out[0].host_path, "/v/a");
    }

    #[test]
    fn a_sub_path_with_an_empty_variable_is_refused() {
        let mount = VolumeMount { sub_path_expr: Some("$(A)/$(B)".into()), ..VolumeMount::default() };
        let error = sub_path(&mount, |name| (name == "B").then(String::new)).unwrap_err();
        assert_eq!(error.to_string(), "missing value for A, B");
    }
}
