//! The AppArmor profile that stands for RuntimeDefault: one that is loaded already, or our own.
//!
//! It is looked for (and, once per boot, loaded) when the host's facts are read, never on a pod's way.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Name of the profile in `apparmor.profile`.
const OURS: &str = "longshore-default";

const TEXT: &str = include_str!("apparmor.profile");

/// Profiles that confine in the same way: what containerd, Docker and CRI-O load.
const OTHERS: [&str; 3] = ["cri-containerd.apparmor.d", "docker-default", "crio-default"];

const PARSERS: [&str; 2] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"];

/// Compiling takes a tenth of a second; a machine under load gets a hundred times that.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why our profile could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error("apparmor_parser is not installed (package apparmor)")]
    NoParser,
    #[error("running apparmor_parser")]
    Run(#[source] io::Error),
    #[error("apparmor_parser did not end within {} s", PATIENCE.as_secs())]
    TimedOut,
    #[error("apparmor_parser refused the profile: {0}")]
    Refused(String),
}

/// Does the kernel enforce profiles?
pub(super) fn is_active() -> bool {
    fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// The default profile's name; ours is loaded where it is missing. Another runtime's does where that fails.
///
/// # Errors
/// [`LoadError`] where there is none at all.
pub(super) fn ensure_default() -> Result<String, LoadError> {
    let loaded = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    if enforced(&loaded, OURS) {
        return Ok(OURS.to_owned());
    }
    match load() {
        Ok(()) => Ok(OURS.to_owned()),
        Err(error) => {
            let other = OTHERS.into_iter().find(|name| enforced(&loaded, name));
            other.map(str::to_owned).ok_or(error)
        }
    }
}

/// Lines of `name (mode)`.
fn enforced(loaded: &str, name: &str) -> bool {
    loaded.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(" (enforce")))
}

fn load() -> Result<(), LoadError> {
    let parser = PARSERS.into_iter().find(|path| Path::new(path).exists()).ok_or(LoadError::NoParser)?;
    let mut command = Command::new(parser);
    // Without its cache, which is the distribution's; replacing, because another agent may have been faster.
    command.args(["--skip-cache", "--replace", "--quiet"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(LoadError::Run)?;
    // Smaller than a pipe's buffer, so this cannot block; a parser that has ended already says why below.
    let _ = child.stdin.take().map(|mut input| input.write_all(TEXT.as_bytes()));
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().map_err(LoadError::Run)?.is_none() {
        if Instant::now() >= deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(LoadError::TimedOut);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    outcome(child)
}

fn outcome(mut child: Child) -> Result<(), LoadError> {
    let status = child.wait().map_err(LoadError::Run)?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _ = child.stderr.take().map(|errors| errors.take(4096).read_to_string(&mut said));
    Err(LoadError::Refused(said.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_counts_only_where_it_is_enforced() {
        let loaded = "longshore-default-x (enforce)\ndocker-default (complain)\ncrio-default (enforce)\n";
        assert!(!enforced(loaded, OURS));
        assert!(!enforced(loaded, "docker-default"));
        assert!(enforced(loaded, "crio-default"));
    }

    #[test]
    fn the_profile_has_the_name_it_is_asked_for_by_and_fits_a_pipe() {
        assert!(TEXT.contains(&format!("\nprofile {OURS} ")));
        assert!(TEXT.len() < 16 * 1024);
    }
}
