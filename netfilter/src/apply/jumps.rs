//! Jumps from the kernel's own chains into ours.
//!
//! The `iptables` crate runs these few commands. Its own questions would not do: they take every failure
//! for "no such rule", and wait for the lock without end. So it is handed whole commands, which wait 5 s,
//! and their exit status is looked at here.

use super::{ApplyError, Iptables, SHORT_DEADLINE, run};
use crate::iptables::{Jump, Table};
use std::io;
use std::process::Output;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// How long all jumps of one call may take: 14 times three commands, each of which may wait for a lock.
const DEADLINE: Duration = Duration::from_secs(SHORT_DEADLINE.as_secs() * 4);

impl Iptables {
    /// Makes the chain of each jump if there is none, and puts the jump in front of its built-in chain if
    /// it is not there yet. One by one and in order; see [`JUMPS`](crate::iptables::JUMPS).
    ///
    /// # Errors
    /// The first command that fails; the jumps before it are in force.
    pub fn ensure_jumps(&self, jumps: &[Jump]) -> Result<(), ApplyError> {
        let (runner, jumps) = (Runner::new(self), jumps.to_vec());
        // The crate knows no deadline. A command that never ends is left to end in its thread.
        in_thread(self.programs.iptables, DEADLINE, move || jumps.iter().try_for_each(|jump| runner.ensure(jump)))
    }
}

fn in_thread(
    program: &str,
    deadline: Duration,
    work: impl FnOnce() -> Result<(), ApplyError> + Send + 'static,
) -> Result<(), ApplyError> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().spawn(move || drop(sender.send(work())));
    spawned.map_err(|source| ApplyError::Run { program: program.to_owned(), source })?;
    let late = || ApplyError::Deadline { program: program.to_owned(), deadline };
    receiver.recv_timeout(deadline).unwrap_or_else(|_| Err(late()))
}

struct Runner {
    tool: ::iptables::IPTables,
    wait: &'static str,
}

impl Runner {
    fn new(iptables: &Iptables) -> Self {
        // Without its own wait: it has no limit.
        let tool = ::iptables::IPTables {
            cmd: iptables.programs.iptables,
            has_check: true,
            has_wait: false,
            is_numeric: true,
        };
        Self { tool, wait: iptables.version.wait() }
    }

    fn ensure(&self, jump: &Jump) -> Result<(), ApplyError> {
        // 1: there is one already.
        self.expect(jump.table, &format!("-N {}", jump.to), &[0, 1])?;
        if self.expect(jump.table, &format!("-C {} {jump}", jump.from), &[0, 1])? == 0 {
            return Ok(());
        }
        self.expect(jump.table, &format!("-I {} {jump}", jump.from), &[0]).map(drop)
    }

    fn expect(&self, table: Table, command: &str, codes: &[i32]) -> Result<i32, ApplyError> {
        let output = self.execute(table, command)?;
        match output.status.code() {
            Some(code) if codes.contains(&code) => Ok(code),
            _ => Err(ApplyError::Failed {
                command: format!("{} -t {table} {command}", self.tool.cmd),
                status: output.status.to_string(),
                message: run::message(&String::from_utf8_lossy(&output.stderr)),
            }),
        }
    }

    fn execute(&self, table: Table, command: &str) -> Result<Output, ApplyError> {
        let result = self.tool.execute(table.as_str(), &format!("{} {command}", self.wait));
        // The crate's errors cannot leave the thread; here they only ever come from starting the program.
        let failed = |error: Box<dyn std::error::Error>| match error.downcast::<io::Error>() {
            Ok(source) => *source,
            Err(other) => io::Error::other(other.to_string()),
        };
        result.map_err(failed).map_err(|source| ApplyError::Run { program: self.tool.cmd.to_owned(), source })
    }
}
