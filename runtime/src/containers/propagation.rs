//! Whether mounts on the host let propagate what a container asks to be propagated.
//!
//! A volume that is to see later mounts of the host (or to be seen by it) must itself lie on a shared mount; on a
//! private one the kernel would say yes and nothing would ever arrive.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use cri_proto::v1::{self, MountPropagation};

/// A propagation that the host's mounts do not have.
#[derive(Debug, thiserror::Error)]
pub enum PropagationError {
    /// The mount the path lies on is private.
    #[error("{path} lies on the mount {mount}, which is not {needed}: `mount --make-rshared {mount}` makes it so")]
    Private {
        /// The volume on the host.
        path: PathBuf,
        /// Where what it lies on is mounted.
        mount: PathBuf,
        /// `shared`, or `shared or a slave`.
        needed: &'static str,
    },
    /// The path or the list of mounts cannot be read.
    #[error("looking at {path}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Checks the mounts of a container that propagate; the others cost nothing.
///
/// # Errors
/// [`PropagationError`] for the first that cannot work. Its host path must exist.
pub fn check(config: &v1::ContainerConfig) -> Result<(), PropagationError> {
    let propagating = |mount: &&v1::Mount| mount.propagation != MountPropagation::PropagationPrivate as i32;
    let mut wanted = config.mounts.iter().filter(propagating).peekable();
    if wanted.peek().is_none() {
        return Ok(());
    }
    let file = Path::new("/proc/self/mountinfo");
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| PropagationError::Io { path, source }
    };
    let mountinfo = fs::read_to_string(file).map_err(failed(file))?;
    wanted.try_for_each(|mount| {
        let path = Path::new(&mount.host_path);
        let real = path.canonicalize().map_err(failed(path))?;
        allowed(&real, mount.propagation(), &mountinfo)
    })
}

fn allowed(path: &Path, wanted: MountPropagation, mountinfo: &str) -> Result<(), PropagationError> {
    let Some(below) = mount_of(path, mountinfo) else { return Ok(()) };
    let (enough, needed) = match wanted {
        MountPropagation::PropagationPrivate => return Ok(()),
        MountPropagation::PropagationBidirectional => (below.shared, "shared"),
        MountPropagation::PropagationHostToContainer => (below.shared || below.slave, "shared or a slave"),
    };
    if enough { Ok(()) } else { Err(PropagationError::Private { path: path.to_owned(), mount: below.at, needed }) }
}

struct MountPoint {
    at: PathBuf,
    shared: bool,
    slave: bool,
}

/// The deepest mount above (or at) the path; of several at one place the last one covers the others.
fn mount_of(path: &Path, mountinfo: &str) -> Option<MountPoint> {
    let above = mountinfo.lines().filter_map(parse).filter(|mount| path.starts_with(&mount.at));
    above.max_by_key(|mount| mount.at.components().count())
}

/// Fields as in proc_pid_mountinfo(5): the optional ones stand between the sixth and a lonely hyphen.
fn parse(line: &str) -> Option<MountPoint> {
    let mut fields = line.split(' ').skip(4);
    let at = PathBuf::from(unescape(fields.next()?));
    let optional: Vec<&str> = fields.skip(1).take_while(|field| *field != "-").collect();
    let any = |prefix: &str| optional.iter().any(|field| field.starts_with(prefix));
    Some(MountPoint { at, shared: any("shared:"), slave: any("master:") })
}

/// Blanks, tabs, newlines and backslashes of a path are written as three octal digits.
fn unescape(text: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use MountPropagation::{PropagationBidirectional as Both, PropagationHostToContainer as Down};

    const MOUNTS: &str = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                          30 21 0:30 / /private rw - tmpfs tmpfs rw\n\
                          31 21 0:31 / /slave\\040mount rw master:4 - tmpfs tmpfs rw\n\
                          32 30 0:32 / /private/inner rw shared:9 master:2 - tmpfs tmpfs rw\n";

    fn check(path: &str, wanted: MountPropagation) -> String {
        match allowed(Path::new(path), wanted, MOUNTS) {
            Ok(()) => "fine".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_deepest_mount_decides() {
        assert_eq!(check("/data", Both), "fine");
        assert_eq!(check("/privateer", Both), "fine");
        assert_eq!(check("/private/inner/x", Both), "fine");
        let expected =
            "/private/x lies on the mount /private, which is not shared: `mount --make-rshared /private` makes it so";
        assert_eq!(check("/private/x", Both), expected);
        assert!(check("/private/x", Down).contains("not shared or a slave"));
    }

    #[test]
    fn a_slave_hears_and_does_not_speak() {
        assert_eq!(check("/slave mount/x", Down), "fine");
        assert!(check("/slave mount/x", Both).contains("not shared"));
    }

    proptest::proptest! {
        #[test]
        fn no_list_of_mounts_makes_it_panic(text in "([0-9/a-z \\\\:-]{0,60}\n){0,4}") {
            let _ = allowed(Path::new("/a"), Both, &text);
        }
    }

    #[test]
    fn a_container_without_propagating_mounts_asks_nothing() {
        let mount = v1::Mount { host_path: "/does/not/exist".into(), ..Default::default() };
        let config = v1::ContainerConfig { mounts: vec![mount], ..Default::default() };
        assert!(super::check(&config).is_ok());
    }
}
