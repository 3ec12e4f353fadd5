//! Pod sandboxes: namespaces held by a pause, a shim beside it, a place in the network.
//!
//! ```text
//! RunPodSandbox --wish--> make: record | cgroup, files, /dev/shm + network namespace | shim, pause + attach | Ready
//! StopPodSandbox --> unmake::stop: containers killed | network, shim, mounts, cgroup given back | Stopped
//! RemovePodSandbox --> unmake::remove: containers and files removed, the record last
//! ```
//!
//! Whatever a sandbox holds follows from its id and its record, so that giving it back needs no memory of how far
//! making it had come: `unmake` undoes a failed `make`, a crash in the middle, and a whole sandbox alike.
//! `watch` hears what ends and replaces a killed shim.

pub(crate) mod execs;
pub(crate) mod files;
pub(crate) mod handle;
pub(crate) mod make;
pub(crate) mod namespaces;
pub(crate) mod network;
pub(crate) mod shim_link;
pub(crate) mod shim_process;
pub(crate) mod unmake;
pub(crate) mod users;
pub(crate) mod watch;
pub(crate) mod wish;

pub(crate) use handle::{Sandbox, SandboxName};
