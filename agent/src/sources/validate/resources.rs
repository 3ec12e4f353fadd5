use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Report;
use crate::quantity::Amount;

/// Requests and limits: readable, known, not negative, and no limit below its request.
pub(super) fn check(resources: Option<&ResourceRequirements>, field: &str, report: &mut Report) {
    let Some(resources) = resources else { return };
    let at = format!("{field}.resources");
    report.refuse(resources.claims.as_ref().is_some_and(|claims| !claims.is_empty()), format!("{at}.claims"));
    let limits = amounts(resources.limits.as_ref(), &format!("{at}.limits"), report);
    let requests = amounts(resources.requests.as_ref(), &format!("{at}.requests"), report);
    for (name, request) in requests {
        let Some(limit) = limits.get(name) else { continue };
        report.check(request <= *limit, format!("{at}.requests.{name}"), || {
            let shown = |list: &Option<BTreeMap<String, Quantity>>| {
                list.as_ref().and_then(|list| list.get(name)).map(|quantity| quantity.0.clone()).unwrap_or_default()
            };
            let (request, limit) = (shown(&resources.requests), shown(&resources.limits));
            format!("{request} is more than the limit of {limit}; raise the limit or lower the request")
        });
    }
}

/// A pod's own resources: only some kinds, and room for what its containers ask for.
pub(super) fn whole(spec: &PodSpec, report: &mut Report) {
    let Some(whole) = &spec.resources else { return };
    for (list, side) in [(&whole.requests, "requests"), (&whole.limits, "limits")] {
        for name in list.iter().flatten().map(|(name, _)| name) {
            let fine = matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
            report.check(fine, format!("spec.resources.{side}.{name}"), || {
                "not a resource of whole pods; cpu, memory and hugepages-<size> are".to_owned()
            });
        }
    }
    for name in ["cpu", "memory"] {
        let of = |list: &Option<BTreeMap<String, Quantity>>| Amount::try_from(list.as_ref()?.get(name)?).ok();
        let asked = |container: &Container| container.resources.as_ref().and_then(|own| of(&own.requests));
        let sum = spec.containers.iter().filter_map(asked).fold(Amount::ZERO, |sum, own| sum + own);
        let field = || format!("spec.resources.requests.{name}");
        report.check(of(&whole.requests).is_none_or(|all| sum <= all), field(), || {
            "is less than its containers request together".to_owned()
        });
        let Some(limit) = of(&whole.limits) else { continue };
        for (index, container) in spec.containers.iter().enumerate() {
            let own = container.resources.as_ref().and_then(|own| of(&own.limits));
            let field = format!("spec.containers[{index}].resources.limits.{name}");
            report.check(own.is_none_or(|own| own <= limit), field, || "is more than the limit of the pod".to_owned());
        }
    }
}

fn amounts<'a>(
    list: Option<&'a BTreeMap<String, Quantity>>,
    field: &str,
    report: &mut Report,
) -> BTreeMap<&'a str, Amount> {
    let mut amounts = BTreeMap::new();
    for (name, quantity) in list.into_iter().flatten() {
        let at = format!("{field}.{name}");
        report.check(is_known(name), at.clone(), || {
            "not a resource this agent has on its own; cpu, memory, ephemeral-storage and hugepages-<size> are"
                .to_owned()
        });
        match Amount::try_from(quantity) {
            Ok(amount) if amount.is_negative() => report.add(at, "must not be negative"),
            Ok(amount) => {
                amounts.insert(name.as_str(), amount);
            }
            Err(error) => report.add(at, error.to_string()),
        }
    }
    amounts
}

fn is_known(name: &str) -> bool {
    let hugepages = name.strip_prefix("hugepages-").is_some_and(|size| Amount::parse(size).is_ok());
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || hugepages
}
