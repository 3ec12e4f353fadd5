//! Mount options as flags and data.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use shim::plan;

use super::{LaunchError, LaunchFacts};

/// Mounts of one entry of the spec: one, except for the cgroup file systems.
pub(super) fn mounts(mount: &Mount, facts: &LaunchFacts<'_>, in_users: bool) -> Result<Vec<plan::Mount>, LaunchError> {
    let parsed = parse(mount)?;
    let source = match mount.source() {
        Some(source) => c_path(source)?,
        None => CString::default(),
    };
    let fstype = mount.typ().clone().unwrap_or_default();
    if fstype == "cgroup" {
        return cgroup(mount.destination(), &parsed, facts, in_users);
    }
    let fstype = CString::new(fstype).map_err(|_| LaunchError::NulByte("a file system type"))?;
    Ok(vec![plan::Mount {
        source,
        target: mount.destination().clone(),
        fstype,
        flags: parsed.flags,
        data: CString::new(parsed.data.join(",")).map_err(|_| LaunchError::NulByte("a mount option"))?,
        propagation: parsed.propagation,
        recursive_readonly: parsed.recursive_readonly,
    }])
}

/// On v2 the one file system; on v1 the host's directory of hierarchies, and in each the container's own group.
fn cgroup(
    target: &Path,
    parsed: &Parsed,
    facts: &LaunchFacts<'_>,
    in_users: bool,
) -> Result<Vec<plan::Mount>, LaunchError> {
    if facts.cgroup_binds.is_empty() {
        return Ok(vec![plan::Mount {
            source: c"cgroup".to_owned(),
            target: target.to_owned(),
            fstype: c"cgroup2".to_owned(),
            flags: parsed.flags,
            ..plan::Mount::default()
        }]);
    }
    let bind = |source: &Path, target: PathBuf, extra: u64| {
        let flags = parsed.flags | libc::MS_BIND | extra;
        Ok(plan::Mount { source: c_path(source)?, target, flags, propagation: libc::MS_PRIVATE, ..Default::default() })
    };
    // Not recursive: it brings the names (and links such as cpu -> cpu,cpuacct), empty, and is never writable.
    // In a user namespace the kernel shows no directory without what is mounted in it: there they are made anew.
    let names = match in_users {
        false => bind(Path::new("/sys/fs/cgroup"), target.to_owned(), libc::MS_RDONLY),
        true => Ok(plan::Mount {
            source: c"tmpfs".to_owned(),
            target: target.to_owned(),
            fstype: c"tmpfs".to_owned(),
            flags: parsed.flags & !libc::MS_RDONLY,
            data: c"mode=755,size=64k".to_owned(),
            ..plan::Mount::default()
        }),
    };
    let groups = facts.cgroup_binds.iter().filter_map(|group| {
        let name = group.target.strip_prefix("/sys/fs/cgroup").ok()?;
        Some(bind(&group.source, target.join(name), 0))
    });
    std::iter::once(names).chain(groups).collect()
}

fn c_path(path: &Path) -> Result<CString, LaunchError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| LaunchError::NulByte("a path"))
}

#[derive(Default)]
struct Parsed {
    flags: u64,
    propagation: u64,
    data: Vec<String>,
    recursive_readonly: bool,
}

/// Names of mount(8) with the flags they set and clear.
const FLAGS: [(&str, u64, u64); 24] = [
    ("defaults", 0, 0),
    ("ro", libc::MS_RDONLY, 0),
    ("rw", 0, libc::MS_RDONLY),
    ("nosuid", libc::MS_NOSUID, 0),
    ("suid", 0, libc::MS_NOSUID),
    ("nodev", libc::MS_NODEV, 0),
    ("dev", 0, libc::MS_NODEV),
    ("noexec", libc::MS_NOEXEC, 0),
    ("exec", 0, libc::MS_NOEXEC),
    ("sync", libc::MS_SYNCHRONOUS, 0),
    ("async", 0, libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC, 0),
    ("lazytime", libc::MS_LAZYTIME, 0),
    ("nolazytime", 0, libc::MS_LAZYTIME),
    ("noatime", libc::MS_NOATIME, 0),
    ("atime", 0, libc::MS_NOATIME),
    ("nodiratime", libc::MS_NODIRATIME, 0),
    ("diratime", 0, libc::MS_NODIRATIME),
    ("relatime", libc::MS_RELATIME, 0),
    ("norelatime", 0, libc::MS_RELATIME),
    ("strictatime", libc::MS_STRICTATIME, 0),
    ("nostrictatime", 0, libc::MS_STRICTATIME),
    ("bind", libc::MS_BIND, 0),
    ("rbind", libc::MS_BIND | libc::MS_REC, 0),
];

const PROPAGATIONS: [(&str, u64); 6] = [
    ("private", libc::MS_PRIVATE),
    ("rprivate", libc::MS_PRIVATE | libc::MS_REC),
    ("slave", libc::MS_SLAVE),
    ("rslave", libc::MS_SLAVE | libc::MS_REC),
    ("shared", libc::MS_SHARED),
    ("rshared", libc::MS_SHARED | libc::MS_REC),
];

/// Options of newer runtimes that change what a mount means: never to be handed to a file system as text.
const REFUSED: [&str; 10] = [
    "idmap",
    "ridmap",
    "remount",
    "tmpcopyup",
    "unbindable",
    "runbindable",
    "rnosuid",
    "rnodev",
    "rnoexec",
    "nosymfollow",
];

fn parse(mount: &Mount) -> Result<Parsed, LaunchError> {
    let mut parsed = Parsed::default();
    if mount.typ().as_deref() == Some("bind") {
        parsed.flags |= libc::MS_BIND;
    }
    for option in mount.options().iter().flatten() {
        if let Some((_, set, clear)) = FLAGS.iter().find(|(name, ..)| name == option) {
            parsed.flags = parsed.flags & !clear | set;
        } else if let Some((_, propagation)) = PROPAGATIONS.iter().find(|(name, _)| name == option) {
            parsed.propagation = *propagation;
        } else if option == "rro" {
            parsed.recursive_readonly = true;
            parsed.flags |= libc::MS_RDONLY;
        } else if REFUSED.contains(&option.as_str()) || parsed.flags & libc::MS_BIND != 0 {
            return Err(LaunchError::MountOption { target: mount.destination().clone(), option: option.clone() });
        } else {
            parsed.data.push(option.clone());
        }
    }
    Ok(parsed)
}

/// Slave where nothing is said, as in runc: what the host unmounts goes away here too, and nothing of ours gets out.
pub(super) fn root_propagation(wanted: Option<&str>) -> u64 {
    let known = PROPAGATIONS.iter().find(|(name, _)| Some(*name) == wanted);
    known.map_or(libc::MS_SLAVE, |(_, flags)| *flags) | libc::MS_REC
}
