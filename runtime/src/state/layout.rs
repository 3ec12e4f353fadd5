//! The names of files and directories.

use std::path::{Path, PathBuf};

use crate::ids::{ContainerId, ExecId, SandboxId};

/// Where everything lives below the run directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    run: PathBuf,
}

impl Layout {
    /// The layout below `run`.
    pub(crate) fn new(run: PathBuf) -> Self {
        Self { run }
    }

    /// Held with `flock` by the process that owns the directory.
    pub(crate) fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Boot id of the kernel that the sandboxes below belong to.
    pub(crate) fn boot(&self) -> PathBuf {
        self.run.join("boot")
    }

    /// Holds one directory per sandbox.
    pub(crate) fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// The directory of one sandbox.
    pub(crate) fn sandbox(&self, id: &SandboxId) -> SandboxDir {
        SandboxDir(self.pods().join(id.as_str()))
    }
}

/// The directory of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SandboxDir(PathBuf);

impl SandboxDir {
    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The `SandboxRecord`.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// The `PodSandboxConfig`.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.pb")
    }

    /// The network namespace, once it is pinned.
    pub(crate) fn netns(&self) -> PathBuf {
        self.0.join("net")
    }

    /// The user namespace of a pod that has one, once it is pinned.
    pub(crate) fn users(&self) -> PathBuf {
        self.0.join("user")
    }

    /// Becomes `/dev/shm` of the pod's containers.
    pub(crate) fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }

    /// Becomes `/etc/hostname` of the pod's containers.
    pub(crate) fn hostname(&self) -> PathBuf {
        self.0.join("hostname")
    }

    /// Becomes `/etc/resolv.conf` of the pod's containers.
    pub(crate) fn resolv_conf(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }

    /// Becomes `/etc/hosts` of containers that bring none.
    pub(crate) fn hosts(&self) -> PathBuf {
        self.0.join("hosts")
    }

    /// Written by the shim when it is up.
    pub(crate) fn shim_pid(&self) -> PathBuf {
        self.0.join("shim.pid")
    }

    /// What the shim starts as the pause.
    pub(crate) fn pause_launch(&self) -> PathBuf {
        self.0.join("pause.launch")
    }

    /// Written by the shim once the pause runs.
    pub(crate) fn pause_pid(&self) -> PathBuf {
        self.0.join("pause.pid")
    }

    /// Holds one directory per container.
    pub(crate) fn containers(&self) -> PathBuf {
        self.0.join("c")
    }

    /// The directory of one container.
    pub(crate) fn container(&self, id: &ContainerId) -> ContainerDir {
        ContainerDir(self.containers().join(id.as_str()))
    }

    /// Holds one directory per exec.
    pub(crate) fn execs(&self) -> PathBuf {
        self.0.join("x")
    }

    /// The directory of one exec.
    pub(crate) fn exec(&self, id: &ExecId) -> PathBuf {
        self.execs().join(id.as_str())
    }
}

/// The directory of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerDir(PathBuf);

impl ContainerDir {
    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The `ContainerRecord`.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }

    /// The `ContainerConfig`.
    pub(crate) fn config(&self) -> PathBuf {
        self.0.join("config.pb")
    }

    /// What the shim starts.
    pub(crate) fn launch(&self) -> PathBuf {
        self.0.join("launch")
    }

    /// Names the log file.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Says whether stdin is held open.
    pub(crate) fn stdin(&self) -> PathBuf {
        self.0.join("stdin")
    }

    /// Written by the shim once init runs.
    pub(crate) fn pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    /// Written by the shim once init has ended.
    pub(crate) fn exit(&self) -> PathBuf {
        self.0.join("exit")
    }

    /// Holds the mounts that are shown with the ids of the pod's user namespace, by their place in the configuration.
    pub(crate) fn mapped(&self) -> PathBuf {
        self.0.join("m")
    }

    /// The OCI spec.
    pub(crate) fn spec(&self) -> PathBuf {
        self.0.join("config.json")
    }
}
