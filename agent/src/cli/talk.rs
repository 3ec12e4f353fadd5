//! The commands that ask a running agent.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use http_body_util::BodyExt;
use jiff::Timestamp;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::Pod;

use super::client::{Client, Lines};
use super::exec::{Wiring, attach};
use super::{render, table};
use crate::events::Event;
use crate::names::ObjectName;
use crate::server::{ExecAnswer, ExecRequest, ImageLine, Images, ImportRequest, Pods, PullRequest, Workloads};
use crate::view::{PodView, human};

/// How a list is printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Format {
    /// As JSON, as the Kubernetes API would answer.
    Json,
}

#[derive(Args, Debug)]
pub(super) struct Namespace {
    /// Namespace of the pod.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// A pod as a person names it: `name`, or `namespace/name`.
pub(super) fn pod_name(given: &str, namespace: &Namespace) -> ObjectName {
    let given = given.strip_prefix("pod/").unwrap_or(given);
    match given.split_once('/') {
        Some((namespace, name)) => ObjectName::new(namespace, name),
        None => ObjectName::new(&namespace.namespace, given),
    }
}

pub(super) fn print(lines: impl IntoIterator<Item = String>) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    for line in lines {
        match writeln!(stdout, "{line}") {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

#[derive(Args, Debug)]
pub(super) struct PsArgs {
    /// Print all there is to know.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) async fn ps(agent: &Client, args: PsArgs) -> anyhow::Result<ExitCode> {
    let answer: Pods = agent.get("/v1/pods").await?;
    if let Some(Format::Json) = args.output {
        let items: Vec<Pod> = answer.pods.into_iter().map(|row| row.pod).collect();
        print([serde_json::to_string_pretty(&List { items, metadata: Default::default() })?])?;
        return Ok(ExitCode::SUCCESS);
    }
    let views: Vec<PodView> = answer.pods.into_iter().map(Into::into).collect();
    if views.is_empty() && answer.held.is_empty() {
        print(["No pods.".to_owned()])?;
    } else {
        print(render::pods(views.iter(), &answer.held, Timestamp::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args, Debug)]
pub(super) struct WorkloadsArgs {
    /// Print all there is to know.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) async fn workloads(agent: &Client, args: WorkloadsArgs) -> anyhow::Result<ExitCode> {
    let answer: Workloads = agent.get("/v1/workloads").await?;
    match args.output {
        Some(Format::Json) => print([serde_json::to_string_pretty(&answer)?])?,
        None if answer.workloads.is_empty() => print(["No workloads.".to_owned()])?,
        None => print(render::workloads(&answer.workloads, Timestamp::now()))?,
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args, Debug)]
pub(super) struct LogsArgs {
    /// Pod, as NAME or NAMESPACE/NAME.
    pod: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Container; the pod's first one where it is not named.
    #[arg(short, long)]
    container: Option<String>,
    /// Go on with what the container writes, until it ends.
    #[arg(short, long)]
    follow: bool,
    /// The log of the instance before this one.
    #[arg(short, long)]
    previous: bool,
    /// Only this many of the last lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only what was written in the last so many seconds (30, 30s, 5m, 2h).
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// Begin each line with its time.
    #[arg(long)]
    timestamps: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        _ => return Err("expected a number with s, m or h, such as 90s or 5m".into()),
    };
    let count: u64 = digits.parse().map_err(|_| "expected a number with s, m or h, such as 90s or 5m".to_owned())?;
    count.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| "that is longer than there was time".into())
}

pub(super) async fn logs(agent: &Client, args: LogsArgs) -> anyhow::Result<ExitCode> {
    let pod = pod_name(&args.pod, &args.namespace);
    let mut query = vec![
        ("namespace", pod.namespace),
        ("pod", pod.name),
        ("follow", args.follow.to_string()),
        ("previous", args.previous.to_string()),
        ("timestamps", args.timestamps.to_string()),
    ];
    query.extend(args.container.map(|name| ("container", name)));
    query.extend(args.tail.map(|count| ("tail", count.to_string())));
    query.extend(args.since.map(|ago| ("since", (Timestamp::now() - ago).to_string())));
    let mut body = agent.stream(&format!("/v1/logs?{}", encode(&query))).await?;
    let mut stdout = std::io::stdout().lock();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.context("reading the log")?.into_data() {
            match stdout.write_all(&data).and_then(|()| stdout.flush()) {
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => break,
                other => other?,
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Percent-encodes everything but unreserved characters (RFC 3986, section 2.3).
pub(super) fn encode(query: &[(&str, String)]) -> String {
    let escape = |value: &str| {
        value.bytes().fold(String::new(), |mut text, byte| {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
            text
        })
    };
    let pairs: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    pairs.join("&")
}

#[derive(Args, Debug)]
pub(super) struct ExecArgs {
    /// Pod, as NAME or NAMESPACE/NAME.
    pod: String,
    #[command(flatten)]
    namespace: Namespace,
    /// Container; the pod's first one where it is not named.
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    tty: bool,
    /// The command and its arguments, after `--`.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn exec(agent: &Client, args: ExecArgs) -> anyhow::Result<ExitCode> {
    let request = ExecRequest {
        pod: pod_name(&args.pod, &args.namespace),
        container: args.container,
        command: args.command,
        tty: args.tty,
        stdin: args.stdin,
    };
    let answer: ExecAnswer = agent.post("/v1/exec", &request).await?;
    let code = attach(&answer.url, Wiring { stdin: args.stdin, tty: args.tty }).await?;
    // A thread that reads standard input cannot be stopped, and the runtime would wait for it.
    std::process::exit(code.into());
}

#[derive(Args, Debug)]
pub(super) struct EventsArgs {
    /// Go on with what happens.
    #[arg(short, long)]
    follow: bool,
}

pub(super) async fn events(agent: &Client, args: EventsArgs) -> anyhow::Result<ExitCode> {
    let mut lines = Lines::of(agent.stream(&format!("/v1/events?follow={}", args.follow)).await?);
    while let Some(event) = lines.next::<Event>().await? {
        print([render::event(&event, false)])?;
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Args, Debug)]
pub(super) struct ImagesArgs {
    /// Print all there is to know.
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

pub(super) async fn images(agent: &Client, args: ImagesArgs) -> anyhow::Result<ExitCode> {
    let answer: Images = agent.get("/v1/images").await?;
    if let Some(Format::Json) = args.output {
        print([serde_json::to_string_pretty(&answer)?])?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    for image in &answer.images {
        let short = |id: &str| id.trim_start_matches("sha256:").chars().take(12).collect::<String>();
        let names = if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names.clone() };
        rows.extend(names.into_iter().map(|name| [name, short(&image.id), size(image.size)]));
    }
    rows.sort();
    print(table::columns(["IMAGE", "ID", "SIZE"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes for a person: three digits at most and a unit of ten to the power of three.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1_000.0 {
            return if value < 10.0 && unit != "B" {
                format!("{value:.1} {unit}")
            } else {
                format!("{value:.0} {unit}")
            };
        }
        value /= 1_000.0;
    }
    format!("{value:.1} TB")
}

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// OCI layout, OCI or docker archive (also gzip or zstd), or a root file system folder.
    path: PathBuf,
    /// Name to give to the image, for what carries none.
    #[arg(long)]
    name: Option<String>,
}

pub(super) async fn import(agent: &Client, args: ImportArgs) -> anyhow::Result<ExitCode> {
    // The agent has a working directory of its own.
    let path = std::path::absolute(&args.path).context("the path to import")?;
    let lines = agent.post_for_lines("/v1/images/import", &ImportRequest { path, name: args.name }).await?;
    images_done(lines, "imported").await
}

#[derive(Args, Debug)]
pub(super) struct PullArgs {
    /// Image, such as `busybox`, `quay.io/org/app:1.2` or with a digest.
    image: String,
    /// `user:password` for the registry; better given by the environment than on the command line.
    #[arg(long, env = "LONGSHORE_CREDENTIALS", hide_env_values = true)]
    credentials: Option<String>,
}

pub(super) async fn pull(agent: &Client, args: PullArgs) -> anyhow::Result<ExitCode> {
    let request = PullRequest { image: args.image, credentials: args.credentials };
    images_done(agent.post_for_lines("/v1/images/pull", &request).await?, "pulled").await
}

async fn images_done(mut lines: Lines, verb: &str) -> anyhow::Result<ExitCode> {
    let started = std::time::Instant::now();
    let mut progress = Progress::default();
    while let Some(line) = lines.next::<ImageLine>().await? {
        match line {
            ImageLine::Progress { done, total, layers } => progress.show(done, total, layers),
            ImageLine::Done(image) => {
                progress.clear();
                let name = image.names.first().unwrap_or(&image.id);
                print([format!("{verb} {name} ({}, {})", size(image.size), human_short(started.elapsed()))])?;
            }
            ImageLine::Failed { message } => {
                progress.clear();
                bail!("{message}");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn human_short(took: Duration) -> String {
    if took < Duration::from_secs(10) { format!("{} ms", took.as_millis()) } else { human(took) }
}

/// One line on a terminal that is drawn over; nothing elsewhere.
#[derive(Default)]
struct Progress {
    shown: bool,
}

impl Progress {
    fn show(&mut self, done: u64, total: Option<u64>, layers: usize) {
        use std::io::IsTerminal;
        let mut stderr = std::io::stderr();
        if !stderr.is_terminal() {
            return;
        }
        let of = total.map(|total| format!(" of {}", size(total))).unwrap_or_default();
        // A terminal that cannot be written to shows no progress, and that is all.
        let _ = write!(stderr, "\r\x1b[K{}{of}, {layers} layers", size(done)).and_then(|()| stderr.flush());
        self.shown = true;
    }

    fn clear(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

#[derive(Args, Debug)]
pub(super) struct StopArgs {
    /// Pods, as NAME or NAMESPACE/NAME; none means the agent with all of its pods.
    pods: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
    /// At most this long for the pods to end, also for those that are stopping already; no container
    /// is given less than 2 s, with 0 neither is a preStop hook run.
    #[arg(long, value_name = "SECONDS", requires = "pods")]
    grace_period: Option<u32>,
}

pub(super) async fn stop(agent: &Client, args: StopArgs) -> anyhow::Result<ExitCode> {
    let pods: Vec<_> = args.pods.iter().map(|name| pod_name(name, &args.namespace)).collect();
    let whole_agent = pods.is_empty();
    let request = crate::server::StopRequest { pods, grace_period: args.grace_period };
    let stopped: crate::server::Stopped = agent.post("/v1/stop", &request).await?;
    print([match (whole_agent, stopped.pods) {
        (true, count) => format!("the agent stops with its {count} pods"),
        (false, 1) => "stopped 1 pod".to_owned(),
        (false, count) => format!("stopped {count} pods"),
    }])?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Args, Debug)]
pub(super) struct LogLevelArgs {
    /// A level (warn, info, debug, …), a number as for the kubelet's -v, or MODULE=LEVEL; several with commas. Without it
    /// what counts now is printed.
    level: Option<String>,
}

pub(super) async fn log_level(agent: &Client, args: LogLevelArgs) -> anyhow::Result<ExitCode> {
    let answer: crate::server::LogLevel = match args.level {
        Some(level) => agent.post("/v1/log-level", &crate::server::LogLevel { level }).await?,
        None => agent.get("/v1/log-level").await?,
    };
    print([answer.level])?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Args, Debug)]
pub(super) struct StartArgs {
    /// Pods that were stopped by hand, as NAME or NAMESPACE/NAME.
    #[arg(required = true)]
    pods: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
}

pub(super) async fn start(agent: &Client, args: StartArgs) -> anyhow::Result<ExitCode> {
    let pods: Vec<_> = args.pods.iter().map(|name| pod_name(name, &args.namespace)).collect();
    let request = crate::server::StopRequest { pods, grace_period: None };
    let started: crate::server::Stopped = agent.post("/v1/start", &request).await?;
    print([match started.pods {
        1 => "started 1 pod".to_owned(),
        count => format!("started {count} pods"),
    }])?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_named_with_or_without_its_namespace() {
        let namespace = Namespace { namespace: "default".into() };
        assert_eq!(pod_name("web", &namespace).to_string(), "default/web");
        assert_eq!(pod_name("shop/web", &namespace).to_string(), "shop/web");
        assert_eq!(pod_name("pod/web", &namespace).to_string(), "default/web");
    }

    #[test]
    fn a_query_survives_any_value() {
        assert_eq!(encode(&[("a", "x y&z=ü".into()), ("b", "1".into())]), "a=x%20y%26z%3D%C3%BC&b=1");
    }

    #[test]
    fn sizes_are_short() {
        let sizes = [0, 999, 1_500, 45_678, 12_345_678, 3_000_000_000].map(size);
        assert_eq!(sizes.join(", "), "0 B, 999 B, 1.5 kB, 46 kB, 12 MB, 3.0 GB");
    }
}
