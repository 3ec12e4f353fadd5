//! `/metrics`: what the agent itself does, under the kubelet's names, and what only this agent has under its own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use procfs::process::Process;

use super::requests::Requests;
use super::stats::{self, PodDisks};
use crate::cluster::VERSION;
use crate::metrics::{Exposition, Figures, Kind};
use crate::names::PodUid;
use crate::node::Handle;
use crate::view::PodView;

pub(super) fn text(node: &Handle, disks: &PodDisks, calls: &Figures, requests: &Requests) -> String {
    let mut text = Exposition::default();
    text.family("kubernetes_build_info", Kind::Gauge, "The version of Kubernetes that this node behaves like.")
        .add(&[("git_version", VERSION)], 1.0);
    text.family("kubelet_node_name", Kind::Gauge, "The node's name. The count is always 1.")
        .add(&[("node", &node.config.node_name)], 1.0);
    let views = node.views.borrow().clone();
    pods(&views, &mut text);
    queues(node, &mut text);
    stats::volumes::write(&views, disks, &mut text);
    node.figures.write(&mut text);
    calls.write(&mut text);
    requests.write(&mut text);
    process(&mut text);
    text.finish()
}

/// What waits, and what is under way.
fn queues(node: &Handle, text: &mut Exposition) {
    let help = "Steps of pods that are under way, by their kind.";
    let mut family = text.family("longshore_pod_steps_under_way", Kind::Gauge, help);
    for (step, count) in node.timelines.under_way() {
        family.add(&[("step", step)], count as f64);
    }
    let help = "Pulls of images that were asked for and have not ended, those that wait for their turn among them.";
    text.family("longshore_image_pulls_wanted", Kind::Gauge, help).add(&[], node.images.wanted() as f64);
}

/// A question about a pod.
type Is<'a> = &'a dyn Fn(&PodView) -> bool;

fn pods(views: &BTreeMap<PodUid, PodView>, text: &mut Exposition) {
    let count = |is: Is| views.values().filter(|view| is(view)).count() as f64;
    let ended = |status: &PodStatus| matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    text.family("kubelet_desired_pods", Kind::Gauge, "The number of pods the kubelet is being instructed to run.")
        .add(&[], count(&|view| !view.stopping && !ended(&view.status)));
    text.family("kubelet_active_pods", Kind::Gauge, "The number of pods the kubelet considers active.")
        .add(&[], count(&|view| !ended(&view.status)));
    let is_mirrored = |view: &PodView| {
        let annotations = view.pod.metadata.annotations.as_ref();
        annotations.is_some_and(|all| all.get("kubernetes.io/config.source").is_some_and(|source| source != "api"))
    };
    text.family(
        "kubelet_mirror_pods",
        Kind::Gauge,
        "The number of static pods, which the cluster is shown mirrors of.",
    )
    .add(&[], count(&|view| is_mirrored(view)));
    let mut family =
        text.family("kubelet_working_pods", Kind::Gauge, "Pods by where they come from and how far they are.");
    for (config, is_static) in [("desired", false), ("desired", true)] {
        let here = |view: &PodView| is_mirrored(view) == is_static;
        let lifecycles: [(&str, Is); 3] = [
            ("sync", &|view| !view.stopping && !ended(&view.status)),
            ("terminating", &|view| view.stopping),
            ("terminated", &|view| !view.stopping && ended(&view.status)),
        ];
        for (lifecycle, is) in lifecycles {
            let labels =
                [("config", config), ("lifecycle", lifecycle), ("static", if is_static { "true" } else { "false" })];
            family.add(&labels, count(&|view| here(view) && is(view)));
        }
    }
    text.family("kubelet_running_pods", Kind::Gauge, "Number of pods that have a running pod sandbox.")
        .add(&[], count(&|view| view.status.phase.as_deref() == Some("Running")));
    let mut states = BTreeMap::from([("created", 0_u32), ("exited", 0), ("running", 0)]);
    for container in views.values().flat_map(|view| containers(&view.status)) {
        *states.entry(state(container)).or_default() += 1;
    }
    let mut family = text.family("kubelet_running_containers", Kind::Gauge, "Number of containers, by their state.");
    states.iter().for_each(|(state, count)| family.add(&[("container_state", state)], f64::from(*count)));
    let help = "From the moment a pod was first wanted to all of its containers running.";
    let mut family = text.family("longshore_pod_start_seconds", Kind::Gauge, help);
    for view in views.values() {
        let metadata = &view.pod.metadata;
        let (Some(name), Some(took)) = (&metadata.name, view.started_in) else { continue };
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        // Two pods of one name meet when one of them is on its way out.
        if !view.stopping {
            family.add(&[("namespace", namespace), ("pod", name)], took.as_secs_f64());
        }
    }
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().filter_map(Option::as_deref).flatten()
}

fn state(container: &ContainerStatus) -> &'static str {
    match &container.state {
        Some(state) if state.running.is_some() => "running",
        Some(state) if state.terminated.is_some() => "exited",
        _ => "created",
    }
}

/// As every program that Prometheus knows describes itself.
fn process(text: &mut Exposition) {
    let Some((process, stat)) = Process::myself().ok().and_then(|own| own.stat().ok().map(|stat| (own, stat))) else {
        return;
    };
    let ticks = procfs::ticks_per_second() as f64;
    let gauge = |text: &mut Exposition, name, help, value| text.family(name, Kind::Gauge, help).add(&[], value);
    text.family("process_cpu_seconds_total", Kind::Counter, "Total user and system CPU time spent in seconds.")
        .add(&[], (stat.utime + stat.stime) as f64 / ticks);
    let resident = stat.rss.saturating_mul(procfs::page_size()) as f64;
    gauge(text, "process_resident_memory_bytes", "Resident memory size in bytes.", resident);
    gauge(text, "process_virtual_memory_bytes", "Virtual memory size in bytes.", stat.vsize as f64);
    if let Ok(open) = process.fd_count() {
        gauge(text, "process_open_fds", "Number of open file descriptors.", open as f64);
    }
    if let Ok(booted) = procfs::boot_time_secs() {
        let started = booted as f64 + stat.starttime as f64 / ticks;
        let help = "Start time of the process since unix epoch in seconds.";
        gauge(text, "process_start_time_seconds", help, started);
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::metrics::lint;

    #[test]
    fn pods_and_containers_are_counted_by_their_state() {
        let view = |uid: &str, phase: &str, state: serde_json::Value, stopping: bool| {
            let pod = json!({"metadata": {"name": "web", "namespace": "shop", "uid": uid}});
            let status = json!({"phase": phase, "containerStatuses": [
                {"name": "a", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state}]});
            let view = PodView {
                pod: std::sync::Arc::new(serde_json::from_value(pod).unwrap()),
                status: serde_json::from_value(status).unwrap(),
                started_in: Some(std::time::Duration::from_millis(1_500)),
                stopping,
            };
            (PodUid::try_from(uid.to_owned()).unwrap(), view)
        };
        let views = BTreeMap::from([
            view("u1", "Running", json!({"running": {}}), false),
            view("u2", "Running", json!({"running": {}}), true),
            view("u3", "Failed", json!({"terminated": {"exitCode": 1}}), true),
        ]);
        let mut text = Exposition::default();
        pods(&views, &mut text);
        process(&mut text);
        let text = text.finish();
        lint::check(&text);
        let own: String = text
            .lines()
            .filter(|line| !line.contains("process_") && !line.starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        expect![[r#"
            kubelet_desired_pods 1
            kubelet_active_pods 2
            kubelet_mirror_pods 0
            kubelet_working_pods{config="desired",lifecycle="sync",static="false"} 1
            kubelet_working_pods{config="desired",lifecycle="terminating",static="false"} 2
            kubelet_working_pods{config="desired",lifecycle="terminated",static="false"} 0
            kubelet_working_pods{config="desired",lifecycle="sync",static="true"} 0
            kubelet_working_pods{config="desired",lifecycle="terminating",static="true"} 0
            kubelet_working_pods{config="desired",lifecycle="terminated",static="true"} 0
            kubelet_running_pods 2
            kubelet_running_containers{container_state="created"} 0
            kubelet_running_containers{container_state="exited"} 1
            kubelet_running_containers{container_state="running"} 2
            longshore_pod_start_seconds{namespace="shop",pod="web"} 1.5
        "#]]
        .assert_eq(&own);
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
