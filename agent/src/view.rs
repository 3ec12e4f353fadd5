//! A pod as people see it: what `ps`, the live table and the proxy read.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::watch;

use crate::names::PodUid;

/// One pod with its newest status.
#[derive(Clone, Debug)]
pub struct PodView {
    /// The pod as wanted, defaults applied.
    pub pod: Arc<Pod>,
    /// The status as computed by `pods::status`.
    pub status: PodStatus,
    /// From the moment the pod was first wanted to all of its containers running; `None` until then.
    pub started_in: Option<Duration>,
    /// The pod is on its way out.
    pub stopping: bool,
}

/// All pods, whole, whenever one of them changes.
pub type PodViews = watch::Receiver<Arc<BTreeMap<PodUid, PodView>>>;
