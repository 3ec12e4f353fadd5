//! Termination messages: a container's last words, from its file or from its log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use super::roles;
use crate::container::logs;
use crate::observe::{Container, Observed, State};

/// What a file may say.
const FILE_BYTES: u64 = 4_096;
/// What a log may say instead.
const LOG_LINES: usize = 80;
const LOG_BYTES: usize = 2_048;
/// Enough to hold the last 80 lines of any reasonable log.
const LOG_READ: u64 = 256 << 10;

/// How a container ended, as far as its message depends on it.
struct Ended<'a> {
    /// Its file on this node, if it was made with one.
    file: Option<&'a Path>,
    /// Its log.
    log: &'a Path,
    /// `terminationMessagePolicy` is `FallbackToLogsOnError`.
    fall_back: bool,
    /// Exit code.
    code: i32,
    /// The runtime's reason.
    reason: &'a str,
}

/// The message; empty where there is none or it cannot be read.
fn read(ended: &Ended<'_>) -> String {
    let own = ended.file.and_then(|file| tail(file, FILE_BYTES).ok()).map(text).unwrap_or_default();
    if own.is_empty() && ended.fall_back && ended.code != 0 && ended.reason != "ContainerCannotRun" {
        return tail(ended.log, LOG_READ).map(|bytes| last_lines(&text(bytes))).unwrap_or_default();
    }
    own
}

/// Containers that ended and whose message has not been read.
pub(super) fn unread(pod: &Pod, seen: &Observed, read: &BTreeMap<String, String>) -> Vec<Container> {
    let known = |container: &&Container| roles::member(pod, &container.name).is_some();
    let over = |container: &&Container| matches!(container.state, State::Exited { .. });
    let fresh = |container: &&Container| !read.contains_key(&container.id);
    seen.containers.iter().filter(over).filter(fresh).filter(known).cloned().collect()
}

/// The message of a container that ended.
pub(super) fn of(log_root: &Path, pod: &Pod, container: &Container) -> String {
    let State::Exited { code, reason, .. } = &container.state else { return String::new() };
    let member = roles::member(pod, &container.name);
    let falls_back =
        |m: &roles::Member<'_>| m.container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let log = logs::pod_dir(log_root, pod).join(logs::relative(&container.name, container.attempt));
    read(&Ended {
        file: container.message_file.as_deref().map(Path::new),
        log: &log,
        fall_back: member.as_ref().is_some_and(falls_back),
        code: *code,
        reason,
    })
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tail(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // The container wrote this file: it may not lead us elsewhere.
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Ok(Vec::new());
    }
    file.seek(SeekFrom::Start(meta.len().saturating_sub(most)))?;
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The content of the last lines of a CRI log: what stands behind time, stream and tag.
fn last_lines(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    let mut out = String::new();
    for line in last {
        let mut parts = line.splitn(4, ' ');
        let (tag, content) = (parts.nth(2).unwrap_or_default(), parts.next().unwrap_or_default());
        out.push_str(content);
        if tag != "P" {
            out.push('\n');
        }
    }
    let mut from = out.len().saturating_sub(LOG_BYTES);
    while !out.is_char_boundary(from) {
        from += 1;
    }
    out.split_off(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        dir: tempfile::TempDir,
    }

    impl Case {
        fn new(file: Option<&str>, log: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            if let Some(file) = file {
                std::fs::write(dir.path().join("msg"), file).unwrap();
            }
            std::fs::write(dir.path().join("0.log"), log).unwrap();
            Self { dir }
        }

        fn read(&self, fall_back: bool, code: i32) -> String {
            let (file, log) = (self.dir.path().join("msg"), self.dir.path().join("0.log"));
            read(&Ended { file: Some(&file), log: &log, fall_back, code, reason: "Error" })
        }
    }

    #[test]
    fn the_end_of_the_file_is_the_message() {
        let long = format!("{}end", "x".repeat(5_000));
        let got = Case::new(Some(&long), "").read(false, 0);
        assert!(got.len() == 4_096 && got.ends_with("end"));
    }

    #[test]
    fn the_log_speaks_only_for_a_failure_without_a_message() {
        let log = "2026-01-01T00:00:00.0Z stdout F one\n2026-01-01T00:00:01.0Z stderr P two\n2026-01-01T00:00:02.0Z stderr F three\n";
        let silent = Case::new(Some(""), log);
        assert_eq!(silent.read(true, 1), "one\ntwothree\n");
        assert_eq!(silent.read(true, 0), "");
        assert_eq!(silent.read(false, 1), "");
        assert_eq!(Case::new(Some("own"), log).read(true, 1), "own");
        assert_eq!(Case::new(None, log).read(true, 1), "one\ntwothree\n");
    }

    #[test]
    fn a_link_leads_nowhere() {
        let case = Case::new(None, "");
        std::os::unix::fs::symlink("/etc/passwd", case.dir.path().join("msg")).unwrap();
        assert_eq!(case.read(false, 1), "");
    }

    #[test]
    fn a_long_log_is_cut_to_its_last_lines_and_bytes() {
        let log: String = (0..200).map(|n| format!("t stdout F {n}\n")).collect();
        let got = Case::new(None, &log).read(true, 1);
        assert!(got.starts_with("120\n") && got.ends_with("199\n"));
        let wide: String = (0..80).map(|_| format!("t stdout F {}\n", "y".repeat(100))).collect();
        assert_eq!(Case::new(None, &wide).read(true, 1).len(), LOG_BYTES);
    }
}
