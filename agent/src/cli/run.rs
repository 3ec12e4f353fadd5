//! `longshore run`: the whole agent in the foreground, with manifests as its source.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use ipnet::{IpNet, Ipv4Net};
use jiff::Timestamp;
use runtime::images::{ImageRef, PullProgress, RegistryConfig};
use runtime::{Embedded, Instance, NetworkConfig, Options};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::flags::{MaxSize, size};
use super::pressure_flags::PressureFlags;
use super::service_flags::ServiceFlags;
use super::{host_name, live};
use crate::config::{Config, Draft, LogRotation};
use crate::errors::chain;
use crate::events::{About, EventType, Recorder};
use crate::logging;
use crate::names::ObjectName;
use crate::node::{self, Handle, Node, facts};
use crate::proxy;
use crate::server::{self, Control, Surface};
use crate::sources::Desired;
use crate::sources::{ManifestUrl, Manifests, Places};
use crate::workloads::{Rows, Task};

/// How long the tasks of the agent may take to end, once its pods are gone or left behind.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct RunArgs {
    /// Manifests: files, or folders whose *.yaml, *.yml and *.json are read; both are watched. `-` is standard input.
    #[arg(required_unless_present_any = ["pod_manifest_path", "manifest_url"])]
    manifests: Vec<PathBuf>,
    /// Static pods: a file, or a folder whose every visible file holds one, by the kubelet's rules.
    #[arg(long, value_name = "PATH")]
    pod_manifest_path: Option<PathBuf>,
    /// Static pods: a Pod or PodList at this URL.
    #[arg(long, value_name = "URL")]
    manifest_url: Option<String>,
    /// Header for that URL; may be given several times.
    #[arg(long, value_name = "NAME:VALUE", requires = "manifest_url")]
    manifest_url_header: Vec<String>,
    /// How often that URL is asked, seconds.
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    http_check_frequency: u64,
    /// Images, snapshots and the pods' volumes.
    #[arg(long, default_value = "/var/lib/longshore", value_name = "DIR")]
    root_dir: PathBuf,
    /// The pods' logs.
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR")]
    log_dir: PathBuf,
    /// The node's name; the host's where it is not given.
    #[arg(long)]
    node_name: Option<String>,
    /// The node's own addresses; those of the interface with the default route where none is given.
    #[arg(long, value_name = "ADDRESS")]
    node_ip: Vec<IpAddr>,
    /// The pod network's bridge.
    #[arg(long, default_value = "longshore0")]
    bridge: String,
    /// Where pods' addresses come from.
    #[arg(long, default_value = "10.88.0.0/16", value_name = "CIDR")]
    pod_cidr: String,
    /// Where the addresses of Services come from that ask for none.
    #[arg(long, default_value = "10.96.0.0/12", value_name = "CIDR")]
    service_cidr: Ipv4Net,
    #[command(flatten)]
    services: ServiceFlags,
    /// Where the proxy's /healthz and /livez answer; kube-proxy's is 0.0.0.0:10256. Off where it is not given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    proxy_healthz_bind_address: Option<SocketAddr>,
    /// Where the proxy's /metrics answer; kube-proxy's is 127.0.0.1:10249. Off where it is not given.
    #[arg(long, value_name = "ADDRESS:PORT")]
    proxy_metrics_bind_address: Option<SocketAddr>,
    /// Name server for pods with dnsPolicy ClusterFirst; without one they use the node's.
    #[arg(long, value_name = "ADDRESS")]
    cluster_dns: Vec<IpAddr>,
    /// Domain of the names in the pods' search list.
    #[arg(long, default_value = "cluster.local", value_name = "NAME")]
    cluster_domain: String,
    /// The cgroup below which `kubepods` is made.
    #[arg(long, default_value = "/", value_name = "PATH")]
    cgroup_root: String,
    /// Longest delay between restarts of a crashing container, seconds (1 to 300).
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    crash_loop_max: u64,
    /// How many images are pulled at the same time.
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    parallel_pulls: usize,
    /// How many pods this node takes.
    #[arg(long, default_value_t = 110, value_name = "COUNT")]
    max_pods: u64,
    /// Size from which on a container's log is rotated, such as 10Mi; -1 for never.
    #[arg(long, default_value = "10Mi", value_name = "SIZE", allow_hyphen_values = true, value_parser = size)]
    container_log_max_size: MaxSize,
    /// How many log files of a container there are at most, older ones compressed.
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    container_log_max_files: usize,
    /// Sysctls beside the safe ones that pods may set; a pattern may end in `*`.
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    allowed_unsafe_sysctls: Vec<String>,
    #[command(flatten)]
    pressure: PressureFlags,
    /// Registry hosts' settings, laid out as containerd's `certs.d/<host>/hosts.toml`.
    #[arg(long, default_value = "/etc/longshore/certs.d", value_name = "DIR")]
    registries: PathBuf,
    /// Images to import before any pod starts: archives or folders, as for `longshore import`.
    #[arg(long, value_name = "PATH[=NAME]")]
    import: Vec<String>,
    /// Serve the embedded runtime as CRI v1 on this socket too.
    #[arg(long, value_name = "SOCKET")]
    cri_socket: Option<PathBuf>,
    /// How much is logged, as for `longshore log-level`.
    #[arg(long, value_name = "LEVEL", value_parser = crate::logging::read)]
    log_level: Option<String>,
    /// How it is logged.
    #[arg(long, default_value = "text", value_name = "FORMAT", value_parser = ["text", "json"])]
    logging_format: String,
    /// Leave the pods running when the agent is told to end; the next one finds them again.
    #[arg(long)]
    keep_pods: bool,
}

/// Runs pods until Ctrl-C, SIGTERM or `longshore stop`.
pub(super) async fn run(args: RunArgs, run_dir: PathBuf) -> anyhow::Result<ExitCode> {
    // From here on a Ctrl-C is ours to answer: nothing half-made may stay behind.
    let mut ends = Ends::listen()?;
    logging::write_json(args.logging_format == "json");
    args.log_level.as_deref().map_or(Ok(()), logging::set)?;
    let config = config(&args, run_dir)?;
    let turns = proxy::Turns::default();
    let proxied = proxy_settings(&args, &config, turns.clone())?;
    let problems = facts::problems(&facts::Facts::probe());
    if !problems.is_empty() {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        bail!("this machine cannot run pods yet:\n  {}", lines.join("\n  "));
    }
    let lock = node::lock(&config)?;
    let recorder = Recorder::default();
    let (manifests, desired) = Manifests::open(places(&args, &config)?, &config.node_name)?;
    let runtime = Embedded::open(options(&args.registries, &config)?).await.context("opening the container runtime")?;
    import(&args.import, &runtime).await?;

    let stop = CancellationToken::new();
    let mut tasks = Vec::new();
    tasks.push(tokio::spawn(report(manifests.run(stop.clone()), "following the manifests")));
    tasks.push(tokio::spawn(tell_problems(desired.clone(), recorder.clone())));
    let (desired, completing) = with_addresses(desired, args.service_cidr);
    tasks.push(completing);
    let (state, pods) = (config.dirs.root.clone(), config.dirs.pods());
    let (workloads, published) = Task::open(&state, &pods, &config.node_name, desired, recorder.clone())?;
    let desired = published.desired;
    // Nobody else asks what this node is short of: its own pods are refused, and events say it.
    let pressure = watch::Sender::default();
    let (at, heard) = (runtime.clone(), recorder.clone());
    let node = Node::build(config.clone(), lock, at, desired.clone(), heard, None, pressure).await?;
    let handle = node.handle();
    let workloads_stop = CancellationToken::new();
    tasks.push(tokio::spawn(workloads.run(handle.views.clone(), workloads_stop.clone())));

    let asked_to_stop = CancellationToken::new();
    let (shown_services, services) = watch::channel(Arc::default());
    let surface = surface(&handle, published.rows, &runtime, &config, services, desired.clone(), asked_to_stop.clone());
    let (run, token) = (config.dirs.run.clone(), stop.clone());
    tasks.push(tokio::spawn(async move { report(server::serve(surface, &run, token), "the agent's socket").await }));
    if let Some(socket) = args.cri_socket.clone() {
        let (runtime, token) = (runtime.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            report(cri_proto::serve(runtime, &socket, token.cancelled_owned()), "the CRI socket").await;
        }));
    }
    let proxy_stop = CancellationToken::new();
    let guard = node::firewall::guard(runtime.clone(), turns.clone(), recorder.clone(), false, stop.clone());
    tasks.push(tokio::spawn(guard));
    let proxy = proxied.map(|settings| {
        let source = proxy::standalone::snapshots(desired.clone(), handle.views.clone(), config.node_name.clone());
        let (snapshots, following) = source;
        tasks.push(tokio::spawn(until(stop.clone(), following)));
        tokio::spawn(proxy::run(snapshots, settings, recorder.clone(), shown_services, proxy_stop.clone()))
    });
    let shown = tokio::spawn(live::show(handle.views.clone(), recorder.clone(), service_lines(&desired, &handle)));

    tokio::select! {
        () = ends.next() => {}
        () = asked_to_stop.cancelled() => {}
    }
    // Pods that end now are not to be replaced.
    workloads_stop.cancel();
    let whole = end(&args, &handle, &mut ends, &recorder).await;
    match proxy {
        Some(proxy) if whole => {
            proxy_stop.cancel();
            drain(proxy).await;
        }
        // Pods that stay keep their Services.
        Some(proxy) => proxy.abort(),
        None => {}
    }
    stop.cancel();
    node.stop().await;
    for task in tasks {
        drain(task).await;
    }
    if whole {
        runtime.close().await.context("removing the pod network")?;
    }
    shown.abort();
    Ok(ExitCode::SUCCESS)
}

/// Stops the pods, unless they are to stay or a second Ctrl-C comes. Says whether all of them are gone.
async fn end(args: &RunArgs, handle: &Handle, ends: &mut Ends, recorder: &Recorder) -> bool {
    let say = |reason: &str, message: String| {
        recorder.record(About::Node, EventType::Normal, reason, message, Timestamp::now());
    };
    let count = handle.views.borrow().len();
    if args.keep_pods {
        say("Leaving", format!("{count} pods go on running; the next agent on these folders finds them again"));
        return false;
    }
    say("Stopping", format!("stopping {count} pods; Ctrl-C again leaves them running"));
    tokio::select! {
        () = handle.stop_all() => true,
        () = ends.next() => {
            say("Leaving", "pods go on running; the next agent on these folders finds them again".into());
            false
        }
    }
}

fn config(args: &RunArgs, run: PathBuf) -> anyhow::Result<Config> {
    let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| format!("{}", path.display()));
    let (eviction, images) = args.pressure.load()?;
    let draft = Draft {
        node_name: args.node_name.clone().unwrap_or_else(host_name),
        root: absolute(&args.root_dir)?,
        run: absolute(&run)?,
        logs: absolute(&args.log_dir)?,
        bridge: args.bridge.clone(),
        pod_cidr: args.pod_cidr.clone(),
        node_ips: if args.node_ip.is_empty() { node::primary_addresses() } else { args.node_ip.clone() },
        cluster_domain: args.cluster_domain.clone(),
        cluster_dns: args.cluster_dns.clone(),
        cgroup_root: args.cgroup_root.clone(),
        crash_max: Duration::from_secs(args.crash_loop_max),
        parallel_pulls: args.parallel_pulls,
        max_pods: args.max_pods,
        log_rotation: LogRotation {
            max_size: args.container_log_max_size.0,
            max_files: args.container_log_max_files,
            ..LogRotation::default()
        },
        allowed_sysctls: args.allowed_unsafe_sysctls.clone(),
        eviction,
        images,
        ..Draft::default()
    };
    draft.check().map_err(|bad| {
        let lines: Vec<_> = bad.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("these settings cannot be used:\n  {}", lines.join("\n  "))
    })
}

/// Standard input longer than any file would be is refused like one.
const LARGEST_INPUT: u64 = 10 << 20;

fn places(args: &RunArgs, config: &Config) -> anyhow::Result<Places> {
    let is_input = |path: &&PathBuf| path.as_os_str() == "-";
    let mut input = None;
    if args.manifests.iter().any(|path| is_input(&path)) {
        let mut bytes = Vec::new();
        let read = std::io::stdin().lock().take(LARGEST_INPUT + 1).read_to_end(&mut bytes);
        read.context("reading manifests from standard input")?;
        anyhow::ensure!(bytes.len() as u64 <= LARGEST_INPUT, "standard input is larger than 10 MiB");
        input = Some(bytes);
    }
    let every = Duration::from_secs(args.http_check_frequency);
    let url = |url: &String| ManifestUrl::new(url, &args.manifest_url_header, every, &config.dirs.root);
    Ok(Places {
        paths: args.manifests.iter().filter(|path| !is_input(path)).cloned().collect(),
        static_pods: args.pod_manifest_path.clone(),
        input,
        url: args.manifest_url.as_ref().map(url).transpose().context("--manifest-url")?,
    })
}

pub(super) fn options(registries: &Path, config: &Config) -> anyhow::Result<Options> {
    let IpNet::V4(pod_cidr) = config.network.pod_cidr else { bail!("the pod bridge needs an IPv4 range") };
    Ok(Options {
        root: config.dirs.root.clone(),
        run: config.dirs.run.clone(),
        network: NetworkConfig {
            bridge: config.network.bridge.clone(),
            pod_cidr,
            no_masquerade: Vec::new(),
            leases: config.dirs.run.join("leases"),
            mtu: None,
            instance: Instance::of_root(&config.dirs.run),
        },
        registries: RegistryConfig {
            config_folders: vec![registries.to_owned(), "/etc/containerd/certs.d".into()],
            ..RegistryConfig::default()
        },
    })
}

async fn import(given: &[String], runtime: &Embedded) -> anyhow::Result<()> {
    for one in given {
        let (path, name) = match one.split_once('=') {
            Some((path, name)) => (path, Some(name.parse::<ImageRef>().with_context(|| format!("--import {one}"))?)),
            None => (one.as_str(), None),
        };
        let path = std::path::absolute(path)?;
        runtime.images().import(&path, name.as_ref()).await.with_context(|| format!("importing {}", path.display()))?;
    }
    Ok(())
}

/// Tells each problem with a manifest, and each note, once, when it appears.
pub(super) async fn tell_problems(mut desired: watch::Receiver<Arc<Desired>>, recorder: Recorder) {
    let (mut told, mut noted) = (Vec::new(), Vec::new());
    loop {
        let Desired { problems, notes, .. } = (**desired.borrow_and_update()).clone();
        let tell = |file: &Path, kind: EventType, reason: &str, message: String| {
            let about = About::Manifest { file: file.display().to_string() };
            recorder.record(about, kind, reason, message, Timestamp::now());
        };
        for problem in problems.iter().filter(|problem| !told.contains(*problem)) {
            tell(&problem.file, EventType::Warning, "InvalidManifest", problem.to_string());
        }
        for note in notes.iter().filter(|note| !noted.contains(*note)) {
            let (kind, reason) =
                if note.warning { (EventType::Warning, "NotEnforced") } else { (EventType::Normal, "NoEffect") };
            tell(&note.file, kind, reason, note.message.clone());
        }
        (told, noted) = (problems, notes);
        if desired.changed().await.is_err() {
            return;
        }
    }
}

/// The same sets, their Services with addresses and node ports: pods see them in their environment.
fn with_addresses(
    mut desired: watch::Receiver<Arc<Desired>>,
    range: Ipv4Net,
) -> (watch::Receiver<Arc<Desired>>, JoinHandle<()>) {
    let complete = move |wanted: &Desired, last: &Desired| {
        let mut wanted = wanted.clone();
        wanted.objects.services = proxy::addresses::complete(&wanted.objects.services, range, &last.objects.services);
        Arc::new(wanted)
    };
    let mut last = complete(&desired.borrow_and_update().clone(), &Desired::default());
    let (sender, receiver) = watch::channel(last.clone());
    let task = tokio::spawn(async move {
        while desired.changed().await.is_ok() {
            let wanted = desired.borrow_and_update().clone();
            last = complete(&wanted, &last);
            sender.send_replace(last.clone());
        }
    });
    (receiver, task)
}

pub(super) fn surface(
    handle: &Handle,
    workloads: Rows,
    runtime: &Arc<Embedded>,
    config: &Config,
    services: watch::Receiver<Arc<proxy::Listed>>,
    desired: watch::Receiver<Arc<Desired>>,
    stop: CancellationToken,
) -> Surface {
    Surface {
        services,
        views: handle.views.clone(),
        workloads,
        recorder: handle.recorder.clone(),
        timelines: handle.timelines.clone(),
        held: handle.held.clone(),
        desired,
        runtime: runtime.clone(),
        images: runtime.images().clone(),
        pulls: pulls(runtime.clone()),
        logs: config.dirs.logs.clone(),
        control: Arc::new(ByHand { handle: handle.clone(), stop }),
    }
}

fn pulls(runtime: Arc<Embedded>) -> server::Pulls {
    Arc::new(move || {
        let far = |(name, progress): (String, PullProgress)| {
            let (done, all) = progress.bytes();
            (name, done, all)
        };
        runtime.pulls().into_iter().map(far).collect()
    })
}

/// What `longshore stop` reaches.
struct ByHand {
    handle: Handle,
    stop: CancellationToken,
}

#[async_trait::async_trait]
impl Control for ByHand {
    async fn start_pods(&self, pods: Vec<ObjectName>) -> Vec<ObjectName> {
        self.handle.start_pods(pods).await
    }

    async fn stop_pods(&self, pods: Vec<ObjectName>, grace: Option<Duration>) {
        let stops = pods.iter().map(|name| self.handle.stop_pod(name, grace));
        for (name, result) in pods.iter().zip(futures::future::join_all(stops).await) {
            // Between the look and the stop the pod may have gone by itself.
            if let Err(error) = result {
                tracing::info!(pod = %name, "{error}");
            }
        }
    }

    fn stop_agent(&self) {
        self.stop.cancel();
    }
}

fn service_lines(desired: &watch::Receiver<Arc<Desired>>, handle: &Handle) -> live::ServiceLines {
    let (desired, views) = (desired.clone(), handle.views.clone());
    Box::new(move || {
        let (desired, views) = (desired.borrow().clone(), views.borrow().clone());
        let rows = desired.objects.services.iter();
        super::render::services(rows.map(|(name, service)| (&**service, proxy::ready_count(name, service, &views))))
    })
}

/// `None` when Services are another program's.
fn proxy_settings(args: &RunArgs, config: &Config, turns: proxy::Turns) -> anyhow::Result<Option<proxy::Settings>> {
    let settings = args.services.settings(config, turns)?;
    Ok(settings.map(|settings| proxy::Settings {
        healthz: args.proxy_healthz_bind_address,
        metrics: args.proxy_metrics_bind_address,
        ..settings
    }))
}

async fn until(stop: CancellationToken, work: impl Future<Output = ()>) {
    stop.run_until_cancelled(work).await;
}

pub(super) async fn report<E: std::error::Error + 'static>(work: impl Future<Output = Result<(), E>>, what: &str) {
    if let Err(error) = work.await {
        tracing::error!("{what}: {}", chain(&error));
    }
}

pub(super) async fn drain(task: JoinHandle<()>) {
    if tokio::time::timeout(DRAIN, task).await.is_err() {
        tracing::warn!("a task did not end in time");
    }
}

/// Ctrl-C and SIGTERM.
pub(super) struct Ends {
    interrupt: Signal,
    terminate: Signal,
}

impl Ends {
    pub(super) fn listen() -> anyhow::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
