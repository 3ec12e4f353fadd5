//! One moment of a pod's life, written down in a few words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::container::ImageFacts;
use crate::container::labels::definition_hash;
use crate::observe::{Container, Observed, Sandbox, State};
use crate::pods::backoff::Limits;
use crate::pods::life::Life;
use crate::pods::plan::{self, Inputs, Kept, Plan};
use crate::pods::roles;
use crate::pods::status::{StatusInputs, status};
use crate::pods::step::{Progress, Step};
use crate::probes::{ContainerResults, ProbeResults};

/// Noon; everything in a scene happened some seconds before.
pub(super) fn noon() -> Timestamp {
    "2026-06-01T12:00:00Z".parse().unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    noon().checked_sub(SignedDuration::from_secs(seconds)).unwrap()
}

pub(super) struct Scene {
    pub(super) pod: Pod,
    pub(super) seen: Observed,
    pub(super) probes: ProbeResults,
    pub(super) life: Life,
    pub(super) kept: Kept,
    pub(super) progress: Progress,
    pub(super) before: Option<PodStatus>,
    pub(super) messages: BTreeMap<String, String>,
}

impl Scene {
    /// The pod is wanted since a minute, and nothing has happened.
    pub(super) fn of(spec: serde_json::Value) -> Self {
        Self {
            pod: crate::testing::pod(spec),
            seen: Observed::default(),
            probes: ProbeResults::default(),
            life: Life::Running,
            kept: Kept { started: Some(ago(60)), ..Kept::default() },
            progress: Progress::default(),
            before: None,
            messages: BTreeMap::new(),
        }
    }

    /// Its volumes, its sandbox and its images are there.
    pub(super) fn prepared(mut self) -> Self {
        self.progress.volumes = Some(Arc::default());
        for member in roles::members(&self.pod) {
            self.progress.images.insert(member.container.name.clone(), ImageFacts::default());
        }
        self.sandbox(true)
    }

    pub(super) fn sandbox(mut self, ready: bool) -> Self {
        self.seen.sandboxes.push(Sandbox {
            id: "sb".into(),
            pod: crate::names::ObjectName::new("shop", "web"),
            attempt: 0,
            created: ago(50),
            ready,
            ips: vec!["10.88.0.2".into()],
            host_network: false,
        });
        self
    }

    pub(super) fn running(self, name: &str) -> Self {
        self.instance(name, State::Running { started: ago(40) })
    }

    pub(super) fn exited(self, name: &str, code: i32, seconds_ago: i64) -> Self {
        let reason = if code == 0 { "Completed" } else { "Error" }.to_owned();
        let (started, finished) = (Some(ago(seconds_ago + 5)), ago(seconds_ago));
        self.instance(name, State::Exited { started, finished, code, reason, message: String::new() })
    }

    pub(super) fn instance(mut self, name: &str, state: State) -> Self {
        let attempt = self.seen.instances(name).count();
        let hash = roles::member(&self.pod, name).map(|member| definition_hash(&member.container));
        self.seen.containers.push(Container {
            id: format!("{name}{attempt}"),
            name: name.to_owned(),
            attempt: u32::try_from(attempt).unwrap(),
            sandbox: "sb".into(),
            state,
            created: ago(45),
            hash,
            image: "busybox:1".into(),
            image_ref: "sha256:1".into(),
            message_file: None,
            user: None,
        });
        self.seen = self.seen.sorted();
        self
    }

    pub(super) fn says(mut self, name: &str, results: ContainerResults) -> Self {
        self.probes.containers.insert(name.to_owned(), results);
        self
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn inputs(&self) -> Inputs<'_> {
        Inputs {
            pod: &self.pod,
            seen: &self.seen,
            probes: &self.probes,
            life: &self.life,
            kept: &self.kept,
            progress: &self.progress,
            crash: Limits { first: Duration::from_secs(10), max: Duration::from_secs(300) },
        }
    }

    fn plan(&self) -> Plan {
        plan::plan(&self.inputs(), noon())
    }

    /// What is done now, one step a line.
    pub(super) fn steps(&self) -> String {
        let plan = self.plan();
        let mut lines: Vec<_> = plan.steps.iter().map(line).collect();
        lines.extend(plan::judge(&self.inputs(), noon()).map(|event| format!("{event:?}")));
        lines.extend(plan.wake.map(|wake| format!("wake in {}s", wake.duration_since(noon()).as_secs())));
        lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The status in a few lines.
    pub(super) fn status(&self) -> String {
        shown(&self.whole_status())
    }

    /// All of the status.
    pub(super) fn whole_status(&self) -> PodStatus {
        let plan = self.plan();
        let node_ips = ["192.0.2.1".to_owned()];
        status(
            &StatusInputs {
                inputs: self.inputs(),
                plan: &plan,
                before: self.before.as_ref(),
                messages: &self.messages,
                node_ips: &node_ips,
                runtime: "fake",
            },
            noon(),
        )
    }
}

fn line(step: &Step) -> String {
    match step {
        Step::Image { container, .. } => format!("image {container}"),
        Step::Sandbox { attempt } => format!("sandbox {attempt}"),
        Step::StopSandbox { id } => format!("stop sandbox {id}"),
        Step::Start(start) => {
            let restarts = start.restarts.map_or("?".to_owned(), |restarts| restarts.to_string());
            format!("start {} #{restarts}", start.container)
        }
        Step::PreStop { container, .. } => format!("preStop {container}"),
        Step::Kill(kill) => {
            let left = kill.deadline.duration_since(noon()).as_secs();
            let again = if kill.again { ", again" } else { "" };
            format!("kill {} in {left}s{again}: {}", kill.id, kill.message.as_deref().unwrap_or("-"))
        }
        Step::Remove(remains) => {
            format!("remove {}{}", remains.id, if remains.keep_log { " but its log" } else { "" })
        }
        Step::RemoveSandbox { id } => format!("remove sandbox {id}"),
        Step::SetUp => "set up".to_owned(),
        Step::Refresh => "refresh".to_owned(),
        Step::Resize(resize) => {
            let ids: Vec<_> = resize.running.iter().map(|(_, id)| id.as_str()).collect();
            format!("resize {}", ids.join(" ")).trim_end().to_owned()
        }
        Step::Undo(undo) => format!("undo {undo:?}"),
    }
}

fn shown(status: &PodStatus) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_else(|| "-".to_owned());
    let mut out = format!("{} {} {}\n", text(&status.phase), text(&status.reason), text(&status.pod_ip));
    for (truth, kinds) in conditions(status) {
        out.push_str(&format!("{}: {}\n", truth, kinds.join(" ")));
    }
    let all = status.init_container_statuses.iter().chain(&status.container_statuses);
    for container in all.chain(&status.ephemeral_container_statuses).flatten() {
        let state = state(container.state.as_ref());
        let last = container.last_state.as_ref().map(|last| format!(" last {}", self::state(Some(last))));
        out.push_str(&format!(
            "{}: {state} ready={} started={} restarts={}{}\n",
            container.name,
            container.ready,
            container.started == Some(true),
            container.restart_count,
            last.unwrap_or_default()
        ));
    }
    out
}

/// The conditions, those of the same truth side by side together.
fn conditions(status: &PodStatus) -> Vec<(String, Vec<&str>)> {
    let mut all = Vec::<(String, Vec<&str>)>::new();
    for condition in status.conditions.iter().flatten() {
        let why = [&condition.reason, &condition.message].into_iter().flatten().cloned().collect::<Vec<_>>().join(", ");
        let truth = if why.is_empty() { condition.status.clone() } else { format!("{} ({why})", condition.status) };
        match all.last_mut() {
            Some((same, kinds)) if *same == truth => kinds.push(&condition.type_),
            _ => all.push((truth, vec![&condition.type_])),
        }
    }
    all
}

fn state(state: Option<&k8s_openapi::api::core::v1::ContainerState>) -> String {
    let Some(state) = state else { return "nothing".to_owned() };
    if let Some(waiting) = &state.waiting {
        let message = waiting.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
        return format!("waiting {}{message}", waiting.reason.as_deref().unwrap_or("-"));
    }
    if let Some(end) = &state.terminated {
        let message = end.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
        return format!("terminated {} {}{message}", end.exit_code, end.reason.as_deref().unwrap_or("-"));
    }
    "running".to_owned()
}
