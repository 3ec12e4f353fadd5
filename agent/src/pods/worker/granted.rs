//! What changes in the manifest of a pod that runs: resources are granted before anyone works with them.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::Worker;
use crate::events::EventType::{Normal, Warning};
use crate::pods::backoff::signed;
use crate::pods::life::Life;
use crate::pods::roles;
use crate::resources::resize::{self, Amounts, Pending};

impl Worker {
    /// Grants what the manifest wants, as far as the node has it, and makes `want` the pod with what was granted.
    pub(super) fn allocate(&mut self) {
        let wanted = resize::amounts(&self.desired);
        let granted = self.kept.allocated.get_or_insert_with(|| wanted.clone()).clone();
        if granted == wanted {
            self.kept.pending = None;
            self.work_with(&granted);
        } else if self.life.is_ending() {
            self.work_with(&granted);
        } else {
            self.consider(wanted, &granted);
        }
    }

    /// A resize was put off that may be granted later.
    pub(super) fn is_put_off(&self) -> bool {
        self.kept.pending.as_ref().is_some_and(|pending| !pending.infeasible)
    }

    /// Asks again for what was put off, if it is time, or there may be room.
    pub(super) fn ask_again(&mut self, now: Timestamp) {
        if self.is_put_off() && (now >= self.reconsider || self.freed.has_changed().unwrap_or(false)) {
            self.allocate();
        }
    }

    fn consider(&mut self, wanted: Amounts, granted: &Amounts) {
        let former = resize::requests(&resize::with(&self.desired, granted));
        // What is given back from here on is heard, also while this is worked out.
        self.freed.mark_unchanged();
        let others = self.tools.ledger.others(&self.uid);
        match resize::grant(&self.desired, former, others, &self.tools.allocatable) {
            Ok(()) => {
                self.work_with(&wanted);
                self.kept.allocated = Some(wanted);
                self.kept.pending = None;
                self.progress.resize_trouble = None;
                if self.kept.actuated.is_some() {
                    let message = format!("Pod resize started: {}", resize::shown(&self.desired, None));
                    self.tools.say(&self.desired, Normal, "ResizeStarted", message);
                }
            }
            Err(pending) => {
                self.work_with(granted);
                self.put_off(pending);
            }
        }
    }

    fn put_off(&mut self, pending: Pending) {
        self.reconsider =
            Timestamp::now().saturating_add(signed(self.tools.config.timing.reconsider)).unwrap_or(Timestamp::MAX);
        if self.kept.pending.as_ref() != Some(&pending) {
            let shown = resize::shown(&self.desired, Some(&pending.message));
            let (reason, word) = (format!("Resize{}", pending.reason()), pending.reason());
            self.tools.say(&self.desired, Warning, &reason, format!("Pod resize {word}: {shown}"));
            self.kept.pending = Some(pending);
        }
    }

    fn work_with(&mut self, granted: &Amounts) {
        self.want.pod = match resize::is_met(&self.desired, granted) {
            true => Arc::clone(&self.desired),
            false => Arc::new(resize::with(&self.desired, granted)),
        };
        // What has ended uses nothing any more.
        match self.life {
            Life::Stopped { .. } => self.tools.ledger.release(&self.uid),
            _ => self.tools.ledger.hold(&self.uid, resize::requests(&self.want.pod)),
        }
    }

    /// What was made sure of, or failed, for another image says nothing about the new one.
    pub(super) fn forget_images(&mut self, former: &Pod) {
        for member in roles::members(&self.want.pod) {
            let name = &member.container.name;
            let before = roles::member(former, name).map(|former| former.container.image.clone());
            if before.is_some_and(|before| before != member.container.image) {
                self.progress.images.remove(name);
                self.progress.container_trouble.remove(name);
            }
        }
    }
}
