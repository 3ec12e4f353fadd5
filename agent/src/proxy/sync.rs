//! The task that keeps the kernel at what the newest snapshot says.
//!
//! The first change after a quiet time is programmed at once; those that come meanwhile are gathered for about as long as
//! the last transaction took. Between changes the task looks whether somebody else wrote to the tables, and puts right
//! what they took away; whoever does so again and again is met more and more seldom, so that no two programs fight.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use netfilter::{Family, Model};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;

use super::compile::Compiler;
use super::health::{self, Health, NodePorts};
use super::kernel::{self, Kernel, KernelError, Outcome, Wanted};
use super::listed::Listed;
use super::measured;
use super::metrics::{Metrics, family_name};
use super::repairs::Repairs;
use super::settings::{Mode, Settings, own_addresses};
use super::snapshot::{Snapshot, Snapshots};
use super::sysctls;
use super::told::Told;
use crate::errors::chain;
use crate::events::Recorder;

/// The least and the most that changes are gathered for after a transaction.
const GATHER: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(250)];
/// How often the tables are asked whether somebody wrote.
const LOOK: Duration = Duration::from_millis(200);
/// After something failed, unless something changes before; doubled each time.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];
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
    told: Told,
    health: Health,
    metrics: Metrics,
    ports: NodePorts,
    compiler: Compiler<2>,
    /// What the kernel of each family has.
    programmed: [Option<Arc<Model>>; 2],
    kernel: Option<Kernel>,
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

impl Sync {
    fn new(settings: Settings, recorder: Recorder) -> Self {
        let now = Instant::now();
        Self {
            compiler: Compiler::new([Family::V4, Family::V6], &settings.node_name),
            settings,
            told: Told::new(recorder),
            health: Health::default(),
            metrics: Metrics::default(),
            ports: NodePorts::default(),
            programmed: [None, None],
            kernel: None,
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
        if let Some(at) = self.settings.healthz {
            match health::serve(at, self.health.clone(), self.metrics.clone()).await {
                Ok(server) => servers.push(AbortOnDrop(server)),
                Err(error) => {
                    let message = format!("health cannot be served on {at}: {error}");
                    self.told.tell("FailedToStartProxierHealthcheck", &message);
                }
            }
        }
        if let Some(at) = self.settings.metrics {
            match health::serve_metrics(at, self.metrics.clone(), self.settings.mode.word()).await {
                Ok(server) => servers.push(AbortOnDrop(server)),
                Err(error) => {
                    self.told.tell("FailedToStartMetricServer", &format!("metrics cannot be served on {at}: {error}"));
                }
            }
        }
        servers
    }

    fn listed(&self) -> Listed {
        let services = self.seen.as_ref().map(|seen| seen.services.clone()).unwrap_or_default();
        let models = self.compiler.models().into_iter().cloned().collect();
        Listed { services, models, mode: self.settings.mode }
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
        let result = self.write(wanted).await;
        let took = begin.elapsed();
        self.not_before = Instant::now() + took.clamp(GATHER[0], GATHER[1]);
        let is_well = match result {
            Ok(outcomes) => self.judge(outcomes, &triggered),
            Err(error) => {
                self.told.once("FailedToProgramServices", [chain(&error)]);
                false
            }
        };
        self.plan_retry(is_well);
    }

    /// Reads the snapshot, follows it where no kernel is needed, and says what of it cannot be.
    fn take_in(&mut self, snapshot: &Arc<Snapshot>, now: Instant) -> Vec<Timestamp> {
        let is_new = self.seen.as_ref().is_none_or(|seen| !Arc::ptr_eq(seen, snapshot));
        self.seen = Some(snapshot.clone());
        let changes = self.compiler.advance(snapshot);
        measured::changes(&self.metrics, &changes);
        self.health.eligible(snapshot.node.is_eligible);
        let mut failed = Vec::new();
        for model in self.compiler.models() {
            if is_new {
                measured::queued(&self.metrics, model.family(), Timestamp::now());
            }
            if is_new && (!self.settings.on_its_own || !model.services().is_empty()) {
                self.health.queued(model.family(), now);
            }
            let chosen = || self.settings.node_port_addresses(model.family(), &own_addresses());
            failed.extend(self.ports.follow(model, &self.health, chosen));
        }
        self.told.once("InvalidService", self.compiler.problems().map(str::to_owned));
        self.told.once("ServiceClash", self.compiler.clashes().cloned());
        self.told.once("FailedToStartServiceHealthcheck", failed);
        changes.triggered
    }

    /// What each family should have; none for one that has nothing and never had.
    fn wanted(&self, snapshot: &Snapshot) -> Vec<Wanted> {
        let addresses: Arc<[_]> = own_addresses().into();
        let is_known = |family| self.kernel.as_ref().is_some_and(|kernel| kernel.has(family));
        let both = self.compiler.models().into_iter().zip(&self.programmed);
        let needed = both
            .filter(|(model, _)| !self.settings.on_its_own || !model.services().is_empty() || is_known(model.family()));
        let wanted = needed.map(|(model, before)| Wanted {
            model: model.clone(),
            node: self.settings.node_config(model.family(), &snapshot.node, &addresses),
            before: before.clone(),
            addresses: addresses.clone(),
        });
        wanted.collect()
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
            self.told.tell(
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
    fn judge(&mut self, outcomes: Vec<Outcome>, triggered: &[Timestamp]) -> bool {
        let (mut refused, mut failed) = (Vec::new(), Vec::new());
        for outcome in outcomes {
            measured::outcome(&self.metrics, self.settings.mode, &outcome, triggered);
            let family = outcome.family();
            match outcome.written {
                Ok(None) => self.health.absent(family),
                Ok(Some(written)) => {
                    self.open_loopback(&outcome.wanted);
                    refused.extend(written.refused.iter().map(refusal));
                    self.health.updated(family, Timestamp::now());
                    self.programmed[usize::from(family == Family::V6)] = Some(outcome.wanted.model);
                }
                Err(error) => failed.push(format!("programming Services ({}): {}", family_name(family), chain(&error))),
            }
            if let Some((Err(error), _)) = outcome.forgotten {
                self.told.log(format!("stale connections cannot be forgotten: {error}"));
            }
        }
        let is_well = failed.is_empty();
        // A Service that was set aside stays so until it is tried again: nothing about it is new before.
        if !refused.is_empty() {
            self.told.once("ServiceRefused", refused);
        }
        self.told.once("FailedToProgramServices", failed);
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
        if self.kernel.as_ref().is_some_and(|kernel| kernel.is_read_due(now)) {
            self.read(now).await;
        }
        let Some(kernel) = &mut self.kernel else { return };
        if self.repairs.are_overdue(now) {
            kernel.suspect();
        }
        if !kernel.is_suspect() || !self.repairs.may_begin(now) {
            return;
        }
        let Some(kernel) = self.kernel.take() else { return };
        match kernel.repair().await {
            Ok((kernel, result)) => {
                self.kernel = Some(kernel);
                self.repaired(result, now.elapsed());
            }
            Err(error) => self.lost(&error),
        }
    }

    async fn read(&mut self, now: Instant) {
        let Some(kernel) = self.kernel.take() else { return };
        match kernel.read(now).await {
            Ok(kernel) => self.kernel = Some(kernel),
            Err(error) => self.lost(&error),
        }
    }

    /// With the thread went what we knew: the next one takes over what is there.
    fn lost(&mut self, error: &KernelError) {
        self.told.log(chain(error));
        self.due = Some(Instant::now());
    }

    fn repaired(&mut self, result: Result<usize, netfilter::apply::ApplyError>, took: Duration) {
        let count = *result.as_ref().unwrap_or(&1);
        let in_a_row = self.repairs.done(count > 0, took, Instant::now());
        match result {
            Err(error) => self.told.log(format!("repairing the rules of Services: {}", chain(&error))),
            Ok(0) => {}
            Ok(_) if in_a_row == 1 => {
                self.told.tell(
                    "ServicesRepaired",
                    "rules of Services were changed from outside; they have been written again",
                );
            }
            Ok(_) if in_a_row == 4 => {
                self.told.tell(
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
            self.told.tell("FailedToRemoveServices", &chain(&error));
        }
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn refusal(error: &netfilter::apply::ApplyError) -> String {
    let owner = match error {
        netfilter::apply::ApplyError::Refused { owner: Some(owner), .. } => owner.as_str(),
        _ => "unknown",
    };
    format!("the rules of Service {owner} are refused, it is left out and tried again later: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_after_a_quiet_time_is_due_at_once_and_others_are_gathered() {
        let mut sync = Sync::new(Settings::new("n1"), Recorder::default());
        let now = Instant::now() + Duration::from_secs(60);
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
