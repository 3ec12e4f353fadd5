//! Services and their endpoints into the kernel. Knows objects and addresses, nothing of iptables' syntax.
//!
//! On a node of its own the parts a control plane would do are here too: [`addresses`] gives Services what they lack,
//! `endpoints` finds the pods their selectors name.

pub mod addresses;
mod compile; // snapshots as models
mod endpoints;
mod kernel;
mod listed; // what is programmed, for people to see
mod model;
pub mod owner; // who may change rules
pub mod rows; // a Service for a family, without endpoints
mod slice; // EndpointSlices and Endpoints as endpoints
mod snapshot; // what every source publishes

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use netfilter::{Family, LocalTraffic, Model, NodeConfig};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::errors::chain;
use crate::events::{About, EventType, Recorder};
use crate::names::{ObjectName, PodUid};
use crate::sources::Desired;
use crate::view::{PodView, PodViews};
use kernel::Kernel;

pub use compile::model_of;
pub use endpoints::ready_count;
pub use listed::{Listed, PortRow, ServiceRow, rows as listed_rows};
pub use slice::{Group, Slice, SliceAddress, SlicePort};
pub use snapshot::{NodeFacts, Snapshot, Snapshots};

/// Changes that come together become one transaction; a person does not see the wait.
const GATHER: Duration = Duration::from_millis(10);

/// After a failed transaction, unless something changes before.
const RETRY: Duration = Duration::from_secs(5);

/// What the proxy must know of the node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name.
    pub node_name: String,
    /// The node's own addresses.
    pub node_ips: Vec<IpAddr>,
    /// Where pods' addresses come from: what comes from there keeps its source address.
    pub pod_cidr: IpNet,
}

impl Settings {
    fn node_config(&self, random_fully: bool) -> NodeConfig {
        NodeConfig {
            node: self.node_name.clone(),
            node_ips: self.node_ips.clone(),
            local_traffic: LocalTraffic::Cidr(self.pod_cidr),
            // It needs `route_localnet`, which opens the node's loopback; on a node of its own nobody has asked for it.
            localhost_node_ports: false,
            random_fully,
            ..NodeConfig::default()
        }
    }
}

/// Keeps the kernel's rules at what the Services and the pods say, until `stop`; then removes all of them.
///
/// Nothing is touched before there is a Service: a node without any has no rules of ours.
pub async fn run(
    mut desired: watch::Receiver<Arc<Desired>>,
    mut views: PodViews,
    settings: Settings,
    recorder: Recorder,
    shown: watch::Sender<Arc<Listed>>,
    stop: CancellationToken,
) {
    let mut kernel = None;
    let mut last: Option<Model> = None;
    let mut due = Some(Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Ok(()) = desired.changed() => { due.get_or_insert_with(|| Instant::now() + GATHER); }
            Ok(()) = views.changed() => { due.get_or_insert_with(|| Instant::now() + GATHER); }
            () = wait_for(due) => {
                let services = desired.borrow_and_update().objects.services.clone();
                let model = whole_model(&services, &views.borrow_and_update());
                due = None;
                shown.send_replace(Arc::new(Listed { services: services.clone(), models: vec![model.clone()] }));
                if last.as_ref() == Some(&model) || (kernel.is_none() && model.services().is_empty()) {
                    continue;
                }
                match apply(&mut kernel, model.clone(), &settings, &recorder).await {
                    Ok(()) => last = Some(model),
                    Err(error) => {
                        tell(&recorder, "FailedToProgramServices", &chain(&error));
                        due = Some(Instant::now() + RETRY);
                    }
                }
            }
        }
    }
    if let Some(kernel) = kernel
        && let Err(error) = kernel.clean_up().await
    {
        tell(&recorder, "FailedToRemoveServices", &chain(&error));
    }
}

async fn wait_for(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn tell(recorder: &Recorder, reason: &str, message: &str) {
    tracing::warn!(reason, "{message}");
    recorder.record(About::Node, EventType::Warning, reason, message, Timestamp::now());
}

async fn apply(
    kernel: &mut Option<Kernel>,
    model: Model,
    settings: &Settings,
    recorder: &Recorder,
) -> Result<(), kernel::KernelError> {
    let opened = match kernel.take() {
        Some(opened) => opened,
        None => Kernel::open(settings.clone()).await?,
    };
    let (model, clashes) = model.without_clashes();
    for clash in clashes {
        tell(recorder, "ServiceClash", &clash.to_string());
    }
    kernel.insert(opened).program(model).await
}

fn whole_model(services: &BTreeMap<ObjectName, Arc<Service>>, views: &BTreeMap<PodUid, PodView>) -> Model {
    let mut model = Model::new(Family::V4);
    for (name, service) in services {
        model::insert(&mut model, name, service, views);
    }
    model
}
