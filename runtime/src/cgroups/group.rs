//! Making, limiting, emptying and removing groups.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::values::{MemoryNow, Write};
use super::{CgroupError, CgroupPath, Cgroups, DeviceRule, Resources, Version, devices, devices_v2};

/// Controllers that a group's children are given on v2, where the machine has them.
const DELEGATED: [&str; 7] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids"];

impl Cgroups {
    /// Makes the group and its ancestors where they are missing, and sets its limits. Fine to call twice.
    ///
    /// # Errors
    /// [`CgroupError`]: the file that could not be written, or a limit this machine cannot hold.
    pub fn create(&self, path: &CgroupPath, resources: &Resources) -> Result<(), CgroupError> {
        let writes = self.values(resources, MemoryNow::default())?;
        for root in self.roots() {
            self.make(root, path)?;
        }
        self.apply(path, &writes)
    }

    /// Makes a container's leaf with its limits and device rules; to be done before a process enters it.
    ///
    /// # Errors
    /// As for [`Cgroups::create`]. Without a way to enforce `rules` nothing may be started, so that is an error too.
    pub fn create_container(
        &self,
        path: &CgroupPath,
        resources: &Resources,
        rules: &[DeviceRule],
    ) -> Result<(), CgroupError> {
        self.create(path, resources)?;
        self.restrict_devices(path, rules)
    }

    /// Changes the limits that are set in `resources` and leaves the others.
    ///
    /// # Errors
    /// As for [`Cgroups::create`]; a group that does not exist is one.
    pub fn update(&self, path: &CgroupPath, resources: &Resources) -> Result<(), CgroupError> {
        let writes = self.values(resources, self.memory_now(path))?;
        self.apply(path, &writes)
    }

    /// Is there such a group in any hierarchy?
    pub fn exists(&self, path: &CgroupPath) -> bool {
        self.directories(path).iter().any(|directory| directory.is_dir())
    }

    /// Processes in the group and below, in any hierarchy, without repetition. A group that is gone has none.
    ///
    /// # Errors
    /// [`CgroupError::Io`] for a file that cannot be read for another reason.
    pub fn pids(&self, path: &CgroupPath) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        for directory in self.directories(path) {
            pids_below(&directory, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Stops every process in the group and below from running, or lets them run again.
    ///
    /// # Errors
    /// [`CgroupError::NoController`] where neither a v2 hierarchy nor the freezer is there.
    pub fn freeze(&self, path: &CgroupPath, frozen: bool) -> Result<(), CgroupError> {
        if let Some(root) = &self.unified {
            return put(&path.below(root).join("cgroup.freeze"), if frozen { "1" } else { "0" });
        }
        let what = || "freezing".to_owned();
        let missing = || CgroupError::NoController { what: what(), controller: "freezer" };
        let directory = self.directory_of("freezer", path).ok_or_else(missing)?;
        put(&directory.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
    }

    /// Has every process in the group and below come to rest since it was asked to freeze?
    pub fn is_frozen(&self, path: &CgroupPath) -> bool {
        if let Some(root) = &self.unified {
            let text = fs::read_to_string(path.below(root).join("cgroup.events")).unwrap_or_default();
            return super::stats::keyed(&text, "frozen") == Some(1);
        }
        let file = self.directory_of("freezer", path).map(|directory| directory.join("freezer.state"));
        file.and_then(|file| fs::read_to_string(file).ok()).is_some_and(|text| text.trim() == "FROZEN")
    }

    /// Sends SIGKILL to every process in the group and below. Returns how many there were; they may still be ending.
    ///
    /// # Errors
    /// As for [`Cgroups::pids`].
    pub fn kill(&self, path: &CgroupPath) -> Result<usize, CgroupError> {
        // One write that no fork escapes (v2, kernel 5.14 and newer); the loop below is for v1 and older kernels.
        if let Some(root) = &self.unified {
            let _ = put(&path.below(root).join("cgroup.kill"), "1");
        }
        let pids = self.pids(path)?;
        for pid in &pids {
            // ESRCH is what is wanted; anything else shows as a process that is still there.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if !pids.is_empty() && self.unified.is_none() {
            // A frozen process of v1 dies only when it is thawed.
            let _ = self.freeze(path, false);
        }
        Ok(pids.len())
    }

    /// Kills what is left in the group and removes it with everything below. Fine to call twice, also after a crash
    /// in the middle. Blocks until the processes are gone, at most for `patience`.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] when the time is over.
    pub fn remove(&self, path: &CgroupPath, patience: Duration) -> Result<(), CgroupError> {
        let begun = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            let directories = self.directories(path);
            let left = directories.iter().filter(|directory| !remove_tree(directory).unwrap_or(false)).count();
            if left == 0 {
                return Ok(());
            }
            let pids = self.kill(path)?;
            let waited = begun.elapsed();
            if waited >= patience {
                return Err(CgroupError::Busy { path: path.to_string(), left: pids, waited_ms: waited.as_millis() });
            }
            std::thread::sleep(pause.min(patience - waited));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// How many processes of the group (and below) the kernel has killed for memory since it was made.
    /// 0 where there is no memory controller, or no group any more.
    pub fn oom_kills(&self, path: &CgroupPath) -> u64 {
        let file = if self.version == Version::V2 { "memory.events" } else { "memory.oom_control" };
        let Some(directory) = self.directory_of("memory", path) else { return 0 };
        let text = fs::read_to_string(directory.join(file)).unwrap_or_default();
        super::stats::keyed(&text, "oom_kill").unwrap_or(0)
    }

    /// Lets the processes of a group use the devices that `rules` name. Fine to call twice: on v2 both lists must
    /// then agree.
    ///
    /// # Errors
    /// [`CgroupError`]: no way to enforce the rules, or the kernel refused them. Nothing may be started then.
    pub fn restrict_devices(&self, path: &CgroupPath, rules: &[DeviceRule]) -> Result<(), CgroupError> {
        if let Some(directory) = self.directory_of("devices", path).filter(|_| self.version != Version::V2) {
            return devices::v1_lines(rules).iter().try_for_each(|(file, line)| put(&directory.join(file), line));
        }
        let Some(root) = &self.unified else {
            return Err(CgroupError::NoController { what: "the device rules".to_owned(), controller: "devices" });
        };
        devices_v2::attach(&path.below(root), rules)
    }

    fn memory_now(&self, path: &CgroupPath) -> MemoryNow {
        let file = self.directory_of("memory", path).map(|directory| directory.join("memory.memsw.limit_in_bytes"));
        let text = file.and_then(|file| fs::read_to_string(file).ok());
        MemoryNow { memory_and_swap: text.and_then(|text| text.trim().parse().ok()) }
    }

    /// Makes one group in one hierarchy; only where its parent is missing are the ancestors looked at.
    fn make(&self, root: &Path, path: &CgroupPath) -> Result<(), CgroupError> {
        let directory = path.below(root);
        let made = match fs::create_dir(&directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                path.with_ancestors().try_for_each(|ancestor| make_level(root, &root.join(&ancestor[1..])))
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(CgroupError::io("making", &directory)),
        };
        made?;
        match self.version {
            Version::V2 => self.delegate(root, &directory),
            _ if self.is_cpuset(root) => inherit_cpuset(root, &directory),
            _ => Ok(()),
        }
    }

    fn is_cpuset(&self, root: &Path) -> bool {
        self.v1.iter().any(|h| h.mount_point == root && h.controllers.iter().any(|name| name == "cpuset"))
    }

    /// On v2 a group has a controller's files only if every ancestor hands the controller down.
    fn delegate(&self, root: &Path, directory: &Path) -> Result<(), CgroupError> {
        let Some(parent) = directory.parent() else { return Ok(()) };
        let wanted: Vec<&str> = DELEGATED.into_iter().filter(|name| self.controllers.has(name)).collect();
        if missing(parent, &wanted)?.is_empty() {
            return Ok(());
        }
        let below = parent.strip_prefix(root).unwrap_or(Path::new(""));
        let mut level = root.to_path_buf();
        hand_down(&level, &wanted)?;
        below.components().try_for_each(|component| {
            level.push(component);
            hand_down(&level, &wanted)
        })
    }

    fn apply(&self, path: &CgroupPath, writes: &[Write]) -> Result<(), CgroupError> {
        // A period can be refused while the old quota stands (and the other way round): such a write gets a second try.
        let mut again = Vec::new();
        for write in writes {
            match self.put_value(path, write) {
                Err(CgroupError::Io { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => again.push(write),
                other => other?,
            }
        }
        again.into_iter().try_for_each(|write| self.put_value(path, write))
    }

    fn put_value(&self, path: &CgroupPath, write: &Write) -> Result<(), CgroupError> {
        let missing = || CgroupError::NoController { what: write.file.clone(), controller: write.controller };
        let directory = self.directory_of(write.controller, path).ok_or_else(missing)?;
        put(&directory.join(&write.file), &write.value)
    }
}

/// Makes one directory, and on an old kernel makes v1 memory limits count for what is below.
fn make_level(root: &Path, directory: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        other => other.map_err(CgroupError::io("making", directory))?,
    }
    // Before Linux 5.11 a group of the first level counted alone; deeper ones inherit what it says.
    let switch = directory.join("memory.use_hierarchy");
    if directory.parent() == Some(root) && fs::read_to_string(&switch).is_ok_and(|text| text.trim() == "0") {
        put(&switch, "1")?;
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process: what the parent has is copied down, from as high as needed.
fn inherit_cpuset(root: &Path, directory: &Path) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if directory != root && !has_text(&directory.join(file))? {
            let parent = directory.parent().unwrap_or(root);
            inherit_cpuset(root, parent)?;
            let value = read(&parent.join(file))?;
            put(&directory.join(file), value.trim())?;
        }
    }
    Ok(())
}

fn has_text(file: &Path) -> Result<bool, CgroupError> {
    Ok(!read(file)?.trim().is_empty())
}

fn read(file: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(file).map_err(CgroupError::io("reading", file))
}

fn missing<'a>(directory: &Path, wanted: &[&'a str]) -> Result<Vec<&'a str>, CgroupError> {
    let have = read(&directory.join("cgroup.subtree_control"))?;
    let lacks = |name: &&&str| !have.split_whitespace().any(|word| word == **name);
    Ok(wanted.iter().filter(lacks).copied().collect())
}

/// All at once is one write; singly, so that the error names the controller the kernel does not give.
fn hand_down(directory: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let missing = missing(directory, wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    let file = directory.join("cgroup.subtree_control");
    let all: Vec<String> = missing.iter().map(|name| format!("+{name}")).collect();
    if put(&file, &all.join(" ")).is_ok() {
        return Ok(());
    }
    all.iter().try_for_each(|name| put(&file, name))
}

/// One write to an existing file, as the kernel's cgroup files want it.
pub(super) fn put(file: &Path, value: &str) -> Result<(), CgroupError> {
    let result = OpenOptions::new().write(true).open(file).and_then(|mut open| open.write_all(value.as_bytes()));
    result.map_err(CgroupError::io(format!("writing {value:?} to"), file))
}

/// Bounded by the tree a container can make itself: it cannot make groups where it has no write access.
fn pids_below(directory: &Path, pids: &mut Vec<i32>) -> Result<(), CgroupError> {
    let file = directory.join("cgroup.procs");
    match fs::read_to_string(&file) {
        // ENODEV: the group was removed while its file was open.
        Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(());
        }
        other => {
            let text = other.map_err(CgroupError::io("reading", &file))?;
            pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
        }
    }
    children(directory).iter().try_for_each(|child| pids_below(child, pids))
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.map(|entry| entry.path()).collect()
}

/// True once nothing is left. A leaf goes with one call; only a group with others below is walked.
fn remove_tree(directory: &Path) -> io::Result<bool> {
    if remove_one(directory)? {
        return Ok(true);
    }
    for child in children(directory) {
        remove_tree(&child)?;
    }
    remove_one(directory)
}

fn remove_one(directory: &Path) -> io::Result<bool> {
    match fs::remove_dir(directory) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(false),
        Err(error) => Err(error),
    }
}
