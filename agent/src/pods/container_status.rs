//! One container's status: the newest instance gives the state, the one before it the last state.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, LinuxContainerUser, ResourceRequirements, VolumeMountStatus,
};

use super::backoff::{shown, signed};
use super::phase;
use super::roles::{self, Member, Role};
use super::status::{StatusInputs, time};
use super::step::{Job, Trouble};
use crate::container::pod_name_for_messages;
use crate::observe::{Container, State};
use crate::probes::{ContainerResults, Outcome};

/// All termination messages of a pod together are at most this long.
const MESSAGES: usize = 12_288;

/// Statuses of all containers in the spec's order.
pub(super) fn all(of: &StatusInputs<'_>, now: Timestamp) -> Vec<(Role, ContainerStatus)> {
    let members = roles::members(of.inputs.pod);
    let room = MESSAGES / members.len().max(1);
    members.iter().map(|member| (member.role, One { of, member, room }.status(now))).collect()
}

struct One<'a> {
    of: &'a StatusInputs<'a>,
    member: &'a Member<'a>,
    room: usize,
}

impl One<'_> {
    fn status(&self, now: Timestamp) -> ContainerStatus {
        let mut instances = self.instances();
        // Older than what was told already: the runtime forgot the newest.
        let told = self.before().and_then(|before| u32::try_from(before.restart_count).ok()).unwrap_or(0);
        if instances.first().is_some_and(|newest| newest.attempt < told) {
            instances.clear();
        }
        let (newest, former) = (instances.first().copied(), instances.get(1).copied());
        let state = newest.map_or_else(|| self.unseen(), |newest| self.state(newest));
        let last =
            former.filter(|former| matches!(former.state, State::Exited { .. })).map(|former| self.state(former));
        let mut status = ContainerStatus {
            name: self.member.container.name.clone(),
            image: newest.map_or_else(|| self.wanted_image(), |newest| newest.image.clone()),
            image_id: newest.map(|newest| newest.image_ref.clone()).unwrap_or_default(),
            container_id: newest.map(|newest| self.id(newest)),
            restart_count: newest.map_or(0, |newest| i32::try_from(newest.attempt).unwrap_or(i32::MAX)),
            state: Some(state),
            last_state: last,
            user: newest.and_then(user),
            resources: self.resources(newest),
            allocated_resources: self.member.container.resources.as_ref().and_then(|own| own.requests.clone()),
            volume_mounts: self.volume_mounts(),
            ..Default::default()
        };
        self.waiting(&mut status, newest, now);
        self.carry_over(&mut status, newest);
        let started = newest.is_some_and(|newest| self.is_started(newest));
        // Nothing ever waits for an ephemeral one to be up.
        status.started = (self.member.role != Role::Ephemeral).then_some(started);
        status.ready = match self.member.role {
            // Also when the runtime has forgotten it.
            Role::Init => succeeded(&status),
            _ => self.is_ready(newest, started),
        };
        status
    }

    /// What its cgroup has while it runs; else what it was granted.
    fn resources(&self, newest: Option<&Container>) -> Option<ResourceRequirements> {
        let actuated = newest.filter(|newest| newest.state.is_running()).and(self.of.inputs.kept.actuated.as_ref());
        let actuated = actuated.and_then(|actuated| actuated.get(&self.member.container.name));
        actuated.or(self.member.container.resources.as_ref()).cloned()
    }

    /// Newest first, two at most. What is being started is shown once its postStart hook is through.
    fn instances(&self) -> Vec<&Container> {
        let name = &self.member.container.name;
        let starting = self.of.inputs.progress.is_doing(&Job::Start(name.clone()));
        let hidden = |instance: &Container| {
            starting && matches!(instance.state, State::Created | State::Running { .. } | State::Unknown)
        };
        self.of.inputs.seen.instances(name).filter(|instance| !hidden(instance)).take(2).collect()
    }

    /// The runtime has nothing of it: it is still to come, or has gone after it did its part.
    fn unseen(&self) -> ContainerState {
        let members = roles::members(self.of.inputs.pod);
        let begun = members.iter().filter(|member| member.role == Role::Regular);
        let begun = begun.into_iter().any(|member| self.of.inputs.seen.newest(&member.container.name).is_some());
        if self.member.role == Role::Init && begun && self.init_is_done() {
            let message = "Unable to get init container status from container runtime and pod has been initialized, \
                           treat it as exited normally";
            return terminated(ContainerStateTerminated {
                reason: Some("Completed".to_owned()),
                message: Some(message.to_owned()),
                ..Default::default()
            });
        }
        let has_init = members.iter().any(|member| member.role.is_init());
        waiting(if has_init { "PodInitializing" } else { "ContainerCreating" }, None)
    }

    fn state(&self, instance: &Container) -> ContainerState {
        match &instance.state {
            State::Running { started } => ContainerState {
                running: Some(ContainerStateRunning { started_at: Some(time(*started)) }),
                ..Default::default()
            },
            State::Created => ContainerState { waiting: Some(ContainerStateWaiting::default()), ..Default::default() },
            State::Exited { started, finished, code, reason, message } => terminated(ContainerStateTerminated {
                container_id: Some(self.id(instance)),
                exit_code: *code,
                finished_at: Some(time(*finished)),
                started_at: started.map(time),
                reason: Some(reason.clone()).filter(|reason| !reason.is_empty()),
                message: self.message(instance, message),
                signal: None,
            }),
            State::Unknown => terminated(ContainerStateTerminated {
                container_id: Some(self.id(instance)),
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some("The container could not be located when the pod was terminated".to_owned()),
                ..Default::default()
            }),
        }
    }

    fn message(&self, instance: &Container, runtime: &str) -> Option<String> {
        let own = self.of.messages.get(&instance.id).map(String::as_str).unwrap_or_default();
        let text = match (runtime.is_empty(), own.is_empty()) {
            (true, true) => return None,
            (false, true) => runtime.to_owned(),
            (true, false) => own.to_owned(),
            (false, false) => format!("{runtime}: {own}"),
        };
        Some(cut(&text, self.room))
    }

    /// A container that waits to be started (again) says why, and its end becomes its last state.
    fn waiting(&self, status: &mut ContainerStatus, newest: Option<&Container>, now: Timestamp) {
        if newest.is_some_and(|newest| newest.state.may_run()) || self.of.inputs.life.is_ending() {
            return;
        }
        let name = &self.member.container.name;
        let reason = match (self.of.plan.crash_loops.get(name), self.of.inputs.progress.container_trouble.get(name)) {
            (None, Some(trouble)) => trouble_now(trouble, now),
            (Some(_), Some(trouble)) if !trouble.has_run => trouble_now(trouble, now),
            (Some(crash), _) => {
                let pod = pod_name_for_messages(self.of.inputs.pod);
                let delay = shown(crash.delay);
                let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
                waiting("CrashLoopBackOff", Some(message))
            }
            (None, None) => return,
        };
        let former = status.state.replace(reason);
        if let Some(former) = former.filter(|former| former.terminated.is_some()) {
            status.last_state = Some(former);
        }
    }

    /// What the runtime forgot is taken from the former status.
    fn carry_over(&self, status: &mut ContainerStatus, newest: Option<&Container>) {
        let Some(before) = self.before() else { return };
        if newest.is_none() && self.is_removed_to_restart(before) {
            return self.restarting_all(status, before);
        }
        let newer_count = newest.is_none() && before.restart_count > status.restart_count;
        if newer_count {
            status.restart_count = before.restart_count;
        }
        if newest.is_none() && before.container_id.is_some() {
            self.vanished(status, before);
        } else if status.last_state.is_none() && before.restart_count == status.restart_count {
            status.last_state = before.last_state.clone();
        }
    }

    fn is_removed_to_restart(&self, before: &ContainerStatus) -> bool {
        let waited = before.state.as_ref().is_some_and(|state| state.waiting.is_some());
        let begun = self.of.inputs.kept.restart_all.is_some() && !self.of.inputs.life.is_ending();
        let begun = begun && self.member.role != Role::Ephemeral;
        begun && !waited && before.container_id.is_some()
    }

    fn restarting_all(&self, status: &mut ContainerStatus, before: &ContainerStatus) {
        let (reason, message) =
            ("RestartingAllContainers", "The container is removed because RestartAllContainers in place");
        status.state = Some(waiting(reason, Some(message.to_owned())));
        status.last_state = Some(terminated(ContainerStateTerminated {
            exit_code: 137,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            ..Default::default()
        }));
        status.restart_count = before.restart_count.saturating_add(1);
    }

    fn vanished(&self, status: &mut ContainerStatus, before: &ContainerStatus) {
        let old = before.state.clone().unwrap_or_default();
        status.last_state = before.last_state.clone();
        if old.terminated.is_some() {
            // An end is never unlearned; what waits to run again has it as its last state.
            if self.of.inputs.life.is_ending() || self.init_is_done() {
                status.state = Some(old);
                status.container_id = before.container_id.clone();
                status.image_id = before.image_id.clone();
            } else {
                status.last_state = Some(old);
            }
        } else if old.running.is_some() && !self.of.inputs.progress.is_doing(&self.start_job()) {
            let end = ContainerStateTerminated {
                container_id: before.container_id.clone(),
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".to_owned()),
                message: Some(
                    "The container could not be located when the pod was deleted.  The container used to be Running"
                        .to_owned(),
                ),
                ..Default::default()
            };
            if self.of.inputs.life.is_ending() {
                status.state = Some(terminated(end));
                status.container_id = before.container_id.clone();
                status.image_id = before.image_id.clone();
            } else {
                status.last_state = Some(terminated(end));
                status.restart_count = before.restart_count.saturating_add(1);
            }
        }
    }

    fn init_is_done(&self) -> bool {
        let members = roles::members(self.of.inputs.pod);
        self.member.role == Role::Init && phase::is_initialized(&self.of.inputs, &members)
    }

    fn start_job(&self) -> Job {
        Job::Start(self.member.container.name.clone())
    }

    fn before(&self) -> Option<&ContainerStatus> {
        let before = self.of.before?;
        let all = before.container_statuses.iter().chain(&before.init_container_statuses);
        let all = all.chain(&before.ephemeral_container_statuses).flatten();
        all.into_iter().find(|status| status.name == self.member.container.name)
    }

    /// The former status, if it is about this very instance.
    fn same_instance(&self, instance: &Container) -> Option<&ContainerStatus> {
        self.before().filter(|before| before.container_id.as_deref() == Some(&self.id(instance)))
    }

    fn results(&self, instance: &Container) -> Option<&ContainerResults> {
        let results = self.of.inputs.probes.containers.get(&self.member.container.name);
        results.filter(|results| results.container_id == instance.id)
    }

    fn is_started(&self, newest: &Container) -> bool {
        if !newest.state.is_running() {
            return false;
        }
        match self.results(newest).and_then(|results| results.startup) {
            Some(outcome) => outcome == Outcome::Success,
            None => {
                self.same_instance(newest).is_some_and(|before| before.started == Some(true))
                    || self.member.container.startup_probe.is_none()
            }
        }
    }

    fn is_ready(&self, newest: Option<&Container>, started: bool) -> bool {
        let Some(newest) = newest.filter(|_| self.member.role != Role::Ephemeral) else { return false };
        if !newest.state.is_running() || !started {
            return false;
        }
        match self.results(newest).and_then(|results| results.readiness) {
            Some(outcome) => outcome == Outcome::Success,
            None if self.member.container.readiness_probe.is_none() => true,
            // After a restart of the agent: what was ready stays so until it is proved wrong.
            None => self.same_instance(newest).is_some_and(|before| before.ready),
        }
    }

    fn id(&self, instance: &Container) -> String {
        format!("{}://{}", self.of.runtime, instance.id)
    }

    fn wanted_image(&self) -> String {
        self.member.container.image.clone().unwrap_or_default()
    }

    fn volume_mounts(&self) -> Option<Vec<VolumeMountStatus>> {
        let mounts = self.member.container.volume_mounts.as_ref()?;
        let one = |mount: &k8s_openapi::api::core::v1::VolumeMount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| {
                let on = matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
                if on { "Enabled" } else { "Disabled" }.to_owned()
            }),
            volume_status: None,
        };
        Some(mounts.iter().map(one).collect())
    }
}

fn succeeded(status: &ContainerStatus) -> bool {
    let end = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    end.is_some_and(|end| end.exit_code == 0)
}

/// A failed pull shows the error at first and the wait afterwards; everything else stays as it is.
fn trouble_now(trouble: &Trouble, now: Timestamp) -> ContainerState {
    match &trouble.pull_of {
        Some(image) if now >= flips(trouble) && trouble.retry > now => {
            let message = format!("Back-off pulling image \"{image}\": {}: {}", trouble.reason, trouble.message);
            waiting("ImagePullBackOff", Some(message))
        }
        _ => waiting(&trouble.reason, Some(trouble.message.clone())),
    }
}

/// When the status of a failed pull changes from the error to the wait.
pub(super) fn flips(trouble: &Trouble) -> Timestamp {
    let shown = std::time::Duration::from_secs(1);
    trouble.since.saturating_add(signed(shown)).unwrap_or(Timestamp::MAX)
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

fn terminated(terminated: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(terminated), ..Default::default() }
}

fn user(instance: &Container) -> Option<ContainerUser> {
    let user = instance.user.as_ref()?;
    Some(ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: Some(user.groups.clone()).filter(|groups| !groups.is_empty()),
        }),
    })
}

fn cut(text: &str, room: usize) -> String {
    let mut end = text.len().min(room);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
