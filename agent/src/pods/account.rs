//! Steps and their ends in the words of the timeline.

use super::awaits::undone;
use super::execute::Done;
use super::step::{Job, Step};
use crate::errors::chain;
use crate::names::PodUid;
use crate::timeline::{Outcome, Timelines, Work};

/// A step begins. What takes dead things away is nobody's question.
pub(super) fn begins(timelines: &Timelines, uid: &PodUid, step: &Step) {
    let (work, of) = match step {
        Step::SetUp => (Work::Volumes, None),
        Step::Refresh => (Work::Refresh, None),
        Step::Image { container, .. } => (Work::Image, Some(container.clone())),
        Step::Sandbox { .. } => (Work::Sandbox, None),
        Step::StopSandbox { .. } => (Work::StopSandbox, None),
        Step::Start(start) => (Work::Container, Some(start.container.clone())),
        Step::Resize(_) => (Work::Resize, None),
        Step::PreStop { container, .. } => (Work::PreStop, Some(container.clone())),
        Step::Kill(kill) => (Work::Stop, Some(kill.container.clone())),
        Step::Undo(undo) => (Work::GiveBack, Some(undone(*undo).to_owned())),
        _ => return,
    };
    timelines.begin(uid, key(&step.job()), work, of);
}

/// A step ended; `None` where it broke off.
pub(super) fn ended(timelines: &Timelines, uid: &PodUid, job: &Job, done: Option<&Done>) {
    let outcome = match done {
        Some(Done::CutOff) => Outcome::CutOff,
        Some(Done::Image { result: Err(error), .. }) => Outcome::failed(error.reason(), chain(error)),
        Some(done) => match done.failed() {
            Some(failed) => Outcome::failed(failed.reason, &failed.message),
            None => Outcome::Done,
        },
        None => Outcome::failed("InternalError", "the step broke off; the agent's log says where"),
    };
    timelines.end(uid, &key(job), outcome);
}

fn key(job: &Job) -> String {
    format!("{job:?}")
}
