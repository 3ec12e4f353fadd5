//! Events in the API: what [`crate::events`] tells, as objects that `kubectl describe` finds.
//!
//! What is said again counts up in the object that is there. What waits is bounded, and is given up when the API server
//! is away for longer than client-go would try (`tools/record/event.go`: twelve times, ten seconds apart): no pod waits for
//! an event.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::{ApiError, Body, Client};
use crate::errors::chain;
use crate::events::{About, Event, EventType};

/// How many wait at most; the oldest gives way.
const WAITING: usize = 1_000;
/// How many are remembered to be there, as many as client-go remembers.
const REMEMBERED: usize = 4_096;
/// `eventRecordQPS` is 50.
const PAUSE: Duration = Duration::from_millis(20);
/// After a failed call.
const RETRY: Duration = Duration::from_secs(5);
/// For how long one is tried.
const PATIENCE: Duration = Duration::from_secs(120);

/// Sends what is heard until `stop`, as events of `node`.
pub async fn run(client: Client, mut heard: Receiver<Event>, node: String, stop: CancellationToken) {
    let mut queue = Queue::default();
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            event = heard.recv() => match event {
                Ok(event) => queue.push(event, Instant::now()),
                Err(RecvError::Lagged(count)) => tracing::warn!(count, "events were too many to be told to the API server"),
                Err(RecvError::Closed) => return,
            },
            () = sleep_until(not_before), if !queue.waiting.is_empty() => {
                // One call at a time: an older count must not overtake a newer one.
                not_before = match stop.run_until_cancelled(send_next(&client, &mut queue, &node)).await {
                    Some(pause) => Instant::now() + pause,
                    None => return,
                };
            }
        }
    }
}

/// Says how long to wait before the next one.
async fn send_next(client: &Client, queue: &mut Queue, node: &str) -> Duration {
    let Some(waiting) = queue.next(Instant::now()) else { return PAUSE };
    match send(client, queue, &waiting, node).await {
        Ok(()) => PAUSE,
        Err(error) if error.is_unreachable() || error.code().is_some_and(|code| code >= 500 || code == 429) => {
            tracing::debug!("telling the API server an event: {}; trying again", chain(&error));
            queue.put_back(waiting);
            RETRY
        }
        // As in a namespace that is being deleted: it would be refused again.
        Err(error) => {
            tracing::debug!(reason = waiting.event.reason, "the API server takes no such event: {}", chain(&error));
            PAUSE
        }
    }
}

async fn send(client: &Client, queue: &mut Queue, waiting: &Waiting, node: &str) -> Result<(), ApiError> {
    let Some(object) = object(&waiting.event, node) else { return Ok(()) };
    let all = format!("/api/v1/namespaces/{}/events", object["metadata"]["namespace"].as_str().unwrap_or("default"));
    if let Some(name) = queue.known.get(&waiting.mark) {
        let patch = json!({"count": object["count"], "lastTimestamp": object["lastTimestamp"]});
        match client.patch::<Value>(&format!("{all}/{name}"), Body::StrategicMergePatch, &patch).await {
            // They live for an hour.
            Err(error) if error.is_not_found() => {}
            done => return done.map(drop),
        }
    }
    match client.create::<_, Value>(&all, &object).await {
        // An answer to the last try that was lost.
        Err(error) if error.is_already_there() => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    queue.remember(waiting.mark, object["metadata"]["name"].as_str().unwrap_or_default());
    Ok(())
}

/// The object; `None` for what the API has no object for.
fn object(event: &Event, node: &str) -> Option<Value> {
    let (namespace, involved) = match &event.about {
        About::Manifest { .. } => return None,
        // A Node is in no namespace, its events are in the default one; its own name stands for its uid, and kubectl asks
        // for that.
        About::Node => ("default", json!({"kind": "Node", "apiVersion": "v1", "name": node, "uid": node})),
        About::Pod { name, uid, field } => {
            let mut involved = json!({"kind": "Pod", "apiVersion": "v1", "namespace": name.namespace, "name": name.name,
                "uid": uid.as_str()});
            if let Some(field) = field {
                involved["fieldPath"] = json!(field);
            }
            (name.namespace.as_str(), involved)
        }
    };
    let seconds = |time: jiff::Timestamp| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let name = format!("{}.{:x}", involved["name"].as_str().unwrap_or_default(), unique(event));
    Some(json!({"kind": "Event", "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved, "reason": event.reason, "message": event.message,
        "source": {"component": "kubelet", "host": node},
        "firstTimestamp": seconds(event.first), "lastTimestamp": seconds(event.last), "count": event.count,
        "type": match event.kind { EventType::Normal => "Normal", EventType::Warning => "Warning" },
        "reportingComponent": "kubelet", "reportingInstance": node}))
}

/// In an object's name: two things that happen in one nanosecond are two.
fn unique(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    (mark(event), event.first.as_nanosecond()).hash(&mut hasher);
    hasher.finish()
}

/// What makes two events the same, but for their counts and times.
fn mark(event: &Event) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &event.about {
        About::Node => 0.hash(&mut hasher),
        About::Pod { name, uid, field } => (name, uid, field).hash(&mut hasher),
        About::Manifest { file } => file.hash(&mut hasher),
    }
    (event.kind == EventType::Warning, &event.reason, &event.message).hash(&mut hasher);
    hasher.finish()
}

struct Waiting {
    mark: u64,
    event: Event,
    since: Instant,
}

/// What has not been told yet, and what is there.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    known: BTreeMap<u64, String>,
    order: VecDeque<u64>,
}

impl Queue {
    /// One that waits already takes the newer count; its turn stays.
    fn push(&mut self, event: Event, now: Instant) {
        let mark = mark(&event);
        if let Some(same) = self.waiting.iter_mut().find(|waiting| waiting.mark == mark) {
            same.event = event;
            return;
        }
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { mark, event, since: now });
    }

    /// The next whose time is not over.
    fn next(&mut self, now: Instant) -> Option<Waiting> {
        while let Some(waiting) = self.waiting.pop_front() {
            if now.duration_since(waiting.since) < PATIENCE {
                return Some(waiting);
            }
        }
        None
    }

    /// It keeps its turn, but gives way to what came while it was tried.
    fn put_back(&mut self, waiting: Waiting) {
        if self.waiting.len() < WAITING && !self.waiting.iter().any(|other| other.mark == waiting.mark) {
            self.waiting.push_front(waiting);
        }
    }

    fn remember(&mut self, mark: u64, name: &str) {
        if self.known.insert(mark, name.to_owned()).is_none() {
            self.order.push_back(mark);
        }
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests;
