use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use serde::{Deserialize, Serialize};

use super::schedule::{Machine, SavedProbe, Settings};
use super::{ContainerResults, Outcome, ProbeKind};

/// A container's probes, in the order in which they gate each other.
pub(super) struct Probed {
    pub container: Arc<Container>,
    /// A sidecar: probed until all regular containers have ended.
    pub sidecar: bool,
    pub pod_ip: Option<String>,
    probes: BTreeMap<ProbeKind, (Arc<Probe>, Machine)>,
    /// Liveness and readiness may begin; remembered, because it ends with the instance only.
    started: bool,
    running: bool,
}

/// Counters of a container that survive the agent.
pub(super) type Saved = BTreeMap<ProbeKind, SavedProbe>;

/// Counters of a pod's probes, to survive the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProbes {
    pub(super) containers: BTreeMap<String, Saved>,
}

/// The containers of a pod that have probes: regular ones, then sidecars.
pub(super) fn probed(pod: &Pod) -> Vec<Probed> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let regular = spec.containers.iter().map(|container| (container, false));
    let init = spec.init_containers.iter().flatten();
    let sidecars = init.filter(|c| c.restart_policy.as_deref() == Some("Always")).map(|container| (container, true));
    regular.chain(sidecars).filter_map(|(container, sidecar)| Probed::of(container, sidecar)).collect()
}

impl Probed {
    fn of(container: &Container, sidecar: bool) -> Option<Self> {
        let all = [
            (ProbeKind::Startup, &container.startup_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
            (ProbeKind::Liveness, &container.liveness_probe),
        ];
        let given = all.into_iter().filter_map(|(kind, probe)| Some((kind, probe.as_ref()?)));
        let probes: BTreeMap<_, _> =
            given.map(|(kind, probe)| (kind, (Arc::new(probe.clone()), Machine::new(settings(kind, probe))))).collect();
        let container = Arc::new(container.clone());
        let none = probes.is_empty();
        (!none).then_some(Self { container, sidecar, pod_ip: None, probes, started: false, running: false })
    }

    /// An instance runs.
    pub(super) fn running(
        &mut self,
        id: &str,
        since: Instant,
        restored: bool,
        now: Instant,
        offset: impl Fn(ProbeKind, Duration) -> Duration,
    ) {
        let again = self.running && self.probes.values().all(|(_, machine)| machine.id() == id);
        if again {
            return;
        }
        self.running = true;
        for (_, machine) in self.probes.values_mut() {
            machine.running(id, since, restored);
        }
        self.started = self.may_begin();
        for (kind, (probe, machine)) in &mut self.probes {
            if *kind == ProbeKind::Startup || self.started {
                machine.begin_grid(now, if restored { offset(*kind, period(probe)) } else { Duration::ZERO });
            }
        }
    }

    fn may_begin(&self) -> bool {
        self.probes.get(&ProbeKind::Startup).is_none_or(|(_, startup)| startup.result() == Some(Outcome::Success))
    }

    /// No instance runs.
    pub(super) fn stopped(&mut self) {
        self.running = false;
        self.started = false;
        self.probes.values_mut().for_each(|(_, machine)| machine.stopped());
    }

    /// The pod ends: liveness and startup do not count any more.
    pub(super) fn terminating(&mut self) {
        for (kind, (_, machine)) in &mut self.probes {
            if *kind != ProbeKind::Readiness {
                machine.end();
            }
        }
    }

    /// Somebody wants to know whether it is ready.
    pub(super) fn readiness_wanted(&mut self, now: Instant) {
        if let (true, Some((_, machine))) = (self.started, self.probes.get_mut(&ProbeKind::Readiness)) {
            machine.kick(now);
        }
    }

    /// What is due next, and when.
    pub(super) fn due(&self) -> Option<(Instant, ProbeKind)> {
        self.probes.iter().filter_map(|(kind, (_, machine))| Some((machine.due()?, *kind))).min()
    }

    /// An attempt begins: the probe and the instance it looks at.
    pub(super) fn begin(&mut self, kind: ProbeKind, now: Instant) -> Option<(Arc<Probe>, String)> {
        let (probe, machine) = self.probes.get_mut(&kind)?;
        machine.begin(now);
        Some((probe.clone(), machine.id().to_owned()))
    }

    /// An attempt has ended. True when there is something new to remember.
    pub(super) fn finished(&mut self, kind: ProbeKind, id: &str, outcome: Option<Outcome>, now: Instant) -> bool {
        let Some((_, machine)) = self.probes.get_mut(&kind) else { return false };
        let new = machine.finished(id, outcome, now);
        if self.running && !self.started && self.may_begin() {
            self.started = true;
            let others = self.probes.iter_mut().filter(|(kind, _)| **kind != ProbeKind::Startup);
            others.for_each(|(_, (_, machine))| machine.begin_grid(now, Duration::ZERO));
        }
        new
    }

    /// The instance that its probes look at; empty before the first one.
    pub(super) fn id(&self) -> &str {
        self.probes.values().next().map_or("", |(_, machine)| machine.id())
    }

    pub(super) fn results(&self) -> ContainerResults {
        let of = |kind| self.probes.get(&kind).and_then(|(_, machine)| machine.result());
        ContainerResults {
            container_id: self.id().to_owned(),
            startup: of(ProbeKind::Startup),
            readiness: of(ProbeKind::Readiness),
            liveness: of(ProbeKind::Liveness),
        }
    }

    pub(super) fn save(&self) -> Saved {
        self.probes.iter().map(|(kind, (_, machine))| (*kind, machine.save())).collect()
    }

    pub(super) fn restore(&mut self, mut saved: Saved) {
        for (kind, (_, machine)) in &mut self.probes {
            if let Some(saved) = saved.remove(kind) {
                machine.restore(saved);
            }
        }
    }
}

fn seconds(value: Option<i32>, default: i32) -> Duration {
    Duration::from_secs(u64::try_from(value.unwrap_or(default)).unwrap_or(0))
}

fn period(probe: &Probe) -> Duration {
    seconds(probe.period_seconds.filter(|period| *period > 0), 10)
}

fn settings(kind: ProbeKind, probe: &Probe) -> Settings {
    let times = |value: Option<i32>, default: u32| {
        value.and_then(|value| u32::try_from(value).ok()).filter(|value| *value > 0).unwrap_or(default)
    };
    Settings {
        kind,
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: period(probe),
        success_threshold: times(probe.success_threshold, 1),
        failure_threshold: times(probe.failure_threshold, 3),
    }
}
