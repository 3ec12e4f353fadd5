use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Which of a container's three probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Gates the other two.
    Startup,
    /// Decides whether the container gets traffic.
    Readiness,
    /// Decides whether the container is restarted.
    Liveness,
}

impl ProbeKind {
    /// As events and metrics write it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What a probe says of a container once its thresholds are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// Fine.
    Success,
    /// Not fine.
    Failure,
}

/// What the probes of one pod say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeResults {
    /// By container name; containers without probes are not listed.
    pub containers: BTreeMap<String, ContainerResults>,
}

/// What the probes of one container say; `None` where there is no such probe or it has not decided yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerResults {
    /// The instance these results are about; empty before the first one runs.
    pub container_id: String,
    /// Startup: `Success` lets the other two begin, `Failure` asks for a restart.
    pub startup: Option<Outcome>,
    /// Readiness: begins as `Failure`.
    pub readiness: Option<Outcome>,
    /// Liveness: `Failure` asks for a restart.
    pub liveness: Option<Outcome>,
}

impl ContainerResults {
    /// The result of one probe.
    pub fn of(&self, kind: ProbeKind) -> Option<Outcome> {
        match kind {
            ProbeKind::Startup => self.startup,
            ProbeKind::Readiness => self.readiness,
            ProbeKind::Liveness => self.liveness,
        }
    }
}
