//! `longshore top`: what pods and containers use, drawn over and over on a terminal, once elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::client::Client;
use super::exec::terminal_size;
use super::live::cut;
use super::render::{coloured, plain, since};
use super::table::columns;
use super::talk::{Format, print};
use crate::server::{Top, TopPod, Used};
use crate::view::{Row, human};

/// A single answer measures over this long.
const ONCE: Duration = Duration::from_secs(1);
/// Quotients of seconds this small say nothing.
const LEAST_NS: i64 = 50_000_000;

#[derive(Args, Debug)]
pub(super) struct TopArgs {
    /// Print once and end; so it is wherever the output is no terminal.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3_600))]
    every: u64,
    /// Print all there is to know, once.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) async fn run(agent: &Client, args: TopArgs) -> anyhow::Result<ExitCode> {
    let first: Top = agent.get("/v1/top").await?;
    if args.once || args.output.is_some() || !std::io::stdout().is_terminal() {
        tokio::time::sleep(ONCE).await;
        let second: Top = agent.get("/v1/top").await?;
        let lines = match args.output {
            Some(Format::Json) => vec![serde_json::to_string_pretty(&as_json(&first, &second))?],
            None => table(&first, &second, Timestamp::now()),
        };
        print(lines)?;
        return Ok(ExitCode::SUCCESS);
    }
    live(agent, first, Duration::from_secs(args.every)).await
}

async fn live(agent: &Client, mut before: Top, every: Duration) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let _screen = Screen::enter();
    let mut wait = ONCE;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(wait) => {}
        }
        wait = every;
        let now: Top = agent.get("/v1/top").await?;
        let (width, height) = terminal_size().unwrap_or((80, 24));
        let mut text = String::from("\x1b[H");
        for line in table(&before, &now, Timestamp::now()).iter().take(usize::from(height).saturating_sub(1).max(1)) {
            text.push_str(&coloured(&cut(line, width.into())));
            text.push_str("\x1b[K\r\n");
        }
        text.push_str("\x1b[J");
        let mut stdout = std::io::stdout().lock();
        if stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_err() {
            return Ok(ExitCode::SUCCESS);
        }
        drop(stdout);
        before = now;
    }
}

/// The terminal's other screen, for as long as this lives.
struct Screen;

impl Screen {
    fn enter() -> Self {
        // A terminal that cannot be written to shows nothing, and that is all.
        let _ = write!(std::io::stdout(), "\x1b[?1049h\x1b[?25l");
        Self
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = write!(std::io::stdout(), "\x1b[?25h\x1b[?1049l");
    }
}

/// Thousandths of a core between two looks; `None` where there is nothing to compare with.
fn millis(before: Option<&Used>, now: &Used) -> Option<u64> {
    let before = before?;
    let (passed, used) = (now.at_ns.checked_sub(before.at_ns)?, now.cpu_ns.checked_sub(before.cpu_ns)?);
    let passed = u128::try_from(passed).ok().filter(|_| passed >= LEAST_NS)?;
    u64::try_from(u128::from(used) * 1_000 / passed).ok()
}

/// One pod's figures: cpu by container where it is known, and memory.
struct Figures<'a> {
    pod: &'a TopPod,
    row: Row,
    cpu: BTreeMap<&'a str, Option<u64>>,
}

fn figures<'a>(before: &'a Top, now: &'a Top) -> Vec<Figures<'a>> {
    let uid = |pod: &'a TopPod| pod.row.pod.metadata.uid.as_deref().unwrap_or_default();
    let former: BTreeMap<_, _> = before.pods.iter().map(|pod| (uid(pod), pod)).collect();
    let one = |pod: &'a TopPod| {
        let old = former.get(uid(pod));
        let rate =
            |(name, used): (&'a String, &Used)| (name.as_str(), millis(old.and_then(|old| old.used.get(name)), used));
        let status = pod.row.pod.status.clone().unwrap_or_default();
        Figures { pod, row: Row::of(&pod.row.pod, &status, pod.row.stopping), cpu: pod.used.iter().map(rate).collect() }
    };
    let mut all: Vec<_> = now.pods.iter().map(one).collect();
    all.sort_by(|a, b| a.row.name.cmp(&b.row.name));
    all
}

impl Figures<'_> {
    /// Of all containers together.
    fn cpu(&self) -> Option<u64> {
        self.cpu.values().copied().flatten().reduce(u64::saturating_add)
    }

    fn memory(&self) -> Option<u64> {
        self.pod.used.values().map(|used| used.memory).reduce(u64::saturating_add)
    }

    /// How long the start took, and what of: `34ms (image 3, sandbox 12, container 9)`.
    fn start(&self) -> String {
        let Some(took) = self.pod.row.started_in_ms else { return "-".into() };
        let phases = self.pod.phases.iter().map(|(work, micros)| format!("{} {}", work.word(), micros.div_ceil(1_000)));
        let phases = phases.collect::<Vec<_>>().join(", ");
        let split = if phases.is_empty() { String::new() } else { format!(" ({phases})") };
        format!("{took}ms{split}")
    }

    fn lines(&self, now: Timestamp) -> Vec<[String; 8]> {
        let event = self.pod.event.as_ref().map(|event| {
            let message: String = plain(&event.message).chars().take(60).collect();
            format!("{} ago {}: {message}", human(since(event.last, now)), event.reason)
        });
        let row = &self.row;
        let mut lines = vec![[
            row.name.clone(),
            shown(self.cpu(), cores),
            shown(self.memory(), mebibytes),
            row.restarts.to_string(),
            row.ready.clone(),
            row.status.clone(),
            self.start(),
            event.unwrap_or_else(|| "-".into()),
        ]];
        // One container is the pod.
        if self.pod.used.len() > 1 {
            lines.extend(self.pod.used.iter().map(|(name, used)| {
                let cpu = self.cpu.get(name.as_str()).copied().flatten();
                let dash = || String::from("");
                [
                    format!("  {name}"),
                    shown(cpu, cores),
                    shown(Some(used.memory), mebibytes),
                    dash(),
                    dash(),
                    dash(),
                    dash(),
                    dash(),
                ]
            }));
        }
        lines
    }
}

fn shown(value: Option<u64>, unit: fn(u64) -> String) -> String {
    value.map_or_else(|| "-".into(), unit)
}

/// As `kubectl top` writes cpu.
fn cores(millis: u64) -> String {
    format!("{millis}m")
}

/// As `kubectl top` writes memory.
fn mebibytes(bytes: u64) -> String {
    format!("{}Mi", bytes >> 20)
}

fn table(before: &Top, now: &Top, at: Timestamp) -> Vec<String> {
    let rows: Vec<_> = figures(before, now).iter().flat_map(|pod| pod.lines(at)).collect();
    if rows.is_empty() {
        return vec!["No pods.".to_owned()];
    }
    columns(["POD", "CPU", "MEMORY", "RESTARTS", "READY", "STATUS", "START", "LAST EVENT"], &rows)
}

fn as_json(before: &Top, now: &Top) -> serde_json::Value {
    let pods: Vec<_> = figures(before, now)
        .iter()
        .map(|pod| {
            let containers = pod.pod.used.iter().map(|(name, used)| {
                json!({"name": name, "cpu_millis": pod.cpu.get(name.as_str()).copied().flatten(), "memory_bytes": used.memory})
            });
            json!({
                "pod": pod.row.name, "status": pod.row.status, "ready": pod.row.ready, "restarts": pod.row.restarts,
                "cpu_millis": pod.cpu(), "memory_bytes": pod.memory(), "containers": containers.collect::<Vec<_>>(),
                "event": pod.pod.event, "started_in_ms": pod.pod.row.started_in_ms,
                "phases_us": pod.pod.phases.iter().map(|(work, micros)| (work.word(), *micros)).collect::<BTreeMap<_, _>>(),
            })
        })
        .collect();
    json!({ "pods": pods })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn top(at_s: i64, cpu_ms: u64) -> Top {
        let used =
            |cpu_ms: u64| json!({"at_ns": at_s * 1_000_000_000, "cpu_ns": cpu_ms * 1_000_000, "memory": 5 << 20});
        serde_json::from_value(json!({"pods": [
            {"row": {"pod": {"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
                "status": {"phase": "Running"}}, "stopping": false, "started_in_ms": 14},
             "used": {"a": used(cpu_ms), "b": used(0)}, "event": null, "phases": [["image", 900], ["sandbox", 8100]]},
            {"row": {"pod": {"metadata": {"name": "new", "namespace": "shop", "uid": "v"}, "spec": {"containers": [{"name": "a"}]}},
                "stopping": false, "started_in_ms": null}, "used": {}, "event": null}]}))
        .unwrap()
    }

    #[test]
    fn rates_are_what_was_used_between_two_looks() {
        let lines = table(&top(10, 1_000), &top(12, 1_500), Timestamp::UNIX_EPOCH);
        expect![[r#"
            POD        CPU    MEMORY   RESTARTS   READY   STATUS    START                       LAST EVENT
            shop/new   -      -        0          0/1     Pending   -                           -
            shop/web   250m   10Mi     0          0/2     Running   14ms (image 1, sandbox 9)   -
              a        250m   5Mi
              b        0m     5Mi"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn a_restart_or_a_clock_that_stands_gives_no_rate() {
        let used = |at_ns, cpu_ns| Used { at_ns, cpu_ns, memory: 0 };
        let second = 1_000_000_000;
        assert_eq!(millis(None, &used(second, 5)), None);
        assert_eq!(millis(Some(&used(second, 500)), &used(2 * second, 5)), None);
        assert_eq!(millis(Some(&used(second, 5)), &used(second, 10)), None);
        assert_eq!(millis(Some(&used(0, 0)), &used(second, 2_000_000_000)), Some(2_000));
    }
}
