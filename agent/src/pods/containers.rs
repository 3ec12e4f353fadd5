//! Which containers of a running pod are started, killed or left alone.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PodSpec, Probe};

use super::backoff::{self, signed};
use super::plan::{CrashLoop, Inputs, Plan};
use super::roles::{self, Member, Role};
use super::step::{Job, Progress, Start, Step};
use super::{phase, stop};
use crate::container::labels::definition_hash;
use crate::observe::{Container, State};
use crate::probes::Outcome;

/// What the one after it may count on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It is where it should be, or cannot get there now: the next one's turn.
    Goes,
    /// It is on its way: the next one waits.
    Waits,
}

/// Plans for every container. `sandbox` is the sandbox to join, or `None` while there is none yet: images are made
/// sure of meanwhile. While `resizing` nothing is started.
pub(super) fn keep(
    plan: &mut Plan,
    inputs: &Inputs<'_>,
    members: &[Member<'_>],
    sandbox: Option<&str>,
    resizing: bool,
    now: Timestamp,
) {
    let Some(spec) = inputs.pod.spec.as_ref() else { return };
    strangers(plan, inputs, members, now);
    let pass = Pass { inputs, spec, sandbox, resizing, now };
    pass.ephemeral(plan, members);
    if phase::is_initialized(inputs, members) {
        pass.sidecars(plan, members);
        pass.regular(plan, members);
    } else if pass.init(plan, members) == Next::Goes {
        pass.regular(plan, members);
    }
}

/// Containers that the manifest does not know (any more).
fn strangers(plan: &mut Plan, inputs: &Inputs<'_>, members: &[Member<'_>], now: Timestamp) {
    let known = |name: &str| members.iter().any(|member| member.container.name == name);
    for container in inputs.seen.containers.iter().filter(|c| c.state.may_run() && !known(&c.name)) {
        let message = format!("Container {} definition changed", container.name);
        stop::kill(plan, inputs, container, message, super::plan::grace(inputs.pod, now), false, now);
    }
}

struct Pass<'a> {
    inputs: &'a Inputs<'a>,
    spec: &'a PodSpec,
    sandbox: Option<&'a str>,
    resizing: bool,
    now: Timestamp,
}

impl Pass<'_> {
    fn regular(&self, plan: &mut Plan, members: &[Member<'_>]) {
        let mut blocked = false;
        for member in members.iter().filter(|member| member.role == Role::Regular) {
            blocked |= self.one(plan, member, blocked) == Next::Waits;
        }
    }

    /// Started once, also before the pod is initialised; one that wants to look into another waits until that is there.
    fn ephemeral(&self, plan: &mut Plan, members: &[Member<'_>]) {
        for member in members.iter().filter(|member| member.role == Role::Ephemeral) {
            let instance = self.inputs.seen.newest(&member.container.name);
            let fresh = instance.is_none_or(|instance| instance.state == State::Created);
            let target = member.target.is_none_or(|target| self.inputs.seen.newest(target).is_some());
            if fresh && target {
                self.start(plan, member, instance, None, false);
            }
        }
    }

    fn sidecars(&self, plan: &mut Plan, members: &[Member<'_>]) {
        for member in members.iter().filter(|member| member.role == Role::Sidecar) {
            self.one(plan, member, false);
        }
    }

    /// Init containers strictly in order; `Goes` once all of them have done their part.
    fn init(&self, plan: &mut Plan, members: &[Member<'_>]) -> Next {
        let init: Vec<_> = members.iter().filter(|member| member.role.is_init()).collect();
        let here = |member: &Member<'_>| self.inputs.seen.newest(&member.container.name).filter(|c| self.is_here(c));
        // What comes before the last one that was begun is done, even where it was removed since.
        let starting = |member: &Member<'_>| self.inputs.progress.is_doing(&Job::Start(member.container.name.clone()));
        let begun = init.iter().rposition(|member| here(member).is_some() || starting(member));
        for (at, member) in init.iter().enumerate() {
            match (member.role, begun) {
                (Role::Init, Some(begun)) if at < begun => {}
                (Role::Sidecar, Some(begun)) if at < begun => {
                    self.one(plan, member, false);
                }
                _ => {
                    if self.one_init(plan, member, here(member)) == Next::Waits {
                        return Next::Waits;
                    }
                }
            }
        }
        Next::Goes
    }

    fn one_init(&self, plan: &mut Plan, member: &Member<'_>, instance: Option<&Container>) -> Next {
        if member.role == Role::Init
            && let Some(State::Exited { code: 0, reason, .. }) = instance.map(|instance| &instance.state)
            && reason != "OOMKilled"
        {
            return Next::Goes;
        }
        self.one(plan, member, false);
        let ready = member.role == Role::Sidecar
            && instance.is_some_and(|c| c.state.is_running() && phase::is_started(self.inputs, member, c));
        if ready { Next::Goes } else { Next::Waits }
    }

    fn is_here(&self, container: &Container) -> bool {
        self.sandbox.is_some_and(|sandbox| container.sandbox == sandbox)
    }

    /// One container: kept, killed, or started unless `blocked` by one before it.
    fn one(&self, plan: &mut Plan, member: &Member<'_>, blocked: bool) -> Next {
        let instance = self.inputs.seen.newest(&member.container.name);
        match instance.map(|instance| (instance, &instance.state)) {
            None => self.start(plan, member, None, None, blocked),
            Some((instance, State::Running { .. })) => self.running(plan, member, instance),
            Some((instance, State::Unknown)) => {
                let name = &member.container.name;
                let message =
                    format!("Container {name} is in \"CONTAINER_UNKNOWN\" state, try killing it before restart");
                stop::kill(plan, self.inputs, instance, message, self.pod_grace(), true, self.now);
                Next::Goes
            }
            Some((instance, State::Created)) => self.start(plan, member, Some(instance), None, blocked),
            Some((instance, State::Exited { finished, code, reason, .. })) => {
                let again = self.inputs.kept.again.contains(&instance.id);
                if !again && !roles::restarts(self.spec, member, *code, reason) {
                    return Next::Goes;
                }
                self.after_backoff(plan, member, instance, *finished, blocked)
            }
        }
    }

    fn after_backoff(
        &self,
        plan: &mut Plan,
        member: &Member<'_>,
        dead: &Container,
        finished: Timestamp,
        blocked: bool,
    ) -> Next {
        let name = &member.container.name;
        let (key, entry) = (crash_key(member), self.inputs.kept.crash.get(name));
        match backoff::not_before(entry, &key, finished, self.now, self.inputs.crash) {
            None => self.start(plan, member, Some(dead), Some(finished), blocked),
            Some(until) => {
                plan.wake(until);
                let delay = entry.map_or(Duration::ZERO, backoff::Backoff::delay);
                plan.crash_loops.insert(name.clone(), CrashLoop { until, delay, dead: dead.id.clone() });
                Next::Goes
            }
        }
    }

    fn start(
        &self,
        plan: &mut Plan,
        member: &Member<'_>,
        old: Option<&Container>,
        after: Option<Timestamp>,
        blocked: bool,
    ) -> Next {
        let (name, progress) = (&member.container.name, self.inputs.progress);
        if progress.is_doing(&Job::Start(name.clone())) {
            return Next::Waits;
        }
        let trouble = progress.container_trouble.get(name).filter(|trouble| !(trouble.has_run && after.is_some()));
        if !plan.may_try(trouble, self.now) {
            return Next::Goes;
        }
        if !progress.images.contains_key(name) {
            let image = member.container.image.clone().unwrap_or_default();
            plan.step(progress, Step::Image { container: name.clone(), image });
            return Next::Waits;
        }
        let has_volumes = has_volumes(progress, member);
        let (Some(sandbox), true, false) = (self.sandbox, has_volumes, blocked || self.resizing) else {
            return Next::Waits;
        };
        let created = old.filter(|old| old.state == State::Created);
        let restarts = match (created, old) {
            (Some(created), _) => Some(created.attempt),
            (None, old) => {
                let known = self.inputs.kept.attempts.get(name).copied();
                old.map(|old| old.attempt).max(known).map(|newest| newest.saturating_add(1))
            }
        };
        let replaces = created.map(|created| created.id.clone());
        let (container, sandbox) = (name.clone(), sandbox.to_owned());
        plan.step(progress, Step::Start(Start { container, restarts, sandbox, replaces, after }));
        Next::Waits
    }

    /// A running container goes on, unless its definition changed or a probe gave it up.
    fn running(&self, plan: &mut Plan, member: &Member<'_>, instance: &Container) -> Next {
        if self.inputs.progress.is_doing(&Job::Start(member.container.name.clone())) {
            return Next::Waits;
        }
        if self.inputs.progress.is_doing(&Job::Kill(instance.id.clone())) {
            return Next::Goes;
        }
        if let Some((message, deadline, again)) = self.reason_to_kill(member, instance) {
            stop::kill(plan, self.inputs, instance, message, deadline, again, self.now);
        }
        Next::Goes
    }

    fn reason_to_kill(&self, member: &Member<'_>, instance: &Container) -> Option<(String, Timestamp, bool)> {
        let container = &member.container;
        let what = if member.role == Role::Regular { "Container" } else { "Init container" };
        if instance.hash.is_some_and(|hash| hash != definition_hash(container)) {
            let suffix = if member.role == Role::Regular { ", will be restarted" } else { "" };
            let message = format!("{what} {} definition changed{suffix}", container.name);
            return Some((message, self.pod_grace(), true));
        }
        let (probe, failed) = self.failed_probe(member, instance)?;
        let again = roles::restarts_after_kill(self.spec, member);
        let suffix = if again && member.role == Role::Regular { ", will be restarted" } else { "" };
        let message = format!("{what} {} failed {failed} probe{suffix}", container.name);
        Some((message, self.probe_grace(probe), again))
    }

    fn failed_probe<'m>(&self, member: &'m Member<'_>, instance: &Container) -> Option<(&'m Probe, &'static str)> {
        let results = self.inputs.probes.containers.get(&member.container.name)?;
        if results.container_id != instance.id {
            return None;
        }
        let container = &member.container;
        match (results.startup, results.liveness) {
            (Some(Outcome::Failure), _) => container.startup_probe.as_ref().map(|probe| (probe, "startup")),
            (_, Some(Outcome::Failure)) => container.liveness_probe.as_ref().map(|probe| (probe, "liveness")),
            _ => None,
        }
    }

    fn pod_grace(&self) -> Timestamp {
        super::plan::grace(self.inputs.pod, self.now)
    }

    fn probe_grace(&self, probe: &Probe) -> Timestamp {
        match probe.termination_grace_period_seconds.and_then(|seconds| u64::try_from(seconds).ok()) {
            Some(seconds) => {
                self.now.saturating_add(signed(Duration::from_secs(seconds.max(1)))).unwrap_or(Timestamp::MAX)
            }
            None => self.pod_grace(),
        }
    }
}

/// What the container mounts is there. An ephemeral one may be the first to mount a volume of the pod.
pub(super) fn has_volumes(progress: &Progress, member: &Member<'_>) -> bool {
    let mounts = member.container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str());
    let devices = member.container.volume_devices.iter().flatten().map(|device| device.name.as_str());
    let mut added = mounts.chain(devices).filter(|_| member.role == Role::Ephemeral);
    progress.volumes.as_ref().is_some_and(|mounted| added.all(|name| mounted.get(name).is_some()))
}

/// What restart delays are about: changing the image or the resources starts them afresh.
pub(super) fn crash_key(member: &Member<'_>) -> String {
    let container = &member.container;
    // Keys are strings and numbers only: encoding cannot fail.
    let resources = serde_json::to_string(&container.resources).unwrap_or_default();
    format!("{}|{}", container.image.as_deref().unwrap_or_default(), resources)
}
