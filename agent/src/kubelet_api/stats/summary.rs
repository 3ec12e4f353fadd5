//! `/stats/summary` (node.md, section 11). What is not known is left out.

use cri_proto::v1;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::machine::Interface;
use super::rates::Look;
use super::volumes::claim;
use super::{FileSystem, PodDisk, PodUsage, Rates, Usage, time, value};
use crate::volumes::VolumeFigures;

/// The document; with `only_cpu_and_memory` nothing else.
pub(in super::super) fn document(usage: &Usage, rates: &Rates, only_cpu_and_memory: bool) -> Value {
    let mut look = rates.look();
    let mut node = node(usage, &mut look);
    let mut pods: Vec<Value> = usage.pods.iter().map(|pod| of_pod(pod, usage, &mut look)).collect();
    if only_cpu_and_memory {
        keep(&mut node, &["nodeName", "systemContainers", "startTime", "cpu", "memory"]);
        for pod in &mut pods {
            keep(pod, &["podRef", "startTime", "containers", "cpu", "memory"]);
            for container in pod["containers"].as_array_mut().into_iter().flatten() {
                keep(container, &["name", "startTime", "cpu", "memory"]);
            }
        }
    }
    json!({"node": node, "pods": pods})
}

fn keep(object: &mut Value, names: &[&str]) {
    if let Some(object) = object.as_object_mut() {
        object.retain(|name, _| names.contains(&name.as_str()));
    }
}

/// Without the members that are not known.
fn known(mut object: Value) -> Value {
    if let Some(object) = object.as_object_mut() {
        object.retain(|_, value| !value.is_null());
    }
    object
}

fn node(usage: &Usage, look: &mut Look) -> Value {
    let (machine, at) = (&usage.machine, stamp(usage.machine.at));
    let memory = machine.memory;
    let at_ns = i64::try_from(machine.at.as_nanosecond()).unwrap_or_default();
    let interfaces: Vec<Value> = machine.interfaces.iter().map(interface).collect();
    let primary = machine.interfaces.iter().find(|one| machine.primary.as_ref() == Some(&one.name));
    let mut network = json!({"time": at, "interfaces": interfaces});
    extend(&mut network, primary.map(interface));
    let containers: u64 =
        usage.pods.iter().flat_map(PodUsage::containers).filter_map(|(_, stats)| written(stats)).sum();
    known(json!({
        "nodeName": usage.node,
        "systemContainers": [pods_together(usage)],
        "startTime": stamp(machine.booted),
        "cpu": known(json!({
            "time": at,
            "usageNanoCores": look.rate("node".to_owned(), at_ns, machine.cpu_ns),
            "usageCoreNanoSeconds": machine.cpu_ns,
        })),
        "memory": {
            "time": at,
            "availableBytes": memory.total.saturating_sub(memory.working_set),
            "usageBytes": memory.usage,
            "workingSetBytes": memory.working_set,
            "rssBytes": memory.rss,
        },
        "swap": {
            "time": at,
            "swapAvailableBytes": memory.swap_total.saturating_sub(memory.swap_used),
            "swapUsageBytes": memory.swap_used,
        },
        "network": network,
        "fs": file_system(&at, usage.kubelet_fs, usage.kubelet_fs.used, true),
        "runtime": {
            "imageFs": file_system(&at, usage.image_fs, usage.image_bytes.unwrap_or(usage.image_fs.used), true),
            "containerFs": file_system(&at, usage.image_fs, containers, true),
        },
        "rlimit": {"time": at, "maxpid": machine.most_processes, "curproc": machine.processes},
    }))
}

/// The entry of all pods: what is left for them is judged by it.
fn pods_together(usage: &Usage) -> Value {
    let (mut cpu, mut working_set, mut rss) = (0, 0, 0);
    for linux in usage.pods.iter().filter_map(PodUsage::linux) {
        cpu += linux.cpu.as_ref().and_then(|cpu| value(cpu.usage_core_nano_seconds.as_ref())).unwrap_or(0);
        let memory = linux.memory.as_ref();
        working_set += memory.and_then(|memory| value(memory.working_set_bytes.as_ref())).unwrap_or(0);
        rss += memory.and_then(|memory| value(memory.rss_bytes.as_ref())).unwrap_or(0);
    }
    let at = stamp(usage.machine.at);
    let available = usage.machine.memory.total.saturating_sub(working_set);
    json!({
        "name": "pods",
        "startTime": stamp(usage.machine.booted),
        "cpu": {"time": at, "usageCoreNanoSeconds": cpu},
        "memory": {"time": at, "availableBytes": available, "workingSetBytes": working_set, "rssBytes": rss},
    })
}

fn of_pod(pod: &PodUsage, usage: &Usage, look: &mut Look) -> Value {
    let metadata = pod.metadata();
    let mut all = Vec::new();
    for (name, stats) in pod.containers() {
        all.push(container(pod, name, stats, usage, look));
    }
    let linux = pod.linux();
    let process =
        linux.and_then(|linux| linux.process.as_ref()).and_then(|process| value(process.process_count.as_ref()));
    known(json!({
        "podRef": {"name": metadata.name, "namespace": metadata.namespace, "uid": metadata.uid},
        "startTime": pod.pod_started().map(stamp),
        "containers": all,
        "cpu": linux.and_then(|linux| linux.cpu.as_ref()).map(|usage| cpu(usage, &metadata.uid, look)),
        "memory": linux.and_then(|linux| linux.memory.as_ref()).map(memory),
        "io": linux.and_then(|linux| linux.io.as_ref()).map(io),
        "network": linux.and_then(|linux| linux.network.as_ref()).map(network),
        "volume": pod.disk.as_ref().map(|disk| volumes(pod, disk)).filter(|all| !all.is_empty()),
        "ephemeral-storage": ephemeral(pod, usage),
        "process_stats": process.map(|count| json!({"process_count": count})),
    }))
}

fn container(pod: &PodUsage, name: &str, stats: &v1::ContainerStats, usage: &Usage, look: &mut Look) -> Value {
    let id = stats.attributes.as_ref().map(|all| all.id.clone()).unwrap_or_default();
    let layer = stats.writable_layer.as_ref();
    let rootfs = layer.map(|layer| {
        let mut rootfs = file_system(&stamp(time(layer.timestamp)), usage.image_fs, written(stats).unwrap_or(0), false);
        extend(&mut rootfs, value(layer.inodes_used.as_ref()).map(|inodes| json!({"inodesUsed": inodes})));
        rootfs
    });
    known(json!({
        "name": name,
        "startTime": pod.started(name).map(stamp),
        "cpu": stats.cpu.as_ref().map(|usage| cpu(usage, &id, look)),
        "memory": stats.memory.as_ref().map(memory),
        "io": stats.io.as_ref().map(io),
        "swap": stats.swap.as_ref().map(|swap| known(json!({
            "time": stamp(time(swap.timestamp)),
            "swapAvailableBytes": value(swap.swap_available_bytes.as_ref()),
            "swapUsageBytes": value(swap.swap_usage_bytes.as_ref()),
        }))),
        "rootfs": rootfs,
        "logs": pod.disk.as_ref().and_then(|disk| Some((disk, disk.logs.get(name)?))).map(|(disk, held)| {
            let mut logs = file_system(&stamp(disk.at), usage.kubelet_fs, held.bytes, false);
            extend(&mut logs, Some(json!({"inodesUsed": held.inodes})));
            logs
        }),
    }))
}

fn volumes(pod: &PodUsage, disk: &PodDisk) -> Vec<Value> {
    let one = |volume: &VolumeFigures| {
        let claim = pod.view.as_ref().and_then(|view| claim(&view.pod, &volume.name));
        known(json!({
            "name": volume.name,
            "time": stamp(disk.at),
            "pvcRef": claim.map(|name| json!({"name": name, "namespace": pod.metadata().namespace})),
            "availableBytes": volume.available,
            "capacityBytes": volume.capacity,
            "usedBytes": volume.used,
            "inodes": volume.inodes,
            "inodesFree": volume.inodes_free,
            "inodesUsed": volume.inodes_used,
        }))
    };
    disk.volumes.iter().map(one).collect()
}

/// Everything of the pod that is on the node's own disk: what containers wrote beside their images, logs, volumes.
fn ephemeral(pod: &PodUsage, usage: &Usage) -> Value {
    let layers = pod.containers().filter_map(|(_, stats)| stats.writable_layer.as_ref());
    let (mut bytes, mut inodes) = layers.fold((0, 0), |(bytes, inodes), layer| {
        let of = |number| value(number).unwrap_or(0);
        (bytes + of(layer.used_bytes.as_ref()), inodes + of(layer.inodes_used.as_ref()))
    });
    if let Some(disk) = &pod.disk {
        let logs = disk.logs.values().map(|held| (held.bytes, held.inodes));
        let volumes = disk.volumes.iter().filter(|volume| volume.is_ephemeral);
        for (used, count) in logs.chain(volumes.map(|volume| (volume.used, volume.inodes_used))) {
            (bytes, inodes) = (bytes + used, inodes + count);
        }
    }
    let mut shown = file_system(&stamp(usage.machine.at), usage.kubelet_fs, bytes, false);
    extend(&mut shown, Some(json!({"inodesUsed": inodes})));
    shown
}

fn cpu(usage: &v1::CpuUsage, counter: &str, look: &mut Look) -> Value {
    let used = value(usage.usage_core_nano_seconds.as_ref());
    known(json!({
        "time": stamp(time(usage.timestamp)),
        "usageNanoCores": used.and_then(|used| look.rate(counter.to_owned(), usage.timestamp, used)),
        "usageCoreNanoSeconds": used,
        "psi": usage.psi.as_ref().map(psi),
    }))
}

fn memory(usage: &v1::MemoryUsage) -> Value {
    known(json!({
        "time": stamp(time(usage.timestamp)),
        "availableBytes": value(usage.available_bytes.as_ref()),
        "usageBytes": value(usage.usage_bytes.as_ref()),
        "workingSetBytes": value(usage.working_set_bytes.as_ref()),
        "rssBytes": value(usage.rss_bytes.as_ref()),
        "pageFaults": value(usage.page_faults.as_ref()),
        "majorPageFaults": value(usage.major_page_faults.as_ref()),
        "psi": usage.psi.as_ref().map(psi),
    }))
}

fn io(usage: &v1::IoUsage) -> Value {
    known(json!({"time": stamp(time(usage.timestamp)), "psi": usage.psi.as_ref().map(psi)}))
}

fn psi(stats: &v1::PsiStats) -> Value {
    let line = |line: &v1::PsiData| json!({"total": line.total, "avg10": line.avg10, "avg60": line.avg60, "avg300": line.avg300});
    known(json!({"full": stats.full.as_ref().map(line), "some": stats.some.as_ref().map(line)}))
}

fn network(usage: &v1::NetworkUsage) -> Value {
    let own = usage.default_interface.as_ref().map(|one| interface(&of_runtime(one)));
    let others = usage.interfaces.iter().map(|one| interface(&of_runtime(one)));
    let all: Vec<Value> = own.clone().into_iter().chain(others).collect();
    let mut network = json!({"time": stamp(time(usage.timestamp)), "interfaces": all});
    extend(&mut network, own);
    network
}

pub(super) fn of_runtime(one: &v1::NetworkInterfaceUsage) -> Interface {
    let number = |number: Option<&v1::UInt64Value>| value(number).unwrap_or(0);
    Interface {
        name: one.name.clone(),
        rx_bytes: number(one.rx_bytes.as_ref()),
        rx_errors: number(one.rx_errors.as_ref()),
        tx_bytes: number(one.tx_bytes.as_ref()),
        tx_errors: number(one.tx_errors.as_ref()),
    }
}

fn interface(one: &Interface) -> Value {
    json!({
        "name": one.name,
        "rxBytes": one.rx_bytes,
        "rxErrors": one.rx_errors,
        "txBytes": one.tx_bytes,
        "txErrors": one.tx_errors,
    })
}

fn file_system(at: &str, fs: FileSystem, used: u64, with_inodes: bool) -> Value {
    let mut shown = json!({
        "time": at,
        "availableBytes": fs.available,
        "capacityBytes": fs.capacity,
        "usedBytes": used,
        "inodes": fs.inodes,
        "inodesFree": fs.inodes_free,
    });
    let inodes = json!({"inodesUsed": fs.inodes.saturating_sub(fs.inodes_free)});
    extend(&mut shown, with_inodes.then_some(inodes));
    shown
}

fn written(stats: &v1::ContainerStats) -> Option<u64> {
    value(stats.writable_layer.as_ref()?.used_bytes.as_ref())
}

fn extend(object: &mut Value, more: Option<Value>) {
    if let (Some(object), Some(Value::Object(more))) = (object.as_object_mut(), more) {
        object.extend::<Map<_, _>>(more);
    }
}

/// Whole seconds, as Kubernetes writes times.
fn stamp(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

#[cfg(test)]
mod tests {
    use expect_test::expect_file;

    use super::super::fixture::usage;
    use super::*;

    #[test]
    fn the_document_has_the_kubelets_fields() {
        let rates = Rates::default();
        document(&usage(0, 0), &rates, false);
        let shown = serde_json::to_string_pretty(&document(&usage(10, 5), &rates, false)).unwrap();
        expect_file!["golden/summary.json"].assert_eq(&(shown + "\n"));
    }

    #[test]
    fn cpu_and_memory_alone_are_all_there_is_when_they_are_asked_for() {
        let shown = document(&usage(0, 0), &Rates::default(), true);
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&shown["node"]), "cpu memory nodeName startTime systemContainers");
        assert_eq!(names(&shown["pods"][0]), "containers cpu memory podRef startTime");
        assert_eq!(names(&shown["pods"][0]["containers"][0]), "cpu memory name startTime");
    }
}
