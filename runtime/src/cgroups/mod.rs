//! Control groups: where they are, what is written into them, what they say.
//!
//! One [`Cgroups`] stands for the machine's layout (v1, hybrid or v2, found once at start). Every group is named by a
//! [`CgroupPath`] below the root of every hierarchy; pods' groups and containers' leaves are treated alike.
//! Which value goes into which file is decided in [`values`] (pure); `group` writes and removes, `stats` reads.
//! Only the cgroupfs driver exists: a systemd slice is refused by [`CgroupPath::new`].
//!
//! Of `cgroups-rs` only the question "is this machine v2?" is used. Its groups on v2 know one root and swallow a
//! controller that could not be handed down, so that a limit would be missing without a word; on v1 making one takes
//! three times as long as the few files here, and pods start by the dozen.
//!
//! Every call is a handful of short file operations and blocks for well under a millisecond, except
//! [`Cgroups::remove`], which waits up to the time it is given for killed processes to go.

mod devices;
mod devices_v2;
mod error;
mod group;
mod layout;
mod path;
mod stats;
pub mod values;

pub use devices::{Access, DeviceKind, DeviceRule};
pub use error::CgroupError;
pub use layout::{CgroupBind, Cgroups, Version};
pub use path::CgroupPath;
pub use stats::{MemoryStats, Psi, PsiLine, Stats, SwapStats};
pub use values::Resources;

/// Limits of a pod's, a QoS class's or the node's group: the same fields as a container's.
pub type PodResources = Resources;

/// What a kernel may not have, and what is asked of it before limits are decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Controllers {
    /// Names such as `cpu`, `memory`, `hugetlb`, sorted.
    pub names: Vec<String>,
    /// Swap is counted: `memory.memsw.*` (v1) or `memory.swap.*` (v2) exists.
    pub swap: bool,
    /// Page sizes of the hugetlb controller, such as `2MB`.
    pub hugepage_sizes: Vec<String>,
}

impl Controllers {
    /// Is the controller `name` there?
    pub fn has(&self, name: &str) -> bool {
        self.names.iter().any(|have| have == name)
    }
}
