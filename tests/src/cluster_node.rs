//! A `longshore agent` under test: a node of a control plane, in a network namespace, folders and a cgroup of its own.

use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::agent::{NO_EVICTION, Place, busybox, program};
use crate::control_plane::ControlPlane;

/// How often a condition is looked at again while it is waited for.
const LOOK: Duration = Duration::from_millis(50);

/// One node. Dropping it ends the agent and everything that it started.
pub struct ClusterNode {
    place: Place,
    /// The Node's name.
    pub name: String,
    /// `agent`, or `join` with what comes before the agent's own flags.
    words: Vec<String>,
    flags: Vec<String>,
    child: Option<Child>,
}

impl ClusterNode {
    /// Starts the agent as `n<last>` with the address 192.0.2.`last` and the credentials of that node.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(plane: &ControlPlane, last: u8, flags: &[&str]) -> Result<Self> {
        let mut node = Self::with_credentials(plane, last, flags)?;
        node.begin()?;
        Ok(node)
    }

    /// The same, not started yet.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn with_credentials(plane: &ControlPlane, last: u8, flags: &[&str]) -> Result<Self> {
        let user = format!("system:node:n{last}");
        let kubeconfig = plane.kubeconfig(&format!("n{last}.conf"), &user, Some("system:nodes"))?;
        let mut node = Self::prepared(plane, last, flags)?;
        let (certificate, key) = plane.serving_certificate(&node.name, &format!("192.0.2.{last}"))?;
        let ca = plane.path("ca.crt");
        let files = [
            ("kubeconfig", kubeconfig),
            ("tls-cert-file", certificate),
            ("tls-private-key-file", key),
            ("client-ca-file", ca),
        ];
        node.flags.extend(files.iter().map(|(flag, path)| format!("--{flag}={}", path.display())));
        Ok(node)
    }

    /// A node that has nothing but a bootstrap token; not started yet.
    ///
    /// # Errors
    /// When its files cannot be written.
    pub fn with_token(plane: &ControlPlane, last: u8, token: &str) -> Result<Self> {
        let mut node = Self::prepared(plane, last, &[])?;
        let path = |name: &str| node.place.path(name).display().to_string();
        std::fs::write(path("bootstrap.conf"), plane.bootstrap_kubeconfig(token).to_string())?;
        let own = [("bootstrap-kubeconfig", "bootstrap.conf"), ("kubeconfig", "kubelet.conf")];
        let flags: Vec<_> = own.iter().map(|(flag, name)| format!("--{flag}={}", path(name))).collect();
        node.flags.extend(flags);
        Ok(node)
    }

    /// A machine that joins with `longshore join`, given these words; not started yet. What the kubelet has in `/etc` and
    /// `/var/lib` is in the folder `host` of its place.
    ///
    /// # Errors
    /// When its place cannot be made.
    pub fn joining(plane: &ControlPlane, last: u8, words: &[&str]) -> Result<Self> {
        let mut node = Self::prepared(plane, last, &[])?;
        node.flags.clear();
        let prefix = format!("--prefix={}", node.host("").display());
        let name = format!("--node-name={}", node.name);
        let own = ["join", "--foreground", prefix.as_str()];
        node.words = own.iter().chain(words).map(|word| (*word).to_owned()).collect();
        if !words.iter().any(|word| word.starts_with("--node-name=")) {
            node.words.push(name);
        }
        Ok(node)
    }

    /// The same machine, with more words.
    #[must_use]
    pub fn again(mut self, words: &[&str]) -> Self {
        self.words.retain(|word| {
            !words.iter().any(|new| new.split_once('=').is_some_and(|(flag, _)| word.starts_with(flag)))
        });
        self.words.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// One more flag of the agent.
    pub fn add_flag(&mut self, flag: &str) {
        self.flags.push(flag.to_owned());
    }

    /// A file of a machine that joined.
    pub fn host(&self, path: &str) -> std::path::PathBuf {
        self.place.path("host").join(path)
    }

    /// From now on the agent is started by itself, as the unit of a machine that joined starts it.
    pub fn has_joined(&mut self) {
        self.words = vec!["agent".to_owned()];
        let file = |flag: &str, path: &str| format!("--{flag}={}", self.host(path).display());
        self.flags = vec![
            format!("--hostname-override={}", self.name),
            file("kubeconfig", "etc/kubernetes/kubelet.conf"),
            file("bootstrap-kubeconfig", "etc/kubernetes/bootstrap-kubelet.conf"),
            file("config", "var/lib/kubelet/config.yaml"),
            file("cert-dir", "var/lib/kubelet/pki"),
        ];
    }

    fn prepared(plane: &ControlPlane, last: u8, flags: &[&str]) -> Result<Self> {
        let place = Place::new()?;
        plane.attach(&place, last)?;
        let name = format!("n{last}");
        let mut all =
            vec![format!("--hostname-override={name}"), format!("--cert-dir={}", place.path("pki").display())];
        all.extend(flags.iter().map(|flag| (*flag).to_owned()));
        Ok(Self { place, name, words: vec!["agent".to_owned()], flags: all, child: None })
    }

    /// Starts the agent for the first time and gives it the test's image.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer.
    pub fn begin(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait("agent's socket", |node| Ok(node.cli(&["ps"])?.status.success().then_some(())))?;
        self.print(&["import", &busybox()?.display().to_string()]).map(drop)
    }

    /// Starts the agent again, after it was killed or stopped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.place.path("agent.log"))?;
        let path = |name: &str| self.place.path(name).display().to_string();
        let child = self
            .place
            .command(program("longshore")?)
            .arg(format!("--run-dir={}", path("run")))
            .args(&self.words)
            .args((self.words[0] == "join").then_some("--"))
            .arg(format!("--root-dir={}", path("root")))
            .arg(format!("--pod-logs-dir={}", path("logs")))
            .arg(format!("--cgroup-root={}", self.place.cgroup()))
            .args([NO_EVICTION, "--image-gc-high-threshold=100"])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting longshore agent")?;
        self.child = Some(child);
        Ok(())
    }

    /// The agent's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts it again and waits until it answers: it has taken over what it found.
    ///
    /// # Errors
    /// When it cannot be started, or does not answer.
    pub fn come_back(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait("agent's socket", |node| Ok(node.cli(&["ps"])?.status.success().then_some(())))
    }

    /// Where it works.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Runs `longshore …` against this agent.
    ///
    /// # Errors
    /// When it cannot be run; its exit code is the caller's to judge.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command: Command = self.place.command(program("longshore")?);
        let run = format!("--run-dir={}", self.place.path("run").display());
        command.arg(run).args(arguments).stdin(Stdio::null()).output().context("running longshore")
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

    /// Looks until `look` finds something.
    ///
    /// # Errors
    /// After two minutes, or when the agent has ended.
    pub fn wait<T>(&mut self, what: &str, mut look: impl FnMut(&Self) -> Result<Option<T>>) -> Result<T> {
        let by = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            if let Some(ended) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("while waiting for {what} the agent ended: {ended}\n{}", self.log());
            }
            if Instant::now() > by {
                bail!("no {what}\n{}", self.log());
            }
            thread::sleep(LOOK);
        }
    }

    /// Waits until the API server shows the pod `default/name` as `right` says.
    ///
    /// # Errors
    /// As [`ClusterNode::wait`], with what it shows instead.
    pub fn wait_for_pod(&mut self, plane: &ControlPlane, name: &str, right: impl Fn(&Value) -> bool) -> Result<Value> {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let seen = std::cell::RefCell::new(None);
        let found = self.wait(&format!("right state of pod {name}"), |_| {
            let pod = plane.get(&path)?;
            seen.replace(pod.clone());
            Ok(pod.filter(|pod| right(pod)))
        });
        let seen = seen.into_inner().map(|pod| pod["status"].to_string()).unwrap_or_default();
        found.with_context(|| format!("the API server shows: {seen}"))
    }

    /// Kills the agent without a word.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the agent does not run")?;
        child.kill()?;
        child.wait().map(drop).context("waiting for its end")
    }

    /// Waits for the agent's own end.
    ///
    /// # Errors
    /// When it does not end within a minute.
    pub fn ended(&mut self) -> Result<std::process::ExitStatus> {
        let mut child = self.child.take().context("the agent does not run")?;
        let by = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > by {
                self.child = Some(child);
                bail!("the agent did not end\n{}", self.log());
            }
            thread::sleep(LOOK);
        }
    }

    /// Sends SIGTERM and waits for a clean end.
    ///
    /// # Errors
    /// When it does not end within a minute, or fails.
    pub fn terminate(&mut self) -> Result<()> {
        let pid = self.child.as_ref().context("the agent does not run")?.id();
        kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        let status = self.ended()?;
        ensure!(status.success(), "the agent ended with {status}\n{}", self.log());
        Ok(())
    }

    /// What the agent printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.place.path("agent.log")).unwrap_or_default()
    }
}

impl Drop for ClusterNode {
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
