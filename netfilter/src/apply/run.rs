//! One process, with a deadline.

use super::ApplyError;
use std::io::{self, Read, Write};
use std::process::{self, Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

/// A command that is about to run.
#[derive(Debug)]
pub(super) struct Command {
    program: &'static str,
    arguments: Vec<String>,
    /// Shared with the thread that feeds it: with thousands of services it is large.
    input: Option<Arc<String>>,
}

/// What a command left.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) success: bool,
    pub(super) status: ExitStatus,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// The longest message that is kept of a failed command, in characters.
const LONGEST_MESSAGE: usize = 2000;

impl Command {
    pub(super) fn new(program: &'static str, arguments: &[&str]) -> Self {
        Self { program, arguments: arguments.iter().map(|word| (*word).to_owned()).collect(), input: None }
    }

    pub(super) fn input(mut self, input: String) -> Self {
        self.input = Some(Arc::new(input));
        self
    }

    /// Runs it and returns what it left, whether it succeeded or not. At most `limit` bytes of each of its
    /// outputs are kept.
    pub(super) fn run(&self, deadline: Duration, limit: u64) -> Result<Output, ApplyError> {
        let end = Instant::now() + deadline;
        let mut child = self.spawn().map_err(|source| self.failed(source))?;
        let outputs = self.connect(&mut child, limit);
        let collected = outputs.and_then(|outputs| collect(&mut child, &outputs, end));
        match collected {
            Ok(Some(output)) => Ok(output),
            Ok(None) => {
                kill(&mut child);
                Err(ApplyError::Deadline { program: self.program.to_owned(), deadline })
            }
            Err(source) => {
                kill(&mut child);
                Err(self.failed(source))
            }
        }
    }

    /// Runs it and returns its output; anything but success is an error.
    pub(super) fn run_well(&self, deadline: Duration, limit: u64) -> Result<String, ApplyError> {
        let output = self.run(deadline, limit)?;
        if output.success { Ok(output.stdout) } else { Err(self.unsuccessful(&output)) }
    }

    pub(super) fn unsuccessful(&self, output: &Output) -> ApplyError {
        let command = [&[self.program.to_owned()], self.arguments.as_slice()].concat().join(" ");
        ApplyError::Failed { command, status: output.status.to_string(), message: message(&output.stderr) }
    }

    fn spawn(&self) -> io::Result<Child> {
        let input = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut command = process::Command::new(self.program);
        // Messages are read by us, so they must not be translated.
        command.args(&self.arguments).env("LC_ALL", "C");
        command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()
    }

    /// Starts a thread per pipe: a program that writes while it reads would otherwise wait for us, and we
    /// for it.
    fn connect(&self, child: &mut Child, limit: u64) -> io::Result<[Receiver<io::Result<Vec<u8>>>; 2]> {
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), self.input.clone()) {
            // A program that fails early closes its input; its message says why.
            thread::Builder::new().spawn(move || drop(stdin.write_all(input.as_bytes())))?;
        }
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("the outputs of the program are not connected"));
        };
        Ok([read(stdout, limit)?, read(stderr, limit)?])
    }

    fn failed(&self, source: io::Error) -> ApplyError {
        ApplyError::Run { program: self.program.to_owned(), source }
    }
}

fn read(mut pipe: impl Read + Send + 'static, limit: u64) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new().spawn(move || {
        let mut bytes = Vec::new();
        let result = pipe.by_ref().take(limit).read_to_end(&mut bytes);
        // The rest is read and dropped, so that the program can end.
        let result = result.and_then(|_| io::copy(&mut pipe, &mut io::sink()));
        drop(sender.send(result.map(|_| bytes)));
    })?;
    Ok(receiver)
}

/// `None` when time is up.
fn collect(
    child: &mut Child,
    outputs: &[Receiver<io::Result<Vec<u8>>>; 2],
    end: Instant,
) -> io::Result<Option<Output>> {
    let mut texts = Vec::with_capacity(2);
    for output in outputs {
        match output.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(bytes) => texts.push(String::from_utf8_lossy(&bytes?).into_owned()),
            Err(_) => return Ok(None),
        }
    }
    let Some(status) = wait(child, end)? else { return Ok(None) };
    let (stderr, stdout) = (texts.pop().unwrap_or_default(), texts.pop().unwrap_or_default());
    Ok(Some(Output { success: status.success(), status, stdout, stderr }))
}

/// Its outputs are closed, so it has ended or is about to.
fn wait(child: &mut Child, end: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= end => return Ok(None),
            None => thread::sleep(Duration::from_micros(200)),
        }
    }
}

fn kill(child: &mut Child) {
    // It may have ended in the meantime; a zombie would be worse than either error.
    let _ = child.kill();
    let _ = child.wait();
}

pub(super) fn message(stderr: &str) -> String {
    stderr.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(LONGEST_MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let text = "line\n".repeat(100_000);
        let output = Command::new("cat", &[]).input(text.clone()).run(LONG, 1 << 20).unwrap();
        assert!(output.success && output.stdout == text);
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let begin = Instant::now();
        let result = Command::new("sleep", &["600"]).run(Duration::from_millis(50), 100);
        assert!(matches!(result, Err(ApplyError::Deadline { .. })));
        assert!(begin.elapsed() < LONG);
    }

    #[test]
    fn a_program_that_says_too_much_is_cut_short_and_still_ends() {
        let output = Command::new("seq", &["1000000"]).run(LONG, 10).unwrap();
        assert_eq!((output.success, output.stdout.len()), (true, 10));
    }

    #[test]
    fn a_program_that_closes_its_input_early_is_judged_by_its_message() {
        let command = Command::new("sh", &["-c", "exec <&-; echo no >&2; exit 3"]).input("x".repeat(1 << 20));
        let output = command.run(LONG, 100).unwrap();
        assert_eq!((output.status.code(), output.stderr.as_str()), (Some(3), "no\n"));
        assert_eq!(
            command.unsuccessful(&output).to_string(),
            "sh -c exec <&-; echo no >&2; exit 3 failed with exit status: 3: no"
        );
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Command::new("/nonexistent/iptables", &[]).run(LONG, 10).unwrap_err();
        assert_eq!(error.to_string(), "running /nonexistent/iptables");
    }
}
