//! What the end of a step changes in what is known of a pod.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};

use super::backoff::{self, Limits, signed};
use super::containers;
use super::execute::{Done, Failed};
use super::life::Event;
use super::mailbox::Want;
use super::plan::Kept;
use super::roles;
use super::step::{Job, Progress, Trouble};
use super::tools::Tools;
use crate::events::EventType;
use crate::images::{ImageError, keyring};
use crate::sources::Objects;

/// Giving back is tried again this soon: it is what a deletion waits for.
const UNDO_AGAIN: Duration = Duration::from_secs(1);

/// See [`containers::crash_key`].
pub(super) fn crash_key(pod: &Pod, container: &str) -> String {
    roles::member(pod, container).map(|member| containers::crash_key(&member)).unwrap_or_default()
}

/// All regular containers run.
pub(super) fn all_run(status: &PodStatus) -> bool {
    let containers = status.container_statuses.as_deref().unwrap_or_default();
    !containers.is_empty()
        && containers.iter().all(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// The phase is a terminal one.
pub(super) fn is_over(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// Takes in how a step came out; the event is for the pod's life.
pub(super) fn fold(progress: &mut Progress, kept: &mut Kept, tools: &Tools, want: &Want, done: Done) -> Option<Event> {
    match done {
        Done::SetUp(Ok(volumes)) => {
            progress.volumes = Some(volumes);
            progress.volume_trouble = None;
        }
        Done::Refreshed(Ok(())) => {
            progress.stale = false;
            progress.volume_trouble = None;
        }
        Done::SetUp(Err(failed)) | Done::Refreshed(Err(failed)) => {
            progress.volume_trouble = Some(trouble(tools, failed));
        }
        // Another image is wanted by now: what came of this one says nothing.
        Done::Image { container, image, .. } if !is_wanted(&want.pod, &container, &image) => {}
        Done::Image { container, result: Ok(facts), .. } => {
            kept.pulls.remove(&container);
            progress.container_trouble.remove(&container);
            progress.images.insert(container, facts);
        }
        Done::Image { container, result: Err(error), .. } => {
            let trouble = image_trouble(kept, tools, want, &container, &error);
            progress.container_trouble.insert(container, trouble);
        }
        Done::Sandbox(result) => progress.sandbox_trouble = result.err().map(|failed| trouble(tools, failed)),
        Done::Started { container, result } => match result {
            Ok(()) => {
                progress.container_trouble.remove(&container);
            }
            Err(failed) => {
                let has_run = matches!(failed.reason, "RunContainerError" | "PostStartHookError");
                progress.container_trouble.insert(container, Trouble { has_run, ..trouble(tools, failed) });
            }
        },
        Done::Resized(Ok(amounts)) => {
            kept.actuated = Some(amounts);
            progress.resize_trouble = None;
        }
        Done::Resized(Err(failed)) => progress.resize_trouble = Some(trouble(tools, failed)),
        Done::PreStopped { id } => progress.hooks_done.push(id),
        Done::Killed { id, result } => {
            progress.killed.insert(id, Timestamp::now());
            undo_trouble(progress, result);
        }
        Done::Removed { result } => undo_trouble(progress, result),
        Done::Undone { undo, result } => {
            let done = result.is_ok();
            undo_trouble(progress, result);
            return done.then_some(Event::Undone(undo));
        }
        Done::CutOff => {}
    }
    None
}

/// A step that panicked is a step that failed.
pub(super) fn broken(progress: &mut Progress, job: &Job, tools: &Tools) {
    let failed = || Failed::new("InternalError", "the step broke off; the agent's log says where");
    match job {
        Job::Volumes => progress.volume_trouble = Some(trouble(tools, failed())),
        Job::Sandbox => progress.sandbox_trouble = Some(trouble(tools, failed())),
        Job::Image(name) | Job::Start(name) => {
            progress.container_trouble.insert(name.clone(), trouble(tools, failed()));
        }
        Job::Kill(id) => {
            progress.killed.insert(id.clone(), Timestamp::now());
            undo_trouble(progress, Err(failed()));
        }
        Job::Resize => progress.resize_trouble = Some(trouble(tools, failed())),
        Job::PreStop(_) | Job::Remove(_) | Job::Undo => undo_trouble(progress, Err(failed())),
    }
}

fn is_wanted(pod: &Pod, container: &str, image: &str) -> bool {
    roles::member(pod, container).is_some_and(|member| member.container.image.as_deref() == Some(image))
}

fn undo_trouble(progress: &mut Progress, result: Result<(), Failed>) {
    progress.undo_trouble = result.err().map(|failed| at(failed, Timestamp::now(), UNDO_AGAIN));
}

fn trouble(tools: &Tools, failed: Failed) -> Trouble {
    at(failed, Timestamp::now(), jittered(tools.config.timing.retry))
}

fn at(failed: Failed, now: Timestamp, wait: Duration) -> Trouble {
    Trouble {
        reason: failed.reason.to_owned(),
        message: failed.message,
        since: now,
        retry: now.saturating_add(signed(wait)).unwrap_or(Timestamp::MAX),
        pull_of: None,
        has_run: false,
    }
}

/// What pull delays are about: another image or other credentials for it start them afresh.
pub(super) fn pull_key(pod: &Pod, container: &str, objects: &Objects) -> String {
    let image = image_of(pod, container);
    format!("{image} {:016x}", keyring(pod, objects).mark(&image))
}

fn image_of(pod: &Pod, container: &str) -> String {
    roles::member(pod, container).and_then(|member| member.container.image.clone()).unwrap_or_default()
}

fn image_trouble(kept: &mut Kept, tools: &Tools, want: &Want, container: &str, error: &ImageError) -> Trouble {
    let (now, pod) = (Timestamp::now(), &want.pod);
    let image = image_of(pod, container);
    let failed = Failed::new(error.reason(), error.message(&image));
    let ImageError::Pull { .. } = error else { return at(failed, now, jittered(tools.config.timing.retry)) };
    let key = pull_key(pod, container, &want.within.objects);
    let timing = &tools.config.timing;
    let limits = Limits { first: timing.pull_first, max: timing.pull_max };
    let raised = backoff::raise(kept.pulls.get(container), &key, now, now, limits);
    let wait = raised.delay();
    kept.pulls.insert(container.to_owned(), raised);
    tools.say_of(pod, container, EventType::Normal, "BackOff", format!("Back-off pulling image \"{image}\""));
    tools.say_of(pod, container, EventType::Warning, "Failed", "Error: ImagePullBackOff");
    Trouble { pull_of: Some(image), ..at(failed, now, wait) }
}

/// Up to half as much again, so that what failed together is not tried together.
fn jittered(wait: Duration) -> Duration {
    let nanos =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    wait.saturating_add(wait.mul_f64(f64::from(nanos % 1_000) / 2_000.0))
}
