//! A process the shim answers for: its own child, or one that an earlier shim has started.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use shim::wire::PidRecord;

use crate::sys;
use crate::sys::process;

/// Bytes of `/proc/<pid>/stat` that are read: fifty numbers and a name of at most 64.
const LARGEST_STAT: usize = 2048;

/// One process that has not been seen to end.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    /// `None` for a child, whose number stays taken until it is reaped.
    pub(super) adopted: Option<OwnedFd>,
}

impl Process {
    pub(super) fn child(pid: i32) -> Self {
        Self { pid, adopted: None }
    }

    /// The process of a `pid` file, if it still is that one.
    pub(super) fn adopt(record: PidRecord) -> Option<Self> {
        let pidfd = process::pidfd_open(record.pid).ok()?;
        // Compared after it was opened: from here on the number can't be another's.
        let stat = Stat::read(record.pid)?;
        (stat.start == record.start).then_some(Self { pid: record.pid, adopted: Some(pidfd) })
    }

    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        match &self.adopted {
            Some(pidfd) => process::pidfd_kill(pidfd.as_fd(), signal),
            None => process::kill(self.pid, signal),
        }
    }

    /// Also everybody in its process group and session. Only while it is not reaped: then both numbers are its own.
    pub(super) fn signal_session(&self, signal: i32) -> io::Result<()> {
        self.signal(signal)?;
        let _ = process::kill(-self.pid, signal);
        for pid in members(self.pid).into_iter().filter(|pid| *pid != self.pid) {
            let _ = process::kill(pid, signal);
        }
        Ok(())
    }

    /// Exit code of an adopted process that has ended, and what is to be said about it.
    pub(super) fn lost_code(&self) -> (i32, Option<String>) {
        let status = self.adopted.as_ref().and_then(|pidfd| process::pidfd_status(pidfd.as_fd()));
        // Before its new parent has reaped it, or on an older kernel, the zombie's own entry tells.
        let status = status.or_else(|| Stat::read(self.pid).filter(|stat| stat.zombie).map(|stat| stat.status));
        match status {
            Some(status) => (process::exit_code(status), None),
            None => (255, Some("the exit code was lost together with the shim".into())),
        }
    }
}

/// The record of a child that was just started.
pub(super) fn record(pid: i32) -> PidRecord {
    PidRecord { pid, start: Stat::read(pid).map_or(0, |stat| stat.start), at: sys::now() }
}

fn members(session: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| Stat::read(*pid).is_some_and(|stat| stat.session == session)).collect()
}

/// What is of use in `/proc/<pid>/stat`.
struct Stat {
    zombie: bool,
    session: i32,
    start: u64,
    status: i32,
}

impl Stat {
    fn read(pid: i32) -> Option<Self> {
        let file = sys::open(Path::new(&format!("/proc/{pid}/stat")), libc::O_RDONLY).ok()?;
        let mut buffer = [0; LARGEST_STAT];
        let length = sys::read(file.as_fd(), &mut buffer).ok()?;
        Self::parse(&buffer[..length])
    }

    /// The name (field 2) may hold anything, so counting starts after its last bracket, with field 3.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let rest = std::str::from_utf8(text.get(end + 2..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        Some(Self {
            zombie: *fields.first()? == "Z",
            session: fields.get(3)?.parse().ok()?,
            start: fields.get(19)?.parse().ok()?,
            status: fields.get(49)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_does_not_shift_the_fields() {
        let rest = (3..=52).map(|field| if field == 3 { "Z".into() } else { field.to_string() }).collect::<Vec<_>>();
        let stat = Stat::parse(format!("7 (a) b (c)) {}\n", rest.join(" ")).as_bytes()).expect("it is whole");
        assert!(stat.zombie);
        assert_eq!((stat.session, stat.start, stat.status), (6, 22, 52));
    }

    #[test]
    fn a_stat_cut_short_is_nothing() {
        assert!(Stat::parse(b"7 (sh) S 1 2 3").is_none());
        assert!(Stat::parse(b"7 (sh").is_none());
        assert!(Stat::parse(b"7 (sh)").is_none());
    }

    /// A child that exits with 7 when its stdin ends, taken for one that an earlier shim has started.
    fn adopted() -> (std::process::Child, Process) {
        let mut command = std::process::Command::new("/bin/sh");
        let child =
            command.args(["-c", "read x; exit 7"]).stdin(std::process::Stdio::piped()).spawn().expect("a shell");
        let process = Process::adopt(record(child.id().cast_signed())).expect("it is there");
        (child, process)
    }

    fn wait_for_end(process: &Process) {
        use std::os::fd::AsRawFd;
        let pidfd = process.adopted.as_ref().expect("it was adopted");
        let mut ended = [libc::pollfd { fd: pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        sys::poll(&mut ended, 20_000).expect("waiting");
        assert_ne!(ended[0].revents, 0, "it ends");
    }

    #[test]
    fn the_exit_code_of_an_adopted_process_is_known_before_it_is_reaped() {
        let (mut child, process) = adopted();
        drop(child.stdin.take());
        wait_for_end(&process);
        assert_eq!(process.lost_code(), (7, None));
        child.wait().expect("reaping");
    }

    #[test]
    fn the_exit_code_of_an_adopted_process_is_known_after_somebody_else_has_reaped_it() {
        let (mut child, process) = adopted();
        child.wait().expect("reaping");
        let known = process::pidfd_status(process.adopted.as_ref().expect("it was adopted").as_fd()).is_some();
        let (code, note) = process.lost_code();
        // Kernels before 6.15 do not tell, and then we say so.
        assert_eq!((code, note.is_none()), if known { (7, true) } else { (255, false) });
    }

    #[test]
    fn a_process_is_not_taken_for_a_later_one_with_its_number() {
        let mut own = record(std::process::id() as i32);
        assert!(Process::adopt(own).is_some());
        own.start += 1;
        assert!(Process::adopt(own).is_none());
    }
}
