//! What the node tells the API server, what it keeps on its disks, and how it goes down.

use std::time::Duration;

use k8s_openapi::api::core::v1::Taint;

use super::checks::Checks;
use super::file::File;

/// The Node object at its creation.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    /// `registerNode`: whether it is created at all.
    pub register: bool,
    /// `registerWithTaints`.
    pub taints: Vec<Taint>,
    /// `providerID`.
    pub provider_id: Option<String>,
}

/// How often the node says that it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// `nodeStatusUpdateFrequency`: how often the status is computed.
    pub compute: Duration,
    /// `nodeStatusReportFrequency`: how often it is sent when nothing has changed.
    pub report: Duration,
    /// `nodeLeaseDurationSeconds`; the lease is renewed four times within it.
    pub lease: Duration,
    /// `nodeStatusMaxImages`; `None` for all of them.
    pub max_images: Option<usize>,
}

/// Pulls and the collection of unused images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Images {
    /// `maxParallelImagePulls`, or one where `serializeImagePulls` says so; `None` where nothing is said.
    pub parallel_pulls: Option<usize>,
    /// `imageMinimumGCAge`.
    pub min_age: Duration,
    /// `imageMaximumGCAge`; `None` keeps unused images for ever.
    pub max_age: Option<Duration>,
    /// `imageGCHighThresholdPercent`: from here on images are removed. 100 is off.
    pub high_percent: u8,
    /// `imageGCLowThresholdPercent`: until here.
    pub low_percent: u8,
}

impl Images {
    /// Nothing is collected until the node is short of disk.
    pub const KEPT: Self = Self {
        parallel_pulls: None,
        min_age: Duration::from_secs(120),
        max_age: None,
        high_percent: 100,
        low_percent: 80,
    };
}

/// How many calls a second, on average and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// On average; 0 means no limit where the kubelet says so.
    pub per_second: u32,
    /// At once.
    pub burst: u32,
}

/// `kubeAPIQPS`, `eventRecordQPS`, `registryPullQPS` and their bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Calls to the API server.
    pub api: Rate,
    /// Events.
    pub events: Rate,
    /// Pulls.
    pub pulls: Rate,
}

/// Pods of a priority from here up to the next group's, and how long they have when the machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShutdownGroup {
    /// The lowest priority of the group.
    pub priority: i32,
    /// How long its pods have.
    pub grace: Duration,
}

/// Where priorities of critical pods begin.
const CRITICAL: i32 = 2_000_000_000;

pub(super) fn registration(file: &File, checks: &mut Checks) -> Registration {
    let taints = file.register_with_taints.clone().unwrap_or_default();
    for (index, taint) in taints.iter().enumerate() {
        let field = format!("registerWithTaints[{index}]");
        if taint.key.is_empty() {
            checks.say(&format!("{field}.key"), "is empty");
        }
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&taint.effect.as_str()) {
            let problem = format!("is {:?}, must be NoSchedule, PreferNoSchedule or NoExecute", taint.effect);
            checks.say(&format!("{field}.effect"), problem);
        }
        if taint.time_added.is_some() {
            checks.say(&format!("{field}.timeAdded"), "must not be set: taints of a new node have no past");
        }
    }
    Registration {
        register: file.register_node == Some(true),
        taints,
        provider_id: file.provider_id.clone().filter(|id| !id.is_empty()),
    }
}

pub(super) fn heartbeat(file: &File, checks: &mut Checks) -> Heartbeat {
    let lease: u32 =
        checks.number("nodeLeaseDurationSeconds", file.node_lease_duration_seconds, (1, i64::from(i32::MAX)));
    let images: i32 = checks.number("nodeStatusMaxImages", file.node_status_max_images, (-1, i64::from(i32::MAX)));
    Heartbeat {
        compute: checks.time("nodeStatusUpdateFrequency", file.node_status_update_frequency),
        report: checks.time("nodeStatusReportFrequency", file.node_status_report_frequency),
        lease: Duration::from_secs(lease.into()),
        max_images: usize::try_from(images).ok(),
    }
}

pub(super) fn images(file: &File, checks: &mut Checks) -> Images {
    let (most, one) = (file.max_parallel_image_pulls, file.serialize_image_pulls);
    let parallel =
        most.map(|most| checks.number::<usize>("maxParallelImagePulls", Some(most), (1, i64::from(i32::MAX))));
    if one == Some(true) && parallel.is_some_and(|most| most > 1) {
        checks.say("maxParallelImagePulls", "is more than 1, and serializeImagePulls is true");
    }
    let images = Images {
        parallel_pulls: match one {
            Some(true) => Some(1),
            // No bound is the same as one that no node reaches.
            Some(false) => parallel.or(Some(usize::from(u16::MAX))),
            None => parallel,
        },
        min_age: checks.time("imageMinimumGCAge", file.image_minimum_gc_age),
        max_age: checks.time_if_any("imageMaximumGCAge", file.image_maximum_gc_age),
        high_percent: checks.number("imageGCHighThresholdPercent", file.image_gc_high_threshold_percent, (0, 100)),
        low_percent: checks.number("imageGCLowThresholdPercent", file.image_gc_low_threshold_percent, (0, 100)),
    };
    if images.low_percent >= images.high_percent {
        let problem = format!(
            "is {}, must be less than imageGCHighThresholdPercent, {}",
            images.low_percent, images.high_percent
        );
        checks.say("imageGCLowThresholdPercent", problem);
    }
    if images.max_age.is_some_and(|most| most <= images.min_age) {
        checks.say("imageMaximumGCAge", "must be more than imageMinimumGCAge");
    }
    images
}

pub(super) fn rates(file: &File, checks: &mut Checks) -> Rates {
    let any = (0, i64::from(i32::MAX));
    let mut rate = |names: (&str, &str), per_second, burst| Rate {
        per_second: checks.number(names.0, per_second, any),
        burst: checks.number(names.1, burst, any),
    };
    Rates {
        api: rate(("kubeAPIQPS", "kubeAPIBurst"), file.kube_api_qps, file.kube_api_burst),
        events: rate(("eventRecordQPS", "eventBurst"), file.event_record_qps, file.event_burst),
        pulls: rate(("registryPullQPS", "registryBurst"), file.registry_pull_qps, file.registry_burst),
    }
}

/// In ascending order; empty when shutdowns are not waited for.
pub(super) fn shutdown(file: &File, checks: &mut Checks) -> Vec<ShutdownGroup> {
    let all = checks.time("shutdownGracePeriod", file.shutdown_grace_period);
    let critical = checks.time("shutdownGracePeriodCriticalPods", file.shutdown_grace_period_critical_pods);
    for (field, time) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        if !time.is_zero() && time < Duration::from_secs(1) {
            checks.say(field, "must be 0s or at least 1s");
        }
    }
    let groups = file.shutdown_grace_period_by_pod_priority.clone().unwrap_or_default();
    match (all.is_zero(), groups.is_empty()) {
        (false, false) => checks.say("shutdownGracePeriodByPodPriority", "cannot stand beside shutdownGracePeriod"),
        (true, _) if !critical.is_zero() => {
            checks.say("shutdownGracePeriodCriticalPods", "must not be more than shutdownGracePeriod");
        }
        (false, true) if critical > all => {
            checks.say("shutdownGracePeriodCriticalPods", "must not be more than shutdownGracePeriod");
        }
        (false, true) => {
            let group = |priority, grace| ShutdownGroup { priority, grace };
            return vec![group(0, all.saturating_sub(critical)), group(CRITICAL, critical)];
        }
        (true, _) => {}
    }
    let mut found: Vec<_> = groups
        .iter()
        .map(|group| {
            let seconds: u32 = checks.number(
                "shutdownGracePeriodByPodPriority[].shutdownGracePeriodSeconds",
                group.seconds,
                (0, i64::from(i32::MAX)),
            );
            ShutdownGroup { priority: group.priority.unwrap_or_default(), grace: Duration::from_secs(seconds.into()) }
        })
        .collect();
    found.sort();
    found
}
