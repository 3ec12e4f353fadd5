//! What a configuration asks for and this node does not do: said once, at the start.

use serde_json::Value;

use super::file::File;

/// Fields that would change something, and what is done instead. Fields that change nothing here by their nature (how a
/// kubelet talks to its runtime, how often it looks for what is told to us) are not listed.
const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("podPidsLimit", "pods may have as many processes as the node"),
    ("cpuCFSQuota", "cpu limits are always enforced"),
    ("cpuCFSQuotaPeriod", "the period is 100ms"),
    ("seccompDefault", "only containers that name a seccomp profile have one"),
    ("memorySwap.swapBehavior", "pods use no swap"),
    ("localStorageCapacityIsolation", "limits of ephemeral storage are always enforced"),
    ("userNamespaces.idsPerPod", "each pod has 65536 ids"),
    ("kernelMemcgNotification", "free memory is looked at every ten seconds"),
    ("systemReserved", "pods get the whole machine"),
    ("kubeReserved", "pods get the whole machine"),
    ("enforceNodeAllocatable", "pods get the whole machine"),
    ("shutdownGracePeriod", "pods are not stopped before the machine"),
    ("shutdownGracePeriodByPodPriority", "pods are not stopped before the machine"),
    ("registerNode", "the Node is always registered"),
    ("providerID", "the Node has none"),
    ("cpuManagerPolicy", "no container has cpus of its own"),
    ("memoryManagerPolicy", "memory is given from every NUMA node"),
    ("topologyManagerPolicy", "NUMA nodes are not looked at"),
    ("reservedSystemCPUs", "pods run on every cpu"),
    ("reservedMemory", "memory is given from every NUMA node"),
    ("qosReserved", "memory is reserved for no class of pods"),
    ("protectKernelDefaults", "the kernel's settings are set, not checked"),
    ("enableControllerAttachDetach", "volumes are attached by the cluster's controller"),
    ("imagePullCredentialsVerificationPolicy", "an image that is there is run without credentials"),
    ("registryPullQPS", "pulls are bounded by how many run at once"),
    ("tracing", "nothing is traced"),
    ("featureGates", "features are as in Kubernetes 1.36 and cannot be switched"),
    ("imageServiceEndpoint", "the runtime is the agent's own"),
    ("memoryReservationPolicy", "memory is not reserved by cgroups"),
];

/// One line for each field that asks for something else than what is done; `defaults` is a file without any field, filled.
pub(super) fn without_effect(file: &File, defaults: &File) -> Vec<String> {
    let (asked, default) = (shown(file), shown(defaults));
    let differs = |field: &str| value(&asked, field) != value(&default, field);
    let told = WITHOUT_EFFECT.iter().filter(|(field, _)| differs(field));
    told.map(|(field, instead)| format!("{field} has no effect here: {instead}")).collect()
}

/// A file as JSON. There is nothing in it that JSON has not.
pub(super) fn shown(file: &File) -> Value {
    serde_json::to_value(file).unwrap_or_default()
}

/// What is there and is not empty.
fn value<'a>(document: &'a Value, field: &str) -> Option<&'a Value> {
    let found = field.split('.').try_fold(document, |node, step| node.get(step))?;
    let empty = match found {
        Value::Null => true,
        Value::String(text) => text.is_empty() || text == "0s" || text == "NoSwap",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    };
    (!empty).then_some(found)
}
