use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
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
