//! List and watch: the whole set of some objects by name, kept right for ever.
//!
//! ```text
//! Listing --all pages--> Watching{version} --the stream ends--> Watching{newest version}
//!    ^------- 410, a version that the server cannot know, an event that cannot be read -------'
//! ```
//!
//! Lists are read from etcd itself, not from a server's cache: a node never goes back in time. After a failure the newest
//! version is compared with what the server has: one whose data were restored from a backup would otherwise stay silent
//! until it has caught up with numbers that mean nothing to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::client::{Call, Client};
use super::error::{ApiError, Status};
use super::lines::Lines;
use super::patience::{Patience, random_part};
use crate::errors::chain;
use crate::names::ObjectName;

/// Objects of one page of a list.
const PAGE: &str = "500";
/// A watch ends after this or up to twice of it; watches of many nodes do not end together.
const WATCH: Duration = Duration::from_secs(300);
/// A server that does not end a watch on time is not there any more.
const OVERTIME: Duration = Duration::from_secs(30);

/// Objects by name; those without a namespace have an empty one.
pub type Set<T> = BTreeMap<ObjectName, Arc<T>>;

/// The newest whole set; `None` until it was listed once.
pub type Sets<T> = watch::Receiver<Option<Arc<Set<T>>>>;

/// What is followed.
pub struct Feed<T> {
    /// Where the objects are, see [`super::path_of_all`].
    pub path: String,
    /// Only these: `spec.nodeName=n1`.
    pub fields: Option<String>,
    /// Only these: `!service.kubernetes.io/headless`.
    pub labels: Option<String>,
    /// Reads one object, its managedFields already gone; `None` for one that nobody wants to see. Only what is needed
    /// should be kept.
    pub decode: fn(Value) -> Result<Option<T>, serde_json::Error>,
}

/// Follows `feed` until `stop` or until nobody listens.
pub fn follow<T: Send + Sync + 'static>(client: Client, feed: Feed<T>, stop: CancellationToken) -> Sets<T> {
    let (sender, receiver) = watch::channel(None);
    let mut follower = Follower { client, feed, sets: sender, version: None };
    tokio::spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follower.run() => {}
        }
    });
    receiver
}

struct Follower<T> {
    client: Client,
    feed: Feed<T>,
    sets: watch::Sender<Option<Arc<Set<T>>>>,
    /// The newest version that is known; `None` before the first list and when it must be listed again.
    version: Option<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMeta,
    /// Not typed: one object that cannot be read must not hide the others.
    #[serde(default)]
    items: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Value,
}

fn meta<'a>(object: &'a Value, field: &str) -> Option<&'a str> {
    object.get("metadata")?.get(field)?.as_str()
}

fn name_of(object: &Value) -> Option<ObjectName> {
    Some(ObjectName::new(meta(object, "namespace").unwrap_or_default(), meta(object, "name")?))
}

impl<T> Follower<T> {
    async fn run(&mut self) {
        // A server that is back after minutes is asked within two seconds; one that refuses is left in peace.
        let mut away = Patience::new(Duration::from_millis(200), Duration::from_secs(2));
        let mut refused = Patience::new(Duration::from_millis(500), Duration::from_secs(30));
        let mut told: Option<String> = None;
        while !self.sets.is_closed() {
            let since = Instant::now();
            let Err(error) = self.turn(&mut told).await else { continue };
            if since.elapsed() > Duration::from_secs(5) {
                away.reset();
                refused.reset();
            }
            if error.is_gone() {
                self.version = None;
            }
            let text = chain(&error);
            if told.as_ref() != Some(&text) {
                tracing::warn!(path = self.feed.path, "following the API server's objects: {text}; trying again");
                told = Some(text);
            }
            sleep(if error.is_unreachable() { away.delay() } else { refused.delay() }).await;
            self.forget_if_ahead().await;
        }
    }

    /// One list where one is due, then one watch to its end.
    async fn turn(&mut self, told: &mut Option<String>) -> Result<(), ApiError> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list().await?,
        };
        let seconds = WATCH.mul_f64(1.0 + random_part());
        let call = self
            .call()
            .with("watch", "true")
            .with("allowWatchBookmarks", "true")
            .with("resourceVersion", version)
            .with("timeoutSeconds", seconds.as_secs().to_string());
        let body = self.client.stream(&call).await?;
        if told.take().is_some() {
            tracing::info!(path = self.feed.path, "the API server is followed again");
        }
        self.watch(body, Instant::now() + seconds + OVERTIME, &call).await
    }

    fn call(&self) -> Call {
        let mut call = Call::get(&self.feed.path);
        for (key, selector) in [("fieldSelector", &self.feed.fields), ("labelSelector", &self.feed.labels)] {
            if let Some(selector) = selector {
                call = call.with(key, selector);
            }
        }
        call
    }

    async fn list(&mut self) -> Result<String, ApiError> {
        let mut whole = Set::new();
        let mut next: Option<String> = None;
        loop {
            let mut call = self.call().with("limit", PAGE);
            if let Some(next) = next.take() {
                call = call.with("continue", next);
            }
            let page = self.client.bytes(&call).await?;
            let list: List = serde_json::from_slice(&page)
                .map_err(|source| ApiError::Unreadable { call: call.shown(), source: source.into() })?;
            for item in list.items.into_iter().flatten() {
                self.read(item, &mut whole);
            }
            match list.metadata.next.filter(|next| !next.is_empty()) {
                Some(more) => next = Some(more),
                None => {
                    self.sets.send_replace(Some(Arc::new(whole)));
                    self.version = Some(list.metadata.resource_version.clone());
                    return Ok(list.metadata.resource_version);
                }
            }
        }
    }

    /// Puts one object into `set`. One that cannot be read does not hide the others: its former state stays.
    fn read(&self, mut object: Value, set: &mut Set<T>) {
        let Some(name) = name_of(&object) else {
            tracing::warn!(path = self.feed.path, "an object without a name is left out");
            return;
        };
        // Most of many objects, and of no use to a node.
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        match (self.feed.decode)(object) {
            Ok(Some(object)) => drop(set.insert(name, Arc::new(object))),
            Ok(None) => drop(set.remove(&name)),
            Err(error) => {
                tracing::warn!(path = self.feed.path, object = %name, "it cannot be read and is left as it was: {error}");
                let former = self.sets.borrow().as_ref().and_then(|known| known.get(&name).cloned());
                if let Some(former) = former {
                    set.insert(name, former);
                }
            }
        }
    }

    async fn watch(&mut self, mut body: Incoming, by: Instant, call: &Call) -> Result<(), ApiError> {
        let server = self.client.server().to_owned();
        let broken = |source| ApiError::Unreachable { call: call.shown(), server: server.clone(), source };
        let mut lines = Lines::default();
        loop {
            let frame = match timeout_at(by, body.frame()).await {
                Err(_) => return Err(broken("the watch was not ended in time".into())),
                Ok(None) => return Ok(()),
                Ok(Some(Err(error))) => return Err(broken(error.into())),
                Ok(Some(Ok(frame))) => frame,
            };
            let Some(data) = frame.data_ref() else { continue };
            let whole = lines.push(data).map_err(|error| broken(error.into()))?;
            if !whole.is_empty() {
                self.take(&whole, call)?;
            }
        }
    }

    /// Events that came together are told together.
    fn take(&mut self, lines: &[bytes::Bytes], call: &Call) -> Result<(), ApiError> {
        let mut set = self.sets.borrow().clone().unwrap_or_default();
        let mut changed = false;
        let mut outcome = Ok(());
        for line in lines {
            match self.event(line, call, &mut set) {
                Ok(change) => changed |= change,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        if changed {
            self.sets.send_replace(Some(set));
        }
        outcome
    }

    fn event(&mut self, line: &[u8], call: &Call, set: &mut Arc<Set<T>>) -> Result<bool, ApiError> {
        let unreadable = |source: serde_json::Error| ApiError::Unreadable { call: call.shown(), source: source.into() };
        let event: Event = serde_json::from_slice(line).map_err(|error| {
            // What it changed is not known: only a list can say.
            self.version = None;
            unreadable(error)
        })?;
        if event.kind == "ERROR" {
            let status: Status = serde_json::from_value(event.object).map_err(unreadable)?;
            let code = status.code.and_then(|code| StatusCode::from_u16(code).ok());
            let code = code.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            return Err(ApiError::of_status(&call.shown(), code, None, status));
        }
        self.version = meta(&event.object, "resourceVersion").map(str::to_owned).or_else(|| self.version.take());
        match event.kind.as_str() {
            "ADDED" | "MODIFIED" => self.read(event.object, Arc::make_mut(set)),
            "DELETED" => drop(name_of(&event.object).and_then(|name| Arc::make_mut(set).remove(&name))),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// After a failure: a server that knows less than we do has other data, and is listed anew.
    async fn forget_if_ahead(&mut self) {
        let Some(ours) = self.version.clone() else { return };
        let Ok(page) = self.client.bytes(&self.call().with("limit", "1")).await else { return };
        let theirs = serde_json::from_slice::<List>(&page).map(|list| list.metadata.resource_version);
        if theirs.is_ok_and(|theirs| is_ahead(&ours, &theirs)) {
            tracing::warn!(path = self.feed.path, "the API server's data are older than what was seen: listing anew");
            self.version = None;
        }
    }
}

/// Versions are opaque, and numbers everywhere; what is no number is not trusted to be the same history.
fn is_ahead(ours: &str, theirs: &str) -> bool {
    match (ours.parse::<u64>(), theirs.parse::<u64>()) {
        (Ok(ours), Ok(theirs)) => ours > theirs,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
