//! What a method and a path ask for, and what one must be allowed for it. Pure.
//!
//! The right that is asked for comes from the same decoded segments as the route: no spelling of a path can be judged as
//! one thing and served as another.

use hyper::Method;
use percent_encoding::percent_decode_str;

/// A pod in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, where the path has one.
    pub uid: Option<String>,
}

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// `/healthz` and, with a name, one of its checks.
    Healthz(Option<String>),
    /// `/pods`.
    Pods,
    /// `/runningpods/`.
    RunningPods,
    /// `/configz`.
    Configz,
    /// `/statusz`: since when, which version.
    Statusz,
    /// `/flagz`: what the flags are set to.
    Flagz,
    /// `/debug/pprof/`.
    Profile,
    /// `/debug/flags/v`: how much is logged.
    Verbosity,
    /// `/stats/summary`.
    Summary,
    /// `/metrics` and what is below it.
    Metrics(Metrics),
    /// `/containerLogs/<namespace>/<pod>/<container>`.
    ContainerLogs(PodRef, String),
    /// `/logs/`: a file or folder below the node's `/var/log`.
    NodeLogs(Vec<String>),
    /// `/checkpoint/<namespace>/<pod>/<container>`.
    Checkpoint(PodRef, String),
    /// One of the streams.
    Stream(StreamRoute),
}

/// Which figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Metrics {
    /// The agent's own.
    Own,
    /// `/metrics/resource`.
    Resource,
    /// `/metrics/cadvisor`.
    Cadvisor,
    /// `/metrics/probes`.
    Probes,
    /// `/metrics/slis`: health as a figure.
    Slis,
}

/// What needs an upgraded connection, and `run`, which goes with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamRoute {
    /// `/exec/…/<container>`.
    Exec(PodRef, String),
    /// `/attach/…/<container>`.
    Attach(PodRef, String),
    /// `/portForward/…`.
    PortForward(PodRef),
    /// `/run/…/<container>`.
    Run(PodRef, String),
}

/// Why nothing is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// There is no such path.
    NotFound,
    /// There is, for these methods.
    Method(&'static str),
}

/// A request line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) route: Result<Route, Miss>,
    /// Verb of the API; empty for methods that have none.
    pub(super) verb: &'static str,
    /// Subresources of the node; one of them must be allowed.
    pub(super) subresources: &'static [&'static str],
    /// Only with `enableDebuggingHandlers`.
    pub(super) is_debugging: bool,
    word: &'static str,
}

/// First parts of paths, as metrics have them.
const WORDS: [&str; 16] = [
    "attach",
    "checkpoint",
    "configz",
    "containerLogs",
    "debug",
    "exec",
    "flagz",
    "healthz",
    "logs",
    "metrics",
    "pods",
    "portForward",
    "run",
    "runningpods",
    "stats",
    "statusz",
];

impl Asked {
    pub(super) fn of(method: &Method, path: &str) -> Self {
        let segments = segments(path);
        let segments: Vec<&str> = segments.iter().flatten().map(String::as_str).collect();
        let first = segments.first().copied().unwrap_or_default();
        let found = find(&segments);
        let route = found.and_then(|(route, methods)| match methods.split(", ").any(|one| one == method.as_str()) {
            true => Ok(route),
            false => Err(Miss::Method(methods)),
        });
        Self {
            route,
            verb: verb(method, first),
            subresources: subresources(first),
            is_debugging: DEBUGGING.contains(&first),
            word: WORDS.into_iter().find(|word| *word == first).unwrap_or("other"),
        }
    }

    /// What it is about, in a word: the first part of a path that is known, or `other`.
    pub(super) fn word(&self) -> &'static str {
        self.word
    }
}

const DEBUGGING: [&str; 8] = ["run", "exec", "attach", "portForward", "containerLogs", "runningpods", "logs", "debug"];

/// A stream changes things however it is asked for (kubernetes#136550).
fn verb(method: &Method, first: &str) -> &'static str {
    match (first, method.as_str()) {
        ("exec" | "attach" | "portForward" | "run", _) | (_, "POST") => "create",
        (_, "GET") => "get",
        (_, "PUT") => "update",
        (_, "PATCH") => "patch",
        (_, "DELETE") => "delete",
        _ => "",
    }
}

/// The fine-grained one is tried first.
fn subresources(first: &str) -> &'static [&'static str] {
    match first {
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        "statusz" => &["statusz"],
        "flagz" => &["configz"],
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        _ => &["proxy"],
    }
}

/// The decoded parts of a path; a slash at the end makes no difference. `None` when it cannot be one of ours.
fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    path.split('/').map(decode).collect()
}

/// One segment without its percent signs; `None` when it is no text, or would be more than one segment.
fn decode(segment: &str) -> Option<String> {
    let text = percent_decode_str(segment).decode_utf8().ok()?.into_owned();
    (!text.is_empty() && !text.contains(['/', '\0']) && text != "." && text != "..").then_some(text)
}

type Found = Result<(Route, &'static str), Miss>;

/// The table of paths with their methods.
fn find(segments: &[&str]) -> Found {
    let pod = |namespace: &str, name: &str, uid: Option<&str>| PodRef {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        uid: uid.map(str::to_owned),
    };
    let (route, methods) = match *segments {
        ["healthz"] => (Route::Healthz(None), "GET"),
        ["healthz", check] => (Route::Healthz(Some(check.to_owned())), "GET"),
        ["pods"] => (Route::Pods, "GET"),
        ["runningpods"] => (Route::RunningPods, "GET"),
        ["stats", "summary"] => (Route::Summary, "GET"),
        ["metrics"] => (Route::Metrics(Metrics::Own), "GET"),
        ["metrics", "resource"] => (Route::Metrics(Metrics::Resource), "GET"),
        ["metrics", "cadvisor"] => (Route::Metrics(Metrics::Cadvisor), "GET"),
        ["metrics", "probes"] => (Route::Metrics(Metrics::Probes), "GET"),
        ["metrics", "slis"] => (Route::Metrics(Metrics::Slis), "GET"),
        ["statusz"] => (Route::Statusz, "GET"),
        ["flagz"] => (Route::Flagz, "GET"),
        ["debug", "flags", "v"] => (Route::Verbosity, "PUT"),
        ["debug", "pprof", ..] => (Route::Profile, "GET"),
        ["configz"] => (Route::Configz, "GET"),
        ["containerLogs", namespace, name, container] => {
            (Route::ContainerLogs(pod(namespace, name, None), container.to_owned()), "GET")
        }
        ["logs", ref rest @ ..] => (Route::NodeLogs(rest.iter().map(|one| (*one).to_owned()).collect()), "GET"),
        ["checkpoint", namespace, name, container] => {
            (Route::Checkpoint(pod(namespace, name, None), container.to_owned()), "POST")
        }
        ["portForward", namespace, name] => {
            (Route::Stream(StreamRoute::PortForward(pod(namespace, name, None))), "GET, POST")
        }
        ["portForward", namespace, name, uid] => {
            (Route::Stream(StreamRoute::PortForward(pod(namespace, name, Some(uid)))), "GET, POST")
        }
        [action, namespace, name, container] => stream(action, pod(namespace, name, None), container)?,
        [action, namespace, name, uid, container] => stream(action, pod(namespace, name, Some(uid)), container)?,
        _ => return Err(Miss::NotFound),
    };
    Ok((route, methods))
}

fn stream(action: &str, pod: PodRef, container: &str) -> Found {
    let container = container.to_owned();
    let (route, methods) = match action {
        "exec" => (StreamRoute::Exec(pod, container), "GET, POST"),
        "attach" => (StreamRoute::Attach(pod, container), "GET, POST"),
        "run" => (StreamRoute::Run(pod, container), "POST"),
        _ => return Err(Miss::NotFound),
    };
    Ok((Route::Stream(route), methods))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(lines: &[&str], expected: Expect) {
        let show = |line: &&str| {
            let (method, path) = line.split_once(' ').unwrap();
            let asked = Asked::of(&method.parse().unwrap(), path);
            let route = match &asked.route {
                Ok(route) => format!("{route:?}"),
                Err(miss) => format!("{miss:?}"),
            };
            let debugging = if asked.is_debugging { " (debugging)" } else { "" };
            format!("{line}: {} {}{debugging} -> {route}\n", asked.verb, asked.subresources.join("|"))
        };
        expected.assert_eq(&lines.iter().map(show).collect::<String>());
    }

    #[test]
    fn each_path_has_its_methods_and_its_right() {
        check(
            &[
                "GET /healthz",
                "GET /healthz/ping",
                "GET /pods",
                "GET /pods/",
                "POST /pods",
                "HEAD /pods",
                "GET /runningpods/",
                "GET /configz",
                "PUT /configz",
                "POST /checkpoint/ns/p/c",
                "GET /checkpoint/ns/p/c",
                "GET /containerLogs/ns/p/c",
                "GET /stats/summary",
                "POST /metrics",
                "GET /metrics/cadvisor",
                "GET /metrics/other",
                "GET /logs/",
                "GET /logs/pods/a%20b.log",
                "GET /logs/../shadow",
                "DELETE /nothing",
                "PATCH /",
            ],
            expect![[r#"
                GET /healthz: get healthz|proxy -> Healthz(None)
                GET /healthz/ping: get healthz|proxy -> Healthz(Some("ping"))
                GET /pods: get pods|proxy -> Pods
                GET /pods/: get pods|proxy -> Pods
                POST /pods: create pods|proxy -> Method("GET")
                HEAD /pods:  pods|proxy -> Method("GET")
                GET /runningpods/: get pods|proxy (debugging) -> RunningPods
                GET /configz: get configz|proxy -> Configz
                PUT /configz: update configz|proxy -> Method("GET")
                POST /checkpoint/ns/p/c: create checkpoint -> Checkpoint(PodRef { namespace: "ns", name: "p", uid: None }, "c")
                GET /checkpoint/ns/p/c: get checkpoint -> Method("POST")
                GET /containerLogs/ns/p/c: get proxy (debugging) -> ContainerLogs(PodRef { namespace: "ns", name: "p", uid: None }, "c")
                GET /stats/summary: get stats -> Summary
                POST /metrics: create metrics -> Method("GET")
                GET /metrics/cadvisor: get metrics -> Metrics(Cadvisor)
                GET /metrics/other: get metrics -> NotFound
                GET /logs/: get log (debugging) -> NodeLogs([])
                GET /logs/pods/a%20b.log: get log (debugging) -> NodeLogs(["pods", "a b.log"])
                GET /logs/../shadow: get proxy -> NotFound
                DELETE /nothing: delete proxy -> NotFound
                PATCH /: patch proxy -> NotFound
            "#]],
        );
    }

    #[test]
    fn a_stream_is_a_create_by_whatever_method() {
        check(
            &[
                "GET /exec/ns/p/c",
                "POST /exec/ns/p/uid/c",
                "GET /attach/ns/p/c",
                "GET /portForward/ns/p",
                "POST /portForward/ns/p/uid",
                "GET /run/ns/p/c",
                "POST /run/ns/p/c",
                "DELETE /exec/ns/p/c",
            ],
            expect![[r#"
                GET /exec/ns/p/c: create proxy (debugging) -> Stream(Exec(PodRef { namespace: "ns", name: "p", uid: None }, "c"))
                POST /exec/ns/p/uid/c: create proxy (debugging) -> Stream(Exec(PodRef { namespace: "ns", name: "p", uid: Some("uid") }, "c"))
                GET /attach/ns/p/c: create proxy (debugging) -> Stream(Attach(PodRef { namespace: "ns", name: "p", uid: None }, "c"))
                GET /portForward/ns/p: create proxy (debugging) -> Stream(PortForward(PodRef { namespace: "ns", name: "p", uid: None }))
                POST /portForward/ns/p/uid: create proxy (debugging) -> Stream(PortForward(PodRef { namespace: "ns", name: "p", uid: Some("uid") }))
                GET /run/ns/p/c: create proxy (debugging) -> Method("POST")
                POST /run/ns/p/c: create proxy (debugging) -> Stream(Run(PodRef { namespace: "ns", name: "p", uid: None }, "c"))
                DELETE /exec/ns/p/c: create proxy (debugging) -> Method("GET, POST")
            "#]],
        );
    }

    #[test]
    fn a_path_is_judged_as_it_is_served() {
        check(
            &[
                "GET /%70ods",
                "GET /stats/../exec/ns/p/c",
                "GET /stats/%2e%2e/pods",
                "GET /stats%2f..%2fpods",
                "GET //pods",
                "GET /exec/ns/%00/c",
                "GET /Pods",
            ],
            expect![[r#"
                GET /%70ods: get pods|proxy -> Pods
                GET /stats/../exec/ns/p/c: get proxy -> NotFound
                GET /stats/%2e%2e/pods: get proxy -> NotFound
                GET /stats%2f..%2fpods: get proxy -> NotFound
                GET //pods: get proxy -> NotFound
                GET /exec/ns/%00/c: get proxy -> NotFound
                GET /Pods: get proxy -> NotFound
            "#]],
        );
    }
}
