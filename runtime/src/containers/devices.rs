//! Device nodes of a container and the rules about using them.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cri_proto::v1;
use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::SpecError;

/// A device node of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDevice {
    /// Where it is on the host; what a link leads to is told under the link's path.
    pub path: PathBuf,
    /// A block device, else a character device.
    pub block: bool,
    /// Device number.
    pub major: u32,
    /// Device number.
    pub minor: u32,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owner.
    pub gid: u32,
}

/// The nodes of this machine that one container may need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Those the container names, by the paths it names them by; a directory stands for all below it.
    pub named: Vec<HostDevice>,
    /// All of the machine's, for a privileged container.
    pub all: Vec<HostDevice>,
}

/// Deep enough for `/dev/bus/usb/001/001` and `/dev/snd/by-path`, with room to spare.
const DEEPEST: usize = 6;
/// Machines with many disks and terminals have some hundreds.
const MOST: usize = 16 * 1024;

impl DeviceFacts {
    /// Looks up what `config` names; all of `/dev` too where it is privileged.
    ///
    /// # Errors
    /// The error of a named path that cannot be looked at, or holds no device.
    pub fn read(config: &v1::ContainerConfig) -> io::Result<Self> {
        let mut facts = Self::default();
        for device in &config.devices {
            let path = Path::new(&device.host_path);
            let found = if path.is_dir() { walk(path, 0)? } else { look(path)?.into_iter().collect() };
            if found.is_empty() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no device", device.host_path)));
            }
            facts.named.extend(found);
        }
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        if security.is_some_and(|security| security.privileged) {
            facts.all = walk(Path::new("/dev"), 0)?;
        }
        Ok(facts)
    }
}

fn look(path: &Path) -> io::Result<Option<HostDevice>> {
    let meta = fs::metadata(path)?;
    let block = meta.file_type().is_block_device();
    if !block && !meta.file_type().is_char_device() {
        return Ok(None);
    }
    let (major, minor) = (libc::major(meta.rdev()), libc::minor(meta.rdev()));
    let mode = meta.mode() & 0o7777;
    Ok(Some(HostDevice { path: path.to_owned(), block, major, minor, mode, uid: meta.uid(), gid: meta.gid() }))
}

/// Links are left out: what they lead to is found under its own name. So are the places a container has of its own.
fn walk(directory: &Path, depth: usize) -> io::Result<Vec<HostDevice>> {
    const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", "console"];
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Ok(kind) = entry.file_type() else { continue };
        if OWN.iter().any(|own| name == *own) || kind.is_symlink() {
            continue;
        }
        if kind.is_dir() && depth < DEEPEST {
            found.extend(walk(&path, depth + 1).unwrap_or_default());
        } else if let Ok(Some(device)) = look(&path) {
            found.push(device);
        }
        if found.len() > MOST {
            return Err(io::Error::other(format!("{} holds more than {MOST} devices", directory.display())));
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

/// Nodes to make and rules to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Devices {
    pub(super) nodes: Vec<LinuxDevice>,
    pub(super) rules: Vec<LinuxDeviceCgroup>,
}

/// The machine's devices in a privileged container; otherwise the harmless ones and those that are named.
pub(super) fn devices(wanted: &[v1::Device], privileged: bool, facts: &DeviceFacts) -> Result<Devices, SpecError> {
    if privileged {
        let nodes = facts.all.iter().map(|device| node(&device.path, device)).collect();
        let named = named(wanted, facts)?;
        let nodes: Vec<LinuxDevice> = merge(nodes, named.into_iter().map(|(node, _)| node));
        return Ok(Devices { nodes, rules: vec![everything(true)] });
    }
    let named = named(wanted, facts)?;
    let rules = named.iter().map(|(node, access)| rule(node.typ(), Some(node.major()), Some(node.minor()), access));
    let rules = std::iter::once(everything(false)).chain(harmless()).chain(rules).collect();
    Ok(Devices { nodes: merge(Vec::new(), named.into_iter().map(|(node, _)| node)), rules })
}

/// Of two nodes at one path the later one counts.
fn merge(mut nodes: Vec<LinuxDevice>, more: impl Iterator<Item = LinuxDevice>) -> Vec<LinuxDevice> {
    for node in more {
        nodes.retain(|have| have.path() != node.path());
        nodes.push(node);
    }
    nodes
}

fn named(wanted: &[v1::Device], facts: &DeviceFacts) -> Result<Vec<(LinuxDevice, String)>, SpecError> {
    let mut all = Vec::new();
    for device in wanted {
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        if crate::cgroups::Access::parse(access).is_none() {
            let (path, permissions) = (device.host_path.clone(), device.permissions.clone());
            return Err(SpecError::DevicePermissions { path, permissions });
        }
        let host = Path::new(&device.host_path);
        let below = facts.named.iter().filter(|fact| fact.path.starts_with(host));
        let placed: Vec<_> =
            below.map(|fact| (node(&place(device, host, &fact.path), fact), access.to_owned())).collect();
        if placed.is_empty() {
            return Err(SpecError::DeviceMissing(device.host_path.clone()));
        }
        all.extend(placed);
    }
    Ok(all)
}

/// Where in the container: under its own path, or below it what lies below the directory on the host.
fn place(device: &v1::Device, host: &Path, found: &Path) -> PathBuf {
    let target = if device.container_path.is_empty() { &device.host_path } else { &device.container_path };
    match found.strip_prefix(host) {
        Ok(rest) if rest.as_os_str().is_empty() => PathBuf::from(target),
        Ok(rest) => Path::new(target).join(rest),
        Err(_) => PathBuf::from(target),
    }
}

fn node(path: &Path, device: &HostDevice) -> LinuxDevice {
    let mut node = LinuxDevice::default();
    node.set_path(path.to_owned())
        .set_typ(if device.block { LinuxDeviceType::B } else { LinuxDeviceType::C })
        .set_major(device.major.into())
        .set_minor(device.minor.into())
        .set_file_mode(Some(device.mode))
        .set_uid(Some(device.uid))
        .set_gid(Some(device.gid));
    node
}

/// What any container may use: making nodes (not opening them), the six standard ones, and terminals of its own.
fn harmless() -> Vec<LinuxDeviceCgroup> {
    let char_device = |major, minor| rule(LinuxDeviceType::C, Some(major), minor, "rwm");
    vec![
        rule(LinuxDeviceType::C, None, None, "m"),
        rule(LinuxDeviceType::B, None, None, "m"),
        char_device(1, Some(3)), // null
        char_device(1, Some(8)), // random
        char_device(1, Some(7)), // full
        char_device(5, Some(0)), // tty
        char_device(1, Some(5)), // zero
        char_device(1, Some(9)), // urandom
        char_device(5, Some(1)), // console
        char_device(136, None),  // pts of the container's own devpts
        char_device(5, Some(2)), // ptmx
    ]
}

fn everything(allow: bool) -> LinuxDeviceCgroup {
    let mut all = rule(LinuxDeviceType::A, None, None, "rwm");
    all.set_allow(allow);
    all
}

fn rule(kind: LinuxDeviceType, major: Option<i64>, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true).set_typ(Some(kind)).set_major(major).set_minor(minor).set_access(Some(access.to_owned()));
    rule
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::DeviceRule;

    fn fuse() -> HostDevice {
        HostDevice { path: "/dev/fuse".into(), block: false, major: 10, minor: 229, mode: 0o666, uid: 0, gid: 0 }
    }

    fn wanted(permissions: &str) -> v1::Device {
        let (host, container) = ("/dev/fuse".to_owned(), "/dev/fuse2".to_owned());
        v1::Device { host_path: host, container_path: container, permissions: permissions.to_owned() }
    }

    #[test]
    fn a_container_may_make_nodes_and_use_the_harmless_ones_alone() {
        let made = devices(&[], false, &DeviceFacts::default()).unwrap();
        let rules: Vec<String> = DeviceRule::of_spec(&made.rules).iter().map(ToString::to_string).collect();
        let expected = "a *:* rwm, c *:* m, b *:* m, c 1:3 rwm, c 1:8 rwm, c 1:7 rwm, c 5:0 rwm, c 1:5 rwm, c 1:9 rwm, \
                        c 5:1 rwm, c 136:* rwm, c 5:2 rwm";
        assert_eq!(rules.join(", "), expected);
        assert!(!made.rules[0].allow(), "the first rule denies everything");
    }

    #[test]
    fn a_named_device_is_made_where_it_is_wanted_with_the_access_it_is_given() {
        let facts = DeviceFacts { named: vec![fuse()], all: Vec::new() };
        let made = devices(&[wanted("rw")], false, &facts).unwrap();
        assert_eq!(made.nodes[0].path(), Path::new("/dev/fuse2"));
        assert_eq!(made.rules.last().unwrap().to_string(), "c 10:229 rw");
    }

    #[test]
    fn a_device_that_is_not_there_or_permissions_that_are_none_are_refused() {
        let none = DeviceFacts::default();
        assert_eq!(devices(&[wanted("r")], false, &none), Err(SpecError::DeviceMissing("/dev/fuse".to_owned())));
        let facts = DeviceFacts { named: vec![fuse()], all: Vec::new() };
        assert!(matches!(devices(&[wanted("x")], false, &facts), Err(SpecError::DevicePermissions { .. })));
    }

    #[test]
    fn a_privileged_container_has_every_device_and_no_limits() {
        let facts = DeviceFacts { named: Vec::new(), all: vec![fuse()] };
        let made = devices(&[], true, &facts).unwrap();
        assert_eq!(made.nodes.len(), 1);
        assert_eq!(DeviceRule::of_spec(&made.rules), [DeviceRule::EVERYTHING]);
    }
}
