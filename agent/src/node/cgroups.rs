//! Pod cgroups, written through the runtime's cgroup room.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use cri_proto::v1::LinuxContainerResources;
use runtime::cgroups::{CgroupPath, Cgroups, Resources, Version};

use crate::pods::seams::{CgroupError, PodCgroups};
use crate::resources::cgroup_values;

/// How long processes may take to die after SIGKILL before a removal is given up until the next try.
const PATIENCE: Duration = Duration::from_secs(5);

/// The machine's cgroups.
#[derive(Clone)]
pub struct NodeCgroups {
    cgroups: Cgroups,
    root: String,
}

impl NodeCgroups {
    /// Looks at the machine; pods live below `root`.
    ///
    /// # Errors
    /// When there are no cgroups.
    pub fn detect(root: &str) -> Result<Self, CgroupError> {
        let cgroups = Cgroups::detect().map_err(|source| failed("looking for", root, source))?;
        Ok(Self { cgroups, root: root.trim_end_matches('/').to_owned() })
    }

    /// What resource values depend on.
    pub fn facts(&self, memory: u64) -> cgroup_values::Node {
        let v2 = self.cgroups.version() == Version::V2;
        // The root group has no such file: any other that was made has it when swap is counted.
        let swap = v2 && Path::new("/proc/swaps").exists() && self.cgroups.controllers().has("memory");
        let huge_pages = self.cgroups.controllers().hugepage_sizes.clone();
        cgroup_values::Node { v2, swap, memory, huge_pages }
    }

    /// Memory that cannot be taken back from the pods, bytes; nothing where there are none.
    pub fn pods_working_set(&self) -> Option<u64> {
        let path = CgroupPath::new(&format!("{}/kubepods", self.root)).ok()?;
        Some(self.cgroups.stats(&path).ok()?.memory?.working_set)
    }

    /// Removes the groups above the pods' where they are empty: other agents may share them.
    pub async fn leave(&self) {
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let above = ["/kubepods/burstable", "/kubepods/besteffort", "/kubepods", ""];
            for path in above.iter().map(|name| format!("{}{name}", this.root)).filter(|path| !path.is_empty()) {
                let Ok(path) = CgroupPath::new(&path) else { continue };
                for file in this.cgroups.procs_files(&path) {
                    // ENOTEMPTY and EBUSY are the kernel's way of saying that somebody else lives here.
                    let _ = file.parent().map(std::fs::remove_dir);
                }
            }
        });
        let _ = done.await;
    }
}

fn failed(what: &'static str, path: &str, source: runtime::cgroups::CgroupError) -> CgroupError {
    CgroupError { what, path: path.to_owned(), source: Box::new(source) }
}

#[async_trait]
impl PodCgroups for NodeCgroups {
    async fn ensure(&self, path: &str, resources: &LinuxContainerResources) -> Result<(), CgroupError> {
        let (cgroups, resources) = (self.cgroups.clone(), Resources::from(resources));
        blocking("making", path, move |path| cgroups.create(path, &resources)).await
    }

    async fn update(&self, path: &str, resources: &LinuxContainerResources) -> Result<(), CgroupError> {
        let (cgroups, resources) = (self.cgroups.clone(), Resources::from(resources));
        blocking("changing", path, move |path| cgroups.update(path, &resources)).await
    }

    async fn remove(&self, path: &str) -> Result<(), CgroupError> {
        let cgroups = self.cgroups.clone();
        blocking("removing", path, move |path| cgroups.remove(path, PATIENCE)).await
    }
}

async fn blocking(
    what: &'static str,
    path: &str,
    work: impl FnOnce(&CgroupPath) -> Result<(), runtime::cgroups::CgroupError> + Send + 'static,
) -> Result<(), CgroupError> {
    let group = CgroupPath::new(path).map_err(|source| failed(what, path, source))?;
    match tokio::task::spawn_blocking(move || work(&group)).await {
        Ok(done) => done.map_err(|source| failed(what, path, source)),
        Err(source) => Err(CgroupError { what, path: path.to_owned(), source: Box::new(source) }),
    }
}
