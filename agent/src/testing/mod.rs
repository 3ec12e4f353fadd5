//! A node around a runtime that behaves, for tests of everything between manifests and CRI calls.

mod runtime;
mod seams;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::sync::watch;

pub(crate) use runtime::FakeRuntime;
pub(crate) use seams::{FakeProbes, FakeVolumes, NoCgroups, NoHttp};

use crate::config::{Config, Draft};
use crate::events::Recorder;
use crate::fields::Allocatable;
use crate::metrics::Figures;
use crate::names::PodUid;
use crate::node::{Node, Seams};
use crate::resources::cgroup_values;
use crate::resources::pressure::Conditions;
use crate::sources::Desired;
use crate::view::PodView;

/// Longer than anything takes on a machine under load; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node with fakes around it, in a directory of its own.
pub(crate) struct Stage {
    pub(crate) dir: Arc<tempfile::TempDir>,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) probes: Arc<FakeProbes>,
    pub(crate) volumes: Arc<FakeVolumes>,
    pub(crate) wanted: watch::Sender<Arc<Desired>>,
    pub(crate) recorder: Recorder,
    pub(crate) node: Option<Node>,
    /// What the node has; nothing is asked where that is not known.
    pub(crate) room: Allocatable,
    /// What the node is short of.
    pub(crate) pressure: watch::Sender<Conditions>,
}

impl Stage {
    pub(crate) async fn new(pods: Vec<Pod>) -> Self {
        Self::with_room(Allocatable::default(), pods).await
    }

    /// A node that has no more than this.
    pub(crate) async fn with_room(room: Allocatable, pods: Vec<Pod>) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory"));
        let mut stage = Self {
            runtime: Arc::new(FakeRuntime::default()),
            probes: Arc::default(),
            volumes: Arc::new(FakeVolumes::new(dir.path().join("kubelet/pods"))),
            dir,
            wanted: watch::Sender::new(Arc::new(desired(pods))),
            recorder: Recorder::default(),
            node: None,
            room,
            pressure: watch::Sender::default(),
        };
        stage.begin().await;
        stage
    }

    /// Starts the agent (again).
    pub(crate) async fn begin(&mut self) {
        let seams = Seams {
            runtime: Arc::clone(&self.runtime) as Arc<dyn cri_proto::Runtime>,
            volumes: Arc::clone(&self.volumes) as _,
            cgroups: Arc::new(NoCgroups),
            cgroup_facts: cgroup_values::Node { v2: true, swap: false, memory: 8 << 30, huge_pages: Vec::new() },
            probes: Arc::clone(&self.probes) as _,
            hooks: Arc::new(NoHttp),
            allocatable: self.room,
            figures: Figures::default(),
            pressure: self.pressure.subscribe(),
        };
        let config = config(self.dir.path());
        let built = Node::join(config, seams, self.wanted.subscribe(), self.recorder.clone()).await;
        self.node = Some(built.expect("a node"));
    }

    /// Ends the agent without touching pods, as a kill would.
    pub(crate) async fn end(&mut self) {
        if let Some(node) = self.node.take() {
            node.stop().await;
        }
        self.probes.forget_all();
    }

    pub(crate) fn want(&self, pods: Vec<Pod>) {
        self.wanted.send_replace(Arc::new(desired(pods)));
    }

    /// Waits until the pod `shop/web` looks like that.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&PodView) -> bool) -> PodView {
        self.until_of("u-1", what, holds).await
    }

    pub(crate) async fn until_of(&self, uid: &str, what: &str, holds: impl Fn(&PodView) -> bool) -> PodView {
        let uid = PodUid::try_from(uid.to_owned()).expect("a uid");
        let mut views = self.node.as_ref().expect("a running node").handle().views;
        let seen = tokio::time::timeout(PATIENCE, views.wait_for(|all| all.get(&uid).is_some_and(&holds))).await;
        match seen {
            Ok(Ok(all)) => all[&uid].clone(),
            other => {
                drop(other);
                let last = views.borrow().get(&uid).map(|view| view.status.clone());
                panic!(
                    "never {what}\nstatus: {last:#?}\ncalls: {:#?}\nevents: {:#?}",
                    self.runtime.calls(),
                    self.events()
                );
            }
        }
    }

    /// Waits until the pod is gone from the views.
    pub(crate) async fn until_gone(&self, uid: &str) {
        let uid = PodUid::try_from(uid.to_owned()).expect("a uid");
        let mut views = self.node.as_ref().expect("a running node").handle().views;
        let gone = tokio::time::timeout(PATIENCE, views.wait_for(|all| !all.contains_key(&uid))).await;
        assert!(gone.is_ok(), "never gone\ncalls: {:#?}", self.runtime.calls());
    }

    /// `reason message` of every event so far.
    pub(crate) fn events(&self) -> Vec<String> {
        self.recorder.recent().into_iter().map(|event| format!("{}: {}", event.reason, event.message)).collect()
    }
}

fn config(dir: &Path) -> Config {
    std::fs::write(dir.join("resolv.conf"), "nameserver 192.0.2.53\n").expect("a file");
    let draft = Draft {
        node_name: "n1".into(),
        root: dir.join("root"),
        kubelet: Some(dir.join("kubelet")),
        run: dir.join("run"),
        logs: dir.join("logs"),
        resolv_conf: Some(dir.join("resolv.conf")),
        node_ips: vec!["192.0.2.1".parse().expect("an address")],
        ..Draft::default()
    };
    let mut config = draft.check().expect("a configuration");
    // Long enough to be seen on a machine under load.
    config.timing.crash_first = Duration::from_secs(2);
    config.timing.crash_max = Duration::from_secs(8);
    config.timing.pull_first = Duration::from_millis(50);
    config.timing.pull_max = Duration::from_millis(200);
    config.timing.retry = Duration::from_millis(50);
    // Whoever waits for room is told.
    config.timing.reconsider = Duration::from_secs(3_600);
    config
}

pub(crate) fn desired(pods: Vec<Pod>) -> Desired {
    let uid = |pod: &Pod| PodUid::try_from(pod.metadata.uid.clone().expect("a uid")).expect("a good uid");
    Desired { pods: pods.into_iter().map(|pod| (uid(&pod), Arc::new(pod))).collect(), ..Desired::default() }
}

/// A pod `shop/web` with the uid `u-1`; its containers' image is there.
pub(crate) fn pod(mut spec: serde_json::Value) -> Pod {
    spec.as_object_mut().expect("an object").entry("enableServiceLinks").or_insert(json!(false));
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(|list| list.as_array_mut()).into_iter().flatten() {
            container.as_object_mut().expect("an object").entry("image").or_insert(json!("busybox:1"));
        }
    }
    crate::container::testing::pod(spec)
}
