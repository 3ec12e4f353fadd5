//! What is mounted below a container's root, in which order.

use std::path::{Component, Path, PathBuf};

use cri_proto::v1::{self, MountPropagation};
use oci_spec::runtime::Mount;

use super::{SandboxFacts, SpecError};

/// The mounts of a spec, and how the root's own propagation must be set for them.
pub(super) struct Mounts {
    /// Parents before what lies below them.
    pub(super) list: Vec<Mount>,
    /// `rslave` or `rshared` where a mount propagates; nothing means private.
    pub(super) root_propagation: Option<&'static str>,
    /// Host directories to be made (0755) where they are missing, as for a hostPath without a type.
    pub(super) sources: Vec<PathBuf>,
}

/// What decides about the mounts besides the list itself.
pub(super) struct Circumstances<'a> {
    pub(super) sandbox: &'a SandboxFacts,
    pub(super) privileged: bool,
    pub(super) readonly_root: bool,
    pub(super) node_ipc: bool,
}

/// The kernel's file systems, the sandbox's files, then the container's own; one of these at the same place wins.
pub(super) fn mounts(wanted: &[v1::Mount], around: &Circumstances<'_>) -> Result<Mounts, SpecError> {
    let own: Vec<Mount> = wanted.iter().map(own_mount).collect::<Result<_, _>>()?;
    let taken: Vec<PathBuf> = own.iter().map(|mount| mount.destination().clone()).collect();
    let covers = |path: &Path| {
        taken.iter().any(|at| at == path) || path.starts_with("/dev") && taken.iter().any(|at| at == Path::new("/dev"))
    };
    let mut list: Vec<Mount> = kernel_mounts(around.privileged).into_iter().chain(sandbox_mounts(around)).collect();
    list.retain(|mount| !covers(mount.destination()));
    list.extend(own);
    // Stable: two mounts at one depth, or even at one place, keep the order they were asked for in.
    list.sort_by_key(|mount| depth(mount.destination()));
    Ok(Mounts { list, root_propagation: root_propagation(wanted), sources: sources(wanted) })
}

fn depth(path: &Path) -> usize {
    path.components().count()
}

fn root_propagation(wanted: &[v1::Mount]) -> Option<&'static str> {
    let any = |kind: MountPropagation| wanted.iter().any(|mount| mount.propagation == kind as i32);
    if any(MountPropagation::PropagationBidirectional) {
        return Some("rshared");
    }
    any(MountPropagation::PropagationHostToContainer).then_some("rslave")
}

fn sources(wanted: &[v1::Mount]) -> Vec<PathBuf> {
    wanted.iter().map(|mount| PathBuf::from(&mount.host_path)).collect()
}

/// The file systems of every container, with the flags containerd and runc give them. In a privileged one
/// `/sys` and `/sys/fs/cgroup` can be written to.
fn kernel_mounts(privileged: bool) -> Vec<Mount> {
    let sys = if privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", sys]),
    ]
}

/// Files the sandbox keeps for all its containers; read-only where the root is.
fn sandbox_mounts(around: &Circumstances<'_>) -> Vec<Mount> {
    let sandbox = around.sandbox;
    let mode = if around.readonly_root { "ro" } else { "rw" };
    let files = [
        ("/etc/hostname", &sandbox.hostname_file),
        ("/etc/hosts", &sandbox.hosts_file),
        ("/etc/resolv.conf", &sandbox.resolv_conf),
    ];
    let files = files.into_iter().filter_map(|(target, source)| Some((target, source.as_deref()?, mode)));
    let shm = if around.node_ipc { Some(Path::new("/dev/shm")) } else { sandbox.shm.as_deref() };
    let shm = shm.map(|source| ("/dev/shm", source, "rw"));
    files.chain(shm).map(|(target, source, mode)| bind(target, source, &["rprivate", mode])).collect()
}

fn own_mount(wanted: &v1::Mount) -> Result<Mount, SpecError> {
    let bad = |reason| SpecError::Mount {
        source_path: wanted.host_path.clone(),
        target: wanted.container_path.clone(),
        reason,
    };
    let is_image = wanted.image.as_ref().is_some_and(|image| !image.image.is_empty());
    if is_image && wanted.host_path.is_empty() {
        return Err(SpecError::ImageMount(wanted.container_path.clone()));
    }
    if !wanted.uid_mappings.is_empty() || !wanted.gid_mappings.is_empty() {
        return Err(SpecError::UserNamespace { what: format!("the mount at {}", wanted.container_path) });
    }
    if !wanted.host_path.starts_with('/') {
        return Err(bad("the path on the host is not absolute"));
    }
    let target = clean(&wanted.container_path).ok_or_else(|| bad("the path in the container leaves its root"))?;
    if target == Path::new("/") {
        return Err(bad("nothing can be mounted over the root"));
    }
    if wanted.host_path.contains('\0') || wanted.container_path.contains('\0') {
        return Err(bad("a path holds a NUL byte"));
    }
    let mut options = vec![propagation(wanted)?];
    // What an image brings as a volume is data: never written, never run.
    match is_image {
        true => options.extend(["ro", "noexec"]),
        false => options.push(mode(wanted)?),
    }
    let mut made = bind("/", Path::new(&wanted.host_path), &options);
    made.set_destination(target);
    Ok(made)
}

/// An absolute path without `.` and empty components; a relative one counts from the root. `..` is refused.
fn clean(path: &str) -> Option<PathBuf> {
    let mut clean = PathBuf::from("/");
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}

fn propagation(wanted: &v1::Mount) -> Result<&'static str, SpecError> {
    match MountPropagation::try_from(wanted.propagation) {
        Ok(MountPropagation::PropagationPrivate) => Ok("rprivate"),
        Ok(MountPropagation::PropagationHostToContainer) => Ok("rslave"),
        Ok(MountPropagation::PropagationBidirectional) => Ok("rshared"),
        Err(_) => Err(SpecError::UnknownValue { field: "propagation", value: wanted.propagation }),
    }
}

/// Recursively read-only makes sense only for what is read-only and keeps to itself.
fn mode(wanted: &v1::Mount) -> Result<&'static str, SpecError> {
    let bad = |reason| SpecError::RecursiveReadOnly { target: wanted.container_path.clone(), reason };
    match (wanted.recursive_read_only, wanted.readonly) {
        (true, false) => Err(bad("the mount is not read-only")),
        (true, true) if wanted.propagation != MountPropagation::PropagationPrivate as i32 => {
            Err(bad("its propagation is not private"))
        }
        (true, true) => Ok("rro"),
        (false, true) => Ok("ro"),
        (false, false) => Ok("rw"),
    }
}

fn bind(target: &str, source: &Path, options: &[&str]) -> Mount {
    let mut all = vec!["rbind"];
    all.extend(options);
    let mut made = mount(target, "bind", "", &all);
    made.set_source(Some(source.to_path_buf()));
    made
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut made = Mount::default();
    made.set_destination(target.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn at(host: &str, container: &str) -> v1::Mount {
        v1::Mount { host_path: host.to_owned(), container_path: container.to_owned(), ..Default::default() }
    }

    fn check(wanted: &[v1::Mount], readonly_root: bool, expected: Expect) {
        let sandbox = SandboxFacts {
            resolv_conf: Some("/s/resolv.conf".into()),
            hostname_file: Some("/s/hostname".into()),
            shm: Some("/s/shm".into()),
            ..SandboxFacts::default()
        };
        let around = Circumstances { sandbox: &sandbox, privileged: false, readonly_root, node_ipc: false };
        let text = match mounts(wanted, &around) {
            Err(error) => format!("refused: {error}\n"),
            Ok(made) => {
                let lines = made.list.iter().map(|mount| {
                    let source = mount.source().as_deref().unwrap_or(Path::new("")).display();
                    let options = mount.options().as_deref().unwrap_or_default().join(",");
                    format!("{} <- {source} {options}\n", mount.destination().display())
                });
                lines.chain(made.root_propagation.map(|kind| format!("root: {kind}\n"))).collect()
            }
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn every_container_has_the_kernels_and_the_sandboxs() {
        check(
            &[],
            true,
            expect![[r#"
                /proc <- proc nosuid,noexec,nodev
                /dev <- tmpfs nosuid,strictatime,mode=755,size=65536k
                /sys <- sysfs nosuid,noexec,nodev,ro
                /dev/pts <- devpts nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5
                /dev/mqueue <- mqueue nosuid,noexec,nodev
                /etc/hostname <- /s/hostname rbind,rprivate,ro
                /etc/resolv.conf <- /s/resolv.conf rbind,rprivate,ro
                /dev/shm <- /s/shm rbind,rprivate,rw
                /sys/fs/cgroup <- cgroup nosuid,noexec,nodev,relatime,ro
            "#]],
        );
    }

    #[test]
    fn what_a_container_mounts_itself_takes_the_place_and_nested_ones_come_later() {
        check(
            &[
                at("/v/deep", "/data/x/y"),
                at("/v/dev", "/dev"),
                at("/v/data", "data/./"),
                at("/v/r", "/etc/resolv.conf"),
            ],
            false,
            expect![[r#"
                /proc <- proc nosuid,noexec,nodev
                /sys <- sysfs nosuid,noexec,nodev,ro
                /dev <- /v/dev rbind,rprivate,rw
                /data <- /v/data rbind,rprivate,rw
                /etc/hostname <- /s/hostname rbind,rprivate,rw
                /etc/resolv.conf <- /v/r rbind,rprivate,rw
                /sys/fs/cgroup <- cgroup nosuid,noexec,nodev,relatime,ro
                /data/x/y <- /v/deep rbind,rprivate,rw
            "#]],
        );
    }

    #[test]
    fn propagation_reaches_the_root() {
        let slave = v1::Mount { propagation: MountPropagation::PropagationHostToContainer as i32, ..at("/a", "/a") };
        let shared = v1::Mount { propagation: MountPropagation::PropagationBidirectional as i32, ..at("/b", "/b") };
        assert_eq!(root_propagation(&[at("/c", "/c")]), None);
        assert_eq!(root_propagation(std::slice::from_ref(&slave)), Some("rslave"));
        assert_eq!(root_propagation(&[slave, shared]), Some("rshared"));
    }

    #[test]
    fn recursively_read_only_needs_a_read_only_private_mount() {
        let ro = v1::Mount { readonly: true, recursive_read_only: true, ..at("/a", "/a") };
        assert_eq!(mode(&ro), Ok("rro"));
        assert!(mode(&v1::Mount { readonly: false, ..ro.clone() }).is_err());
        assert!(mode(&v1::Mount { propagation: 1, ..ro }).is_err());
    }

    #[test]
    fn a_mount_that_cannot_be_is_refused() {
        check(
            &[at("v", "/a")],
            false,
            expect![[r#"
            refused: mount of "v" at "/a": the path on the host is not absolute
        "#]],
        );
        check(
            &[at("/v", "/a/../../b")],
            false,
            expect![[r#"
            refused: mount of "/v" at "/a/../../b": the path in the container leaves its root
        "#]],
        );
        check(
            &[at("/v", "/")],
            false,
            expect![[r#"
            refused: mount of "/v" at "/": nothing can be mounted over the root
        "#]],
        );
        let image = v1::ImageSpec { image: "busybox".to_owned(), ..Default::default() };
        let mounted = v1::Mount { image: Some(image.clone()), ..at("/snapshot", "/a") };
        let options = own_mount(&mounted).unwrap().options().clone().unwrap_or_default();
        assert_eq!(options.join(","), "rbind,rprivate,ro,noexec", "even when it is not asked for");
        check(
            &[v1::Mount { image: Some(image), ..at("", "/a") }],
            false,
            expect![[r#"
            refused: the image to be mounted at /a was not prepared
        "#]],
        );
    }
}
