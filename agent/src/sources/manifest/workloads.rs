//! Workloads: what the API server would fill in and refuse, and what this agent does not do of them.

use std::collections::BTreeMap;
use std::path::Path;

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::{
    DaemonSetSpec, DeploymentSpec, ReplicaSetSpec, RollingUpdateDeployment, StatefulSetSpec,
};
use k8s_openapi::api::batch::v1::{CronJobSpec, JobSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationControllerSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;

use crate::names::ObjectName;
use crate::sources::{defaults, validate};
use crate::workloads::{
    Concurrency, CronPlan, JobPlan, Plan, Replicas, Rollout, Schedule, Stateful, Workload, WorkloadKind, zone,
};

/// More pods of one workload than a node ever runs: more is a slip.
const MOST_PODS: i32 = 1_000;
/// The API's limit for Jobs with indexes; each one is remembered.
const MOST_COMPLETIONS: i32 = 100_000;

/// An object around its `spec`.
#[derive(Deserialize)]
pub(super) struct Top<S> {
    #[serde(rename = "apiVersion", default)]
    _version: String,
    #[serde(rename = "kind", default)]
    _kind: String,
    #[serde(default)]
    metadata: ObjectMeta,
    spec: Option<S>,
}

/// What is wrong, field by field.
pub(super) type Wrong = Vec<(String, String)>;

/// A spec of one of the kinds.
pub(super) trait Spec: Sized {
    /// Its template and the plan for it; what is wrong goes to `wrong`.
    fn plan(self, name: &ObjectName, wrong: &mut Wrong) -> (PodTemplateSpec, Plan);
}

impl<S: Spec> Top<S> {
    /// The workload, checked.
    pub(super) fn workload(self, kind: WorkloadKind, file: &Path, node: &str) -> Result<Workload, Wrong> {
        let mut wrong = validate::metadata(&self.metadata);
        let namespace = self.metadata.namespace.unwrap_or_else(|| "default".to_owned());
        let name = ObjectName::new(namespace, self.metadata.name.unwrap_or_default());
        let Some(spec) = self.spec else {
            wrong.push(("spec".to_owned(), "is missing; it needs at least a template".to_owned()));
            return Err(wrong);
        };
        let (template, plan) = spec.plan(&name, &mut wrong);
        let at = if kind == WorkloadKind::CronJob { "spec.jobTemplate.spec.template" } else { "spec.template" };
        let claims = match &plan {
            Plan::Stateful(plan) => plan.claims.iter().filter_map(|claim| claim.metadata.name.clone()).collect(),
            _ => Vec::new(),
        };
        check_template(&template, &claims, &name, kind, at, node, &mut wrong);
        if wrong.is_empty() { Ok(Workload { kind, name, file: file.to_owned(), template, plan }) } else { Err(wrong) }
    }
}

/// A pod of the template has to be one that this node would run.
fn check_template(
    template: &PodTemplateSpec,
    claims: &[String],
    name: &ObjectName,
    kind: WorkloadKind,
    at: &str,
    node: &str,
    wrong: &mut Wrong,
) {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut pod = Pod {
        metadata: ObjectMeta { name: Some(name.name.clone()), namespace: Some(name.namespace.clone()), ..meta },
        spec: template.spec.clone(),
        status: None,
    };
    let restart = pod.spec.as_ref().and_then(|spec| spec.restart_policy.clone());
    let ends = matches!(kind, WorkloadKind::Job | WorkloadKind::CronJob);
    let fine = match restart.as_deref() {
        None => !ends,
        Some(policy) => (policy == "Always") != ends,
    };
    if !fine {
        let message = if ends { "must be OnFailure or Never" } else { "must be Always or left out" };
        wrong.push((format!("{at}.spec.restartPolicy"), message.to_owned()));
    }
    defaults::pod(&mut pod, node);
    if let Some(spec) = &mut pod.spec {
        // The volumes of claims come with the pods; until then something has to stand for them.
        let stand_in =
            |name: &String| Volume { name: name.clone(), empty_dir: Some(Default::default()), ..Volume::default() };
        let volumes = spec.volumes.get_or_insert_default();
        volumes.retain(|volume| !claims.contains(&volume.name));
        volumes.extend(claims.iter().map(stand_in));
    }
    let own_name = |field: &str| field == "metadata.name" || field == "metadata.namespace";
    let found = validate::pod(&pod).into_iter().filter(|(field, _)| !own_name(field));
    wrong.extend(found.map(|(field, message)| (format!("{at}.{field}"), message)));
}

fn count(given: Option<i32>, default: i32, most: i32, field: &str, wrong: &mut Wrong) -> u32 {
    let value = given.unwrap_or(default);
    if !(0..=most).contains(&value) {
        wrong.push((field.to_owned(), format!("{value} must be between 0 and {most}")));
    }
    u32::try_from(value.clamp(0, most)).unwrap_or_default()
}

fn replicas(given: Option<i32>, wrong: &mut Wrong) -> u32 {
    count(given, 1, MOST_PODS, "spec.replicas", wrong)
}

fn min_ready(given: Option<i32>, wrong: &mut Wrong) -> SignedDuration {
    SignedDuration::from_secs(i64::from(count(given, 0, i32::MAX, "spec.minReadySeconds", wrong)))
}

fn refuse(given: bool, field: &str, wrong: &mut Wrong) {
    if given {
        wrong.push((field.to_owned(), "not supported on its own yet".to_owned()));
    }
}

fn one_of<'v>(given: Option<&'v String>, allowed: &[&'v str], field: &str, wrong: &mut Wrong) -> &'v str {
    let value = given.map_or(allowed[0], String::as_str);
    if !allowed.contains(&value) {
        wrong.push((field.to_owned(), format!("{value:?} must be {}", validate::or(allowed))));
    }
    value
}

/// The selector has to find the pods: a Service or a person goes by the same labels.
fn selects(selector: &LabelSelector, template: &PodTemplateSpec, wrong: &mut Wrong) {
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let empty = selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty);
    if empty {
        wrong.push(("spec.selector".to_owned(), "is missing; it holds the labels of spec.template".to_owned()));
    } else if !crate::selectors::takes(selector, &labels) {
        wrong.push(("spec.template.metadata.labels".to_owned(), "are not what spec.selector selects".to_owned()));
    }
}

impl Spec for DeploymentSpec {
    fn plan(self, _: &ObjectName, wrong: &mut Wrong) -> (PodTemplateSpec, Plan) {
        selects(&self.selector, &self.template, wrong);
        let count = replicas(self.replicas, wrong);
        let strategy = self.strategy.unwrap_or_default();
        let kind = one_of(strategy.type_.as_ref(), &["RollingUpdate", "Recreate"], "spec.strategy.type", wrong);
        let rollout = match (self.paused == Some(true), kind) {
            (true, _) => Rollout::Never,
            (false, "Recreate") => Rollout::Recreate,
            (false, _) => rolling(strategy.rolling_update.unwrap_or_default(), count, wrong),
        };
        let plan = Replicas { count, min_ready: min_ready(self.min_ready_seconds, wrong), rollout };
        (self.template, Plan::Replicas(plan))
    }
}

fn rolling(given: RollingUpdateDeployment, count: u32, wrong: &mut Wrong) -> Rollout {
    let at = "spec.strategy.rollingUpdate";
    let quarter = || IntOrString::String("25%".to_owned());
    let surge = given.max_surge.unwrap_or_else(quarter);
    let surge = share(&surge, count, true, &format!("{at}.maxSurge"), wrong);
    let unavailable = given.max_unavailable.unwrap_or_else(quarter);
    let unavailable = share(&unavailable, count, false, &format!("{at}.maxUnavailable"), wrong);
    // Neither more nor fewer would never get anywhere.
    let unavailable = if surge == 0 { unavailable.max(1) } else { unavailable };
    Rollout::Rolling { surge, unavailable }
}

/// A number, or a part of `of` in per cent.
fn share(given: &IntOrString, of: u32, up: bool, field: &str, wrong: &mut Wrong) -> u32 {
    let percent = |text: &String| text.strip_suffix('%')?.parse::<u32>().ok();
    match given {
        IntOrString::Int(number) => count(Some(*number), 0, MOST_PODS, field, wrong),
        IntOrString::String(text) => {
            let Some(percent) = percent(text).filter(|percent| *percent <= 1_000) else {
                wrong.push((field.to_owned(), format!("{text:?} must be a number or a percentage such as 25%")));
                return 0;
            };
            let part = of.saturating_mul(percent);
            if up { part.div_ceil(100) } else { part / 100 }
        }
    }
}

impl Spec for ReplicaSetSpec {
    fn plan(self, _: &ObjectName, wrong: &mut Wrong) -> (PodTemplateSpec, Plan) {
        let template = self.template.unwrap_or_default();
        selects(&self.selector, &template, wrong);
        let count = replicas(self.replicas, wrong);
        let plan = Replicas { count, min_ready: min_ready(self.min_ready_seconds, wrong), rollout: Rollout::Never };
        (template, Plan::Replicas(plan))
    }
}

impl Spec for ReplicationControllerSpec {
    fn plan(self, _: &ObjectName, wrong: &mut Wrong) -> (PodTemplateSpec, Plan) {
        let template = self.template.unwrap_or_default();
        if self.selector.is_some() {
            let selector = LabelSelector { match_labels: self.selector, ..LabelSelector::default() };
            selects(&selector, &template, wrong);
        }
        let count = replicas(self.replicas, wrong);
        let plan = Replicas { count, min_ready: min_ready(self.min_ready_seconds, wrong), rollout: Rollout::Never };
        (template, Plan::Replicas(plan))
    }
}

impl Spec for DaemonSetSpec {
    fn plan(self, _: &ObjectName, wrong: &mut Wrong) -> (PodTemplateSpec, Plan) {
        selects(&self.selector, &self.template, wrong);
        let strategy = self.update_strategy.unwrap_or_default();
        let kinds = &["RollingUpdate", "OnDelete"];
        let kind = one_of(strategy.type_.as_ref(), kinds, "spec.updateStrategy.type", wrong);
        let surge = strategy.rolling_update.and_then(|update| update.max_surge).unwrap_or(IntOrString::Int(0));
        let surge = share(&surge, 1, true, "spec.updateStrategy.rollingUpdate.maxSurge", wrong);
        let rollout = match (kind, surge) {
            ("OnDelete", _) => Rollout::Never,
            // One pod on one node: it has to be gone before the next one gets its ports.
            (_, 0) => Rollout::Recreate,
            _ => Rollout::Rolling { surge: 1, unavailable: 0 },
        };
        let plan = Replicas { count: 1, min_ready: min_ready(self.min_ready_seconds, wrong), rollout };
        (self.template, Plan::Replicas(plan))
    }
}

impl Spec for StatefulSetSpec {
    fn plan(self, name: &ObjectName, wrong: &mut Wrong) -> (PodTemplateSpec, Plan) {
        selects(&self.selector, &self.template, wrong);
        // Its pods' names are host names too: 63, with the ordinal.
        if name.name.len() > 58 {
            wrong
                .push(("metadata.name".to_owned(), "is longer than 58: its pods' names would be no labels".to_owned()));
        }
        let policies = &["OrderedReady", "Parallel"];
        let ordered = one_of(self.pod_management_policy.as_ref(), policies, "spec.podManagementPolicy", wrong);
        let ordered = ordered == "OrderedReady";
        let strategy = self.update_strategy.unwrap_or_default();
        let kinds = &["RollingUpdate", "OnDelete"];
        let kind = one_of(strategy.type_.as_ref(), kinds, "spec.updateStrategy.type", wrong);
        let update = strategy.rolling_update.unwrap_or_default();
        let one = update.max_unavailable.is_none_or(|many| many == IntOrString::Int(1));
        refuse(!one, "spec.updateStrategy.rollingUpdate.maxUnavailable", wrong);
        let field = "spec.updateStrategy.rollingUpdate.partition";
        let partition = count(update.partition, 0, i32::MAX, field, wrong);
        let retention = self.persistent_volume_claim_retention_policy.unwrap_or_default();
        let at = "spec.persistentVolumeClaimRetentionPolicy";
        let kept = &["Retain", "Delete"];
        one_of(retention.when_deleted.as_ref(), kept, &format!("{at}.whenDeleted"), wrong);
        let scaled = one_of(retention.when_scaled.as_ref(), kept, &format!("{at}.whenScaled"), wrong);
        let mut claims = self.volume_claim_templates.unwrap_or_default();
        for (index, claim) in claims.iter_mut().enumerate() {
            claim.status = None;
            defaults::claim(claim);
            let found = validate::claim(claim).into_iter();
            wrong.extend(found.map(|(f, message)| (format!("spec.volumeClaimTemplates[{index}].{f}"), message)));
        }
        let plan = Stateful {
            count: replicas(self.replicas, wrong),
            first: count(self.ordinals.and_then(|o| o.start), 0, i32::MAX, "spec.ordinals.start", wrong),
            min_ready: min_ready(self.min_ready_seconds, wrong),
            ordered,
            partition: (kind != "OnDelete").then_some(partition),
            service: self.service_name.unwrap_or_default(),
            claims,
            claim_labels: self.selector.match_labels.unwrap_or_default(),
            drop_claims: scaled == "Delete",
        };
        (self.template, Plan::Stateful(Box::new(plan)))
    }
}

impl Spec for JobSpec {
    fn plan(self, _: &ObjectName, wrong: &mut Wrong) -> (PodTemplateSpec, Plan) {
        let plan = job(&self, "spec", wrong);
        (self.template, Plan::Job(plan))
    }
}

fn job(spec: &JobSpec, at: &str, wrong: &mut Wrong) -> JobPlan {
    let field = |name: &str| format!("{at}.{name}");
    refuse(spec.pod_failure_policy.is_some(), &field("podFailurePolicy"), wrong);
    refuse(spec.success_policy.is_some(), &field("successPolicy"), wrong);
    refuse(spec.backoff_limit_per_index.is_some(), &field("backoffLimitPerIndex"), wrong);
    refuse(spec.max_failed_indexes.is_some(), &field("maxFailedIndexes"), wrong);
    refuse(spec.managed_by.is_some(), &field("managedBy"), wrong);
    refuse(spec.manual_selector == Some(true), &field("manualSelector"), wrong);
    let modes = &["NonIndexed", "Indexed"];
    let indexed = one_of(spec.completion_mode.as_ref(), modes, &field("completionMode"), wrong) == "Indexed";
    let policies = &["TerminatingOrFailed", "Failed"];
    one_of(spec.pod_replacement_policy.as_ref(), policies, &field("podReplacementPolicy"), wrong);
    // Neither given means one; parallelism alone is a queue that its pods know to be empty.
    let completions = spec.completions.or(spec.parallelism.is_none().then_some(1));
    if indexed && completions.is_none() {
        wrong.push((field("completions"), "is missing; completionMode Indexed needs it".to_owned()));
    }
    let seconds = |given: Option<i64>, least: i64, name: &str, wrong: &mut Wrong| {
        if given.is_some_and(|given| !(least..=i64::from(i32::MAX)).contains(&given)) {
            wrong.push((field(name), format!("must be between {least} and {}", i32::MAX)));
        }
        given
    };
    JobPlan {
        parallelism: count(spec.parallelism, 1, MOST_PODS, &field("parallelism"), wrong),
        completions: completions.map(|many| count(Some(many), 1, MOST_COMPLETIONS, &field("completions"), wrong)),
        indexed,
        backoff_limit: count(spec.backoff_limit, 6, i32::MAX, &field("backoffLimit"), wrong),
        deadline: seconds(spec.active_deadline_seconds, 1, "activeDeadlineSeconds", wrong),
        ttl: seconds(spec.ttl_seconds_after_finished.map(i64::from), 0, "ttlSecondsAfterFinished", wrong),
        suspend: spec.suspend == Some(true),
    }
}

impl Spec for CronJobSpec {
    fn plan(self, name: &ObjectName, wrong: &mut Wrong) -> (PodTemplateSpec, Plan) {
        // Its Jobs' names have eleven more, and are labels.
        if name.name.len() > 52 {
            wrong
                .push(("metadata.name".to_owned(), "is longer than 52: its Jobs' names would be no labels".to_owned()));
        }
        let zone = zone(self.time_zone.as_deref()).unwrap_or_else(|message| {
            wrong.push(("spec.timeZone".to_owned(), message));
            jiff::tz::TimeZone::UTC
        });
        let policies = &["Allow", "Forbid", "Replace"];
        let concurrency = one_of(self.concurrency_policy.as_ref(), policies, "spec.concurrencyPolicy", wrong);
        let concurrency = match concurrency {
            "Forbid" => Concurrency::Forbid,
            "Replace" => Concurrency::Replace,
            _ => Concurrency::Allow,
        };
        let spec = self.job_template.spec.unwrap_or_default();
        let job = job(&spec, "spec.jobTemplate.spec", wrong);
        let limits = [
            count(self.successful_jobs_history_limit, 3, MOST_PODS, "spec.successfulJobsHistoryLimit", wrong),
            count(self.failed_jobs_history_limit, 1, MOST_PODS, "spec.failedJobsHistoryLimit", wrong),
        ];
        if self.starting_deadline_seconds.is_some_and(|seconds| seconds < 0) {
            wrong.push(("spec.startingDeadlineSeconds".to_owned(), "must not be negative".to_owned()));
        }
        let schedule = Schedule::parse(&self.schedule, zone).or_else(|error| {
            wrong.push(("spec.schedule".to_owned(), format!("{:?}: {error}", self.schedule)));
            // Never used: what is wrong is not run.
            Schedule::parse("@yearly", jiff::tz::TimeZone::UTC)
        });
        let plan = schedule.map(|schedule| CronPlan {
            schedule,
            concurrency,
            starting_deadline: self.starting_deadline_seconds,
            suspend: self.suspend == Some(true),
            keep_complete: limits[0],
            keep_failed: limits[1],
            job: job.clone(),
        });
        // The stand-in above always parses.
        let plan = plan.map_or(Plan::Job(job), |plan| Plan::Cron(Box::new(plan)));
        (spec.template, plan)
    }
}
