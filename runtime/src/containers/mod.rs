//! From a CRI container configuration to the processes a shim starts.
//!
//! ```text
//! ContainerConfig + image + sandbox + host facts --spec::build--> OCI spec (config.json of the bundle)
//! OCI spec + cgroup files --launch::container--> shim::plan::Launch, for the container's init
//! OCI spec --launch::beside + exec request --launch::exec--> shim::plan::Launch, for a process beside it
//! ```
//!
//! Both steps are pure: what they need to know of the machine is handed in ([`HostFacts`], [`DeviceFacts`]).
//! The files are split by what they know: `mounts`, `process`, `capabilities`, `namespaces`, `devices`, `seccomp`.

mod apparmor;
pub mod capabilities;
pub mod devices;
mod error;
mod host;
mod inputs;
pub mod launch;
mod mounts;
mod namespaces;
mod process;
pub mod propagation;
mod resources;
pub mod seccomp;
pub mod spec;

pub use devices::{DeviceFacts, HostDevice};
pub use error::{SpecError, Warning};
pub use host::{HostError, HostFacts, Rlimit};
pub use inputs::{Identity, ImageDefaults, SandboxFacts, SandboxNamespaces, UserIds};
pub use launch::{ExecRequest, LaunchError, LaunchFacts};
pub use spec::{Built, Request};
