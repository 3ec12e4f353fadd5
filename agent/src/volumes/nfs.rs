//! NFS shares, mounted by the machine's own `mount.nfs`: it negotiates versions and finds servers, the kernel does not.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::SetUpError;
use super::error::io;

/// Its directory in a pod's `volumes`.
pub(super) const PLUGIN: &str = "kubernetes.io~nfs";

/// A share of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub server: String,
    pub path: String,
    /// As in `-o`.
    pub options: Vec<String>,
}

/// `mount.nfs` tries a silent server for minutes; whoever waits for the volume gives up at 123 s.
const LIMIT: Duration = Duration::from_secs(90);
/// More than any message of it.
const OUTPUT_MAX: u64 = 4_096;
const LOOK: Duration = Duration::from_millis(10);
/// Where Debian and others put it, whatever our PATH is.
const USUAL: [&str; 3] = ["/sbin", "/usr/sbin", "/usr/local/sbin"];

impl Share {
    /// `server:path`, an IPv6 address in brackets.
    fn source(&self) -> String {
        let bare = self.server.contains(':') && !self.server.starts_with('[');
        if bare { format!("[{}]:{}", self.server, self.path) } else { format!("{}:{}", self.server, self.path) }
    }

    /// What `mount.nfs` is called with.
    fn arguments(&self, target: &Path) -> Vec<String> {
        let mut arguments = vec![self.source(), target.display().to_string()];
        if !self.options.is_empty() {
            arguments.extend(["-o".to_owned(), self.options.join(",")]);
        }
        arguments
    }

    /// Mounts it on `target`.
    pub(super) fn mount(&self, target: &Path) -> Result<(), SetUpError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = std::env::split_paths(&path).chain(USUAL.map(PathBuf::from)).collect();
        let program = find(&folders).ok_or_else(|| {
            SetUpError::Unsupported(format!(
                "mounting {} needs the program mount.nfs, which this machine does not have: install the package \
                 nfs-common (Debian) or nfs-utils",
                self.source()
            ))
        })?;
        run(&program, &self.arguments(target), LIMIT)
    }
}

fn find(folders: &[PathBuf]) -> Option<PathBuf> {
    let usable =
        |path: &PathBuf| path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    folders.iter().filter(|folder| folder.is_absolute()).map(|folder| folder.join("mount.nfs")).find(usable)
}

/// Runs it with a deadline. What it says goes to a file that has no name: a pipe could be held open by what it leaves
/// behind.
fn run(program: &Path, arguments: &[String], limit: Duration) -> Result<(), SetUpError> {
    let said = unnamed().map_err(io("keeping what is said by", program))?;
    let copy = || said.try_clone().map_err(io("keeping what is said by", program));
    let (out, err) = (copy()?, copy()?);
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .map_err(io("starting", program))?;
    let by = Instant::now() + limit;
    // The kubelet's text, on one line.
    let failed = |status: String| {
        SetUpError::Helper(format!(
            "{status}; Mounting command: {}; Mounting arguments: {}; Output: {}",
            program.display(),
            arguments.join(" "),
            output(&said)
        ))
    };
    loop {
        match child.try_wait().map_err(io("waiting for", program))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(failed(status.to_string())),
            None if Instant::now() >= by => {
                // Where even that does not end it, this thread stays with it: see `turns`.
                let _ = child.kill();
                let _ = child.wait();
                return Err(failed(format!("no answer within {} s", limit.as_secs())));
            }
            None => std::thread::sleep(LOOK),
        }
    }
}

fn unnamed() -> std::io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(rustix::fs::memfd_create("longshore-mount", flags)?.into())
}

fn output(said: &File) -> String {
    use std::io::Seek;
    let mut said = said;
    let mut bytes = Vec::new();
    let read = said.rewind().and_then(|()| said.take(OUTPUT_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).trim().replace('\n', "; "),
        Err(error) => format!("(could not be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn program(dir: &Path, script: &str) -> PathBuf {
        let path = dir.join("mount.nfs");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn what_is_called_is_what_the_kubelet_would_call() {
        let share = |server: &str, options: &[&str]| Share {
            server: server.to_owned(),
            path: "/export/a b".to_owned(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        };
        let shown = |share: Share| share.arguments(Path::new("/v")).join("|");
        assert_eq!(shown(share("files.example", &[])), "files.example:/export/a b|/v");
        assert_eq!(shown(share("fd00::1", &["ro", "vers=4.1"])), "[fd00::1]:/export/a b|/v|-o|ro,vers=4.1");
        assert_eq!(shown(share("[fd00::1]", &[])), "[fd00::1]:/export/a b|/v");
    }

    #[test]
    fn a_failure_says_what_was_called_and_what_it_answered() {
        let dir = tempfile::tempdir().unwrap();
        let arguments = ["files.example:/a".to_owned(), "/v".to_owned()];
        let failing = program(dir.path(), "echo mount.nfs: access denied by server >&2; exit 32");
        let error = run(&failing, &arguments, LIMIT).unwrap_err().to_string();
        let want = format!(
            "mount failed: exit status: 32; Mounting command: {}; Mounting arguments: files.example:/a /v; Output: \
             mount.nfs: access denied by server",
            failing.display()
        );
        assert_eq!(error, want);
        assert_eq!(find(&[dir.path().join("none"), dir.path().to_owned()]), Some(failing));
        assert_eq!(find(&[dir.path().join("none")]), None);
    }

    #[test]
    fn one_that_does_not_end_is_ended_whoever_holds_its_output() {
        let dir = tempfile::tempdir().unwrap();
        let hanging = program(dir.path(), "echo trying; exec sleep 1000000");
        let error = run(&hanging, &[], Duration::from_millis(300)).unwrap_err().to_string();
        assert!(
            error.starts_with("mount failed: no answer within 0 s;") && error.ends_with("Output: trying"),
            "{error}"
        );
    }
}
