//! When a probe is due and what its outcomes mean: one machine per container and kind. Time is an argument.
//!
//! The kubelet wakes a worker each period and asks what to do (see `probes`, section 3); here the same rules say when
//! the next attempt is due, so that nothing wakes in vain. A probe's grid begins when its container does.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Outcome, ProbeKind};

/// How soon an unready container is looked at again, doubled each time up to the period: most become ready within
/// moments of their start, and the kubelet, too, looks more often while it waits for the first success.
const EAGER: Duration = Duration::from_millis(100);

/// The numbers of one probe, defaults applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub kind: ProbeKind,
    pub initial_delay: Duration,
    pub period: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
}

/// One probe of one container, over all of its instances.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Machine {
    settings: Settings,
    /// The instance that runs, or ran last.
    id: String,
    /// Since when it runs; `None` while it does not.
    running: Option<Instant>,
    /// What is reported.
    result: Option<Outcome>,
    /// How often the last outcome came in a row.
    run: u32,
    last: Option<Outcome>,
    /// Decided for this instance: no more attempts before the next one.
    hold: bool,
    /// The next attempt, if nothing speaks against it.
    next: Option<Instant>,
    /// An attempt is under way.
    busy: bool,
    /// Asked for while one was under way.
    again: bool,
    /// Attempts outside of the grid, until the first success.
    eager: Option<Duration>,
    ended: bool,
    /// A former run of the agent wrote down what it knew.
    remembers: bool,
}

/// What survives the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedProbe {
    id: String,
    result: Option<Outcome>,
    run: u32,
    last: Option<Outcome>,
    hold: bool,
}

impl Machine {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            id: String::new(),
            running: None,
            result: None,
            run: 0,
            last: None,
            hold: false,
            next: None,
            busy: false,
            again: false,
            eager: None,
            ended: false,
            remembers: false,
        }
    }

    /// What is reported; `None` as long as nothing is known.
    pub(super) fn result(&self) -> Option<Outcome> {
        self.result
    }

    /// The instance that [`Self::result`] is about.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// An instance runs. The same one again changes nothing; a new one begins with the initial value of its kind.
    /// `restored`: it was started by a former run of the agent, and what it was then is not known to be wrong.
    pub(super) fn running(&mut self, id: &str, since: Instant, restored: bool) {
        if self.id != id {
            self.id = id.to_owned();
            self.hold = false;
            self.result = self.initial(restored);
        }
        self.running = Some(since);
    }

    fn initial(&self, restored: bool) -> Option<Outcome> {
        match (self.settings.kind, restored) {
            // Nothing was written down of any instance: whoever started this one saw to it that it came up. But an
            // instance that the notes do not know began after the last of them.
            (ProbeKind::Startup, true) if !self.remembers => Some(Outcome::Success),
            (_, true) | (ProbeKind::Startup, _) => None,
            (ProbeKind::Readiness, false) => Some(Outcome::Failure),
            (ProbeKind::Liveness, false) => Some(Outcome::Success),
        }
    }

    /// The instance does not run any more.
    pub(super) fn stopped(&mut self) {
        self.running = None;
        self.next = None;
        self.again = false;
        if !self.id.is_empty() && !self.ended {
            self.result = Some(Outcome::Failure);
        }
    }

    /// Begins the grid at `now`: the container has started, or its startup probe has let this one go on. `offset`
    /// spreads the probes of an agent that has just come up.
    pub(super) fn begin_grid(&mut self, now: Instant, offset: Duration) {
        let Some(since) = self.running else { return };
        let earliest = (since + self.settings.initial_delay).max(now);
        let delayed = since + self.settings.initial_delay > now;
        self.next = Some(match self.settings.kind {
            // The kubelet's first look falls anywhere into the first period; a container that is just starting is
            // given all of it before it can be found dead.
            ProbeKind::Liveness if !delayed && offset.is_zero() => now + self.settings.period,
            _ => earliest + offset,
        });
        // One that was ready before is given all of its failures on the grid.
        let unready = self.settings.kind == ProbeKind::Readiness && self.result == Some(Outcome::Failure);
        self.eager = unready.then_some(EAGER);
    }

    /// When the next attempt is due, if one is.
    pub(super) fn due(&self) -> Option<Instant> {
        let idle = self.busy || self.hold || self.ended || self.running.is_none();
        // A startup probe has nothing to do once it has let the others begin.
        let done = self.settings.kind == ProbeKind::Startup && self.result == Some(Outcome::Success);
        if idle || done { None } else { self.next }
    }

    /// An attempt begins. The grid goes on from its planned moment; moments that were missed are dropped.
    pub(super) fn begin(&mut self, now: Instant) {
        self.busy = true;
        let planned = self.next.unwrap_or(now);
        let mut next = planned + self.settings.period;
        if next <= now {
            let missed = now.duration_since(planned).as_nanos() / self.settings.period.as_nanos().max(1);
            let missed = u32::try_from(missed).unwrap_or(u32::MAX);
            next = planned.checked_add(self.settings.period.saturating_mul(missed.saturating_add(1))).unwrap_or(now);
        }
        self.next = Some(next.max(now));
    }

    /// An attempt has ended; `None` is an outcome that does not count. True when there is something new to remember.
    pub(super) fn finished(&mut self, id: &str, outcome: Option<Outcome>, now: Instant) -> bool {
        self.busy = false;
        // What it looked at is gone meanwhile, or nobody wants to know any more.
        if self.id != id || self.running.is_none() || self.ended {
            return false;
        }
        let before = self.counted();
        if let Some(outcome) = outcome {
            self.count(outcome);
        }
        self.hurry(now);
        before != self.counted()
    }

    /// What [`Self::save`] keeps of the outcomes. Beyond the thresholds a count says nothing more; what is saved should
    /// not change with each attempt.
    fn counted(&self) -> (Option<Outcome>, u32, Option<Outcome>, bool) {
        let run = self.run.min(self.settings.success_threshold.max(self.settings.failure_threshold));
        (self.result, run, self.last, self.hold)
    }

    fn count(&mut self, outcome: Outcome) {
        self.run = if self.last == Some(outcome) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(outcome);
        let threshold = match outcome {
            Outcome::Success => self.settings.success_threshold,
            Outcome::Failure => self.settings.failure_threshold,
        };
        if self.run < threshold {
            return;
        }
        self.result = Some(outcome);
        let decided = match self.settings.kind {
            ProbeKind::Readiness => false,
            ProbeKind::Liveness => outcome == Outcome::Failure,
            ProbeKind::Startup => true,
        };
        if decided {
            self.hold = true;
            self.run = 0;
        }
    }

    /// Brings the next attempt forward while a container has never been ready, or when somebody asked meanwhile.
    fn hurry(&mut self, now: Instant) {
        if self.result == Some(Outcome::Success) {
            self.eager = None;
        }
        if let (Some(soon), Some(next)) = (self.eager, self.next) {
            self.next = Some(next.min(now + soon));
            self.eager = Some((soon * 2).min(self.settings.period));
        }
        if std::mem::take(&mut self.again) {
            self.kick(now);
        }
    }

    /// Somebody wants to know now: an attempt at once, and the grid begins anew. Only a readiness probe without a
    /// success, and never before its initial delay.
    pub(super) fn kick(&mut self, now: Instant) {
        if self.settings.kind != ProbeKind::Readiness || self.result == Some(Outcome::Success) {
            return;
        }
        if self.busy {
            self.again = true;
            return;
        }
        if let (Some(since), Some(next)) = (self.running, self.next) {
            self.next = Some(next.min(now.max(since + self.settings.initial_delay)));
        }
    }

    /// No more attempts, ever; the result of a liveness probe counts no more.
    pub(super) fn end(&mut self) {
        self.ended = true;
        if self.settings.kind == ProbeKind::Liveness {
            self.result = None;
        }
    }

    pub(super) fn save(&self) -> SavedProbe {
        let (result, run, last, hold) = self.counted();
        SavedProbe { id: self.id.clone(), result, run, last, hold }
    }

    pub(super) fn restore(&mut self, saved: SavedProbe) {
        let SavedProbe { id, result, run, last, hold } = saved;
        *self = Self { id, result, run, last, hold, remembers: true, ..Self::new(self.settings) };
    }
}

#[cfg(test)]
mod tests;
