//! What the Node object says of this machine: read once, at start.

use std::path::Path;

use crate::fields::Allocatable;

/// The machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// `/etc/machine-id`.
    pub machine_id: String,
    /// The firmware's id of this system.
    pub system_uuid: String,
    /// Another one after each boot.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release.
    pub os_image: String,
    /// `amd64`, `arm64`…, as Go names them.
    pub architecture: &'static str,
    /// What there is for pods.
    pub capacity: Allocatable,
}

impl Machine {
    /// Looks at this machine. What cannot be read is empty, as with a kubelet in a container.
    pub fn probe(capacity: Allocatable) -> Self {
        let line = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let first = |paths: [&str; 2]| paths.into_iter().map(line).find(|text| !text.is_empty()).unwrap_or_default();
        Self {
            machine_id: first(["/etc/machine-id", "/var/lib/dbus/machine-id"]),
            system_uuid: first(["/sys/class/dmi/id/product_uuid", "/etc/machine-id"]),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel: line("/proc/sys/kernel/osrelease"),
            os_image: os_image(Path::new("/etc/os-release")),
            architecture: architecture(std::env::consts::ARCH),
            capacity,
        }
    }
}

fn os_image(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|name| name.trim_matches(['"', '\'']).to_owned()).unwrap_or_default()
}

/// Go's names, which labels and images use.
fn architecture(rust: &'static str) -> &'static str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}
