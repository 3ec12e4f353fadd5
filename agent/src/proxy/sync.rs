//! The task that keeps the kernel at what the newest snapshot says.
//!
//! The first change after a quiet time is programmed at once; those that come meanwhile are gathered for about as long as
//! the last transaction took. Between changes the task looks whether somebody else wrote to the tables, and puts right
//! what they took away; whoever does so again and again is met more and more seldom, so that no two programs fight.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use netfilter::{Family, Model, Policy, ServicePort};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::compile::Compiler;
use super::health::{self, Health, NodePorts};
use super::kernel::{self, Kernel, KernelError, Outcome, Wanted};
use super::listed::Listed;
use super::metrics::{Metrics, family_name};
use super::settings::{Mode, Settings, own_addresses};
use super::snapshot::{Snapshot, Snapshots};
use super::sysctls;
use crate::errors::chain;
use crate::events::{About, EventType, Recorder};

/// The least and the most that changes are gathered for after a transaction.
const GATHER: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
/// How often the tables are asked whether somebody wrote.
const LOOK: Duration = Duration::from_millis(200);
/// After something failed, unless something changes before; doubled each time.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
/// Rules that were taken away again within this time are somebody's doing.
const CALM: Duration = Duration::from_secs(60);
/// Looking at everything may use this part of the time at most: a tenth.
const SHARE: u32 = 10;
/// Everything is looked at so often even if nobody seems to have written.
const ANYWAY: Duration = Duration::from_secs(3_600);

/// Keeps the kernel's rules at what the snapshots say, until `stop`.
///
/// What there is, is told to `shown`, whether the kernel took it or not.
pub async fn run(
    mut snapshots: Snapshots,
    settings: Settings,
    recorder: Recorder,
    shown: watch::Sender<Arc<Listed>>,
    stop: CancellationToken,
) {
    let mut sync = Sync::new(settings, recorder);
    let _servers = sync.serve().await;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut following = true;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            more = snapshots.changed(), if following => {
                following = more.is_ok();
                sync.changed(Instant::now());
            }
            () = wait_for(sync.due) => {
                let newest = snapshots.borrow_and_update().clone();
                sync.program(newest).await;
                shown.send_replace(Arc::new(sync.listed()));
            }
            _ = looks.tick(), if sync.kernel.is_some() => sync.look().await,
        }
    }
    sync.end().await;
}

async fn wait_for(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

struct Sync {
    settings: Settings,
    recorder: Recorder,
    health: Health,
    metrics: Metrics,
    ports: NodePorts,
    compilers: [Compiler; 2],
    /// What the kernel of each family has.
    programmed: [Option<Model>; 2],
    kernel: Option<Kernel>,
    /// What was said and still holds: it is not said again.
    said: BTreeSet<String>,
    due: Option<Instant>,
    not_before: Instant,
    retry: Duration,
    repairs: Repairs,
    seen: Option<Arc<Snapshot>>,
    is_prepared: bool,
    loopback: Loopback,
}

/// Whether packets for 127.0.0.0/8 are let through, for node ports there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loopback {
    /// Nobody has asked for it, or the rule that guards the node is not there yet.
    Unasked,
    /// They were before, or cannot be.
    AsItWas,
    /// This agent let them in.
    Opened,
}

/// When everything is looked at again, and how often there was something to put right.
struct Repairs {
    not_before: Instant,
    last: Option<Instant>,
    in_a_row: u32,
    anyway: Instant,
}

impl Repairs {
    fn new(now: Instant) -> Self {
        Self { not_before: now, last: None, in_a_row: 0, anyway: now + ANYWAY }
    }

    /// After a look that took so long. Says how many times in a row there was something.
    fn done(&mut self, repaired: bool, took: Duration, now: Instant) -> u32 {
        if self.last.is_none_or(|last| now.duration_since(last) > CALM) {
            self.in_a_row = 0;
        }
        if repaired {
            self.last = Some(now);
            self.in_a_row += 1;
        }
        // The first three times at once: a firewall that is reloaded writes in several steps.
        let pause = if self.in_a_row > 3 { RETRY[0] * (1 << (self.in_a_row - 3).min(5)) } else { Duration::ZERO };
        self.not_before = now + pause.min(RETRY[1]).max(took * SHARE);
        self.anyway = now + ANYWAY;
        self.in_a_row
    }
}

impl Sync {
    fn new(settings: Settings, recorder: Recorder) -> Self {
        let now = Instant::now();
        Self {
            compilers: [Family::V4, Family::V6].map(|family| Compiler::new(family, &settings.node_name)),
            settings,
            recorder,
            health: Health::default(),
            metrics: Metrics::default(),
            ports: NodePorts::default(),
            programmed: [None, None],
            kernel: None,
            said: BTreeSet::new(),
            due: Some(now),
            not_before: now,
            retry: RETRY[0],
            repairs: Repairs::new(now),
            seen: None,
            is_prepared: false,
            loopback: Loopback::Unasked,
        }
    }

    /// Health and metrics, where they are wanted. A port that is taken is said and does not matter to Services.
    async fn serve(&mut self) -> Vec<AbortOnDrop> {
        let mut servers = Vec::new();
        let mode = match self.settings.mode {
            Mode::Iptables => "iptables",
            Mode::Nftables => "nftables",
        };
        if let Some(at) = self.settings.healthz {
            match health::serve(at, self.health.clone(), self.metrics.clone()).await {
                Ok(server) => servers.push(AbortOnDrop(server)),
                Err(error) => {
                    self.tell("FailedToStartProxierHealthcheck", &format!("health cannot be served on {at}: {error}"))
                }
            }
        }
        if let Some(at) = self.settings.metrics {
            match health::serve_metrics(at, self.metrics.clone(), mode).await {
                Ok(server) => servers.push(AbortOnDrop(server)),
                Err(error) => {
                    self.tell("FailedToStartMetricServer", &format!("metrics cannot be served on {at}: {error}"))
                }
            }
        }
        servers
    }

    fn listed(&self) -> Listed {
        let services = self.seen.as_ref().map(|seen| seen.services.clone()).unwrap_or_default();
        Listed { services, models: self.compilers.iter().map(|compiler| compiler.model().clone()).collect() }
    }

    /// Something is new.
    fn changed(&mut self, now: Instant) {
        let soonest = self.not_before.max(now);
        self.due = Some(self.due.map_or(soonest, |due| due.min(soonest)));
    }

    async fn program(&mut self, newest: Option<Arc<Snapshot>>) {
        self.due = None;
        let Some(snapshot) = newest else { return };
        let begin = Instant::now();
        let triggered = self.take_in(&snapshot, begin);
        let wanted = self.wanted(&snapshot);
        if wanted.is_empty() {
            return;
        }
        let result = self.write(wanted.clone()).await;
        let took = begin.elapsed();
        self.not_before = Instant::now() + took.clamp(GATHER[0], GATHER[1]);
        let is_well = match result {
            Ok(outcomes) => self.judge(outcomes, wanted, &triggered),
            Err(error) => {
                self.say_once("FailedToProgramServices", [chain(&error)]);
                false
            }
        };
        self.plan_retry(is_well);
    }

    /// Reads the snapshot, follows it where no kernel is needed, and says what of it cannot be.
    fn take_in(&mut self, snapshot: &Arc<Snapshot>, now: Instant) -> Vec<Timestamp> {
        let is_new = self.seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, snapshot));
        self.seen = Some(snapshot.clone());
        // Both see the same objects, whatever they make of them.
        let [changes, _] = self.compilers.each_mut().map(|compiler| compiler.advance(snapshot));
        self.metrics.add("kubeproxy_sync_proxy_rules_service_changes_total", "", changes.services as f64);
        self.metrics.add("kubeproxy_sync_proxy_rules_endpoint_changes_total", "", changes.slices as f64);
        self.metrics.set("kubeproxy_sync_proxy_rules_service_changes_pending", "", 0.0);
        self.metrics.set("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "", 0.0);
        self.health.eligible(snapshot.node.is_eligible);
        if is_new {
            let stamp = Timestamp::now().as_millisecond() as f64 / 1e3;
            for compiler in &self.compilers {
                let family = compiler.model().family();
                if !self.settings.on_its_own || !compiler.model().services().is_empty() {
                    self.health.queued(family, now);
                }
                self.metrics.set("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", &label(family), stamp);
            }
        }
        let problems: BTreeSet<_> = self.compilers.iter().flat_map(Compiler::problems).map(str::to_owned).collect();
        self.say_once("InvalidService", problems);
        let failed: Vec<_> =
            self.compilers.iter().flat_map(|compiler| self.ports.follow(compiler.model(), &self.health)).collect();
        self.say_once("FailedToStartServiceHealthcheck", failed);
        changes.triggered
    }

    /// What each family should have, where it is not what the kernel has already.
    fn wanted(&mut self, snapshot: &Snapshot) -> Vec<Wanted> {
        let addresses = own_addresses();
        let (mut wanted, mut clashes) = (Vec::new(), Vec::new());
        for (compiler, before) in self.compilers.iter().zip(&self.programmed) {
            let (model, clashing) = compiler.model().without_clashes();
            clashes.extend(clashing.iter().map(ToString::to_string));
            let family = model.family();
            let is_idle = self.settings.on_its_own && model.services().is_empty();
            if is_idle && !self.kernel.as_ref().is_some_and(|kernel| kernel.has(family)) {
                continue;
            }
            let before = before.clone().unwrap_or_else(|| Model::new(family));
            let node = self.settings.node_config(family, &snapshot.node, &addresses);
            wanted.push(Wanted { model, node, before, addresses: addresses.clone() });
        }
        self.say_once("ServiceClash", clashes);
        wanted
    }

    async fn write(&mut self, wanted: Vec<Wanted>) -> Result<Vec<Outcome>, KernelError> {
        self.prepare();
        let kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => Kernel::open(self.settings.mode, self.settings.turns.clone())?,
        };
        let (kernel, outcomes) = kernel.program(wanted).await?;
        self.kernel = Some(kernel);
        Ok(outcomes)
    }

    /// Once, before anything is written.
    fn prepare(&mut self) {
        if std::mem::replace(&mut self.is_prepared, true) {
            return;
        }
        if let Some(process) = kernel::kube_proxy() {
            self.tell(
                "AnotherProxy",
                &format!(
                    "kube-proxy (process {process}) programs the Services of this machine too, and each will undo what the \
                     other does: stop it, or run this one with --proxy-mode=off"
                ),
            );
        }
        for failed in self.settings.conntrack.iter().flat_map(sysctls::Conntrack::apply) {
            tracing::warn!("{failed}; Services work without it");
        }
    }

    /// Says what was refused, and takes down what the kernel has now. False when something is to be tried again.
    fn judge(&mut self, outcomes: Vec<Outcome>, wanted: Vec<Wanted>, triggered: &[Timestamp]) -> bool {
        let (mut refused, mut failed) = (Vec::new(), Vec::new());
        for (outcome, wanted) in outcomes.into_iter().zip(wanted) {
            self.measure(&outcome, &wanted.model, triggered);
            match outcome.written {
                Ok(None) => self.health.absent(outcome.family),
                Ok(Some(written)) => {
                    self.open_loopback(&wanted);
                    refused.extend(written.refused.iter().map(refusal));
                    self.health.updated(outcome.family, Timestamp::now());
                    self.programmed[usize::from(outcome.family == Family::V6)] = Some(wanted.model);
                }
                Err(error) => {
                    failed.push(format!("programming Services ({}): {}", family_name(outcome.family), chain(&error)))
                }
            }
            if let Some((Err(error), _)) = outcome.forgotten {
                self.say_more(format!("stale UDP connections cannot be forgotten: {error}"));
            }
        }
        let is_well = failed.is_empty();
        // A Service that was set aside stays so until it is tried again: nothing about it is new before.
        if !refused.is_empty() {
            self.say_once("ServiceRefused", refused);
        }
        self.say_once("FailedToProgramServices", failed);
        is_well
    }

    /// For node ports on 127.0.0.1, once the rule is there that keeps neighbours away from it.
    fn open_loopback(&mut self, wanted: &Wanted) {
        let is_wanted = self.settings.mode == Mode::Iptables && wanted.node.serves_localhost(wanted.model.family());
        if !is_wanted || self.loopback != Loopback::Unasked {
            return;
        }
        self.loopback = match sysctls::open_loopback() {
            Ok(true) => Loopback::Opened,
            Ok(false) => Loopback::AsItWas,
            Err(error) => {
                tracing::warn!("{error}; node ports do not answer on 127.0.0.1");
                Loopback::AsItWas
            }
        };
    }

    fn measure(&self, outcome: &Outcome, model: &Model, triggered: &[Timestamp]) {
        let family = label(outcome.family);
        let (metrics, now) = (&self.metrics, Timestamp::now());
        if let Ok(Some(written)) = &outcome.written {
            metrics.took("kubeproxy_sync_proxy_rules_duration_seconds", &family, outcome.took);
            let kind = if written.is_full {
                "kubeproxy_sync_full_proxy_rules_duration_seconds"
            } else {
                "kubeproxy_sync_partial_proxy_rules_duration_seconds"
            };
            metrics.took(kind, &family, outcome.took);
            let stamp = now.as_millisecond() as f64 / 1e3;
            metrics.set("kubeproxy_sync_proxy_rules_last_timestamp_seconds", &family, stamp);
            for (table, (last, all)) in
                ["nat", "filter"].iter().zip(written.rules.iter().zip(outcome.rules.unwrap_or_default()))
            {
                let labels = format!("{family},table=\"{table}\"");
                metrics.set("kubeproxy_sync_proxy_rules_iptables_last", &labels, *last as f64);
                metrics.set("kubeproxy_sync_proxy_rules_iptables_total", &labels, all as f64);
            }
            for (policy, count) in ["internal", "external"].iter().zip(without_local_endpoints(model)) {
                let labels = format!("{family},traffic_policy=\"{policy}\"");
                metrics.set("kubeproxy_sync_proxy_rules_no_local_endpoints_total", &labels, count as f64);
            }
            for waited in triggered.iter().filter_map(|at| Duration::try_from(now.duration_since(*at)).ok()) {
                metrics.programmed(&family, waited);
            }
        }
        if outcome.written.is_err() {
            let name = match self.settings.mode {
                Mode::Iptables => "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                Mode::Nftables => "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
            };
            metrics.add(name, &family, 1.0);
        }
        if let Some((Ok(count), took)) = &outcome.forgotten {
            metrics.took("kubeproxy_conntrack_reconciler_sync_duration_seconds", &family, *took);
            metrics.add("kubeproxy_conntrack_reconciler_deleted_entries_total", &family, *count as f64);
        }
    }

    fn plan_retry(&mut self, is_well: bool) {
        let now = Instant::now();
        if is_well {
            self.retry = RETRY[0];
            self.due = self.kernel.as_ref().and_then(Kernel::retry);
        } else {
            self.due = Some(now + self.retry);
            self.retry = (self.retry * 2).min(RETRY[1]);
        }
    }

    /// Puts right what somebody else took away.
    async fn look(&mut self) {
        let now = Instant::now();
        let Some(kernel) = &mut self.kernel else { return };
        if now >= self.repairs.anyway {
            kernel.suspect();
        }
        if !kernel.is_suspect() || now < self.repairs.not_before {
            return;
        }
        let Some(kernel) = self.kernel.take() else { return };
        match kernel.repair().await {
            Ok((kernel, result)) => {
                self.kernel = Some(kernel);
                self.repaired(result, now.elapsed());
            }
            Err(error) => {
                // With the thread went what we knew: the next one takes over what is there.
                self.say_more(chain(&error));
                self.due = Some(Instant::now());
            }
        }
    }

    fn repaired(&mut self, result: Result<usize, netfilter::apply::ApplyError>, took: Duration) {
        let count = *result.as_ref().unwrap_or(&1);
        let in_a_row = self.repairs.done(count > 0, took, Instant::now());
        match result {
            Err(error) => self.say_more(format!("repairing the rules of Services: {}", chain(&error))),
            Ok(0) => {}
            Ok(_) if in_a_row == 1 => {
                self.tell(
                    "ServicesRepaired",
                    "rules of Services were changed from outside; they have been written again",
                );
            }
            Ok(_) if in_a_row == 4 => {
                self.tell(
                    "ServicesContested",
                    "another program keeps changing the rules of Services; they are repaired more and more seldom",
                );
            }
            Ok(_) => {}
        }
    }

    async fn end(self) {
        let Some(kernel) = self.kernel.filter(|_| self.settings.on_its_own) else { return };
        if self.loopback == Loopback::Opened
            && let Err(error) = sysctls::close_loopback()
        {
            tracing::warn!("{error}");
        }
        if let Err(error) = kernel.clean_up().await {
            tell(&self.recorder, "FailedToRemoveServices", &chain(&error));
        }
    }

    /// Says each of these that was not said already; forgets those of the same reason that hold no more.
    fn say_once(&mut self, reason: &str, now: impl IntoIterator<Item = String>) {
        let now: BTreeSet<String> = now.into_iter().map(|text| format!("{reason} {text}")).collect();
        for text in now.difference(&self.said) {
            tell(&self.recorder, reason, text.split_once(' ').map_or(text.as_str(), |(_, text)| text));
        }
        self.said.retain(|text| !text.starts_with(&format!("{reason} ")));
        self.said.extend(now);
    }

    /// Says it unless it was said before.
    fn say_more(&mut self, text: String) {
        if self.said.insert(text.clone()) {
            tracing::warn!("{text}");
        }
    }

    fn tell(&self, reason: &str, message: &str) {
        tell(&self.recorder, reason, message);
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Service ports whose policy is Local and that have endpoints, but none here: by internal and by external policy.
fn without_local_endpoints(model: &Model) -> [usize; 2] {
    let count = |policy: fn(&ServicePort) -> Policy| {
        let concerned = model.services().values().filter(|service| policy(service) == Policy::Local);
        let takes = |end: &&netfilter::Endpoint| end.ready || (end.serving && end.terminating);
        concerned
            .filter(|service| {
                let mut usable = service.endpoints.iter().filter(takes).peekable();
                usable.peek().is_some() && !usable.any(|end| end.local)
            })
            .count()
    };
    [count(|service| service.internal_policy), count(|service| service.external_policy)]
}

fn label(family: Family) -> String {
    format!("ip_family=\"{}\"", family_name(family))
}

fn refusal(error: &netfilter::apply::ApplyError) -> String {
    let owner = match error {
        netfilter::apply::ApplyError::Refused { owner: Some(owner), .. } => owner.as_str(),
        _ => "unknown",
    };
    format!("the rules of Service {owner} are refused, it is left out and tried again later: {error}")
}

fn tell(recorder: &Recorder, reason: &str, message: &str) {
    tracing::warn!(reason, "{message}");
    recorder.record(About::Node, EventType::Warning, reason, message, Timestamp::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fights_is_met_more_and_more_seldom() {
        let start = Instant::now();
        let (mut repairs, mut now, mut pauses) = (Repairs::new(start), start, Vec::new());
        for _ in 0..10 {
            repairs.done(true, Duration::from_millis(10), now);
            pauses.push(repairs.not_before.duration_since(now).as_millis());
            now = repairs.not_before;
        }
        assert_eq!(pauses, [100, 100, 100, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        assert_eq!(repairs.done(true, Duration::ZERO, now + CALM * 2), 1, "a quiet minute later all is as new");
    }

    #[test]
    fn looking_at_much_is_done_seldom() {
        let mut repairs = Repairs::new(Instant::now());
        let now = Instant::now();
        repairs.done(false, Duration::from_secs(1), now);
        assert_eq!(repairs.not_before.duration_since(now), Duration::from_secs(10));
    }

    #[test]
    fn what_holds_is_said_once_and_again_when_it_comes_back() {
        let mut sync = Sync::new(Settings::new("n1"), Recorder::default());
        let mut say = |words: &[&str]| {
            sync.say_once("ServiceClash", words.iter().map(|word| (*word).to_owned()));
            sync.recorder.recent().iter().map(|event| event.count).sum::<u32>()
        };
        assert_eq!([say(&["a"]), say(&["a"]), say(&["a", "b"]), say(&[]), say(&["a"])], [1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_change_after_a_quiet_time_is_due_at_once_and_others_are_gathered() {
        let mut sync = Sync::new(Settings::new("n1"), Recorder::default());
        let now = Instant::now() + CALM;
        sync.due = None;
        sync.changed(now);
        assert_eq!(sync.due, Some(now));
        sync.due = None;
        sync.not_before = now + GATHER[1];
        sync.changed(now);
        assert_eq!(sync.due, Some(sync.not_before));
        sync.due = Some(now + RETRY[1]);
        sync.changed(now);
        assert_eq!(sync.due, Some(sync.not_before), "a change does not wait for what failed");
    }
}
