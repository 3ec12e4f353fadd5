//! The kernel's rules of this node in both families, and the right to change them.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use netfilter::apply::ApplyError;
use netfilter::conntrack;
use netfilter::{Family, Model, NodeConfig};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::Instant;

use super::owner::{Owner, Taken};
use super::rules::{Rules, Written};
use super::settings::Mode;
use crate::heap;

/// Lines of a transaction from which on what it leaves behind is worth a look.
const BURST: usize = 5_000;

/// Why the rules could not be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelError {
    /// Another agent works on the same chains.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// The programs refused.
    #[error("programming Services")]
    Apply(#[from] ApplyError),
    /// The thread that ran them is gone.
    #[error("waiting for iptables")]
    Lost(#[from] JoinError),
}

/// The rules as they were left, and the right to change them.
pub(super) struct Kernel {
    mode: Mode,
    families: Vec<Rules>,
    /// Families that this machine does not have.
    absent: Vec<Family>,
    turns: Turns,
    _owner: Owner,
}

/// The turn to write packet rules, and how many commits this agent has made: those that are not ours are somebody else's.
/// Clones share it: one for all rooms of an agent that write rules.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<u32>>);

impl Turns {
    /// Waits for the turn.
    pub(crate) async fn take(&self) -> OwnedMutexGuard<u32> {
        self.0.clone().lock_owned().await
    }

    fn try_take(&self) -> Option<OwnedMutexGuard<u32>> {
        self.0.clone().try_lock_owned().ok()
    }
}

/// What one family should have.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Services and endpoints.
    pub(super) model: Arc<Model>,
    /// What the node adds.
    pub(super) node: NodeConfig,
    /// What the kernel had before, to see which connections lead elsewhere now.
    pub(super) before: Option<Arc<Model>>,
    /// The node's own addresses.
    pub(super) addresses: Arc<[IpAddr]>,
}

/// What came of one family.
#[derive(Debug)]
pub(super) struct Outcome {
    /// What it should have.
    pub(super) wanted: Wanted,
    /// How long it took.
    pub(super) took: Duration,
    /// What was written; `None` on a machine without this family.
    pub(super) written: Result<Option<Written>, ApplyError>,
    /// Connections that were forgotten and how long that took, or why they could not be.
    pub(super) forgotten: Option<(std::io::Result<usize>, Duration)>,
    /// How many rules there are now, in nat and in filter.
    pub(super) rules: Option<[usize; 2]>,
}

impl Outcome {
    /// Which family.
    pub(super) fn family(&self) -> Family {
        self.wanted.model.family()
    }

    /// Whether it took texts and lists of thousands of rules.
    fn is_burst(&self) -> bool {
        let written = self.written.as_ref().ok().and_then(Option::as_ref);
        written.is_some_and(|written| written.is_full || written.lines > BURST)
    }
}

impl Kernel {
    /// Takes the right to write; nothing is written yet.
    pub(super) fn open(mode: Mode, turns: Turns) -> Result<Self, KernelError> {
        Ok(Self { mode, families: Vec::new(), absent: Vec::new(), turns, _owner: Owner::take()? })
    }

    /// Makes the rules those of `wanted`, whoever wrote what is there. A family that fails holds up no other.
    pub(super) async fn program(mut self, wanted: Vec<Wanted>) -> Result<(Self, Vec<Outcome>), KernelError> {
        let mut own = self.turns.take().await;
        let work = move || {
            self.families.iter_mut().for_each(|rules| rules.look(*own));
            let outcomes: Vec<_> = wanted.into_iter().map(|wanted| self.program_one(wanted)).collect();
            let count = |outcome: &Outcome| match &outcome.written {
                Ok(Some(written)) => written.commits,
                Ok(None) => Some(0),
                Err(_) => None,
            };
            // What was taken over is looked at once more: whoever was writing then may have gone on.
            let ours = outcomes.iter().map(count).sum::<Option<u32>>();
            self.settle(&mut own, ours);
            if outcomes.iter().any(Outcome::is_burst) {
                heap::give_back();
            }
            (self, outcomes)
        };
        Ok(spawn_blocking(work).await?)
    }

    /// After our own writing, with so many commits if they could be counted.
    fn settle(&mut self, own: &mut u32, ours: Option<u32>) {
        let made = self.families.iter().find_map(|rules| rules.watched.commits()).unwrap_or_default();
        *own = own.wrapping_add(made);
        for rules in &mut self.families {
            rules.watched.settle(*own, ours);
        }
    }

    fn program_one(&mut self, wanted: Wanted) -> Outcome {
        let (family, begin) = (wanted.model.family(), Instant::now());
        let written = match self.rules(family) {
            Ok(Some(rules)) => rules.program(&wanted.model, &wanted.node, begin).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(error),
        };
        let took = begin.elapsed();
        let forgotten = matches!(written, Ok(Some(_))).then(|| forget(&wanted)).flatten();
        let rules = self.families.iter().find(|rules| rules.family == family).and_then(Rules::rule_counts);
        Outcome { wanted, took, written, forgotten, rules }
    }

    fn rules(&mut self, family: Family) -> Result<Option<&mut Rules>, ApplyError> {
        let known = self.families.iter().any(|rules| rules.family == family);
        if !known && !self.absent.contains(&family) {
            match Rules::open(family, self.mode)? {
                Some(rules) => self.families.push(rules),
                None => self.absent.push(family),
            }
        }
        Ok(self.families.iter_mut().find(|rules| rules.family == family))
    }

    /// Whether rules of ours were ever written for the family.
    pub(super) fn has(&self, family: Family) -> bool {
        self.families.iter().any(|rules| rules.family == family)
    }

    /// Whether somebody else may have changed our rules. Costs a system call for each family.
    pub(super) fn is_suspect(&mut self) -> bool {
        // Somebody in this agent is at it: what they do is known when they are done.
        let Some(own) = self.turns.try_take() else { return false };
        for rules in &mut self.families {
            rules.look(*own);
        }
        self.families.iter().any(|rules| rules.watched.is_suspect())
    }

    /// Whether there are tables that only reading tells of.
    pub(super) fn is_read_due(&self, now: Instant) -> bool {
        self.families.iter().any(|rules| rules.watched.is_read_due(now))
    }

    /// Reads them.
    pub(super) async fn read(mut self, now: Instant) -> Result<Self, KernelError> {
        let turn = self.turns.take().await;
        let work = move || {
            self.families.iter_mut().for_each(|rules| rules.read(now));
            drop(turn);
            self
        };
        Ok(spawn_blocking(work).await?)
    }

    /// Everything is looked at when the next repair is due.
    pub(super) fn suspect(&mut self) {
        self.families.iter_mut().for_each(|rules| rules.watched.suspect());
    }

    /// When something that the kernel refused is to be tried again.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.families.iter().filter_map(Rules::retry).min()
    }

    /// Looks at everything and puts right what is not; says in how many families there was something.
    pub(super) async fn repair(mut self) -> Result<(Self, Result<usize, ApplyError>), KernelError> {
        let mut own = self.turns.take().await;
        let work = move || {
            let mut repaired = Ok(0);
            for rules in self.families.iter_mut().filter(|rules| rules.watched.is_suspect()) {
                match (rules.repair(), &mut repaired) {
                    (Ok(done), Ok(count)) => *count += usize::from(done),
                    (Err(error), Ok(_)) => repaired = Err(error),
                    (_, Err(_)) => {}
                }
            }
            // Whoever took rules away may not be done yet. With nothing to repair the last look stands, which was taken
            // before the listing: what was written since will be seen.
            if !matches!(repaired, Ok(0)) {
                self.settle(&mut own, None);
                self.suspect();
            }
            (self, repaired)
        };
        Ok(spawn_blocking(work).await?)
    }

    /// Removes every rule and chain that is ours.
    pub(super) async fn clean_up(self) -> Result<(), KernelError> {
        Ok(spawn_blocking(move || self.families.iter().try_for_each(Rules::clean_up)).await??)
    }
}

/// Forgets connections and attempts that lead where they no longer should; `None` where there can be none.
fn forget(wanted: &Wanted) -> Option<(std::io::Result<usize>, Duration)> {
    let begin = Instant::now();
    let nothing = Model::new(wanted.model.family());
    let before = wanted.before.as_deref().unwrap_or(&nothing);
    let stale = conntrack::Wanted::between(before, &wanted.model, &wanted.addresses).map(|stale| stale.forget_stale());
    let tried = conntrack::Attempts::between(before, &wanted.model, &wanted.addresses);
    let tried = tried.map(|attempts| attempts.forget_stale());
    let counts = stale.into_iter().chain(tried);
    counts.reduce(|one, other| Ok(one? + other?)).map(|counts| (counts, begin.elapsed()))
}

/// A kube-proxy in this network namespace, by its process number.
pub(super) fn kube_proxy() -> Option<u32> {
    let namespace = |process: &str| std::fs::metadata(format!("/proc/{process}/ns/net")).ok().map(|file| file.ino());
    let own = namespace("self")?;
    let processes = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let is_one = |process: &String| {
        let name = std::fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
        name.trim_end() == "kube-proxy" && namespace(process) == Some(own)
    };
    processes.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())).find(is_one)?.parse().ok()
}
