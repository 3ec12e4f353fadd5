//! `longshore agent`: this machine as a node of a cluster.

mod kubelet_flags;
mod services;
mod statics;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use runtime::Embedded;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::host_name;
use super::run::{Ends, drain, options, report, surface, tell_problems};
use crate::api::{Client, Kubeconfig};
use crate::cluster::{self, Bootstrap, Credentials, Identity, Machine, Rotation};
use crate::config::kubelet::{KubeletConfiguration, ServingCertificate};
use crate::config::{Config, Draft};
use crate::events::{About, EventType, Recorder};
use crate::kubelet_api::{self, NodeSlot, RuntimeStreams};
use crate::names::PodUid;
use crate::node::{self, facts};
use crate::pods::life::{Life, Undo};
use crate::pods::memory::{Memory, Remembered};
use crate::{proxy, server, status};

/// As a kubelet refuses.
const SWAP: &str = "this machine has swap, and failSwapOn is true: turn it off (swapoff -a, and /etc/fstab), or set failSwapOn \
    to false in the kubelet's configuration";
/// The kubelet's word for a network that is not there yet.
const NO_NETWORK: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
    message:the Node has no podCIDR yet";

#[derive(Args, Debug)]
pub(super) struct AgentArgs {
    /// How the API server is reached, and who this node is.
    #[arg(long, default_value = "/etc/kubernetes/kubelet.conf", value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Where the kubeconfig is missing: a kubeconfig with a bootstrap token, in exchange for which it is written.
    #[arg(long, value_name = "FILE")]
    bootstrap_kubeconfig: Option<PathBuf>,
    /// Where the key and the certificate of that exchange are kept.
    #[arg(long, default_value = "/var/lib/kubelet/pki", value_name = "DIR")]
    cert_dir: PathBuf,
    /// The node's name; the host's where it is not given.
    #[arg(long, value_name = "NAME")]
    hostname_override: Option<String>,
    /// The node's own addresses; those of the interface with the default route where none is given.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Labels of a Node that is registered anew.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',')]
    node_labels: Vec<String>,
    /// Images, snapshots and the pods' volumes.
    #[arg(long, default_value = "/var/lib/longshore", value_name = "DIR")]
    root_dir: PathBuf,
    /// The pod network's bridge.
    #[arg(long, default_value = "longshore0")]
    bridge: String,
    /// Where pods' addresses come from; what the cluster gives the Node where it is not given.
    #[arg(long, value_name = "CIDR")]
    pod_cidr: Option<String>,
    /// Registry hosts' settings, laid out as containerd's `certs.d/<host>/hosts.toml`.
    #[arg(long, default_value = "/etc/longshore/certs.d", value_name = "DIR")]
    registries: PathBuf,
    #[command(flatten)]
    services: services::ServiceArgs,
    #[command(flatten)]
    kubelet: kubelet_flags::KubeletFlags,
}

/// Runs the node until SIGTERM or Ctrl-C; its pods go on.
pub(super) async fn run(args: AgentArgs, run_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let mut ends = Ends::listen()?;
    let kubelet = args.kubelet.load()?;
    let config = draft(&args, &kubelet, run_dir)?;
    if args.kubelet.is_configured() && kubelet.fail_swap_on && facts::has_swap() {
        bail!("{SWAP}");
    }
    // The pods' range may not be known yet; what cannot be meant is.
    args.services.settings(&config, proxy::Turns::default())?;
    let problems = facts::problems(&facts::Facts::probe());
    if !problems.is_empty() {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        bail!("this machine cannot run pods yet:\n  {}", lines.join("\n  "));
    }
    let lock = node::lock(&config)?;
    let settings = kubelet_api::Settings {
        server: kubelet.server.clone(),
        cert_dir: std::path::absolute(&args.cert_dir)?,
        configz: kubelet.configz.clone(),
    };
    let ports = kubelet_api::bind(settings)?;
    let identity = identity(&args, &kubelet, &config)?;
    let stop = CancellationToken::new();
    let joining = async {
        bootstrap(&args, &config.node_name).await?;
        let client = Client::new(Kubeconfig::load(&args.kubeconfig)?)?;
        let slot = NodeSlot::default();
        let streams = Arc::new(RuntimeStreams::new(kubelet.server.streaming_idle, stop.clone()));
        let ports = ports.serve(&client, &config.node_name, slot.clone(), Some(streams), &stop)?;
        let mut joined = join(&args, &kubelet, config, lock, &client, identity, &stop).await?;
        slot.fill(joined.node.handle());
        joined.tasks.extend(ports);
        anyhow::Ok(joined)
    };
    let joined = tokio::select! {
        joined = joining => Some(joined?),
        () = ends.next() => None,
    };
    let Some(joined) = joined else { return Ok(ExitCode::SUCCESS) };
    let end = tokio::select! {
        () = ends.next() => End::Stopped { whole: false },
        () = joined.asked_to_stop.cancelled() => End::Stopped { whole: joined.stop_pods(&mut ends).await },
        () = joined.moved.cancelled() => End::Moved,
    };
    stop.cancel();
    joined.node.stop().await;
    for task in joined.tasks {
        drain(task).await;
    }
    match end {
        End::Moved => return Err(begin_anew()),
        End::Stopped { whole: true } => joined.runtime.close().await.context("removing the pod network")?,
        End::Stopped { whole: false } => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The same process with the same arguments from the start: what must survive is on disk, and pods go on meanwhile. Returns
/// only when that is not possible.
fn begin_anew() -> anyhow::Error {
    use std::os::unix::process::CommandExt;
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let error = std::process::Command::new("/proc/self/exe").arg0(name).args(arguments).exec();
    anyhow::Error::new(error).context("starting the agent anew with the Node's new podCIDR")
}

/// The kubeconfig is there, or is written now.
async fn bootstrap(args: &AgentArgs, node: &str) -> anyhow::Result<()> {
    let Some(bootstrap) = bootstrapping(args, node)? else { return Ok(()) };
    match Credentials::of(&args.kubeconfig, Timestamp::now()) {
        Credentials::Good => Ok(()),
        // Without a token the API server is asked all the same: it says best what it does not like.
        _ if !bootstrap.from.exists() => Ok(()),
        Credentials::Missing => Ok(bootstrap.run().await?),
        Credentials::Ended => {
            tracing::warn!("the node's client certificate has ended: a new one is asked for with the bootstrap token");
            Ok(bootstrap.run().await?)
        }
    }
}

/// How a certificate is had for a token, where that was named.
fn bootstrapping(args: &AgentArgs, node: &str) -> anyhow::Result<Option<Bootstrap>> {
    let Some(from) = args.bootstrap_kubeconfig.clone() else { return Ok(None) };
    let (kubeconfig, cert_dir) = (args.kubeconfig.clone(), std::path::absolute(&args.cert_dir)?);
    Ok(Some(Bootstrap { from, kubeconfig, cert_dir, node: node.to_owned() }))
}

/// What keeps the node's certificates good.
fn rotations(args: &AgentArgs, kubelet: &KubeletConfiguration, config: &Config) -> anyhow::Result<Vec<Rotation>> {
    let cert_dir = std::path::absolute(&args.cert_dir)?;
    let mut all = Vec::new();
    if kubelet.rotate_certificates && cluster::keeps_client_certificate(&args.kubeconfig, &cert_dir) {
        let nowhere = || Bootstrap {
            from: "/etc/kubernetes/bootstrap-kubelet.conf".into(),
            kubeconfig: args.kubeconfig.clone(),
            cert_dir: cert_dir.clone(),
            node: config.node_name.clone(),
        };
        all.push(Rotation::of_client(bootstrapping(args, &config.node_name)?.unwrap_or_else(nowhere)));
    }
    if kubelet.server.certificate == ServingCertificate::Requested {
        all.push(Rotation::of_server(cert_dir, config.node_name.clone(), config.network.node_ips.clone()));
    }
    Ok(all)
}

/// A node that takes part.
struct Joined {
    node: node::Node,
    runtime: Arc<Embedded>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// `longshore stop`.
    asked_to_stop: CancellationToken,
    /// The Node has another range of pod addresses, which a start takes up.
    moved: CancellationToken,
}

/// Why the agent ends.
enum End {
    /// Somebody asked for it; all pods are gone, or go on.
    Stopped { whole: bool },
    /// The Node has another range of pod addresses.
    Moved,
}

impl Joined {
    /// `longshore stop` and `longshore leave` stop the pods with the agent. A signal meanwhile leaves them: says whether all
    /// of them are gone.
    async fn stop_pods(&self, ends: &mut Ends) -> bool {
        let handle = self.node.handle();
        tokio::select! {
            () = handle.stop_all() => true,
            () = ends.next() => false,
        }
    }
}

/// What a start that knows enough waits for the API server: the pods that run are to be looked after.
const PATIENCE: Duration = Duration::from_secs(1);
/// The first list, once the API server has answered: pods wait five seconds themselves for what they refer to.
const FIRST_LIST: Duration = Duration::from_secs(8);

async fn join(
    args: &AgentArgs,
    kubelet: &KubeletConfiguration,
    mut config: Config,
    lock: node::Lock,
    client: &Client,
    identity: Identity,
    stop: &CancellationToken,
) -> anyhow::Result<Joined> {
    let recorder = Recorder::default();
    let told = cluster::tell_events(client.clone(), recorder.listen(), config.node_name.clone(), stop.clone());
    recorder.record(About::Node, EventType::Normal, "Starting", "Starting kubelet.", Timestamp::now());
    let (manifests, statics) = statics::open(&kubelet.static_pods, &config)?;
    let known = cluster::Known::load(&config.dirs.root);
    let nodes = cluster::own_node(client, &config.node_name, stop);
    let (ready, readiness) = watch::channel(Err(NO_NETWORK.to_owned()));
    let pressure = watch::Sender::default();
    let pace = kubelet.heartbeat;
    let mut tasks = vec![
        tokio::spawn(told),
        tokio::spawn(report(manifests.run(stop.clone()), "following static pods")),
        tokio::spawn(tell_problems(statics.clone(), recorder.clone())),
        tokio::spawn(cluster::lease(client.clone(), config.node_name.clone(), pace, nodes.clone(), stop.clone())),
    ];
    for rotation in rotations(args, kubelet, &config)? {
        tasks.push(tokio::spawn(cluster::rotate(client.clone(), rotation, stop.clone())));
    }
    // A static pod may be the API server itself: none waits for it.
    let can_go_on = args.pod_cidr.is_some() || known.pod_cidr.is_some() || !statics.borrow().pods.is_empty();
    let patience = if can_go_on { PATIENCE } else { Duration::MAX };
    let registered = match timeout(patience, cluster::ensure(client, &identity, NO_NETWORK)).await {
        Ok(registered) => registered.map(|_| true)?,
        // The heartbeat registers the node when the API server is back.
        Err(_) => false,
    };
    tasks.push(tokio::spawn(cluster::heartbeat(
        client.clone(),
        identity,
        pace,
        cluster::Vitals { ready: readiness, pressure: pressure.subscribe() },
        nodes.clone(),
        recorder.clone(),
        stop.clone(),
    )));
    let given = match (args.pod_cidr.is_some(), registered) {
        (true, _) => None,
        (false, true) => timeout(patience, cluster::pod_cidr(nodes.clone())).await.unwrap_or(known.pod_cidr),
        (false, false) => known.pod_cidr,
    };
    let remembered = Memory::new(config.dirs.pods()).load_all()?;
    // Pods that run keep the range that their addresses are of.
    let in_use = remembered.iter().any(|(_, left)| cluster::needs_address(&left.pod) && has_sandbox(&left.life));
    let given = known.pod_cidr.filter(|_| in_use).or(given);
    if let Some(range) = given {
        config.network.pod_cidr = range.into();
        cluster::Known { pod_cidr: Some(range) }.save(&config.dirs.root)?;
    }
    let has_range = args.pod_cidr.is_some() || given.is_some();
    let runtime = Embedded::open(options(&args.registries, &config)?).await.context("opening the container runtime")?;

    let own = cluster::own_pods(client, &config.node_name, stop);
    let tokens = cluster::AccountTokens::new(client.clone());
    let sources = cluster::Sources {
        own: own.clone(),
        services: cluster::services(client, stop),
        nodes: nodes.clone(),
        statics,
        left: left(remembered),
        without_network: !has_range,
    };
    let (wanted, mut desired) = watch::channel(sources.at_start());
    let pods_dir = config.dirs.pods();
    let keep = move |uid: &PodUid| pods_dir.join(uid.as_str()).exists();
    tasks.push(tokio::spawn(cluster::follow_pods(tokens.clone(), sources, keep, wanted, stop.clone())));
    if registered {
        // What runs and what is wanted are told together; without an answer what ran goes on.
        let _ = timeout(FIRST_LIST, desired.changed()).await;
    }
    let (at, tokens) = (runtime.clone(), Some(Arc::new(tokens) as _));
    let node = node::Node::build(config.clone(), lock, at, desired.clone(), recorder.clone(), tokens, pressure).await?;
    let handle = node.handle();
    tasks.push(tokio::spawn(status::run(client.clone(), own.clone(), desired.clone(), handle.clone(), stop.clone())));
    let (listed, views) = (desired.clone(), handle.views.clone());
    tasks.push(tokio::spawn(cluster::keep_mirrors(client.clone(), listed, own, nodes.clone(), views, stop.clone())));
    let turns = proxy::Turns::default();
    let guard = node::firewall::guard(runtime.clone(), turns.clone(), recorder.clone(), true, stop.clone());
    tasks.push(tokio::spawn(guard));
    if let ipnet::IpNet::V4(range) = config.network.pod_cidr {
        let readers = args.services.client(client)?;
        let (peers, following) = cluster::peers(readers, config.node_name.clone(), range, stop.clone());
        tasks.push(tokio::spawn(following));
        tasks.push(tokio::spawn(node::peers::keep(runtime.clone(), peers, recorder.clone(), stop.clone())));
    }
    let (shown, services) = watch::channel(Arc::default());
    if let Some(settings) = args.services.settings(&config, turns)? {
        let (snapshots, following) =
            cluster::service_snapshots(args.services.client(client)?, nodes.clone(), stop.clone());
        tasks.push(tokio::spawn(following));
        tasks.push(tokio::spawn(proxy::run(snapshots, settings, recorder, shown, stop.clone())));
    }
    // Workloads are the controllers' here, so there are none to list.
    let asked_to_stop = CancellationToken::new();
    let (_, no_workloads) = watch::channel(Default::default());
    let surface = surface(&handle, no_workloads, &runtime, &config, services, desired.clone(), asked_to_stop.clone());
    let run = config.dirs.run.clone();
    let token = stop.clone();
    tasks.push(tokio::spawn(async move { report(server::serve(surface, &run, token), "the agent's socket").await }));
    if has_range {
        drop(ready.send_replace(Ok(())));
    }
    let moved = CancellationToken::new();
    // A range given by hand is kept whatever the cluster gives.
    if args.pod_cidr.is_none() {
        let (token, over, leases) = (moved.clone(), stop.clone(), runtime.clone());
        let change = cluster::range_changed(given, nodes, move || leases.leased_addresses(), ready);
        tasks.push(tokio::spawn(async move {
            if over.run_until_cancelled(change).await.is_some() {
                token.cancel();
            }
        }));
    }
    Ok(Joined { node, runtime, tasks, asked_to_stop, moved })
}

fn has_sandbox(life: &Life) -> bool {
    !matches!(life, Life::Stopped { left, .. } if !left.contains(&Undo::Sandboxes))
}

/// Pods of a former run that the API server gave this node; those that were ending for good end without being wanted.
fn left(remembered: Vec<(PodUid, Remembered)>) -> BTreeMap<PodUid, Arc<Pod>> {
    let ends = |left: &Remembered| left.life.end().is_some_and(|end| end.deleted);
    let wanted = remembered.into_iter().filter(|(_, left)| !cluster::is_static(&left.pod) && !ends(left));
    wanted.map(|(uid, left)| (uid, Arc::new(left.pod))).collect()
}

fn draft(args: &AgentArgs, kubelet: &KubeletConfiguration, run: PathBuf) -> anyhow::Result<Config> {
    let absolute = |path: &PathBuf| std::path::absolute(path).with_context(|| format!("{}", path.display()));
    let draft = Draft {
        node_name: args.hostname_override.as_ref().map_or_else(host_name, |name| name.trim().to_lowercase()),
        root: absolute(&args.root_dir)?,
        run: absolute(&run)?,
        logs: kubelet.pods.logs_dir.clone(),
        bridge: args.bridge.clone(),
        node_ips: if args.node_ip.is_empty() { node::primary_addresses() } else { args.node_ip.clone() },
        cluster_domain: kubelet.dns.domain.clone(),
        cluster_dns: kubelet.dns.servers.clone(),
        resolv_conf: kubelet.dns.resolv_conf.clone(),
        cgroup_root: kubelet.pods.cgroup_root.clone(),
        crash_max: kubelet.pods.longest_back_off,
        max_pods: kubelet.pods.most(cpus()),
        log_rotation: kubelet.pods.logs,
        allowed_sysctls: kubelet.pods.unsafe_sysctls.clone(),
        eviction: kubelet.eviction.clone(),
        images: kubelet.images,
        ..Draft::default()
    };
    let draft = Draft {
        pod_cidr: args.pod_cidr.clone().unwrap_or(draft.pod_cidr),
        parallel_pulls: kubelet.images.parallel_pulls.unwrap_or(draft.parallel_pulls),
        ..draft
    };
    let mut config = draft.check().map_err(|bad| {
        let lines: Vec<_> = bad.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("these settings cannot be used:\n  {}", lines.join("\n  "))
    })?;
    config.dns.in_cluster = true;
    config.timing.request = kubelet.runtime_timeout;
    if config.network.node_ips.is_empty() {
        bail!(
            "this machine has no address that other nodes could reach: give it a default route, or name one with --node-ip"
        );
    }
    Ok(config)
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64)
}

fn identity(args: &AgentArgs, kubelet: &KubeletConfiguration, config: &Config) -> anyhow::Result<Identity> {
    Ok(Identity {
        name: config.node_name.clone(),
        labels: args.node_labels.iter().map(|label| self::label(label)).collect::<anyhow::Result<_>>()?,
        taints: kubelet.registration.taints.clone(),
        ips: config.network.node_ips.clone(),
        machine: Machine::probe(node::capacity(config)),
        allocatable: node::allocatable(config),
        runtime: concat!("longshore://", env!("CARGO_PKG_VERSION")).to_owned(),
        max_pods: config.max_pods,
        port: kubelet.server.listen.port(),
    })
}

fn label(text: &str) -> anyhow::Result<(String, String)> {
    let (key, value) = text.split_once('=').with_context(|| format!("--node-labels {text:?}: must be key=value"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_as_the_kubelet_reads_them() {
        assert_eq!(label("a/b=c=d").unwrap(), ("a/b".into(), "c=d".into()));
        assert!(label("a").is_err());
        let all: BTreeMap<_, _> = ["x=1", "y="].iter().map(|text| label(text).unwrap()).collect();
        assert_eq!(all["y"], "");
    }
}
