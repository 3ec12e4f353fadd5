//! What a shim left on disk, and what follows from it.

use std::path::Path;

use super::files::{self, FileError};
use super::layout::ContainerDir;
use super::records::{ContainerPhase, Exited, Reason, Running};
use shim::wire::{ExitRecord, PidRecord};

/// Reads the shim's two notes on a container.
///
/// # Errors
/// When a file is there but cannot be read.
pub(crate) fn read(dir: &ContainerDir) -> Result<(Option<PidRecord>, Option<ExitRecord>), FileError> {
    Ok((note(&dir.pid())?, note(&dir.exit())?))
}

/// A note that cannot be understood is none: it was being written in place when the machine or the shim went down.
fn note<T: std::str::FromStr>(path: &Path) -> Result<Option<T>, FileError> {
    let bytes = files::read(path, 4096)?;
    Ok(bytes.and_then(|bytes| String::from_utf8_lossy(&bytes).parse().ok()))
}

/// Reads a shim's note on a process: the pause of a sandbox, or itself.
///
/// # Errors
/// When the file is there but cannot be read.
pub(crate) fn process(path: &Path) -> Result<Option<PidRecord>, FileError> {
    note(path)
}

/// Where a container is, from what was written and what the shim noted; `oom_killed` is asked only about an end.
///
/// A phase that says how it ended stands: it was worked out when more was known.
pub(crate) fn settle(
    written: ContainerPhase,
    started: Option<PidRecord>,
    ended: Option<ExitRecord>,
    oom_killed: impl FnOnce() -> bool,
) -> ContainerPhase {
    match (written, started, ended) {
        (ended @ (ContainerPhase::Exited(_) | ContainerPhase::Creating), _, _) => ended,
        (_, started, Some(ended)) => ContainerPhase::Exited(end(started, ended, oom_killed())),
        (_, Some(PidRecord { pid, at, .. }), None) => ContainerPhase::Running(Running { pid, started_at: at }),
        (written, None, None) => written,
    }
}

fn end(started: Option<PidRecord>, ended: ExitRecord, oom_killed: bool) -> Exited {
    Exited {
        started_at: started.map_or(0, |started| started.at),
        finished_at: ended.at,
        code: ended.code,
        reason: reason(ended.code, oom_killed),
        message: ended.note.unwrap_or_default(),
    }
}

/// A container whose child was killed for memory but which ended well is no victim.
pub(crate) fn reason(code: i32, oom_killed: bool) -> Reason {
    match (code, oom_killed) {
        (0, _) => Reason::Completed,
        (_, true) => Reason::OOMKilled,
        (_, false) => Reason::Error,
    }
}

/// The process is gone and nobody noted how it ended: the shim and the machine's reaper are all that could know.
pub(crate) fn lost(running: Running, now: i64) -> Exited {
    Exited {
        started_at: running.started_at,
        finished_at: now,
        code: 255,
        reason: Reason::Unknown,
        message: "the process is gone and its exit code was not recorded".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(written: ContainerPhase, pid: &str, exit: &str, oom: bool, expected: expect_test::Expect) {
        expected.assert_eq(&format!("{:?}", settle(written, pid.parse().ok(), exit.parse().ok(), || oom)));
    }

    #[test]
    fn a_created_container_runs_once_the_shim_wrote_its_pid() {
        check(ContainerPhase::Created, "", "", false, expect_test::expect!["Created"]);
        check(
            ContainerPhase::Created,
            "7 99 1000",
            "",
            false,
            expect_test::expect!["Running(Running { pid: 7, started_at: 1000 })"],
        );
    }

    #[test]
    fn an_end_that_nobody_saw_is_learned_from_disk() {
        check(
            ContainerPhase::Created,
            "7 99 1000",
            "0 2000",
            false,
            expect_test::expect![[
                r#"Exited(Exited { started_at: 1000, finished_at: 2000, code: 0, reason: Completed, message: "" })"#
            ]],
        );
        check(
            ContainerPhase::Created,
            "7 99 1000",
            "137 2000",
            true,
            expect_test::expect![[
                r#"Exited(Exited { started_at: 1000, finished_at: 2000, code: 137, reason: OOMKilled, message: "" })"#
            ]],
        );
        check(
            ContainerPhase::Created,
            "7 99 1000",
            "137 2000",
            false,
            expect_test::expect![[
                r#"Exited(Exited { started_at: 1000, finished_at: 2000, code: 137, reason: Error, message: "" })"#
            ]],
        );
    }

    #[test]
    fn a_half_made_container_stays_half_made_whatever_else_is_there() {
        check(ContainerPhase::Creating, "7 99 1000", "0 2000", false, expect_test::expect!["Creating"]);
    }
}
