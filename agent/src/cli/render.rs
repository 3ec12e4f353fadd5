//! What a person reads: pods, services and events as lines of text. Pure; time is an argument.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;

use super::table::columns;
use crate::events::{About, Event, EventType};
use crate::pods::held::HeldPod;
use crate::view::{PodView, Row, human};
use crate::workloads::{self, WorkloadKind};

/// `longshore ps`; pods that were stopped by hand stand among the others.
pub(super) fn pods<'a>(views: impl Iterator<Item = &'a PodView>, held: &[HeldPod], now: Timestamp) -> Vec<String> {
    let mut rows: Vec<_> = views.map(|view| cells(view, now)).collect();
    rows.extend(held.iter().map(|held| held_cells(held, now)));
    rows.sort();
    let rows: Vec<_> = rows
        .into_iter()
        .map(|[name, ready, status, restarts, address, age, _]| [name, ready, status, restarts, address, age])
        .collect();
    columns(["NAME", "READY", "STATUS", "RESTARTS", "ADDRESS", "AGE"], &rows)
}

/// The live table of `longshore run`: how long the start took stands in place of the age.
pub(super) fn live_pods<'a>(views: impl Iterator<Item = &'a PodView>, now: Timestamp) -> Vec<String> {
    let mut rows: Vec<_> = views.map(|view| cells(view, now)).collect();
    rows.sort();
    let rows: Vec<_> = rows
        .into_iter()
        .map(|[name, ready, status, restarts, address, _, started]| [name, ready, status, restarts, address, started])
        .collect();
    columns(["POD", "READY", "STATUS", "RESTARTS", "ADDRESS", "STARTED IN"], &rows)
}

fn cells(view: &PodView, now: Timestamp) -> [String; 7] {
    let row = Row::of(&view.pod, &view.status, view.stopping);
    let restarts = match row.last_restart {
        Some(at) => format!("{} ({} ago)", row.restarts, human(since(at, now))),
        None => row.restarts.to_string(),
    };
    [
        row.name,
        row.ready,
        row.status,
        restarts,
        row.address.unwrap_or_else(|| "-".into()),
        row.since.map_or_else(|| "-".into(), |at| human(since(at, now))),
        view.started_in.map_or_else(|| "-".into(), |took| format!("{} ms", took.as_millis())),
    ]
}

fn held_cells(held: &HeldPod, now: Timestamp) -> [String; 7] {
    let dash = || String::from("-");
    let status = format!("Stopped ({} ago)", human(since(held.since, now)));
    [held.name.to_string(), dash(), status, dash(), dash(), dash(), dash()]
}

/// How long ago `at` was; zero where a clock went backwards.
pub(super) fn since(at: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(at).try_into().unwrap_or_default()
}

/// `longshore workloads`.
pub(super) fn workloads(rows: &[workloads::Row], now: Timestamp) -> Vec<String> {
    let cells = |row: &workloads::Row| {
        let is_job = matches!(row.kind, WorkloadKind::Job | WorkloadKind::CronJob);
        let only = |shown: bool, number: u32| if shown { number.to_string() } else { "-".into() };
        [
            format!("{}/{}", row.kind, row.name),
            only(row.kind != WorkloadKind::CronJob && (!is_job || row.wanted > 0), row.wanted),
            only(row.kind != WorkloadKind::CronJob, row.ready),
            only(!is_job, row.up_to_date),
            if row.status.is_empty() { "-".into() } else { row.status.clone() },
            human(since(row.created, now)),
        ]
    };
    let rows: Vec<_> = rows.iter().map(cells).collect();
    columns(["WORKLOAD", "WANTED", "READY", "UP-TO-DATE", "STATUS", "AGE"], &rows)
}

/// One line a Service: its address, ports and how many endpoints it has.
pub(super) fn services<'a>(rows: impl Iterator<Item = (&'a Service, usize)>) -> Vec<String> {
    let rows: Vec<_> = rows.map(|(service, endpoints)| service_cells(service, endpoints)).collect();
    columns(["SERVICE", "ADDRESS", "PORTS", "ENDPOINTS"], &rows)
}

fn service_cells(service: &Service, endpoints: usize) -> [String; 4] {
    let spec = service.spec.clone().unwrap_or_default();
    let ports: Vec<_> = spec
        .ports
        .unwrap_or_default()
        .iter()
        .map(|port| {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            match port.node_port {
                Some(node) if node != 0 => format!("{}:{node}/{protocol}", port.port),
                _ => format!("{}/{protocol}", port.port),
            }
        })
        .collect();
    [
        format!(
            "{}/{}",
            service.metadata.namespace.as_deref().unwrap_or("default"),
            service.metadata.name.as_deref().unwrap_or_default()
        ),
        spec.cluster_ip.unwrap_or_else(|| "-".into()),
        ports.join(","),
        endpoints.to_string(),
    ]
}

/// One event as one line.
pub(super) fn event(event: &Event, colours: bool) -> String {
    let about = match &event.about {
        About::Pod { name, field: None, .. } => format!("pod/{}/{}", name.namespace, name.name),
        About::Pod { name, field: Some(field), .. } => {
            let container = field.split_once('{').map_or(field.as_str(), |(_, rest)| rest.trim_end_matches('}'));
            format!("pod/{}/{} ({container})", name.namespace, name.name)
        }
        About::Node => "node".into(),
        About::Manifest { file } => format!("manifest/{file}"),
    };
    let kind = match (event.kind, colours) {
        (EventType::Normal, _) => "Normal ".to_owned(),
        (EventType::Warning, false) => "Warning".to_owned(),
        (EventType::Warning, true) => "\x1b[33mWarning\x1b[0m".to_owned(),
    };
    let times = if event.count > 1 { format!(" (x{})", event.count) } else { String::new() };
    let time = event.last.strftime("%H:%M:%S");
    format!("{time}  {kind}  {:<18}  {about}: {}{times}", event.reason, plain(&event.message))
}

/// A message on one line and without control characters: some of it is what containers or registries said.
pub(super) fn plain(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Colours a status: red for what needs a look, green for what runs, grey for what has ended well.
pub(super) fn coloured(line: &str) -> String {
    let colour = [
        ("Running", "32"),
        ("Completed", "90"),
        ("Succeeded", "90"),
        ("CrashLoopBackOff", "31"),
        ("OOMKilled", "31"),
        ("Error", "31"),
        ("Failed", "31"),
        ("ImagePullBackOff", "31"),
        ("ErrImagePull", "31"),
        ("Terminating", "33"),
    ];
    for (word, code) in colour {
        if let Some(at) = line.find(&format!(" {word}")) {
            let (before, rest) = line.split_at(at + 1);
            let (word, after) = rest.split_at(word.len());
            return format!("{before}\x1b[{code}m{word}\x1b[0m{after}");
        }
    }
    line.to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::names::{ObjectName, PodUid};

    #[test]
    fn pods_are_listed_by_name_with_their_ages() {
        let view = |name: &str, started: Option<u64>| {
            PodView {
            pod: Arc::new(
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "a"}]}}))
                    .unwrap(),
            ),
            status: serde_json::from_value(json!({"phase": "Running", "podIP": "10.85.0.2", "startTime": "2026-01-01T00:00:00Z"}))
                .unwrap(),
            started_in: started.map(Duration::from_millis),
            stopping: false,
        }
        };
        let now = "2026-01-01T00:03:07Z".parse().unwrap();
        let views = [view("web", Some(23)), view("db", None)];
        expect![[r#"
            NAME          READY   STATUS    RESTARTS   ADDRESS     AGE
            default/db    0/1     Running   0          10.85.0.2   3m7s
            default/web   0/1     Running   0          10.85.0.2   3m7s"#]]
        .assert_eq(&pods(views.iter(), &[], now).join("\n"));
        expect![[r#"
            POD           READY   STATUS    RESTARTS   ADDRESS     STARTED IN
            default/db    0/1     Running   0          10.85.0.2   -
            default/web   0/1     Running   0          10.85.0.2   23 ms"#]]
        .assert_eq(&live_pods(views.iter(), now).join("\n"));
    }

    #[test]
    fn an_event_is_one_line_whatever_its_message_holds() {
        let about = About::Pod {
            name: ObjectName::new("default", "web"),
            uid: PodUid::try_from("u".to_owned()).unwrap(),
            field: Some("spec.containers{main}".into()),
        };
        let at = "2026-01-01T12:34:56Z".parse().unwrap();
        let one = Event {
            about,
            kind: EventType::Warning,
            reason: "BackOff".into(),
            message: "line one\nline\x1b[2Jtwo".into(),
            count: 3,
            first: at,
            last: at,
        };
        expect!["12:34:56  Warning  BackOff             pod/default/web (main): line one line [2Jtwo (x3)"]
            .assert_eq(&event(&one, false));
    }

    #[test]
    fn only_the_status_is_coloured() {
        expect!["default/Running-man   1/1   \u{1b}[32mRunning\u{1b}[0m   0"]
            .assert_eq(&coloured("default/Running-man   1/1   Running   0"));
    }
}
