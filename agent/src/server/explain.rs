//! `GET /v1/explain`: one pod's timeline, or why there is no such pod.

use std::io::Read;
use std::path::Path;

use axum::Json;
use axum::extract::{Query, State};
use jiff::Timestamp;
use serde::Deserialize;

use super::{Refusal, Surface, pods};
use crate::names::{ObjectName, PodUid};
use crate::pods::tools::object_name;
use crate::sources::{Desired, ManifestProblem};
use crate::timeline::{Explanation, Known, Timeline, explain};
use crate::view::PodView;

/// A manifest file is at most this large (pod-lifecycle.md, section 2).
const LARGEST: u64 = 10 << 20;

#[derive(Debug, Deserialize)]
pub(super) struct ExplainQuery {
    namespace: String,
    pod: String,
}

pub(super) async fn one(
    State(surface): State<Surface>,
    Query(query): Query<ExplainQuery>,
) -> Result<Json<Explanation>, Refusal> {
    let name = ObjectName::new(&query.namespace, &query.pod);
    let desired = surface.desired.borrow().clone();
    let found = pods::find(&surface, &name);
    let problems = desired.problems.clone();
    // Files are read: not on a thread that others wait for.
    let wanted = name.name.clone();
    let blamed = tokio::task::spawn_blocking(move || blamed(&problems, &wanted)).await.unwrap_or_default();
    match found {
        Ok(view) => Ok(Json(known(&surface, name, &view, blamed))),
        Err(_) => Err(unknown(&surface, &name, &desired, &blamed)),
    }
}

fn known(surface: &Surface, pod: ObjectName, view: &PodView, problems: Vec<String>) -> Explanation {
    let uid = view.pod.metadata.uid.clone().unwrap_or_default();
    // What is shown has been checked; the fallback is nobody's uid.
    let uid = PodUid::try_from(uid).unwrap_or_else(|_| PodUid::from_number(0));
    let now = Timestamp::now();
    let timeline = surface.timelines.of(&uid).unwrap_or_else(|| Timeline::new(now, false));
    let agent_started = surface.timelines.agent_started;
    let events = surface.recorder.recent();
    let pulls = (surface.pulls)();
    explain(Known { pod, uid, view, timeline, agent_started, events, problems, pulls }, now)
}

/// Why there is nothing to explain: where a manifest is to blame, its problem.
fn unknown(surface: &Surface, name: &ObjectName, desired: &Desired, blamed: &[String]) -> Refusal {
    let not_found = format!("pod {:?} not found in namespace {:?}", name.name, name.namespace);
    if let Some(held) = surface.held.borrow().values().find(|held| held.name == *name) {
        let at = held.since.strftime("%Y-%m-%d %H:%M:%S");
        let help = format!("it stays so until longshore start {name}, or until its manifest changes");
        return Refusal::not_found(format!("pod {name} was stopped by hand at {at}; {help}"));
    }
    if let Some(pod) = desired.pods.values().find(|pod| object_name(pod) == *name) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        return Refusal::not_found(format!(
            "pod {name} (uid {uid}) is wanted and has not begun: it waits for its turn"
        ));
    }
    if !blamed.is_empty() {
        return Refusal::not_found(format!(
            "pod {name} does not run because of its manifest:\n  {}",
            blamed.join("\n  ")
        ));
    }
    let others = surface.views.borrow();
    let elsewhere = others.values().map(|view| object_name(&view.pod)).find(|other| other.name == name.name);
    match (elsewhere, desired.problems.len()) {
        (Some(other), _) => Refusal::not_found(format!("{not_found}; there is {other}")),
        (None, 0) => Refusal::not_found(format!("{not_found}; longshore ps lists those there are")),
        (None, count) => {
            let first: Vec<_> = desired.problems.iter().take(5).map(ToString::to_string).collect();
            let list = first.join("\n  ");
            Refusal::not_found(format!("{not_found}; {count} problems keep manifests from being used:\n  {list}"))
        }
    }
}

/// Problems of files that name the pod.
fn blamed(problems: &[ManifestProblem], name: &str) -> Vec<String> {
    let names_it = |problem: &&ManifestProblem| {
        let stem = problem.file.file_stem().is_some_and(|stem| stem == name);
        stem || read(&problem.file).is_some_and(|text| mentions(&text, name))
    };
    problems.iter().filter(names_it).map(ToString::to_string).collect()
}

fn read(file: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(file).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The text has a field `name` with this value, in YAML or in JSON. The file could not be decoded, so nothing better
/// than a look at its words is to be had.
fn mentions(text: &str, name: &str) -> bool {
    text.match_indices("name").any(|(at, word)| {
        let rest = text[at + word.len()..].trim_start_matches(['"', '\'']).trim_start();
        let Some(value) = rest.strip_prefix(':') else { return false };
        let value = value.trim_start_matches([' ', '\t', '"', '\'']);
        value
            .strip_prefix(name)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || "-._".contains(c)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_yaml_and_json_and_only_whole() {
        for text in
            ["metadata:\n  name: web\n", "metadata: {name: web}", "{\"metadata\": {\"name\" : \"web\"}}", "name: 'web'"]
        {
            assert!(mentions(text, "web"), "{text}");
        }
        for text in ["name: website", "name: web-2", "# web", "names: web", ""] {
            assert!(!mentions(text, "web"), "{text}");
        }
    }
}
