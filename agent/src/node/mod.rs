//! Joins the parts of the agent and owns their tasks.
//!
//! ```text
//! facts::problems(&Facts::probe())            // can this machine run pods? Before anything is changed
//! lock(&Config) -> Lock                       // a second agent is told the first one's pid
//! Node::build(Config, Lock, Arc<dyn Runtime>, watch::Receiver<Arc<Desired>>, Recorder, tokens, pressure) -> Node
//!     // adopts what runs, starts all tasks; tells there what the node is short of
//! node.handle() -> Handle                     // Clone; for the command line and the agent's socket
//! node.stop().await                           // the tasks end, the pods go on
//! ```

mod addresses;
mod calls;
mod cgroups;
mod collector;
mod evictor;
pub mod facts;
pub mod firewall;
mod lock;
mod orphans;
pub mod peers;
mod pressure;
mod seams;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Deadline, Runtime, RuntimeError, v1};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::config::Config;
use crate::events::Recorder;
use crate::fields::Allocatable;
use crate::images::Images;
use crate::log_rotation;
use crate::metrics::Figures;
use crate::names::{ObjectName, PodUid};
use crate::observe;
use crate::pods::held::HeldPods;
use crate::pods::memory::{Memory, MemoryError};
use crate::pods::registry::{Ask, Registry};
use crate::pods::seams::{CgroupError, HttpHooks, PodCgroups, PodProbes, PodVolumes};
use crate::pods::tools::{Gone, Tools, Views, object_name};
use crate::probes::Probes;
use crate::resources::cgroup_values;
use crate::resources::ledger::Ledger;
use crate::resources::pressure::Conditions;
use crate::sources::Desired;
use crate::timeline::Timelines;
use crate::view::PodViews;

pub use addresses::primary_addresses;
pub use cgroups::NodeCgroups;
pub use lock::{Lock, LockError, take as take_lock};
pub use seams::{allocatable, capacity};

/// Takes the lock of these directories.
///
/// # Errors
/// [`LockError::Taken`] names the process that has it.
pub fn lock(config: &Config) -> Result<Lock, LockError> {
    take_lock(&config.dirs.lock())
}

/// How long tasks may take to end before they are left behind.
const DRAIN: Duration = Duration::from_secs(5);

/// The rooms that a node is joined from.
pub struct Seams {
    /// Containers.
    pub runtime: Arc<dyn Runtime>,
    /// Volumes.
    pub volumes: Arc<dyn PodVolumes>,
    /// Pod cgroups.
    pub cgroups: Arc<dyn PodCgroups>,
    /// How cgroups are written here.
    pub cgroup_facts: cgroup_values::Node,
    /// Probes.
    pub probes: Arc<dyn PodProbes>,
    /// HTTP hooks.
    pub hooks: Arc<dyn HttpHooks>,
    /// What pods may use.
    pub allocatable: Allocatable,
    /// What the agent does, counted.
    pub(crate) figures: Figures,
    /// What the node is short of.
    pub pressure: watch::Receiver<Conditions>,
}

/// The node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The runtime does not answer.
    #[error("asking the container runtime who it is")]
    Runtime(#[source] RuntimeError),
    /// The runtime cannot say what it has.
    #[error("finding the pods that run")]
    Observe(#[from] observe::ObserveError),
    /// What was remembered cannot be read.
    #[error("finding the pods of a former run")]
    Memory(#[from] MemoryError),
    /// There are no cgroups.
    #[error("preparing cgroups")]
    Cgroups(#[from] CgroupError),
    /// The TLS library.
    #[error("preparing TLS for probes")]
    Tls(#[source] rustls::Error),
    /// A directory could not be made.
    #[error("making {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The running parts.
pub struct Node {
    handle: Handle,
    tasks: TaskTracker,
    stop: CancellationToken,
    _lock: Option<Lock>,
}

/// What the command line and the agent's socket work with.
#[derive(Clone)]
pub struct Handle {
    /// Every pod with its status, whole, on every change.
    pub views: PodViews,
    /// Events.
    pub recorder: Recorder,
    /// What was tried for each pod.
    pub timelines: Timelines,
    /// Logs, exec, stats.
    pub runtime: Arc<dyn Runtime>,
    /// Configuration.
    pub config: Arc<Config>,
    /// Pulls with the agent's bounds.
    pub images: Images,
    /// Pods that were stopped by hand.
    pub held: HeldPods,
    /// What the agent does, counted.
    pub(crate) figures: Figures,
    /// What probes found, counted; none where somebody else probes.
    pub(crate) probes: Option<Probes>,
    asks: mpsc::Sender<Ask>,
    shown: Views,
    cgroups: Option<NodeCgroups>,
}

/// There is no such pod (any more).
#[derive(Debug, thiserror::Error)]
#[error("there is no pod {0}")]
pub struct NoSuchPod(pub ObjectName);

impl Handle {
    /// Stops the pod with its grace period, or with `grace` where that is sooner, also when it is stopping; it stays away until its manifest changes or it is started by hand. Returns
    /// when nothing of it is left.
    ///
    /// # Errors
    /// [`NoSuchPod`].
    pub async fn stop_pod(&self, name: &ObjectName, grace: Option<Duration>) -> Result<(), NoSuchPod> {
        let known = self.views.borrow().values().any(|view| object_name(&view.pod) == *name);
        if !known {
            return Err(NoSuchPod(name.clone()));
        }
        self.ask(|answer| Ask::Stop(vec![name.clone()], grace, answer)).await;
        Ok(())
    }

    /// Starts those of the pods again that were stopped by hand, and says which those are.
    pub async fn start_pods(&self, names: Vec<ObjectName>) -> Vec<ObjectName> {
        let (answer, answered) = oneshot::channel();
        // An error on either side means that the node has stopped: nothing starts any more.
        match self.asks.send(Ask::Start(names, answer)).await {
            Ok(()) => answered.await.unwrap_or_default(),
            Err(_) => Vec::new(),
        }
    }

    /// Stops every pod with its grace period and starts none any more. Returns when nothing of them is left.
    pub async fn stop_all(&self) {
        self.ask(Ask::StopAll).await;
        if let Some(cgroups) = &self.cgroups {
            cgroups.leave().await;
        }
    }

    /// Whether anything of this pod is left here, or may still come, by the newest set of wanted pods. A node that has
    /// stopped says yes: it cannot know.
    pub async fn holds(&self, uid: &PodUid) -> bool {
        let (answer, answered) = oneshot::channel();
        match self.asks.send(Ask::Holds(uid.clone(), answer)).await {
            Ok(()) => answered.await.unwrap_or(true),
            Err(_) => true,
        }
    }

    /// Pods of which nothing is left, from now on.
    pub fn gone(&self) -> broadcast::Receiver<Gone> {
        self.shown.gone()
    }

    async fn ask(&self, ask: impl FnOnce(oneshot::Sender<()>) -> Ask) {
        let (answer, answered) = oneshot::channel();
        // An error on either side means that the node has stopped: there is nobody left to wait for.
        if self.asks.send(ask(answer)).await.is_ok() {
            let _ = answered.await;
        }
    }
}

impl Node {
    /// Adopts what runs and starts all tasks. `desired` must hold the whole set from the start. Whoever calls holds
    /// the [`Lock`] of these directories.
    ///
    /// # Errors
    /// [`NodeError`]; nothing runs then.
    pub async fn join(
        config: Config,
        seams: Seams,
        mut desired: watch::Receiver<Arc<Desired>>,
        recorder: Recorder,
    ) -> Result<Self, NodeError> {
        let config = Arc::new(config);
        make_dirs(&config)?;
        let runtime = Arc::clone(&seams.runtime);
        let by = Deadline::within(config.timing.request);
        let version = v1::VersionRequest { version: cri_proto::KUBELET_API_VERSION.to_owned() };
        let version = runtime.version(version, by).await.map_err(NodeError::Runtime)?;
        let (views, timelines) = (Views::default(), Timelines::new(seams.figures.clone()));
        let images = Images::new(Arc::clone(&runtime), config.parallel_pulls, config.timing.request);
        let tools = Arc::new(Tools {
            config: Arc::clone(&config),
            runtime: Arc::clone(&runtime),
            runtime_name: version.runtime_name,
            volumes: seams.volumes,
            cgroups: seams.cgroups,
            probes: seams.probes,
            hooks: seams.hooks,
            images: images.clone(),
            recorder: recorder.clone(),
            timelines: timelines.clone(),
            views: views.clone(),
            memory: Memory::new(config.dirs.pods()),
            cgroup_facts: seams.cgroup_facts,
            allocatable: seams.allocatable,
            ledger: Ledger::default(),
            pressure: seams.pressure,
        });
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let left = tools.memory.load_all()?;
        let seen = observe::everything(runtime.as_ref(), config.timing.request).await?;
        let mut registry = Registry::new(tools, stop.child_token());
        let first = Arc::clone(&desired.borrow_and_update());
        registry.adopt(first, left, &seen);
        tasks.spawn(observe::follow(Arc::clone(&runtime), Arc::new(registry.ears()), stop.child_token()));
        // Eight people at once are plenty; the ninth waits a moment.
        let (asks, asked) = mpsc::channel(8);
        let held = registry.held();
        tasks.spawn(registry.run(desired, asked));
        let (looked, root, stopped) = (views.listen(), config.dirs.logs.clone(), stop.child_token());
        let within = config.timing.request;
        tasks.spawn(log_rotation::run(looked, Arc::clone(&runtime), root, config.logs, within, stopped));
        let handle = Handle {
            held,
            views: views.listen(),
            recorder,
            timelines,
            runtime,
            config,
            images,
            figures: seams.figures,
            probes: None,
            asks,
            shown: views,
            cgroups: None,
        };
        Ok(Self { handle, tasks, stop, _lock: None })
    }

    /// For the command line and the agent's socket.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Ends the tasks; the pods go on.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(DRAIN, self.tasks.wait()).await.is_err() {
            warn!(running = self.tasks.len(), "leaving work behind");
        }
    }
}

fn make_dirs(config: &Config) -> Result<(), NodeError> {
    let dirs = &config.dirs;
    let private = [(&dirs.root, 0o700), (&dirs.kubelet, 0o750), (&dirs.run, 0o700), (&dirs.logs, 0o755)];
    for (path, mode) in private.into_iter().chain(dirs.log_links.iter().map(|links| (links, 0o755))) {
        make_dir(path, mode)?;
    }
    make_dir(&dirs.pods(), 0o750)
}

fn make_dir(path: &Path, mode: u32) -> Result<(), NodeError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map_err(|source| NodeError::Directory { path: path.to_owned(), source })
}
