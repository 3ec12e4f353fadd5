//! One look at a node with one pod.

use std::sync::Arc;

use cri_proto::v1;
use jiff::Timestamp;
use serde_json::json;

use super::machine::{Interface, Machine, Memory};
use super::{FileSystem, PodDisk, PodUsage, Usage};
use crate::resources::pressure::OnDisk;
use crate::view::PodView;
use crate::volumes::VolumeFigures;

fn number(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

/// At `second` after the start, with so many seconds of processor time used by everything.
pub(super) fn usage(second: i64, cpu_seconds: u64) -> Usage {
    let at = Timestamp::from_second(1_767_225_600 + second).unwrap();
    let (at_ns, cpu_ns) = (i64::try_from(at.as_nanosecond()).unwrap(), cpu_seconds * 1_000_000_000);
    let fs = FileSystem { capacity: 1_000, available: 300, used: 600, inodes: 100, inodes_free: 40 };
    let line = || Some(v1::PsiData { total: 5, avg10: 1.5, avg60: 0.5, avg300: 0.1 });
    let cpu = || v1::CpuUsage {
        timestamp: at_ns,
        usage_core_nano_seconds: number(cpu_ns),
        usage_nano_cores: None,
        psi: Some(v1::PsiStats { full: line(), some: line() }),
    };
    let memory = || v1::MemoryUsage {
        timestamp: at_ns,
        working_set_bytes: number(700),
        usage_bytes: number(900),
        rss_bytes: number(500),
        page_faults: number(9),
        major_page_faults: number(1),
        ..v1::MemoryUsage::default()
    };
    let container = v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: "c0ffee".into(),
            metadata: Some(v1::ContainerMetadata { name: "main".into(), attempt: 0 }),
            ..v1::ContainerAttributes::default()
        }),
        cpu: Some(cpu()),
        memory: Some(memory()),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: at_ns,
            used_bytes: number(4_096),
            inodes_used: number(2),
            ..v1::FilesystemUsage::default()
        }),
        swap: Some(v1::SwapUsage { timestamp: at_ns, swap_usage_bytes: number(0), swap_available_bytes: None }),
        io: None,
    };
    let eth0 = v1::NetworkInterfaceUsage {
        name: "eth0".into(),
        rx_bytes: number(11),
        rx_errors: number(0),
        tx_bytes: number(22),
        tx_errors: number(1),
    };
    let stats = v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            metadata: Some(v1::PodSandboxMetadata {
                name: "web".into(),
                namespace: "shop".into(),
                uid: "u1".into(),
                attempt: 0,
            }),
            ..v1::PodSandboxAttributes::default()
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            cpu: Some(cpu()),
            memory: Some(memory()),
            network: Some(v1::NetworkUsage { timestamp: at_ns, default_interface: Some(eth0), interfaces: Vec::new() }),
            process: Some(v1::ProcessUsage { timestamp: at_ns, process_count: number(3) }),
            containers: vec![container],
            io: None,
        }),
        windows: None,
    };
    let eth0 = Interface { name: "eth0".into(), rx_bytes: 1, rx_errors: 2, tx_bytes: 3, tx_errors: 4 };
    Usage {
        node: "n1".into(),
        machine: Machine {
            at,
            booted: Timestamp::from_second(1_767_000_000).unwrap(),
            cores: 2,
            cpu_ns,
            memory: Memory { total: 4_000, usage: 3_000, working_set: 2_000, rss: 1_000, swap_total: 0, swap_used: 0 },
            interfaces: vec![eth0],
            primary: Some("eth0".into()),
            processes: 50,
            most_processes: 32_768,
        },
        kubelet_fs: fs,
        image_fs: fs,
        image_bytes: Some(250),
        pods: vec![PodUsage { stats, view: Some(view()), disk: Some(Arc::new(disk(at))) }],
    }
}

fn disk(at: Timestamp) -> PodDisk {
    let volume = |name: &str, is_ephemeral| VolumeFigures {
        name: name.into(),
        is_ephemeral,
        used: 8_192,
        inodes_used: 3,
        capacity: 1_000,
        available: 300,
        inodes: 100,
        inodes_free: 40,
    };
    let logs = [("main".to_owned(), OnDisk { bytes: 2_048, inodes: 2 })].into();
    PodDisk { at, volumes: vec![volume("data", false), volume("scratch", true)], logs }
}

fn view() -> PodView {
    let started = "2026-01-01T00:00:00Z";
    let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": {"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "disk"}}], "containers": [
        {"name": "main", "image": "busybox", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}]}});
    let status = json!({"startTime": started, "containerStatuses": [{"name": "main", "image": "busybox:1", "imageID": "",
        "ready": true, "restartCount": 0, "state": {"running": {"startedAt": started}}}]});
    PodView {
        pod: Arc::new(serde_json::from_value(pod).unwrap()),
        status: serde_json::from_value(status).unwrap(),
        started_in: None,
        stopping: false,
    }
}
