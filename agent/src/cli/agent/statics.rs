//! Static pods on a node of a cluster: from a folder and from a URL, by the kubelet's rules.

use std::sync::Arc;

use anyhow::Context;
use tokio::sync::watch;

use crate::config::Config;
use crate::config::kubelet::StaticPods;
use crate::sources::{Desired, ManifestUrl, Manifests, Places};

/// What they hold now, and the work that follows them. A folder that is missing is made: it may be filled later.
pub(super) fn open(given: &StaticPods, config: &Config) -> anyhow::Result<(Manifests, watch::Receiver<Arc<Desired>>)> {
    if let Some(path) = given.path.as_ref().filter(|path| !path.exists()) {
        std::fs::create_dir_all(path).with_context(|| format!("making {} for static pods", path.display()))?;
    }
    let url = |url: &String| ManifestUrl::new(url, &given.headers, given.http_check, &config.dirs.root);
    let places = Places {
        static_pods: given.path.clone(),
        url: given.url.as_ref().map(url).transpose().context("staticPodURL")?,
        ..Places::default()
    };
    Ok(Manifests::open(places, &config.node_name)?)
}
