//! `longshore explain`: a pod's timeline as text. Pure but for the asking; time is an argument.

use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;

use super::client::Client;
use super::render::{event, plain, since};
use super::talk::{Format, Namespace, encode, pod_name, print};
use crate::timeline::{Entry, Explanation, Outcome, Wait, title};
use crate::view::human;

/// Columns of the drawn bars.
const BAR: usize = 30;

#[derive(Args, Debug)]
pub(super) struct ExplainArgs {
    /// Pod, as NAME or NAMESPACE/NAME.
    pod: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Print all there is to know.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) async fn run(agent: &Client, args: ExplainArgs) -> anyhow::Result<ExitCode> {
    use std::io::IsTerminal;
    let pod = pod_name(&args.pod, &args.namespace);
    let query = [("namespace", pod.namespace), ("pod", pod.name)];
    let told: Explanation = agent.get(&format!("/v1/explain?{}", encode(&query))).await?;
    match args.output {
        Some(Format::Json) => print([serde_json::to_string_pretty(&told)?])?,
        None => print(lines(&told, Timestamp::now(), std::io::stdout().is_terminal()))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The whole page; `drawn` adds a bar to each step of the start.
fn lines(told: &Explanation, now: Timestamp, drawn: bool) -> Vec<String> {
    let mut out = head(told, now);
    let mut part = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            out.push(String::new());
            out.push(title.to_owned());
            out.extend(lines);
        }
    };
    part("TRIED", steps(told, now, drawn));
    part("CONTAINERS", containers(told));
    part("AWAITED", told.awaits.iter().map(|wait| awaited(wait, now)).collect());
    part("EVENTS", told.events.iter().map(|told| format!("  {}", event(told, drawn))).collect());
    part("MANIFEST", told.problems.iter().map(|problem| format!("  {}", plain(problem))).collect());
    out
}

fn head(told: &Explanation, now: Timestamp) -> Vec<String> {
    let restarts = match told.restarts {
        1 => "1 restart".to_owned(),
        count => format!("{count} restarts"),
    };
    let mut out = vec![format!("pod {}  {}  ready {}, {restarts}", told.pod, told.status, told.ready)];
    out.extend(told.why.as_deref().map(|why| format!("  {}", plain(why))));
    let ago = |at: Timestamp| format!("{} ({} ago)", at.strftime("%Y-%m-%d %H:%M:%S"), human(since(at, now)));
    let begun = if told.adopted {
        let since = told.since.strftime("%Y-%m-%d %H:%M:%S");
        let started = ago(told.agent_started);
        format!("  wanted since {since}; the agent started at {started} and found the pod as a former run left it")
    } else {
        format!("  wanted since {}; the agent started at {}", ago(told.since), ago(told.agent_started))
    };
    out.push(begun);
    out.extend(told.started_in_ms.map(|ms| format!("  all containers ran {ms} ms after the pod was first wanted")));
    out
}

fn steps(told: &Explanation, now: Timestamp, drawn: bool) -> Vec<String> {
    let axis = Axis::of(told, now);
    let width = told.steps.iter().map(|step| title(step).chars().count()).max().unwrap_or_default();
    let mut out: Vec<_> = told.steps.iter().map(|step| line(step, width, now, drawn.then_some(&axis))).collect();
    if told.steps_forgotten > 0 {
        out.push(format!("  … {} steps in between are no longer known", told.steps_forgotten));
    }
    out
}

fn line(step: &Entry, width: usize, now: Timestamp, axis: Option<&Axis>) -> String {
    let took = micros(step.began, step.ended.unwrap_or(now));
    let outcome = match &step.outcome {
        None => "under way".to_owned(),
        Some(Outcome::Done) => "ok".to_owned(),
        Some(Outcome::CutOff) => "cut off".to_owned(),
        Some(Outcome::Failed { reason, message }) => format!("{reason}: {}", plain(message)),
    };
    let times = match step.times {
        1 => String::new(),
        times => format!(" (x{times} since {})", step.first.strftime("%H:%M:%S")),
    };
    let bar = axis.map(|axis| format!("{}  ", axis.bar(step, now))).unwrap_or_default();
    let began = step.began.strftime("%H:%M:%S%.3f");
    let title = title(step);
    format!("  {began}  {title:<width$}  {:>9}  {bar}{outcome}{times}", shown(took))
}

fn micros(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_micros()).unwrap_or(0)
}

fn shown(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        10_000..10_000_000 => format!("{} ms", micros / 1_000),
        _ => format!("{} s", micros / 1_000_000),
    }
}

/// The time that bars are drawn over: from the pod's first moment to the end of its start.
struct Axis {
    from: Timestamp,
    to: Timestamp,
}

impl Axis {
    fn of(told: &Explanation, now: Timestamp) -> Self {
        let from = told.since;
        let started = told.started_in_ms.and_then(|ms| {
            // A start takes a moment to be seen: the last step of it may end a little later.
            let length = jiff::SignedDuration::from_millis(i64::try_from(ms).ok()?);
            from.checked_add(length).ok()
        });
        let ends = told.steps.iter().filter(|step| started.is_none_or(|at| step.first <= at));
        let last = ends.map(|step| step.ended.unwrap_or(now)).max();
        Self { from, to: last.into_iter().chain(started).max().unwrap_or(now) }
    }

    fn bar(&self, step: &Entry, now: Timestamp) -> String {
        let whole = micros(self.from, self.to).max(1);
        let end = step.ended.unwrap_or(now);
        if step.began > self.to || end < self.from {
            return " ".repeat(BAR);
        }
        let column = |at: Timestamp| {
            let part = u128::from(micros(self.from, at).min(whole)) * BAR as u128 / u128::from(whole);
            usize::try_from(part).unwrap_or(BAR).min(BAR)
        };
        let start = column(step.began).min(BAR - 1);
        // Whatever took any time at all can be seen.
        let length = column(end).saturating_sub(start).max(1);
        format!("{}{}{}", "·".repeat(start), "█".repeat(length), "·".repeat(BAR - start - length))
    }
}

fn containers(told: &Explanation) -> Vec<String> {
    let width = told.containers.iter().map(|container| container.name.chars().count()).max().unwrap_or_default();
    let one = |container: &crate::timeline::ContainerLine| {
        let kind = if container.init { "init " } else { "" };
        let restarts =
            if container.restarts > 0 { format!("; restarted x{}", container.restarts) } else { String::new() };
        let before = container.before.as_deref().map(|before| format!("; before: {before}")).unwrap_or_default();
        format!("  {:<width$}  {kind}{}", container.name, plain(&format!("{}{restarts}{before}", container.state)))
    };
    told.containers.iter().map(one).collect()
}

fn awaited(wait: &Wait, now: Timestamp) -> String {
    let until = wait.until.map(|until| {
        let left = until.duration_since(now).as_secs().max(0);
        format!("; until {} (in {left} s)", until.strftime("%H:%M:%S"))
    });
    format!("  {}: {}{}", wait.of, plain(&wait.why), until.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn told(extra: serde_json::Value) -> Explanation {
        let mut whole = json!({
            "pod": {"namespace": "default", "name": "web"}, "uid": "u-1", "status": "ImagePullBackOff", "ready": "0/1",
            "why": null, "restarts": 0, "agent_started": "2026-01-01T11:00:00Z", "since": "2026-01-01T12:00:00Z",
            "adopted": false, "started_in_ms": null, "steps_forgotten": 0, "containers": [], "awaits": [], "events": [],
            "problems": [], "steps": [
                {"work": "volumes", "of": null, "first": "2026-01-01T12:00:00Z", "began": "2026-01-01T12:00:00Z",
                 "ended": "2026-01-01T12:00:00.0012Z", "outcome": "done", "times": 1},
                {"work": "sandbox", "of": null, "first": "2026-01-01T12:00:00.002Z", "began": "2026-01-01T12:00:00.002Z",
                 "ended": "2026-01-01T12:00:00.040Z", "outcome": "done", "times": 1}]});
        whole.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        serde_json::from_value(whole).unwrap()
    }

    fn check(extra: serde_json::Value, drawn: bool, page: Expect) {
        page.assert_eq(&lines(&told(extra), "2026-01-01T12:00:15Z".parse().unwrap(), drawn).join("\n"));
    }

    #[test]
    fn a_failing_pull_is_told_with_its_retry() {
        let failed = json!({"work": "image", "of": "main", "first": "2026-01-01T12:00:00.001Z",
            "began": "2026-01-01T12:00:10.5Z", "ended": "2026-01-01T12:00:11Z", "times": 2,
            "outcome": {"failed": {"reason": "ErrImagePull", "message": "connection refused"}}});
        check(
            json!({"steps": [failed], "containers": [{"name": "main", "init": false, "restarts": 0, "before": null,
                "state": "waiting ImagePullBackOff"}],
                "awaits": [{"of": "container main", "why": "back-off", "until": "2026-01-01T12:00:31Z"}]}),
            false,
            expect![[r#"
                pod default/web  ImagePullBackOff  ready 0/1, 0 restarts
                  wanted since 2026-01-01 12:00:00 (15s ago); the agent started at 2026-01-01 11:00:00 (60m ago)

                TRIED
                  12:00:10.500  image of main     500 ms  ErrImagePull: connection refused (x2 since 12:00:00)

                CONTAINERS
                  main  waiting ImagePullBackOff

                AWAITED
                  container main: back-off; until 12:00:31 (in 16 s)"#]],
        );
    }

    #[test]
    fn each_step_of_a_start_has_its_bar() {
        check(
            json!({"started_in_ms": 40}),
            true,
            expect![[r#"
                pod default/web  ImagePullBackOff  ready 0/1, 0 restarts
                  wanted since 2026-01-01 12:00:00 (15s ago); the agent started at 2026-01-01 11:00:00 (60m ago)
                  all containers ran 40 ms after the pod was first wanted

                TRIED
                  12:00:00.000  volumes     1.2 ms  █·····························  ok
                  12:00:00.002  sandbox      38 ms  ·█████████████████████████████  ok"#]],
        );
    }

    #[test]
    fn a_pod_of_a_former_run_says_so() {
        check(
            json!({"adopted": true, "agent_started": "2026-01-01T12:00:05Z", "steps": []}),
            false,
            expect![[r#"
                pod default/web  ImagePullBackOff  ready 0/1, 0 restarts
                  wanted since 2026-01-01 12:00:00; the agent started at 2026-01-01 12:00:05 (10s ago) and found the pod as a former run left it"#]],
        );
    }
}
