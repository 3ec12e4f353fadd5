//! Can this machine run pods at all? Asked before anything is changed.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

/// A program that only lists something answers at once, or never.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// We are root.
    pub root: bool,
    /// `overlay` is a file system of this kernel, or can be loaded.
    pub overlayfs: bool,
    /// Controllers that pods are limited with and that are there.
    pub controllers: Vec<String>,
    /// Why the nat table cannot be used, if it cannot; `None` when it can.
    pub nat: Option<String>,
}

/// Controllers without which limits and statistics would be lies.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];

/// Something that must be there and is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {help}")]
pub struct Problem {
    /// What is missing.
    pub what: String,
    /// How to get it.
    pub help: String,
}

/// What keeps pods from running here; empty when nothing does.
pub fn problems(facts: &Facts) -> Vec<Problem> {
    let mut out = Vec::new();
    let mut say = |what: &str, help: &str| out.push(Problem { what: what.to_owned(), help: help.to_owned() });
    if !facts.root {
        say("not running as root", "run it as root or through sudo; namespaces, mounts and cgroups need it");
        // Everything else was looked at with too few rights to be believed.
        return out;
    }
    if !facts.overlayfs {
        say("the kernel has no overlayfs", "load it with `modprobe overlay`, or use a kernel with CONFIG_OVERLAY_FS");
    }
    for controller in NEEDED.iter().filter(|name| !facts.controllers.iter().any(|have| have == *name)) {
        let help = match *controller {
            "memory" => "boot with `cgroup_enable=memory`, and see that /sys/fs/cgroup is mounted",
            _ => "see that /sys/fs/cgroup is mounted and that the kernel was built with this controller",
        };
        say(&format!("the cgroup controller {controller:?} is missing"), help);
    }
    if let Some(why) = &facts.nat {
        say(
            &format!("the nat table cannot be used ({why})"),
            "install the package `iptables` and load the kernel's support with `modprobe iptable_nat` or `modprobe nft_chain_nat`",
        );
    }
    out
}

impl Facts {
    /// Looks at the machine; changes nothing, but for kernel modules that looking may load. Blocks for as long as the
    /// programs take that it asks: meant for the start.
    pub fn probe() -> Self {
        // Without the rights to look, what is seen says nothing.
        let root = geteuid().is_root();
        Self { root, overlayfs: overlayfs(), controllers: controllers(), nat: if root { nat() } else { None } }
    }
}

/// Whether memory may be written to a disk.
pub fn has_swap() -> bool {
    // The first line is a heading.
    fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() > 1)
}

fn overlayfs() -> bool {
    let listed = || {
        let text = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        text.lines().any(|line| line.split_whitespace().last() == Some("overlay"))
    };
    if listed() {
        return true;
    }
    // Where there is no modprobe there are no modules either.
    let _ = run("modprobe", &["overlay"]);
    listed()
}

fn controllers() -> Vec<String> {
    let unified = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let mut found: Vec<_> = unified.split_whitespace().map(str::to_owned).collect();
    let unified = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    found.extend(unified.split_whitespace().map(str::to_owned));
    let mounted = |name: &str| Path::new("/sys/fs/cgroup").join(name).join("cgroup.procs").exists();
    found.extend(NEEDED.iter().filter(|name| mounted(name)).map(|name| (*name).to_owned()));
    found
}

fn nat() -> Option<String> {
    run("iptables", &["-w", "5", "-t", "nat", "-S", "POSTROUTING"]).err()
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("running {program}: {error}"))?;
    let begun = Instant::now();
    while child.try_wait().map_err(|error| format!("waiting for {program}: {error}"))?.is_none() {
        if begun.elapsed() > PATIENCE {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{program} does not answer"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let status = child.wait().map_err(|error| format!("waiting for {program}: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    let _ = child.stderr.take().map(|stderr| stderr.take(4_096).read_to_string(&mut text));
    Err(text.lines().next().unwrap_or("it failed").chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn good() -> Facts {
        let controllers = NEEDED.iter().map(|name| (*name).to_owned()).collect();
        Facts { root: true, overlayfs: true, controllers, nat: None }
    }

    #[test]
    fn a_good_machine_has_no_problems() {
        assert!(problems(&good()).is_empty());
    }

    #[test]
    fn everything_that_is_missing_is_named_with_the_way_to_get_it() {
        let facts = Facts {
            overlayfs: false,
            controllers: vec!["cpu".into(), "pids".into()],
            nat: Some("no such table".into()),
            ..good()
        };
        let text: String = problems(&facts).iter().map(|problem| format!("{problem}\n")).collect();
        expect![[r#"
            the kernel has no overlayfs: load it with `modprobe overlay`, or use a kernel with CONFIG_OVERLAY_FS
            the cgroup controller "memory" is missing: boot with `cgroup_enable=memory`, and see that /sys/fs/cgroup is mounted
            the nat table cannot be used (no such table): install the package `iptables` and load the kernel's support with `modprobe iptable_nat` or `modprobe nft_chain_nat`
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn without_root_nothing_else_is_said() {
        assert_eq!(problems(&Facts { root: false, overlayfs: false, ..good() }).len(), 1);
    }
}
