//! Which page size an emptyDir in huge pages has: from the pod's requests, as the kubelet finds it.

use k8s_openapi::api::core::v1::PodSpec;

use super::SetUpError;
use crate::quantity::Amount;

const MEDIUM: &str = "HugePages";
const RESOURCE: &str = "hugepages-";

/// `medium` is `HugePages` or `HugePages-<size>`.
pub(super) fn is_medium(medium: &str) -> bool {
    medium.strip_prefix(MEDIUM).is_some_and(|rest| {
        rest.is_empty()
            || rest.strip_prefix('-').is_some_and(|size| Amount::parse(size).is_ok_and(|size| size > Amount::ZERO))
    })
}

/// Bytes of one page. A volume in huge pages is only for pods that request such pages.
pub(super) fn page_size(medium: &str, spec: &PodSpec) -> Result<u64, SetUpError> {
    let asked = medium.strip_prefix(MEDIUM).and_then(|rest| rest.strip_prefix('-'));
    let asked = asked.and_then(|size| Amount::parse(size).ok());
    let mut sizes: Vec<Amount> = requested(spec).filter(|size| asked.is_none_or(|asked| asked == *size)).collect();
    sizes.sort();
    sizes.dedup();
    match sizes.as_slice() {
        [size] => Ok(size.ceil_units()),
        [] => Err(SetUpError::Unsupported(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        ))),
        _ => Err(SetUpError::Unsupported(format!(
            "medium: {medium} can't be used if container requests multiple huge page sizes"
        ))),
    }
}

/// Page sizes that the pod or one of its containers asks for. Requests and limits of huge pages are the same.
fn requested(spec: &PodSpec) -> impl Iterator<Item = Amount> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let lists = containers.filter_map(|container| container.resources.as_ref()).chain(spec.resources.as_ref());
    let names =
        lists.flat_map(|resources| resources.requests.iter().chain(&resources.limits)).flat_map(|list| list.keys());
    names.filter_map(|name| Amount::parse(name.strip_prefix(RESOURCE)?).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(medium: &str, limits: &[&str]) -> String {
        let containers: Vec<_> =
            limits.iter().map(|name| json!({"name": "c", "resources": {"limits": {*name: "4Mi"}}})).collect();
        let spec = serde_json::from_value(json!({"containers": containers})).unwrap();
        page_size(medium, &spec).map_or_else(|error| error.to_string(), |size| size.to_string())
    }

    #[test]
    fn the_page_size_is_the_one_that_the_pod_requests() {
        assert_eq!(found("HugePages", &["hugepages-2Mi", "memory", "hugepages-2048Ki"]), "2097152");
        assert_eq!(found("HugePages-1Gi", &["hugepages-2Mi", "hugepages-1Gi"]), "1073741824");
        assert_eq!(
            found("HugePages", &["hugepages-2Mi", "hugepages-1Gi"]),
            "medium: HugePages can't be used if container requests multiple huge page sizes"
        );
        assert_eq!(
            found("HugePages-2Mi", &["hugepages-1Gi"]),
            "medium HugePages-2Mi: hugePages storage requested, but there is no resource request for huge pages"
        );
        assert!(is_medium("HugePages") && is_medium("HugePages-2Mi"));
        assert!(!is_medium("HugePages-") && !is_medium("HugePages-x") && !is_medium("Memory"));
    }
}
