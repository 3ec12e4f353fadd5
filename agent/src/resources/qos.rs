//! The quality-of-service class, and a pod's requests and limits as sums.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::container::{all_containers, init_containers};
use crate::quantity::Amount;

/// `status.qosClass`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Requests equal limits for cpu and memory, everywhere.
    Guaranteed,
    /// Some requests or limits.
    Burstable,
    /// Neither.
    BestEffort,
}

impl Qos {
    /// As the API writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// One resource of a list of requests or limits; quantities were checked when the manifest was read, a bad one counts
/// as unset.
pub fn amount(list: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Amount> {
    Amount::try_from(list?.get(name)?).ok()
}

/// The pod's class.
pub fn class(pod: &Pod) -> Qos {
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let parts: Vec<Option<&ResourceRequirements>> = match whole.filter(|whole| has_any(whole)) {
        Some(whole) => vec![Some(whole)],
        None => all_containers(pod).map(|container| container.resources.as_ref()).collect(),
    };
    if parts.iter().all(|part| part.is_none_or(|part| !has_any(part))) {
        Qos::BestEffort
    } else if parts.iter().all(|part| part.is_some_and(is_guaranteed)) {
        Qos::Guaranteed
    } else {
        Qos::Burstable
    }
}

fn has_any(part: &ResourceRequirements) -> bool {
    let some = |list: Option<&BTreeMap<String, Quantity>>| {
        ["cpu", "memory"].iter().any(|name| amount(list, name).is_some_and(|amount| amount > Amount::ZERO))
    };
    some(part.requests.as_ref()) || some(part.limits.as_ref())
}

fn is_guaranteed(part: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|name| {
        let limit = amount(part.limits.as_ref(), name).filter(|limit| *limit > Amount::ZERO);
        let request = amount(part.requests.as_ref(), name).or(limit);
        limit.is_some() && limit == request
    })
}

/// Requests or limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is set aside.
    Requests,
    /// What cannot be exceeded.
    Limits,
}

/// One container's request or limit; an unset request is its limit, as the API's defaults have it.
pub fn of_container(container: &Container, side: Side, name: &str) -> Option<Amount> {
    let resources = container.resources.as_ref()?;
    let limit = amount(resources.limits.as_ref(), name);
    match side {
        Side::Requests => amount(resources.requests.as_ref(), name).or(limit),
        Side::Limits => limit,
    }
}

/// What the whole pod asks for: the larger of its regular containers with sidecars, and of any moment of its
/// initialisation. Pod-level resources win. Overhead is not in it.
pub fn of_pod(pod: &Pod, side: Side, name: &str) -> Amount {
    let Some(spec) = pod.spec.as_ref() else { return Amount::ZERO };
    if let Some(whole) = spec.resources.as_ref() {
        let list = if side == Side::Requests { whole.requests.as_ref() } else { whole.limits.as_ref() };
        if let Some(amount) = amount(list, name) {
            return amount;
        }
    }
    of_containers(spec, side, name)
}

/// The same of the containers alone, whatever the pod itself says.
pub fn of_containers(spec: &PodSpec, side: Side, name: &str) -> Amount {
    let of = |container: &Container| of_container(container, side, name).unwrap_or_default();
    let mut sidecars = Amount::ZERO;
    let mut peak = Amount::ZERO;
    for container in init_containers(spec) {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = sidecars + of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    let regular = spec.containers.iter().fold(sidecars, |sum, container| sum + of(container));
    regular.max(peak)
}

/// Every container that runs beside others has this limit, or the pod itself has: only then does a sum of limits bind.
pub fn all_limited(pod: &Pod, name: &str) -> bool {
    let whole = pod.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let set = |limit: Option<Amount>| limit.is_some_and(|limit| limit > Amount::ZERO);
    set(amount(whole.and_then(|whole| whole.limits.as_ref()), name))
        || all_containers(pod).all(|container| set(of_container(container, Side::Limits, name)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::container::testing::pod;

    fn resources(requests: serde_json::Value, limits: serde_json::Value) -> serde_json::Value {
        json!({ "requests": requests, "limits": limits })
    }

    #[test]
    fn the_class_follows_from_every_container() {
        let of = |parts: &[serde_json::Value]| {
            let containers: Vec<_> =
                parts.iter().enumerate().map(|(n, r)| json!({"name": n.to_string(), "resources": r})).collect();
            class(&pod(json!({ "containers": containers })))
        };
        let full = resources(json!({"cpu": "1", "memory": "1Gi"}), json!({"cpu": "1000m", "memory": "1024Mi"}));
        assert_eq!(of(&[json!({})]), Qos::BestEffort);
        assert_eq!(of(std::slice::from_ref(&full)), Qos::Guaranteed);
        assert_eq!(of(&[resources(json!({}), json!({"cpu": "1", "memory": "1Gi"}))]), Qos::Guaranteed);
        assert_eq!(of(&[full, json!({})]), Qos::Burstable);
        assert_eq!(of(&[resources(json!({"cpu": "1m"}), json!({}))]), Qos::Burstable);
        assert_eq!(of(&[resources(json!({"cpu": "0"}), json!({}))]), Qos::BestEffort);
    }

    #[test]
    fn a_pod_needs_the_larger_of_its_two_lives() {
        let need = |cpu: &str| resources(json!({ "cpu": cpu }), json!({}));
        let pod = pod(json!({
            "initContainers": [
                {"name": "i1", "resources": need("500m")},
                {"name": "side", "restartPolicy": "Always", "resources": need("200m")},
                {"name": "i2", "resources": need("900m")}],
            "containers": [{"name": "a", "resources": need("300m")}, {"name": "b", "resources": need("400m")}]}));
        assert_eq!(of_pod(&pod, Side::Requests, "cpu"), Amount::millis(1_100));
    }
}
