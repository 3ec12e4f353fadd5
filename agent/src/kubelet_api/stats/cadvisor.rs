//! `/metrics/cadvisor`: the series that dashboards and rules of Kubernetes read, under cAdvisor's names.

use cri_proto::v1;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::machine::Interface;
use super::resource::unix;
use super::summary::of_runtime;
use super::{PodUsage, Usage, seconds, time, value};
use crate::metrics::{Exposition, Kind};
use crate::quantity::Amount;

/// One group: a container, or a pod without a container's name.
struct Group<'a> {
    id: String,
    container: &'a str,
    image: &'a str,
    name: &'a str,
    pod: &'a PodUsage,
    cpu: Option<&'a v1::CpuUsage>,
    memory: Option<&'a v1::MemoryUsage>,
    swap: Option<&'a v1::SwapUsage>,
}

/// A figure of a cgroup and when it was taken, in nanoseconds; 0 is now.
type OfGroup = fn(&Group) -> Option<(f64, i64)>;
/// A counter of an interface.
type OfInterface = fn(&Interface) -> u64;

pub(in super::super) fn text(usage: &Usage) -> String {
    let mut text = Exposition::default();
    let groups: Vec<Group> = usage.pods.iter().flat_map(groups).collect();
    let of_groups: [(&'static str, Kind, &'static str, OfGroup); 8] = [
        ("container_cpu_usage_seconds_total", Kind::Counter, "Cumulative cpu time consumed in seconds.", |group| {
            let cpu = group.cpu?;
            Some((seconds(value(cpu.usage_core_nano_seconds.as_ref())?), cpu.timestamp))
        }),
        (
            "container_memory_usage_bytes",
            Kind::Gauge,
            "Current memory usage in bytes, including all memory.",
            |group| memory(group, |memory| memory.usage_bytes.as_ref()),
        ),
        ("container_memory_working_set_bytes", Kind::Gauge, "Current working set in bytes.", |group| {
            memory(group, |memory| memory.working_set_bytes.as_ref())
        }),
        ("container_memory_rss", Kind::Gauge, "Size of RSS in bytes.", |group| {
            memory(group, |memory| memory.rss_bytes.as_ref())
        }),
        ("container_memory_swap", Kind::Gauge, "Container swap usage in bytes.", |group| {
            let swap = group.swap?;
            Some((value(swap.swap_usage_bytes.as_ref())? as f64, swap.timestamp))
        }),
        ("container_spec_memory_limit_bytes", Kind::Gauge, "Memory limit for the container.", |group| {
            limit(group, "memory").map(|bytes| (bytes, 0))
        }),
        ("container_spec_cpu_period", Kind::Gauge, "CPU period of the container.", |group| {
            limit(group, "cpu").map(|_| (PERIOD, 0))
        }),
        ("container_spec_cpu_quota", Kind::Gauge, "CPU quota of the container.", |group| {
            limit(group, "cpu").map(|cores| ((cores * PERIOD).round(), 0))
        }),
    ];
    for (name, kind, help, read) in of_groups {
        let mut family = text.family(name, kind, help);
        for group in &groups {
            let Some((number, at)) = read(group) else { continue };
            group.with_labels(|labels| match at {
                0 => family.add(labels, number),
                at => family.at(labels, number, time(at)),
            });
        }
    }
    started(&groups, &mut text);
    file_systems(usage, &groups, &mut text);
    network(usage, &mut text);
    machine(usage, &mut text);
    text.finish()
}

/// What the kubelet writes into `cpu.cfs_period_us`.
const PERIOD: f64 = 100_000.0;

fn groups(pod: &PodUsage) -> Vec<Group<'_>> {
    let whole = pod.linux().map(|linux| Group {
        id: format!("/kubepods/pod{}", pod.metadata().uid),
        container: "",
        image: "",
        name: "",
        pod,
        cpu: linux.cpu.as_ref(),
        memory: linux.memory.as_ref(),
        swap: None,
    });
    let each = pod.containers().map(|(container, stats)| {
        let name = stats.attributes.as_ref().map(|all| all.id.as_str()).unwrap_or_default();
        Group {
            id: format!("/kubepods/pod{}/{name}", pod.metadata().uid),
            container,
            image: pod.status(container).map(|status| status.image.as_str()).unwrap_or_default(),
            name,
            pod,
            cpu: stats.cpu.as_ref(),
            memory: stats.memory.as_ref(),
            swap: stats.swap.as_ref(),
        }
    });
    whole.into_iter().chain(each).collect()
}

impl Group<'_> {
    fn with_labels(&self, mut with: impl FnMut(&[(&str, &str)])) {
        let metadata = self.pod.metadata();
        with(&[
            ("container", self.container),
            ("id", &self.id),
            ("image", self.image),
            ("name", self.name),
            ("namespace", &metadata.namespace),
            ("pod", &metadata.name),
        ]);
    }
}

fn memory(group: &Group, read: fn(&v1::MemoryUsage) -> Option<&v1::UInt64Value>) -> Option<(f64, i64)> {
    let memory = group.memory?;
    Some((value(read(memory))? as f64, memory.timestamp))
}

/// A limit of the container in the pod's spec; `None` where there is none.
fn limit(group: &Group, resource: &str) -> Option<f64> {
    let spec = group.pod.view.as_ref()?.pod.spec.as_ref()?;
    let inits = spec.init_containers.as_deref().unwrap_or_default();
    let container = spec.containers.iter().chain(inits).find(|one| one.name == group.container)?;
    let Quantity(text) = container.resources.as_ref()?.limits.as_ref()?.get(resource)?;
    Amount::parse(text).ok().map(|amount| amount.ceil_millis() as f64 / 1e3)
}

fn started(groups: &[Group], text: &mut Exposition) {
    let help = "Start time of the container since unix epoch in seconds.";
    let mut family = text.family("container_start_time_seconds", Kind::Gauge, help);
    for group in groups.iter().filter(|group| !group.container.is_empty()) {
        if let Some(started) = group.pod.started(group.container) {
            group.with_labels(|labels| family.add(labels, unix(started)));
        }
    }
}

fn file_systems(usage: &Usage, groups: &[Group], text: &mut Exposition) {
    let help = "Number of bytes that are consumed by the container on this filesystem.";
    let mut family = text.family("container_fs_usage_bytes", Kind::Gauge, help);
    for group in groups.iter().filter(|group| !group.container.is_empty()) {
        let stats = group.pod.containers().find(|(name, _)| *name == group.container).map(|(_, stats)| stats);
        let Some(layer) = stats.and_then(|stats| stats.writable_layer.as_ref()) else { continue };
        if let Some(used) = value(layer.used_bytes.as_ref()) {
            group.with_labels(|labels| family.at(labels, used as f64, time(layer.timestamp)));
        }
    }
    let help = "Number of bytes that can be consumed by the container on this filesystem.";
    text.family("container_fs_limit_bytes", Kind::Gauge, help).at(
        &[("container", ""), ("id", "/")],
        usage.image_fs.capacity as f64,
        usage.machine.at,
    );
}

fn network(usage: &Usage, text: &mut Exposition) {
    let all: [(&'static str, &'static str, OfInterface); 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received.", |one| one.rx_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving.", |one| {
            one.rx_errors
        }),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted.", |one| one.tx_bytes),
        (
            "container_network_transmit_errors_total",
            "Cumulative count of errors encountered while transmitting.",
            |one| one.tx_errors,
        ),
    ];
    for (name, help, read) in all {
        let mut family = text.family(name, Kind::Counter, help);
        for pod in &usage.pods {
            let (metadata, network) = (pod.metadata(), pod.linux().and_then(|linux| linux.network.as_ref()));
            let Some(network) = network else { continue };
            for one in network.default_interface.iter().chain(&network.interfaces).map(of_runtime) {
                let id = format!("/kubepods/pod{}", metadata.uid);
                let labels = [
                    ("id", id.as_str()),
                    ("image", ""),
                    ("interface", &one.name),
                    ("name", ""),
                    ("namespace", &metadata.namespace),
                    ("pod", &metadata.name),
                ];
                family.at(&labels, read(&one) as f64, time(network.timestamp));
            }
        }
    }
}

fn machine(usage: &Usage, text: &mut Exposition) {
    let machine = &usage.machine;
    text.family("machine_cpu_cores", Kind::Gauge, "Number of logical CPU cores.").add(&[], machine.cores as f64);
    text.family("machine_memory_bytes", Kind::Gauge, "Amount of memory installed on the machine.")
        .add(&[], machine.memory.total as f64);
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::super::fixture::usage;
    use super::*;
    use crate::metrics::lint;

    #[test]
    fn the_text_has_cadvisors_names() {
        let text = text(&usage(10, 5));
        lint::check(&text);
        expect_file!["golden/cadvisor.txt"].assert_eq(&text);
    }
}
