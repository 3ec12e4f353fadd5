//! What is on disk below the run directory, and what it means after a restart.
//!
//! ```text
//! <run>/lock                     flock of the one process that owns this directory; holds its pid
//! <run>/boot                     boot id of the kernel that the rest belongs to
//! <run>/pods/<sandbox id>/       one directory per sandbox, 0700
//!     state.json                 `SandboxRecord`, written before the first thing is made
//!     config.pb                  `PodSandboxConfig` as it came
//!     net                        the network namespace, bind-mounted
//!     shm/                       tmpfs for the pod's /dev/shm
//!     hostname, resolv.conf, hosts   files that containers mount
//!     shim.*, pause.*, c/, x/    the contract with the shim: see `shim::wire`
//!     c/<container id>/state.json, config.pb, config.json (OCI spec)
//! ```
//!
//! Reading order: [`layout`] (names), [`files`] (how a file is written), [`records`] (what is written),
//! [`facts`] (what a shim left), [`names`] (who may be created).

pub(crate) mod facts;
pub(crate) mod files;
pub(crate) mod layout;
pub(crate) mod names;
pub(crate) mod records;
