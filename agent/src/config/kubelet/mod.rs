//! `KubeletConfiguration` v1beta1: what `--config`, `--config-dir` and the kubelet's flags say, with the kubelet's defaults.
//!
//! ```text
//! --config FILE --\
//! --config-dir/*.conf --> Layers --decode--> File --fill--> File --check--> KubeletConfiguration
//! flags ----------/
//! ```
//!
//! Drop-ins win over the file, flags over both. A value of a wrong type, a field that is given twice, and a value that cannot
//! be are refused with the file, the line and the field. A field that does not exist is refused in a drop-in; in the file it
//! is said and left out, as the kubelet does it, because kubeadm writes that file for other versions too. Defaults are filled
//! in at the end, over all layers together.
//!
//! Facts: types, defaults and validation of Kubernetes 1.36 (`k8s.io/kubelet/config/v1beta1`, `pkg/kubelet/apis/config`).

mod checks;
mod defaults;
mod duration;
mod effect;
mod file;
mod flags;
mod layers;
mod logging;
mod node;
mod pods;
mod resources;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use self::checks::Checks;
use self::file::File;
use self::layers::Layers;
use crate::yaml::Node;

pub use flags::{FLAGS, Flag, SWITCHES_WITHOUT_MEANING, WITHOUT_MEANING};
pub use logging::Logging;
pub use node::{Heartbeat, Images, Rate, Rates, Registration, ShutdownGroup};
pub use pods::{ClusterDns, Pods, StaticPods};
pub use resources::{Eviction, Reservations, Reserved, Signal, Threshold};
pub use server::{Authentication, Authorization, Server, ServingCertificate, TlsVersion};

/// Everything that a kubelet is told, checked, with its defaults.
///
/// Each part is read by the room that acts on it. What no room acts on is not here; where it would change something, it is a
/// warning of [`Loaded`].
#[derive(Clone, Debug, PartialEq)]
pub struct KubeletConfiguration {
    /// `:10250`, `/healthz` and the read-only port.
    pub server: Server,
    /// `rotateCertificates`: the client certificate is renewed before it ends.
    pub rotate_certificates: bool,
    /// The Node object at its creation.
    pub registration: Registration,
    /// How often the node says that it lives.
    pub heartbeat: Heartbeat,
    /// What pods resolve names with.
    pub dns: ClusterDns,
    /// Limits and habits of pods.
    pub pods: Pods,
    /// Where static pods come from.
    pub static_pods: StaticPods,
    /// Pulls and the collection of images.
    pub images: Images,
    /// What a pod is evicted for.
    pub eviction: Eviction,
    /// What pods do not get.
    pub reservations: Reservations,
    /// How long pods have when the machine goes down, by priority, lowest first; empty when they are not waited for.
    pub shutdown: Vec<ShutdownGroup>,
    /// How many calls, events and pulls there may be.
    pub rates: Rates,
    /// `runtimeRequestTimeout`.
    pub runtime_timeout: Duration,
    /// `logging`.
    pub logging: Logging,
    /// `failSwapOn`.
    pub fail_swap_on: bool,
    /// The whole of it as `/configz` shows it, defaults included; values of headers are masked.
    pub configz: Value,
}

/// A configuration and what there is to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What counts.
    pub configuration: KubeletConfiguration,
    /// Fields that do not exist or have no effect here: to be said once.
    pub warnings: Vec<String>,
}

/// One flag of the kubelet that stands for a field.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The flag's name, without its dashes.
    pub flag: &'static str,
    /// The field: `evictionHard`, `authentication.anonymous.enabled`.
    pub field: &'static str,
    /// What it is set to.
    pub value: Node,
    /// Adds to what the files say instead of replacing it.
    pub adds: bool,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadConfiguration {
    /// A file or folder cannot be read.
    #[error("reading the kubelet's configuration {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says something that cannot be.
    #[error("the kubelet's configuration cannot be used:\n  {}", problems.join("\n  "))]
    Bad {
        /// File, line, field and problem of each.
        problems: Vec<String>,
    },
}

impl BadConfiguration {
    fn bad(problems: Vec<String>) -> Self {
        Self::Bad { problems }
    }
}

/// Reads the file, the folder's drop-ins and the flags, and fills in the defaults.
///
/// # Errors
/// Everything that is wrong in the first of these steps that fails: reading, types, values.
pub fn load(file: Option<&Path>, folder: Option<&Path>, flags: &[Setting]) -> Result<Loaded, BadConfiguration> {
    finish(Layers::read(file, folder, flags)?)
}

/// The same of a text that is called `name`.
///
/// # Errors
/// As [`load`].
pub fn load_text(name: &str, text: &str) -> Result<Loaded, BadConfiguration> {
    finish(Layers::of_text(name, text)?)
}

fn finish(layers: Layers) -> Result<Loaded, BadConfiguration> {
    let (mut whole, mut defaults) = (layers.decode()?, File::default());
    defaults::fill(&mut whole);
    defaults::fill(&mut defaults);
    let mut checks = Checks::default();
    let configuration = checked(&whole, &mut checks);
    if !checks.bad.is_empty() {
        let line = |bad: &checks::BadField| format!("{}{}: {}", layers.origin(&bad.field), bad.field, bad.problem);
        return Err(BadConfiguration::bad(checks.bad.iter().map(line).collect()));
    }
    let mut warnings = layers.warnings;
    warnings.extend(effect::without_effect(&whole, &defaults));
    Ok(Loaded { configuration, warnings })
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        let mut file = File::default();
        defaults::fill(&mut file);
        checked(&file, &mut Checks::default())
    }
}

fn checked(file: &File, checks: &mut Checks) -> KubeletConfiguration {
    KubeletConfiguration {
        server: server::checked(file, checks),
        rotate_certificates: file.rotate_certificates == Some(true),
        registration: node::registration(file, checks),
        heartbeat: node::heartbeat(file, checks),
        dns: pods::dns(file, checks),
        pods: pods::pods(file, checks),
        static_pods: pods::static_pods(file, checks),
        images: node::images(file, checks),
        eviction: resources::eviction(file, checks),
        reservations: resources::reservations(file, checks),
        shutdown: node::shutdown(file, checks),
        rates: node::rates(file, checks),
        runtime_timeout: checks.time("runtimeRequestTimeout", file.runtime_request_timeout),
        logging: logging::logging(file, checks),
        fail_swap_on: file.fail_swap_on == Some(true),
        configz: configz(file),
    }
}

fn configz(file: &File) -> Value {
    let mut file = file.clone();
    for values in file.static_pod_url_header.iter_mut().flat_map(|headers| headers.values_mut()) {
        *values = vec!["<masked>".to_owned()];
    }
    // `/configz` shows the kind's fields alone.
    (file.api_version, file.kind) = (None, None);
    effect::shown(&file)
}
