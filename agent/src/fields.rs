//! `fieldRef` and `resourceFieldRef`: a pod's own fields as text, for variables and for downward API files.

use std::collections::BTreeMap;
use std::fmt::Write;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity::{Amount, BadQuantity};

/// What pods may use of this node; the fallback of limits that are not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allocatable {
    /// Thousandths of a cpu.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of disk for writable layers, logs and emptyDirs.
    pub ephemeral_storage_bytes: u64,
}

/// A field that has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// Not one of the fields that can be referred to.
    #[error("{0:?} is not a field that can be referred to")]
    Unknown(String),
    /// A resource that cannot be referred to.
    #[error("{0:?} is not a resource that can be referred to")]
    UnknownResource(String),
    /// `containerName` names no container of the pod.
    #[error("container {0:?} not found")]
    NoContainer(String),
    /// A quantity that cannot be read.
    #[error("reading the quantity of {resource}")]
    Quantity {
        /// Such as `limits.cpu`.
        resource: String,
        /// Why.
        source: BadQuantity,
    },
}

/// A field of the manifest: `metadata.*` (with `['key']` for labels and annotations, or all of them as
/// `key="value"` lines), `spec.nodeName`, `spec.serviceAccountName`. A key that is not there is empty text.
///
/// # Errors
/// [`FieldError::Unknown`] for every other path; those of `status` are known to the caller alone.
pub fn pod_field(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "metadata.labels" => Some(lines(meta.labels.as_ref())),
        "metadata.annotations" => Some(lines(meta.annotations.as_ref())),
        "spec.nodeName" | "spec.host" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        _ => return keyed(pod, path),
    };
    Ok(text.unwrap_or_default())
}

fn keyed(pod: &Pod, path: &str) -> Result<String, FieldError> {
    let unknown = || FieldError::Unknown(path.to_owned());
    let (field, key) = path.strip_suffix("']").and_then(|path| path.split_once("['")).ok_or_else(unknown)?;
    let map = match field {
        "metadata.labels" => pod.metadata.labels.as_ref(),
        "metadata.annotations" => pod.metadata.annotations.as_ref(),
        _ => return Err(unknown()),
    };
    Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
}

fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let all: Vec<_> = map.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_quoted(value))).collect();
    all.join("\n")
}

/// Go's `%q`, which consumers of these files parse.
fn go_quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0b' => out.push_str("\\v"),
            '\x0c' => out.push_str("\\f"),
            c if c < ' ' || c == '\x7f' => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A container's request or limit, divided and rounded up. `own` is the container that asks; a selector with a
/// `containerName` asks about another one. Limits that are unset or zero fall back to the pod's, then to the node's.
///
/// # Errors
/// [`FieldError`] for an unknown container, resource or quantity.
pub fn resource_field(
    pod: &Pod,
    own: Option<&str>,
    selector: &ResourceFieldSelector,
    node: &Allocatable,
) -> Result<String, FieldError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let name = named.or(own).unwrap_or_default();
    let container = containers(pod).find(|c| c.name == name).ok_or_else(|| FieldError::NoContainer(name.to_owned()))?;
    let bad = |source| FieldError::Quantity { resource: selector.resource.clone(), source };
    let amount = resource(pod, container, &selector.resource, node)?;
    let divisor = selector.divisor.as_ref().map(Amount::try_from).transpose().map_err(bad)?.unwrap_or_default();
    Ok(amount.ceil_div(divisor).to_string())
}

fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.iter();
    spec.flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
}

fn resource(pod: &Pod, container: &Container, path: &str, node: &Allocatable) -> Result<Amount, FieldError> {
    let unknown = || FieldError::UnknownResource(path.to_owned());
    let (list, name) = path.split_once('.').ok_or_else(unknown)?;
    let allocatable = match name {
        "cpu" => Amount::millis(node.cpu_millis),
        "memory" => Amount::units(node.memory_bytes),
        "ephemeral-storage" => Amount::units(node.ephemeral_storage_bytes),
        name if name.starts_with("hugepages-") => Amount::ZERO,
        _ => return Err(unknown()),
    };
    let own = container.resources.as_ref();
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let read = |list: Option<&BTreeMap<String, Quantity>>| {
        let quantity = list.and_then(|list| list.get(name));
        let amount = quantity.map(Amount::try_from).transpose();
        let amount = amount.map_err(|source| FieldError::Quantity { resource: path.to_owned(), source })?;
        Ok(amount.filter(|amount| *amount > Amount::ZERO))
    };
    match list {
        "requests" => Ok(read(own.and_then(|r| r.requests.as_ref()))?.unwrap_or_default()),
        "limits" => match read(own.and_then(|r| r.limits.as_ref()))? {
            Some(limit) => Ok(limit),
            None => Ok(read(whole.and_then(|r| r.limits.as_ref()))?.unwrap_or(allocatable)),
        },
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1",
                "labels": {"b": "2", "a": "1"}, "annotations": {"note": "say \"hi\"\n\u{1}é"}},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "main", "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}}},
                {"name": "side"}]}
        }))
        .unwrap()
    }

    #[test]
    fn labels_and_annotations_are_sorted_quoted_lines() {
        assert_eq!(pod_field(&pod(), "metadata.labels").unwrap(), "a=\"1\"\nb=\"2\"");
        assert_eq!(pod_field(&pod(), "metadata.annotations").unwrap(), "note=\"say \\\"hi\\\"\\n\\x01é\"");
        assert_eq!(pod_field(&pod(), "metadata.labels['a']").unwrap(), "1");
        assert_eq!(pod_field(&pod(), "metadata.labels['none']").unwrap(), "");
        assert_eq!(pod_field(&pod(), "spec.nodeName").unwrap(), "n1");
    }

    #[test]
    fn a_field_that_nobody_may_refer_to_is_refused() {
        for path in ["metadata", "status.podIP", "metadata.labels['a", "spec.containers['x']", ""] {
            assert_eq!(pod_field(&pod(), path), Err(FieldError::Unknown(path.to_owned())));
        }
    }

    #[test]
    fn resources_are_divided_upwards_and_missing_limits_are_the_nodes() {
        let node = Allocatable { cpu_millis: 4_000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 5 };
        let ask = |own: &str, resource: &str, divisor: Option<&str>| {
            let divisor = divisor.map(|d| Quantity(d.to_owned()));
            let selector = ResourceFieldSelector { container_name: None, divisor, resource: resource.to_owned() };
            resource_field(&pod(), Some(own), &selector, &node).unwrap_or_else(|error| error.to_string())
        };
        assert_eq!(ask("main", "limits.cpu", None), "2");
        assert_eq!(ask("main", "limits.cpu", Some("1m")), "1500");
        assert_eq!(ask("main", "limits.memory", Some("1Mi")), "1024");
        assert_eq!(ask("main", "requests.memory", Some("0")), "67108864");
        assert_eq!(ask("side", "requests.cpu", None), "0");
        assert_eq!(ask("side", "limits.cpu", None), "4");
        assert_eq!(ask("none", "limits.cpu", None), "container \"none\" not found");
        assert_eq!(ask("main", "limits.gpu", None), "\"limits.gpu\" is not a resource that can be referred to");
    }
}
