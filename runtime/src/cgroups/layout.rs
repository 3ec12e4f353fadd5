//! Which cgroup hierarchies this machine has, and where a group is in them.

use std::fs;
use std::path::{Path, PathBuf};

use super::{CgroupError, CgroupPath, Controllers};

/// Where the kernel's cgroup file systems are mounted by every distribution.
const ROOT: &str = "/sys/fs/cgroup";

/// How the machine's controllers are spread over cgroup v1 and v2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// Every controller in its own v1 hierarchy.
    V1,
    /// Controllers in v1, and a v2 hierarchy beside them that knows processes and pressure only.
    Hybrid,
    /// Everything in the one v2 hierarchy.
    V2,
}

/// One mounted v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where it is mounted.
    pub(super) mount_point: PathBuf,
    /// Its controllers, such as `cpu` and `cpuacct`; empty for a named hierarchy.
    pub(super) controllers: Vec<String>,
}

/// The machine's cgroups. Cheap to clone and to share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    pub(super) version: Version,
    /// v1 hierarchies in the order a process enters them; empty on v2.
    pub(super) v1: Vec<Hierarchy>,
    /// The v2 hierarchy of [`Version::Hybrid`] and [`Version::V2`].
    pub(super) unified: Option<PathBuf>,
    pub(super) controllers: Controllers,
}

/// A v1 hierarchy as a container sees it below its `/sys/fs/cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupBind {
    /// The container's group on the host.
    pub source: PathBuf,
    /// Where the hierarchy is mounted, on the host as in the container: `/sys/fs/cgroup/cpu,cpuacct`.
    pub target: PathBuf,
}

impl Cgroups {
    /// Looks at what is mounted on this machine.
    ///
    /// # Errors
    /// [`CgroupError::NoHierarchy`] where neither v1 controllers nor v2 are mounted below `/sys/fs/cgroup`.
    pub fn detect() -> Result<Self, CgroupError> {
        let mountinfo = "/proc/self/mountinfo";
        // Asked of the file system itself: mountinfo goes on listing v1 mounts that a v2 mount covers.
        let mut found = if cgroups_rs::fs::hierarchies::is_cgroup2_unified_mode() {
            Self::v2_at(PathBuf::from(ROOT))
        } else {
            let text = fs::read_to_string(mountinfo).map_err(CgroupError::io("reading", mountinfo))?;
            Self::from_mountinfo(&text)?
        };
        found.controllers = found.read_controllers()?;
        Ok(found)
    }

    /// v1, hybrid or v2.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What can be limited on this machine.
    pub fn controllers(&self) -> &Controllers {
        &self.controllers
    }

    /// The files a process is written to so that it enters the group everywhere.
    pub fn procs_files(&self, path: &CgroupPath) -> Vec<PathBuf> {
        self.directories(path).into_iter().map(|directory| directory.join("cgroup.procs")).collect()
    }

    /// The files by which a process with a single thread enters the group everywhere, writing `0` for itself.
    ///
    /// On v1 that is `tasks`: since Linux 5.11 a thread that moves itself needs no lock over all processes' threads,
    /// and so no RCU grace period, which costs 8 ms and more.
    pub fn entry_files(&self, path: &CgroupPath) -> Vec<PathBuf> {
        let v1 = self.v1.iter().map(|hierarchy| path.below(&hierarchy.mount_point).join("tasks"));
        let unified = self.unified.iter().map(|root| path.below(root).join("cgroup.procs"));
        v1.chain(unified).collect()
    }

    /// v1 hierarchies as a container in this group sees them; none on v2, where one file system shows everything.
    pub fn container_binds(&self, path: &CgroupPath) -> Vec<CgroupBind> {
        let bind = |hierarchy: &Hierarchy| CgroupBind {
            source: path.below(&hierarchy.mount_point),
            target: hierarchy.mount_point.clone(),
        };
        self.v1.iter().map(bind).collect()
    }

    /// The group's directory in every hierarchy.
    pub(super) fn directories(&self, path: &CgroupPath) -> Vec<PathBuf> {
        self.roots().map(|root| path.below(root)).collect()
    }

    /// The mount point of every hierarchy.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Path> {
        let v1 = self.v1.iter().map(|hierarchy| hierarchy.mount_point.as_path());
        v1.chain(self.unified.as_deref())
    }

    /// The group's directory where `controller` is, if this machine has it.
    pub(super) fn directory_of(&self, controller: &str, path: &CgroupPath) -> Option<PathBuf> {
        if self.version == Version::V2 {
            return self.unified.as_deref().map(|root| path.below(root));
        }
        let hierarchy = self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))?;
        Some(path.below(&hierarchy.mount_point))
    }

    pub(super) fn v2_at(root: PathBuf) -> Self {
        Self { version: Version::V2, v1: Vec::new(), unified: Some(root), controllers: Controllers::default() }
    }

    /// Decides from the text of `/proc/self/mountinfo`; `controllers` is still empty in the result.
    pub(super) fn from_mountinfo(text: &str) -> Result<Self, CgroupError> {
        let (mut v1, mut unified) = (Vec::<Hierarchy>::new(), None);
        for mount in text.lines().filter_map(parse_line) {
            match mount {
                // Only the first mount of a hierarchy counts: containers on this machine may show more of them.
                Mounted::V2(at) if unified.is_none() => unified = Some(at),
                Mounted::V1(hierarchy) if !v1.iter().any(|known| same_hierarchy(known, &hierarchy)) => {
                    v1.push(hierarchy)
                }
                _ => {}
            }
        }
        let has_controllers = v1.iter().any(|hierarchy| !hierarchy.controllers.is_empty());
        let version = match (has_controllers, &unified) {
            (true, None) => Version::V1,
            (true, Some(_)) => Version::Hybrid,
            (false, Some(_)) => Version::V2,
            (false, None) => return Err(CgroupError::NoHierarchy(format!("nothing is mounted below {ROOT}"))),
        };
        if version == Version::V2 {
            v1.clear();
        }
        Ok(Self { version, v1, unified, controllers: Controllers::default() })
    }

    fn read_controllers(&self) -> Result<Controllers, CgroupError> {
        let (mut names, hugetlb) = match (self.version, &self.unified) {
            (Version::V2, Some(root)) => {
                let file = root.join("cgroup.controllers");
                let text = fs::read_to_string(&file).map_err(CgroupError::io("reading", &file))?;
                (text.split_whitespace().map(str::to_owned).collect::<Vec<_>>(), Some(root.clone()))
            }
            _ => (self.v1_names(), self.v1_mount_of("hugetlb")),
        };
        names.sort();
        let hugepage_sizes = if hugetlb.is_some() { hugepage_sizes() } else { Vec::new() };
        Ok(Controllers { swap: self.counts_swap(), names, hugepage_sizes })
    }

    fn v1_names(&self) -> Vec<String> {
        self.v1.iter().flat_map(|hierarchy| hierarchy.controllers.iter().cloned()).collect()
    }

    fn v1_mount_of(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = self.v1.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))?;
        Some(hierarchy.mount_point.clone())
    }

    /// The root group of v2 has no memory files, so the kernel's own statement about swap accounting is taken there.
    fn counts_swap(&self) -> bool {
        match self.version {
            Version::V2 => !kernel_switched_off_swap(&fs::read_to_string("/proc/cmdline").unwrap_or_default()),
            _ => self.v1_mount_of("memory").is_some_and(|at| at.join("memory.memsw.limit_in_bytes").exists()),
        }
    }
}

fn kernel_switched_off_swap(command_line: &str) -> bool {
    command_line.split_whitespace().any(|word| word == "swapaccount=0")
}

/// `hugepages-2048kB` becomes `2MB`, as the controller's files and the kubelet spell it.
fn hugepage_sizes() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut sizes: Vec<String> = names.filter_map(|name| hugepage_size(&name)).collect();
    sizes.sort();
    sizes
}

fn hugepage_size(name: &str) -> Option<String> {
    let kilobytes: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kilobytes {
        kb if kb >= 1 << 20 => format!("{}GB", kb >> 20),
        kb if kb >= 1 << 10 => format!("{}MB", kb >> 10),
        kb => format!("{kb}KB"),
    })
}

enum Mounted {
    V1(Hierarchy),
    V2(PathBuf),
}

/// A line of mountinfo that is a whole cgroup hierarchy below [`ROOT`]; fields as in proc_pid_mountinfo(5).
fn parse_line(line: &str) -> Option<Mounted> {
    let (left, right) = line.split_once(" - ")?;
    let mount_point = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    let (fs_type, options) = (right.next()?, right.nth(1)?);
    // What is mounted elsewhere is a container's view. Our own may be one as well: then all is made below our group.
    if !Path::new(mount_point).starts_with(ROOT) {
        return None;
    }
    match fs_type {
        "cgroup2" => Some(Mounted::V2(PathBuf::from(mount_point))),
        "cgroup" => Some(Mounted::V1(Hierarchy { mount_point: mount_point.into(), controllers: controllers(options) })),
        _ => None,
    }
}

/// Super block options hold the controllers among flags such as `rw`, `clone_children` and `name=systemd`.
fn controllers(options: &str) -> Vec<String> {
    const KNOWN: [&str; 14] = [
        "blkio",
        "cpu",
        "cpuacct",
        "cpuset",
        "devices",
        "freezer",
        "hugetlb",
        "memory",
        "misc",
        "net_cls",
        "net_prio",
        "perf_event",
        "pids",
        "rdma",
    ];
    options.split(',').filter(|name| KNOWN.contains(name)).map(str::to_owned).collect()
}

/// Two mounts of one v1 hierarchy have the same controllers; named ones have the same last name.
fn same_hierarchy(one: &Hierarchy, other: &Hierarchy) -> bool {
    match one.controllers.is_empty() && other.controllers.is_empty() {
        true => one.mount_point.file_name() == other.mount_point.file_name(),
        false => one.controllers == other.controllers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(mountinfo: &str, expected: Expect) {
        let found = Cgroups::from_mountinfo(mountinfo);
        let text = match found {
            Err(error) => format!("refused: {error}\n"),
            Ok(found) => {
                let v1 = found.v1.iter().map(|h| format!("{} {}\n", h.mount_point.display(), h.controllers.join(" ")));
                let v2 = found.unified.iter().map(|at| format!("{} (v2)\n", at.display()));
                format!("{:?}\n{}", found.version, v1.chain(v2).collect::<String>())
            }
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn a_hybrid_machine_has_its_controllers_in_v1() {
        check(
            "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
             31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
             34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n",
            expect![[r#"
                Hybrid
                /sys/fs/cgroup/cpu,cpuacct cpu cpuacct
                /sys/fs/cgroup/memory memory
                /sys/fs/cgroup/systemd 
                /sys/fs/cgroup/unified (v2)
            "#]],
        );
    }

    #[test]
    fn another_containers_view_of_a_hierarchy_is_not_taken_for_it() {
        check(
            "31 30 0:27 /kubepods/pod1 /run/c/rootfs/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
             33 30 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            expect![[r#"
                V2
                /sys/fs/cgroup (v2)
            "#]],
        );
    }

    #[test]
    fn inside_a_container_its_own_group_is_the_root() {
        check(
            "31 30 0:27 /docker/1234 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            expect![[r#"
                V1
                /sys/fs/cgroup/memory memory
            "#]],
        );
    }

    #[test]
    fn a_machine_without_cgroups_is_refused() {
        check(
            "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n",
            expect![[r#"
                refused: no usable cgroup hierarchy: nothing is mounted below /sys/fs/cgroup
            "#]],
        );
    }

    proptest::proptest! {
        #[test]
        fn no_list_of_mounts_makes_it_panic(text in "([0-9/a-z ,:-]{0,60}( - )?(cgroup2?)?[ a-z,]{0,20}\n){0,4}") {
            let _ = Cgroups::from_mountinfo(&text);
        }
    }

    #[test]
    fn page_sizes_are_spelled_as_the_kubelet_does() {
        let sizes = ["hugepages-64kB", "hugepages-2048kB", "hugepages-1048576kB", "other"].map(hugepage_size);
        assert_eq!(sizes, [Some("64KB".into()), Some("2MB".into()), Some("1GB".into()), None]);
    }

    #[test]
    fn a_container_is_shown_its_own_group_of_each_hierarchy() {
        let text = "31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let binds = Cgroups::from_mountinfo(text).unwrap().container_binds(&CgroupPath::new("/kubepods/c").unwrap());
        let (source, target) = ("/sys/fs/cgroup/cpu,cpuacct/kubepods/c".into(), "/sys/fs/cgroup/cpu,cpuacct".into());
        assert_eq!(binds, [CgroupBind { source, target }]);
    }
}
