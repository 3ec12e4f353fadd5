//! What the API's selectors take: objects by their labels, nodes by labels and name. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels of an object.
pub(crate) type Labels = BTreeMap<String, String>;

/// All of a label selector; an empty one takes everything.
pub(crate) fn takes(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|requirement| {
            let values = requirement.values.as_deref().unwrap_or_default();
            holds(&requirement.operator, values, labels.get(&requirement.key).map(String::as_str))
        })
}

/// Any one of a node selector's terms.
pub(crate) fn takes_node(selector: &NodeSelector, name: Option<&str>, labels: &Labels) -> bool {
    selector.node_selector_terms.iter().any(|term| term_takes(term, name, labels))
}

/// A term that asks for nothing takes nothing.
fn term_takes(term: &NodeSelectorTerm, name: Option<&str>, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let label = |one: &NodeSelectorRequirement| of_node(one, labels.get(&one.key).map(String::as_str));
    // The one field there is.
    let field = |one: &NodeSelectorRequirement| one.key == "metadata.name" && of_node(one, name);
    !(expressions.is_empty() && fields.is_empty()) && expressions.iter().all(label) && fields.iter().all(field)
}

fn of_node(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
    let numbers = || number(value).zip(number(values.first().map(String::as_str)));
    match requirement.operator.as_str() {
        "Gt" => numbers().is_some_and(|(has, bound)| has > bound),
        "Lt" => numbers().is_some_and(|(has, bound)| has < bound),
        operator => holds(operator, values, value),
    }
}

/// An operator that is not known holds for nothing.
fn holds(operator: &str, values: &[String], value: Option<&str>) -> bool {
    let listed = || value.is_some_and(|value| values.iter().any(|one| one == value));
    match operator {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}
