//! A container's life: made, started, stopped, removed; commands inside it.
//!
//! ```text
//! create: record | root file system, cgroup, plan | Created
//! start:  shim Start --> Running             (or Exited: StartError)
//! finish: the shim told its end --> Exited   (the cgroup goes)
//! stop:   signal, wait, kill                 exec: a process beside it
//! remove: killed, then everything it has is given back
//! ```

pub(crate) mod create;
pub(crate) mod exec;
pub(crate) mod exec_sync;
pub(crate) mod finish;
pub(crate) mod handle;
pub(crate) mod image_mounts;
mod mapped;
mod plan;
pub(crate) mod remove;
pub(crate) mod start;
pub(crate) mod stop;

pub(crate) use handle::{Container, ContainerName};
