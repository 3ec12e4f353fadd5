//! The embedded runtime as a whole: opened once, closed at the end, or simply killed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::{debug, warn};

use crate::blocking::blocking;
use crate::cgroups::{CgroupPath, Cgroups};
use crate::containers::HostFacts;
use crate::core::{Core, Parts};
use crate::images::{ImageStore, PullProgress};
use crate::lock::{self, Lock, LockError};
use crate::options::{OpenError, Options};
use crate::pulls::Pulls;
use crate::recovery;
use crate::sandbox::make::DEFAULT_CGROUP;
use crate::state::files::make_dir;
use crate::state::layout::Layout;
use crate::streaming::server::StreamServer;

/// How long tasks may take to notice that we are leaving.
const DRAIN: Duration = Duration::from_secs(5);

/// The embedded runtime. It implements [`cri_proto::Runtime`].
///
/// Dropped, it leaves every container running, and the next [`Embedded::open`] finds them again.
#[derive(Debug)]
pub struct Embedded {
    pub(crate) core: Arc<Core>,
    pub(crate) streams: StreamServer,
    pub(crate) pod_cidr: cni::Ipv4Net,
    pub(crate) pulls: Pulls,
    /// Held as long as we live: one process per run directory.
    _lock: Lock,
}

impl Embedded {
    /// Opens what is below `options.root` and `options.run`, and recovers everything that is there: containers that run
    /// are found again, ends that nobody heard of are learned, half-made things are taken away. Nothing is restarted.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(options: Options) -> Result<Arc<Self>, OpenError> {
        let layout = Layout::new(options.run.clone());
        let (root, registries) = (options.root, options.registries);
        let (lock, cgroups, host, images) = {
            let layout = layout.clone();
            blocking(move || {
                make_dir(&options.run)?;
                let lock = take_lock(&options.run, &layout.lock())?;
                recovery::forget_earlier_boot(&layout)?;
                let cgroups = Cgroups::detect()?;
                let host = HostFacts::read(&cgroups)?;
                make_dir(&root)?;
                Ok::<_, OpenError>((lock, cgroups, host, ImageStore::open(&root, registries)?))
            })
            .await?
        };
        let pod_cidr = options.network.pod_cidr;
        let network = cni::Bridge::open(options.network).await?;
        let image_fs = images.fs_info()?.mountpoint;
        let core = Arc::new(Core::new(Parts { layout, cgroups, host, images, network, image_fs }));
        let streams = StreamServer::start(&core.tasks, core.stop.clone()).await.map_err(OpenError::Streams)?;
        recovery::recover(&core).await;
        Ok(Arc::new(Self { core, streams, pod_cidr, pulls: Pulls::default(), _lock: lock }))
    }

    /// The image store: imports, pulls with progress, collection.
    pub fn images(&self) -> &ImageStore {
        &self.core.images
    }

    /// How far the pulls are that were asked for as `PullImage` and run now, by the name that was asked for.
    pub fn pulls(&self) -> Vec<(String, PullProgress)> {
        self.pulls.all()
    }

    /// Writes the pod network's packet rules again if somebody took them away, as a firewall does that is reloaded. Two
    /// processes at most.
    ///
    /// # Errors
    /// The tools failed, or a kernel parameter cannot be set.
    pub async fn ensure_network_rules(&self) -> Result<(), cni::NetworkError> {
        self.core.network.ensure_rules().await
    }

    /// How many addresses of the pod network are given out.
    pub fn leased_addresses(&self) -> usize {
        self.core.network.leased()
    }

    /// Makes the routes to the pods of other nodes these. Those that the kernel refuses come back with its answer.
    ///
    /// # Errors
    /// The tools failed, or the routes cannot be listed.
    pub async fn set_peers(
        &self,
        peers: std::collections::BTreeSet<cni::Peer>,
    ) -> Result<Vec<(cni::Peer, cni::NetworkError)>, cni::NetworkError> {
        self.core.network.set_peers(peers).await
    }

    /// Lets go of everything without touching a container: what an agent does that will be back.
    pub async fn detach(&self) {
        self.core.stop.cancel();
        self.core.tasks.close();
        if timeout(DRAIN, self.core.tasks.wait()).await.is_err() {
            warn!(running = self.core.tasks.len(), "leaving work of the runtime behind");
        }
    }

    /// At the very end, when no sandbox is left: takes the pod network, its rules and our cgroup away as well.
    /// With sandboxes left it only lets go, as [`Embedded::detach`].
    ///
    /// # Errors
    /// The network could not be taken away; it can be tried again after the next [`Embedded::open`].
    pub async fn close(&self) -> Result<(), cni::NetworkError> {
        self.detach().await;
        if !self.core.sandboxes().is_empty() {
            return Ok(());
        }
        self.core.network.remove_all().await?;
        let core = self.core.clone();
        blocking(move || remove_default_cgroup(&core)).await;
        Ok(())
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}

/// Only an empty one goes: another runtime on this machine may have pods in it, and then the kernel refuses.
fn remove_default_cgroup(core: &Core) {
    let Ok(path) = CgroupPath::new(DEFAULT_CGROUP) else { return };
    for file in core.cgroups.procs_files(&path) {
        if let Some(group) = file.parent()
            && let Err(error) = std::fs::remove_dir(group)
        {
            debug!(group = %group.display(), %error, "leaving a cgroup behind");
        }
    }
}

fn take_lock(run: &Path, path: &Path) -> Result<Lock, OpenError> {
    lock::take(path).map_err(|error| match error {
        LockError::Taken { pid } => {
            OpenError::InUse { run: run.into(), pid: pid.map_or("unknown".into(), |pid| pid.to_string()) }
        }
        LockError::Io(source) => OpenError::Lock { path: path.into(), source },
    })
}
