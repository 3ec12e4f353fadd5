//! `/metrics/resource`: what metrics-server reads, each value with the moment at which it was measured.

use jiff::Timestamp;

use super::{PodUsage, Usage, seconds, time, value};
use crate::metrics::{Exposition, Kind};

/// The text; without `usage` only that there is none.
pub(in super::super) fn text(usage: Option<&Usage>) -> String {
    let mut text = Exposition::default();
    if let Some(usage) = usage {
        node(usage, &mut text);
        containers(usage, &mut text);
        pods(usage, &mut text);
    }
    let failed = if usage.is_some() { 0.0 } else { 1.0 };
    for name in ["resource_scrape_error", "scrape_error"] {
        text.family(name, Kind::Gauge, "1 if there was an error while getting container metrics, 0 otherwise")
            .add(&[], failed);
    }
    text.finish()
}

fn node(usage: &Usage, text: &mut Exposition) {
    let (machine, at) = (&usage.machine, usage.machine.at);
    text.family(
        "node_cpu_usage_seconds_total",
        Kind::Counter,
        "Cumulative cpu time consumed by the node in core-seconds",
    )
    .at(&[], seconds(machine.cpu_ns), at);
    text.family("node_memory_working_set_bytes", Kind::Gauge, "Current working set of the node in bytes").at(
        &[],
        machine.memory.working_set as f64,
        at,
    );
    text.family("node_swap_usage_bytes", Kind::Gauge, "Current swap usage of the node in bytes").at(
        &[],
        machine.memory.swap_used as f64,
        at,
    );
}

fn containers(usage: &Usage, text: &mut Exposition) {
    type Read = fn(&cri_proto::v1::ContainerStats) -> Option<(f64, i64)>;
    let all: [(&'static str, Kind, &'static str, Read); 3] = [
        (
            "container_cpu_usage_seconds_total",
            Kind::Counter,
            "Cumulative cpu time consumed by the container in core-seconds",
            |stats| {
                let cpu = stats.cpu.as_ref()?;
                Some((seconds(value(cpu.usage_core_nano_seconds.as_ref())?), cpu.timestamp))
            },
        ),
        ("container_memory_working_set_bytes", Kind::Gauge, "Current working set of the container in bytes", |stats| {
            let memory = stats.memory.as_ref()?;
            Some((value(memory.working_set_bytes.as_ref())? as f64, memory.timestamp))
        }),
        ("container_swap_usage_bytes", Kind::Gauge, "Current amount of the container swap usage in bytes", |stats| {
            let swap = stats.swap.as_ref()?;
            Some((value(swap.swap_usage_bytes.as_ref())? as f64, swap.timestamp))
        }),
    ];
    for (name, kind, help, read) in all {
        let mut family = text.family(name, kind, help);
        for_each(usage, |labels, _, stats, _| {
            if let Some((number, at)) = read(stats) {
                family.at(labels, number, time(at));
            }
        });
    }
    let help = "Start time of the container since unix epoch in seconds";
    let mut family = text.family("container_start_time_seconds", Kind::Gauge, help);
    for_each(usage, |labels, pod, _, name| {
        if let Some(started) = pod.started(name) {
            family.add(labels, unix(started));
        }
    });
}

/// Seconds since 1970.
pub(super) fn unix(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

fn for_each(usage: &Usage, mut with: impl FnMut(&[(&str, &str)], &PodUsage, &cri_proto::v1::ContainerStats, &str)) {
    for pod in &usage.pods {
        let metadata = pod.metadata();
        for (name, stats) in pod.containers() {
            let labels =
                [("container", name), ("namespace", metadata.namespace.as_str()), ("pod", metadata.name.as_str())];
            with(&labels, pod, stats, name);
        }
    }
}

fn pods(usage: &Usage, text: &mut Exposition) {
    let help = "Cumulative cpu time consumed by the pod in core-seconds";
    let mut family = text.family("pod_cpu_usage_seconds_total", Kind::Counter, help);
    for pod in &usage.pods {
        let metadata = pod.metadata();
        let Some(cpu) = pod.linux().and_then(|linux| linux.cpu.as_ref()) else { continue };
        if let Some(used) = value(cpu.usage_core_nano_seconds.as_ref()) {
            let labels = [("namespace", metadata.namespace.as_str()), ("pod", metadata.name.as_str())];
            family.at(&labels, seconds(used), time(cpu.timestamp));
        }
    }
    let mut family =
        text.family("pod_memory_working_set_bytes", Kind::Gauge, "Current working set of the pod in bytes");
    for pod in &usage.pods {
        let metadata = pod.metadata();
        let Some(memory) = pod.linux().and_then(|linux| linux.memory.as_ref()) else { continue };
        if let Some(used) = value(memory.working_set_bytes.as_ref()) {
            let labels = [("namespace", metadata.namespace.as_str()), ("pod", metadata.name.as_str())];
            family.at(&labels, used as f64, time(memory.timestamp));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{expect, expect_file};

    use super::super::fixture::usage;
    use super::*;
    use crate::metrics::lint;

    #[test]
    fn the_text_is_what_metrics_server_reads() {
        let text = text(Some(&usage(10, 5)));
        lint::check(&text);
        expect_file!["golden/resource.txt"].assert_eq(&text);
    }

    #[test]
    fn a_runtime_that_does_not_answer_is_told() {
        expect![[r#"
            # HELP resource_scrape_error 1 if there was an error while getting container metrics, 0 otherwise
            # TYPE resource_scrape_error gauge
            resource_scrape_error 1
            # HELP scrape_error 1 if there was an error while getting container metrics, 0 otherwise
            # TYPE scrape_error gauge
            scrape_error 1
        "#]]
        .assert_eq(&text(None));
    }
}
