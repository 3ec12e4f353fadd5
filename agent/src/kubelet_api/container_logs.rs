//! `/containerLogs/<namespace>/<pod>/<container>`: the query as the API server passes it on, and the kubelet's words for
//! what is wrong with it.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use hyper::StatusCode;
use jiff::Timestamp;

use super::answers::{Answer, text, whole};
use super::pods;
use super::route::PodRef;
use crate::container_logs::{self, Choice, Stream};
use crate::node::Handle;

/// PodLogOptions, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Options {
    choice: Choice,
    follow: bool,
    previous: bool,
}

/// What is wrong with a query: its status and words.
type Wrong = (StatusCode, &'static str);

const UNREADABLE: Wrong = (StatusCode::BAD_REQUEST, r#"{"message": "Unable to decode query."}"#);
const INVALID: Wrong = (StatusCode::UNPROCESSABLE_ENTITY, r#"{"message": "Invalid request."}"#);

impl Options {
    /// Of a parameter that is given twice the first counts, as in Go.
    fn of(query: &str, now: Timestamp) -> Result<Self, Wrong> {
        let mut given = BTreeMap::new();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            given.entry(key).or_insert(value);
        }
        let text = |key: &str| given.get(key).map(AsRef::as_ref);
        let number = |key: &str| text(key).map(|value| value.parse::<i64>().map_err(|_| UNREADABLE)).transpose();
        // The name that kubelets before 1.3 were asked by; `all` is no limit.
        let tail = match text("tail").filter(|tail| !tail.is_empty()) {
            Some("all") => None,
            Some(tail) => Some(tail.parse::<i64>().map_err(|_| UNREADABLE)?),
            None => number("tailLines")?,
        };
        let (limit, seconds) = (number("limitBytes")?, number("sinceSeconds")?);
        let since_time = match text("sinceTime").filter(|time| !time.is_empty() && *time != "null") {
            Some(time) => Some(time.parse::<Timestamp>().map_err(|_| UNREADABLE)?),
            None => None,
        };
        let stream = match text("stream") {
            None | Some("All") => None,
            Some("Stdout") => Some(Stream::Stdout),
            Some("Stderr") => Some(Stream::Stderr),
            Some(_) => return Err(INVALID),
        };
        let is_bad = tail.is_some_and(|tail| tail < 0 || stream.is_some())
            || limit.is_some_and(|limit| limit < 1)
            || seconds.is_some_and(|seconds| seconds < 1 || since_time.is_some());
        if is_bad {
            return Err(INVALID);
        }
        let ago = |seconds: i64| Duration::from_secs(seconds.unsigned_abs());
        let since_seconds = seconds.map(|seconds| now.saturating_sub(ago(seconds)).unwrap_or(Timestamp::MIN));
        let choice = Choice {
            tail: tail.map(i64::unsigned_abs),
            since: since_time.or(since_seconds),
            timestamps: flag(text("timestamps")),
            limit: limit.map(i64::unsigned_abs),
            stream,
        };
        Ok(Self { choice, follow: flag(text("follow")), previous: flag(text("previous")) })
    }
}

/// A parameter that is there without a value is set.
fn flag(value: Option<&str>) -> bool {
    value.is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
}

pub(super) async fn answer(node: &Handle, pod: &PodRef, container: &str, query: &str) -> Answer {
    let options = match Options::of(query, Timestamp::now()) {
        Ok(options) => options,
        Err((status, words)) => return text(status, words),
    };
    let view = pods::find(&node.views.borrow(), pod).cloned();
    let Some(view) = view else {
        return text(StatusCode::NOT_FOUND, format!("pod {:?} does not exist", pod.name));
    };
    if !pods::names(&view.pod).any(|name| name == container) {
        return text(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {:?}", pod.name));
    }
    let bad = |words: String| text(StatusCode::BAD_REQUEST, words);
    let Some(status) = view.container(container) else {
        return bad(format!("container {container:?} in pod {:?} is not available", pod.name));
    };
    let instance = match container_logs::instance(status, options.previous, &pod.name) {
        Ok(instance) => instance,
        Err(words) => return bad(words),
    };
    let Options { choice, follow, .. } = options;
    let root = &node.config.dirs.logs;
    match container_logs::open(root, &node.views, &view, (container, instance), choice, follow).await {
        Ok(lines) => whole(StatusCode::OK, "text/plain", Body::from_stream(lines)),
        Err(error) => bad(format!("the log of container {container:?} in pod {:?} cannot be read: {error}", pod.name)),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(query: &str, expected: Expect) {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let shown = match Options::of(query, now) {
            Ok(Options { choice, follow, previous }) => {
                let Choice { tail, since, timestamps, limit, stream } = choice;
                let since = since.map(|since| since.to_string());
                format!("{tail:?} {since:?} {timestamps} {limit:?} {stream:?} follow {follow} previous {previous}")
            }
            Err((status, words)) => format!("{} {words}", status.as_u16()),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn queries_are_read_as_the_kubelet_reads_them() {
        check("", expect!["None None false None None follow false previous false"]);
        check(
            "follow=true&previous=1&timestamps&tailLines=5&limitBytes=7&sinceSeconds=30&insecureSkipTLSVerifyBackend=true",
            expect![[r#"Some(5) Some("2026-01-01T00:00:30Z") true Some(7) None follow true previous true"#]],
        );
        check(
            "sinceTime=2026-01-01T00%3A00%3A01%2B01%3A00&follow=False&stream=Stderr",
            expect![[r#"None Some("2025-12-31T23:00:01Z") false None Some(Stderr) follow false previous false"#]],
        );
        check("tail=all&tailLines=3", expect!["None None false None None follow false previous false"]);
        check("tail=3", expect!["Some(3) None false None None follow false previous false"]);
        check(
            "sinceSeconds=9223372036854775807",
            expect![[r#"None Some("-009999-01-02T01:59:59Z") false None None follow false previous false"#]],
        );
    }

    #[test]
    fn what_is_wrong_has_the_kubelets_words() {
        for query in ["tailLines=x", "limitBytes=1.5", "sinceTime=yesterday", "sinceSeconds="] {
            check(query, expect![[r#"400 {"message": "Unable to decode query."}"#]]);
        }
        for query in [
            "tailLines=-1",
            "limitBytes=0",
            "sinceSeconds=0",
            "sinceSeconds=1&sinceTime=2026-01-01T00:00:00Z",
            "stream=Both",
            "stream=Stdout&tailLines=1",
        ] {
            check(query, expect![[r#"422 {"message": "Invalid request."}"#]]);
        }
    }
}
