//! Processes that are not our children, told apart from later ones with the same number.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use shim::wire::PidRecord;

/// Field 22 of `/proc/<pid>/stat`, and whether the process is more than a zombie.
fn stat(pid: i32) -> Option<(u64, bool)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything, parentheses included.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((start, !matches!(state, "Z" | "X")))
}

/// Does the very process still run?
pub(crate) fn is_alive(note: &PidRecord) -> bool {
    stat(note.pid).is_some_and(|(start, alive)| start == note.start && alive)
}

/// Waits until it is gone, at most for `patience`. Blocks.
pub(crate) fn wait_gone(note: &PidRecord, patience: Duration) -> bool {
    let Some(descriptor) = open(note) else { return true };
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let limit = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(0) if left.is_zero() => return !is_alive(note),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            _ => return true,
        }
    }
}

/// A descriptor of the very process; `None` when it is gone.
fn open(note: &PidRecord) -> Option<OwnedFd> {
    let descriptor = pidfd_open(Pid::from_raw(note.pid)?, PidfdFlags::empty()).ok()?;
    // Looked at after it was opened: whoever has that start time now is who we hold.
    is_alive(note).then_some(descriptor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_recognised_by_its_start_time() {
        let pid = std::process::id() as i32;
        let (start, alive) = stat(pid).unwrap();
        assert!(alive);
        assert!(is_alive(&PidRecord { pid, start, at: 0 }));
        assert!(!is_alive(&PidRecord { pid, start: start + 1, at: 0 }));
    }

    #[test]
    fn the_end_of_a_process_is_waited_for() {
        let mut child = std::process::Command::new("/bin/sleep").arg("0.2").spawn().unwrap();
        let pid = child.id() as i32;
        let note = PidRecord { pid, start: stat(pid).unwrap().0, at: 0 };
        assert!(!wait_gone(&note, Duration::ZERO));
        assert!(wait_gone(&note, Duration::from_secs(30)));
        child.wait().unwrap();
    }
}
