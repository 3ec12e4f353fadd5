//! A whole `longshore run` under test: its own network namespace, folders and cgroups, and an account of what is left.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// How often a condition is looked at again while it is waited for.
const LOOK: Duration = Duration::from_millis(25);

/// How full the machine is must change no test: only thresholds that a test sets itself count.
pub const NO_EVICTION: &str = "--eviction-hard=memory.available<0%";

/// One agent and everything it may touch. Dropping it ends the agent and removes what is left.
pub struct Agent {
    place: Place,
    child: Option<Child>,
    flags: Vec<String>,
}

/// Where an agent works: a network namespace with an address to the outside, folders, a cgroup.
pub struct Place {
    /// Short and unique on this machine.
    pub name: String,
    /// Everything on disk lies below it.
    pub dir: tempfile::TempDir,
}

impl Place {
    /// A fresh place. The network namespace has a default route, so that an agent finds a node address.
    ///
    /// # Errors
    /// Without root, or where namespaces cannot be made.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ls{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = tempfile::Builder::new().prefix("longshore-test-").tempdir()?;
        run(&["ip", "netns", "add", &name])?;
        let place = Self { name, dir };
        for line in [
            "link set lo up",
            "link add uplink type bridge",
            "address add 192.0.2.10/24 dev uplink",
            "link set uplink up",
            "route add default via 192.0.2.1",
        ] {
            let words = [&["ip", "-n", &place.name][..], &line.split(' ').collect::<Vec<_>>()].concat();
            run(&words)?;
        }
        Ok(place)
    }

    /// The cgroup below which this agent's pods are.
    pub fn cgroup(&self) -> String {
        format!("/longshore-test-{}", self.name)
    }

    /// A folder or file of this place.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A command that runs inside the network namespace. Mounts stay those of the machine.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.name)).arg("--").arg(program);
        command
    }

    /// What is left of an agent: processes, mounts, cgroups, links, rules, pods' folders. Empty when all is gone.
    pub fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let dir = self.dir.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        left.extend(mounts.lines().filter(|line| line.contains(&dir)).map(|line| format!("mount {line}")));
        left.extend(cgroups(&self.cgroup()).iter().map(|path| format!("cgroup {}", path.display())));
        left.extend(self.processes().iter().map(|(pid, line)| format!("process {pid} {line}")));
        left.extend(self.links().into_iter().map(|link| format!("link {link}")));
        left.extend(self.rules().into_iter().map(|rule| format!("rule {rule}")));
        for folder in ["root/kubelet/pods", "logs", "run/sandboxes"] {
            let entries = std::fs::read_dir(self.path(folder)).into_iter().flatten().flatten();
            left.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        left
    }

    /// Processes that work below this place: by command line, working folder, root or cgroup.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let dir = self.dir.path();
        let ours = |pid: &str| {
            let proc = Path::new("/proc").join(pid);
            // One that has ended and waits for the machine's init to be reaped is nobody's any more.
            let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
            if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')) {
                return false;
            }
            let link = |name: &str| std::fs::read_link(proc.join(name)).is_ok_and(|to| to.starts_with(dir));
            let text = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
            // A zombie is pid 1's to reap, and some are slow; nothing of it is left but its number.
            if text("stat").rsplit(')').next().is_some_and(|rest| rest.starts_with(" Z")) {
                return false;
            }
            link("cwd")
                || link("root")
                || text("cmdline").contains(&dir.display().to_string())
                || text("cgroup").contains(&self.cgroup())
        };
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| ours(name));
        pids.filter_map(|name| {
            let line = std::fs::read_to_string(format!("/proc/{name}/cmdline")).unwrap_or_default().replace('\0', " ");
            name.parse().ok().map(|pid| (pid, line))
        })
        .collect()
    }

    /// Links beside the ones the place began with.
    fn links(&self) -> Vec<String> {
        let output = self.command("ip").args(["-o", "link"]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        // The end of a veth is shown with its other end: uplink@if3.
        let names = text.lines().filter_map(|line| line.split([':', '@']).nth(1)).map(|name| name.trim().to_owned());
        names.filter(|name| name != "lo" && name != "uplink").collect()
    }

    /// Rules and chains beside the built-in ones.
    fn rules(&self) -> Vec<String> {
        ["iptables-save", "ip6tables-save"]
            .iter()
            .filter_map(|program| self.command(program).output().ok())
            .flat_map(|output| {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines()
                    .filter(|line| line.starts_with("-A") || (line.starts_with(':') && line.contains(" - [")))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    fn clear(&self) {
        for (pid, _) in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // Killed processes leave their cgroups and mounts a moment later.
        let gone = Instant::now() + Duration::from_secs(5);
        while !self.processes().is_empty() && Instant::now() < gone {
            thread::sleep(LOOK);
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let dir = self.dir.path().display().to_string();
        let targets =
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|target| target.starts_with(&dir));
        for target in targets.collect::<Vec<_>>().into_iter().rev() {
            let _ = nix::mount::umount2(target, nix::mount::MntFlags::MNT_DETACH);
        }
        for path in cgroups(&self.cgroup()).into_iter().rev() {
            let _ = std::fs::remove_dir(path);
        }
        let _ = run(&["ip", "netns", "del", &self.name]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clear();
    }
}

/// All cgroups at and below `name` in every hierarchy, parents first.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let roots = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (target, kind) = (fields.nth(1)?, fields.next()?);
        kind.starts_with("cgroup").then(|| Path::new(target).join(name.trim_start_matches('/')))
    });
    let mut found: Vec<PathBuf> = roots.filter(|path| path.is_dir()).collect();
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        next += 1;
    }
    found
}

/// Removes an empty cgroup, and its ancestors as far as they are empty too, from every hierarchy.
///
/// # Errors
/// When something is left in it.
pub fn remove_cgroup(name: &str) -> Result<()> {
    for path in cgroups(name) {
        std::fs::remove_dir(&path).with_context(|| format!("removing cgroup {}", path.display()))?;
        if let Some(parent) = path.parent().filter(|_| name.matches('/').count() > 1) {
            let _ = std::fs::remove_dir(parent);
        }
    }
    Ok(())
}

/// Removes an empty tree of cgroups from every hierarchy.
///
/// # Errors
/// When a process is left in it.
pub fn remove_cgroups(name: &str) -> Result<()> {
    for path in cgroups(name).into_iter().rev() {
        std::fs::remove_dir(&path).with_context(|| format!("removing cgroup {}", path.display()))?;
    }
    Ok(())
}

fn run(words: &[&str]) -> Result<()> {
    let output = Command::new(words[0]).args(&words[1..]).output().with_context(|| words.join(" "))?;
    ensure!(output.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A program that cargo built beside this test.
///
/// # Errors
/// When it is not there.
pub fn program(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    // Tests run from target/<profile>/deps, programs from target/<profile>.
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.exists());
    found.with_context(|| format!("no {name} beside {}: cargo build --workspace --bins", own.display()))
}

/// The packed busybox image.
///
/// # Errors
/// When it cannot be packed.
pub fn busybox() -> Result<PathBuf> {
    packed("busybox.tar", &[])
}

/// A busybox image with another name and command, packed as `file` where it is not there yet.
///
/// # Errors
/// When it cannot be packed.
pub fn packed(file: &str, name_and_command: &[&str]) -> Result<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let image = top.join("target/examples").join(file);
    if !image.exists() {
        let pack = top.join("tests/tools/pack-busybox").display().to_string();
        run(&[&[pack.as_str(), &image.display().to_string()], name_and_command].concat())?;
    }
    Ok(image)
}

impl Agent {
    /// Starts `longshore run` on the manifest folder of a fresh place, which begins with these files.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(manifests: &[(&str, &str)]) -> Result<Self> {
        Self::run_with(&[], manifests)
    }

    /// The same with further flags, here and after each restart.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_with(flags: &[&str], manifests: &[(&str, &str)]) -> Result<Self> {
        let mut agent = Self::prepared(manifests)?;
        agent.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        agent.start()?;
        Ok(agent)
    }

    /// The same, not yet started.
    ///
    /// # Errors
    /// When its place cannot be made.
    pub fn prepared(manifests: &[(&str, &str)]) -> Result<Self> {
        let agent = Self { place: Place::new()?, child: None, flags: Vec::new() };
        std::fs::create_dir(agent.place.path("manifests"))?;
        for (name, text) in manifests {
            agent.write(name, text)?;
        }
        Ok(agent)
    }

    /// One more flag for every start from now on.
    pub fn flag(&mut self, flag: String) {
        self.flags.push(flag);
    }

    /// Starts it again, after it was killed or stopped.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer within 20 s.
    pub fn start(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.place.path("agent.log"))?;
        let child = self
            .place
            .command(program("longshore")?)
            .args(self.arguments())
            .args(&self.flags)
            .env("PATH", self.search_path())
            .arg("--import")
            .arg(busybox()?)
            .arg(self.place.path("manifests"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting longshore run")?;
        self.child = Some(child);
        self.wait("the agent's socket", Duration::from_secs(20), |agent| Ok(agent.pods().is_ok().then_some(())))
    }

    /// Other flags from the next start on.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Programs in the place's own folder `bin` go before those of the machine.
    fn search_path(&self) -> String {
        let inherited = std::env::var("PATH").unwrap_or_default();
        format!("{}:{inherited}", self.place.path("bin").display())
    }

    /// The flags that keep this agent apart from every other.
    pub fn arguments(&self) -> Vec<String> {
        let path = |name: &str| self.place.path(name).display().to_string();
        [
            "run".into(),
            format!("--run-dir={}", path("run")),
            format!("--root-dir={}", path("root")),
            format!("--log-dir={}", path("logs")),
            format!("--cgroup-root={}", self.place.cgroup()),
            format!("--cri-socket={}", path("cri.sock")),
            "--node-name=test-node".into(),
            NO_EVICTION.into(),
        ]
        .into()
    }

    /// Where it works.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The agent's process; `nsenter` becomes it by exec.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    /// Puts a manifest into the watched folder, whole. `/tmp/longshore-examples` becomes a folder of this place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let text = text.replace("/tmp/longshore-examples", &self.place.path("host").display().to_string());
        let part = self.place.path("part");
        std::fs::write(&part, text)?;
        std::fs::create_dir_all(self.place.path("host"))?;
        Ok(std::fs::rename(part, self.place.path("manifests").join(name))?)
    }

    /// Takes a manifest away.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.place.path("manifests").join(name))?)
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.place.command(program("longshore")?);
        let run = format!("--run-dir={}", self.place.path("run").display());
        command.arg(run).args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    /// Runs `longshore …` against this agent.
    ///
    /// # Errors
    /// When it cannot be run; its exit code is the caller's to judge.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments)?.output().context("running longshore")
    }

    /// Begins to run `longshore …` and does not wait for it; what it prints is nobody's.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn begin(&self, arguments: &[&str]) -> Result<Child> {
        self.command(arguments)?.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("running longshore")
    }

    /// What `longshore …` prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn print(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "longshore {}: {said}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// All pods, as the API would list them.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn pods(&self) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.print(&["ps", "-o", "json"])?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// One pod, if it is there.
    ///
    /// # Errors
    /// When the agent does not answer.
    pub fn pod(&self, name: &str) -> Result<Option<Value>> {
        Ok(self.pods()?.into_iter().find(|pod| pod["metadata"]["name"] == name))
    }

    /// Looks until `look` finds something.
    ///
    /// # Errors
    /// After `within`, with all that is known of the pods; or when the agent has ended.
    pub fn wait<T>(
        &mut self,
        what: &str,
        within: Duration,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let by = Instant::now() + within;
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if let Some(ended) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("while waiting for {what} the agent ended: {ended}\n{}", self.log());
            }
            if Instant::now() > by {
                bail!("no {what} within {within:?}\n{}\n{}", self.account(), self.log());
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until the named pod is as `right` says.
    ///
    /// # Errors
    /// As [`Agent::wait`].
    pub fn wait_for_pod(&mut self, name: &str, within: Duration, right: impl Fn(&Value) -> bool) -> Result<Value> {
        self.wait(&format!("right state of pod {name}"), within, |agent| Ok(agent.pod(name)?.filter(|pod| right(pod))))
    }

    /// What the agent says of its pods, for a test's failure: the list, and each pod's timeline as far as there is room.
    fn account(&self) -> String {
        let mut told = self.print(&["ps"]).unwrap_or_else(|error| format!("{error:#}\n"));
        for pod in self.pods().unwrap_or_default().iter().take(8) {
            let part = |field: &str| pod["metadata"][field].as_str().unwrap_or_default();
            let name = format!("{}/{}", part("namespace"), part("name"));
            told.push_str(&self.print(&["explain", &name]).unwrap_or_else(|error| format!("{error:#}\n")));
        }
        told
    }

    /// What the agent printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("agent.log")).unwrap_or_default()
    }

    /// Sends the agent a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.pid().context("the agent does not run")?, signal)?)
    }

    /// Ctrl-C, and the agent's end.
    ///
    /// # Errors
    /// When it has not ended within `within`, or fails.
    pub fn interrupt(&mut self, within: Duration) -> Result<()> {
        self.signal(Signal::SIGINT)?;
        let status = self.ended(within)?;
        ensure!(status.success(), "the agent ended with {status}\n{}", self.log());
        Ok(())
    }

    /// Kills the agent without a word.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.ended(Duration::from_secs(10)).map(drop)
    }

    fn ended(&mut self, within: Duration) -> Result<std::process::ExitStatus> {
        let by = Instant::now() + within;
        let mut child = self.child.take().context("the agent does not run")?;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > by {
                self.child = Some(child);
                bail!("the agent did not end within {within:?}\n{}", self.log());
            }
            thread::sleep(LOOK);
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            #[expect(clippy::print_stderr, reason = "the test's own output is where one looks")]
            {
                eprintln!("--- the agent printed:\n{}", self.log());
            }
        }
    }
}
