//! Jobs of one pod: steps begin as tasks, and their ends change what is known of the pod.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::{Id, JoinError};
use tracing::{debug, error};

use super::Worker;
use crate::pods::execute::{self, Done};
use crate::pods::step::Step;
use crate::pods::{account, outcome};

/// The shortest sleep for a time that has come already: a plan that asks for the past must not spin.
const TICK: Duration = Duration::from_millis(5);

impl Worker {
    pub(super) fn launch(&mut self, steps: Vec<Step>) {
        for step in steps {
            let job = step.job();
            if let Some(id) = self.running.iter().find(|(_, (running, _))| *running == job).map(|(id, _)| *id)
                && let Some((_, old)) = self.running.remove(&id)
            {
                // Only a kill is ever planned again while it is under way: with less time.
                old.abort();
            }
            debug!(pod = %self.uid, ?step, "begins");
            let deadline = if let Step::Kill(kill) = &step { Some(kill.deadline) } else { None };
            self.progress.doing.insert(job.clone(), deadline);
            account::begins(&self.tools.timelines, &self.uid, &step);
            let work = self.work(&step);
            let handle = self.jobs.spawn(work.run(step));
            self.running.insert(handle.id(), (job, handle));
        }
    }

    fn work(&mut self, step: &Step) -> execute::Job {
        let image = match step {
            Step::Start(start) => self.progress.images.remove(&start.container),
            _ => None,
        };
        let status = self.status.as_ref();
        let ips = status.and_then(|status| status.pod_ips.as_ref()).into_iter().flatten();
        execute::Job {
            tools: Arc::clone(&self.tools),
            uid: self.uid.clone(),
            want: self.want.clone(),
            ips: ips.map(|ip| ip.ip.clone()).collect(),
            image,
            volumes: self.progress.volumes.clone(),
            attempt: self.seen.sandbox().map_or(0, |sandbox| sandbox.attempt),
            ending: self.ending.clone(),
        }
    }

    pub(super) async fn wait(&mut self, wake: Option<Timestamp>) {
        let relist = self.tools.config.timing.relist;
        let planned = wake.map_or(relist, |wake| execute::left(wake).saturating_add(TICK));
        let put_off = self.is_put_off();
        // Every arm only waits: the ones that lose lose nothing.
        tokio::select! {
            () = self.ear.wake.notified() => {}
            Ok(()) = self.results.changed() => {}
            Ok(()) = self.freed.changed(), if put_off => self.reconsider = Timestamp::MIN,
            Some(done) = self.jobs.join_next_with_id(), if !self.jobs.is_empty() => self.fold(done),
            () = tokio::time::sleep(planned.min(relist)) => {
                if planned >= relist {
                    self.ear.changed.store(true, Ordering::Release);
                }
            }
        }
        while let Some(done) = self.jobs.try_join_next_with_id() {
            self.fold(done);
        }
    }

    fn fold(&mut self, done: Result<(Id, Done), JoinError>) {
        let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some((job, _)) = self.running.remove(&id) else { return };
        self.progress.doing.remove(&job);
        account::ended(&self.tools.timelines, &self.uid, &job, done.as_ref().ok().map(|(_, done)| done));
        match done {
            Ok((_, done)) => {
                let event = outcome::fold(&mut self.progress, &mut self.kept, &self.tools, &self.want, done);
                if let Some(event) = event {
                    self.live(&event);
                }
            }
            Err(error) => {
                error!(pod = %self.uid, ?job, %error, "a step broke off");
                outcome::broken(&mut self.progress, &job, &self.tools);
            }
        }
        self.ear.changed.store(true, Ordering::Release);
    }
}
