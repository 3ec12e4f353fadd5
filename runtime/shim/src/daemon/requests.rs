//! What each request does.

use std::io;
use std::os::fd::OwnedFd;

use shim::wire::{Event, LARGEST_PACKET, Packet, Reply, Request};

use super::exits::exited;
use super::pause::Pause;
use super::stdio::Stdio;
use super::task::{Kind, Task};
use super::{LAST_WORDS, SHUTDOWN_PATIENCE, Shim, files, refusal};
use crate::launch::{Doing, Failure};
use crate::sys;

impl Shim {
    /// Carries out a request; answers at once, except for a start and the end.
    pub(super) fn answer(&mut self, key: u64, request: Request, descriptors: Vec<OwnedFd>) {
        let answer = match request {
            Request::Start { id } => self.start(&id, Kind::Container, key, &[]),
            Request::Exec { id } => self.start(&id, Kind::Exec, key, &descriptors),
            Request::Watch => return self.watch(key),
            Request::Shutdown => return self.begin_shutdown(key),
            Request::State => Ok(Some(self.state())),
            Request::Signal { id, signal, whole_session } => self.signal(&id, signal, whole_session).map(Some),
            Request::Attach { id } => self
                .stdio(&id, true)
                .and_then(|stdio| stdio.attach(descriptors).doing(|| format!("attaching to {id}")))
                .map(|()| Some(Reply::Done)),
            Request::Resize { id, width, height } => self
                .stdio(&id, true)
                .and_then(|stdio| stdio.resize(width, height).doing(|| format!("resizing the terminal of {id}")))
                .map(|()| Some(Reply::Done)),
            Request::ReopenLog { id } => self
                .stdio(&id, false)
                .and_then(|stdio| stdio.reopen_log().doing(|| format!("reopening the log of {id}")))
                .map(|()| Some(Reply::Done)),
            Request::Forget { id } => self.forget(&id).map(Some),
        };
        match answer {
            Ok(Some(reply)) => self.reply(key, reply, None),
            Ok(None) => {}
            Err(failure) => self.reply(key, refusal(failure), None),
        }
    }

    /// `None`: the answer comes when the child has come to its exec.
    fn start(&mut self, id: &str, kind: Kind, asker: u64, descriptors: &[OwnedFd]) -> Result<Option<Reply>, Failure> {
        files::check_id(id)?;
        if self.shutdown.is_some() {
            return Err(Failure::plain("the sandbox is being stopped".into(), libc::ESHUTDOWN));
        }
        if self.tasks.iter().any(|task| task.id == id) {
            return Err(Failure::plain(format!("{id} was started already"), libc::EEXIST));
        }
        self.last_task += 1;
        let task = match kind {
            Kind::Container => Task::container(&self.directory, id, self.last_task, asker),
            Kind::Exec => Task::exec(&self.directory, id, self.last_task, asker, descriptors),
        };
        sys::trim_memory();
        self.tasks.push(task?);
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.key == asker) {
            connection.busy = true;
        }
        Ok(None)
    }

    fn watch(&mut self, key: u64) {
        self.reply(key, Reply::Done, None);
        let ended = match &self.pause {
            Pause::Ended(exit) => Some(Event::PauseExited { code: exit.code, at: exit.at }),
            Pause::Running(_) => None,
        };
        let events: Vec<Event> = self.tasks.iter().filter_map(exited).chain(ended).collect();
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.key == key) {
            connection.watches = true;
            events.into_iter().for_each(|event| connection.send(&Packet::Event(event), None));
        }
    }

    fn state(&self) -> Reply {
        let pause = match &self.pause {
            Pause::Running(process) => process.pid,
            Pause::Ended(_) => 0,
        };
        let running = |task: &Task| if task.runs() { task.process.pid } else { 0 };
        let tasks = self.tasks.iter().map(|task| (task.id.clone(), running(task)));
        let state = Reply::State { pause, tasks: tasks.collect() };
        // As a packet it has a version byte and a tag more; hundreds of execs that nobody forgot.
        if Packet::Reply(state.clone()).encode().len() <= LARGEST_PACKET {
            return state;
        }
        Reply::Failed { reason: "more is there than fits into one packet".into(), errno: libc::EMSGSIZE }
    }

    fn task(&mut self, id: &str) -> Result<&mut Task, Failure> {
        let found = self.tasks.iter_mut().find(|task| task.id == id);
        found.ok_or_else(|| Failure::plain(format!("there is no {id} in this sandbox"), libc::ENOENT))
    }

    fn stdio(&mut self, id: &str, running: bool) -> Result<&mut Stdio, Failure> {
        let task = self.task(id)?;
        if running && !task.runs() {
            return Err(Failure::plain(format!("{id} has exited"), libc::ESRCH));
        }
        task.stdio.as_mut().ok_or_else(|| Failure::plain(format!("{id} has no streams here"), libc::ENOTSUP))
    }

    fn signal(&mut self, id: &str, signal: i32, whole_session: bool) -> Result<Reply, Failure> {
        let task = self.task(id)?;
        if !task.runs() {
            return Err(Failure::plain(format!("{id} has exited"), libc::ESRCH));
        }
        let process = &task.process;
        let sent = if whole_session { process.signal_session(signal) } else { process.signal(signal) };
        sent.doing(|| format!("sending signal {signal} to {id}"))?;
        Ok(Reply::Done)
    }

    fn forget(&mut self, id: &str) -> Result<Reply, Failure> {
        if self.tasks.iter().any(|task| task.id == id && task.runs()) {
            return Err(Failure::plain(format!("{id} still runs"), libc::EBUSY));
        }
        self.tasks.retain(|task| task.id != id);
        sys::trim_memory();
        Ok(Reply::Done)
    }

    fn begin_shutdown(&mut self, key: u64) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.key == key) {
            connection.busy = true;
        }
        if let Some((earlier, _)) = self.shutdown.replace((key, sys::steady() + SHUTDOWN_PATIENCE)) {
            let reason = "another connection asked for the end as well".to_owned();
            self.reply(earlier, Reply::Failed { reason, errno: libc::EALREADY }, None);
        }
        for task in self.tasks.iter().filter(|task| task.runs()) {
            let _ = task.process.signal_session(libc::SIGKILL);
        }
    }

    /// Ends when nothing runs any more, the pause last.
    pub(super) fn go_on_with_shutdown(&mut self, now: i64) {
        let Some((asker, deadline)) = self.shutdown else { return };
        let left = self.tasks.iter().filter(|task| task.runs()).count();
        if left == 0 {
            let Pause::Running(pause) = &self.pause else {
                let told = self.tasks.iter().filter_map(|task| task.stdio.as_ref()).all(Stdio::idle);
                self.done = told || now >= deadline - SHUTDOWN_PATIENCE + LAST_WORDS;
                if self.done {
                    self.reply(asker, Reply::Done, None);
                }
                return;
            };
            let _: io::Result<()> = pause.signal(libc::SIGKILL);
        }
        if now >= deadline {
            self.shutdown = None;
            let reason = format!("{left} processes do not end after SIGKILL");
            self.reply(asker, Reply::Failed { reason, errno: libc::ETIMEDOUT }, None);
        }
    }
}
