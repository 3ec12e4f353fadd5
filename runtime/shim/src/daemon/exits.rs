//! Starts that come to something or not, and ends: first on disk, then told.

use std::os::fd::AsFd;

use shim::wire::{Event, ExitRecord, Packet, Reply};

use super::pause::Pause;
use super::task::{Kind, Life, Starting, Task};
use super::{Shim, files, refusal};
use crate::launch::News;
use crate::sys::process;
use crate::sys::{self, Moment};

/// The event for a task that has ended.
pub(super) fn exited(task: &Task) -> Option<Event> {
    match &task.life {
        Life::Ended(exit) => Some(Event::Exited { id: task.id.clone(), code: exit.code, at: exit.at }),
        _ => None,
    }
}

impl Shim {
    /// Children have ended, orphans of containers among them.
    pub(super) fn reap(&mut self) {
        let mut buffer = [0; size_of::<libc::signalfd_siginfo>()];
        while sys::read(self.signals.as_fd(), &mut buffer).is_ok() {}
        while let Some((pid, status)) = process::reap() {
            let exit = ExitRecord { code: process::exit_code(status), at: sys::now(), note: None };
            let ours = self.tasks.iter().find(|task| task.process.pid == pid && task.runs());
            if let Some(key) = ours.filter(|task| task.process.adopted.is_none()).map(|task| task.key) {
                self.hear_child(key); // it may have said why, just before
                self.ended(key, exit);
            } else if matches!(&self.pause, Pause::Running(pause) if pause.pid == pid && pause.adopted.is_none()) {
                self.pause_ended(exit);
            }
        }
    }

    /// A child on its way to its exec has something to say.
    pub(super) fn hear_child(&mut self, key: u32) {
        let Some(index) = self.tasks.iter().position(|task| task.key == key) else { return };
        let task = &mut self.tasks[index];
        while let Life::Starting(starting) = &mut task.life {
            match starting.child.news() {
                News::Nothing => return,
                News::Terminal(master) => match (&mut task.stdio, task.kind) {
                    (Some(stdio), Kind::Container) => drop(stdio.set_master(master)),
                    _ => starting.master = Some(master),
                },
                News::Running => {
                    let pid = task.process.pid;
                    if let Life::Starting(starting) = std::mem::replace(&mut task.life, Life::Running) {
                        self.started(&starting, pid);
                    }
                    return;
                }
                News::Failed(failure) => {
                    let asker = starting.asker;
                    self.tasks.remove(index).undo();
                    return self.reply(asker, refusal(failure), None);
                }
            }
        }
    }

    fn started(&mut self, starting: &Starting, pid: i32) {
        self.reply(starting.asker, Reply::Started { pid }, starting.master.as_ref());
    }

    /// A task has ended: its output is drained, its exit written, then everybody hears of it.
    fn ended(&mut self, key: u32, exit: ExitRecord) {
        let Some(task) = self.tasks.iter_mut().find(|task| task.key == key) else { return };
        if let Some(stdio) = &mut task.stdio {
            stdio.finish(&mut self.scratch, Moment { wall: exit.at, steady: sys::steady() });
        }
        // Told all the same if the disk is full: whoever watches knows, and asks again after a restart.
        let _ = files::replace(&task.directory.join("exit"), &exit.to_string());
        task.life = Life::Ended(exit);
        if let Some(event) = exited(task) {
            self.tell(&event);
        }
    }

    fn pause_ended(&mut self, exit: ExitRecord) {
        let event = Event::PauseExited { code: exit.code, at: exit.at };
        self.pause = Pause::end(&self.directory, exit);
        self.tell(&event);
    }

    /// A process that another shim had started has ended.
    pub(super) fn adopted_ended(&mut self, key: u32) {
        let Some(task) = self.tasks.iter().find(|task| task.key == key && task.runs()) else { return };
        let (code, note) = task.process.lost_code();
        self.ended(key, ExitRecord { code, at: sys::now(), note });
    }

    pub(super) fn adopted_pause_ended(&mut self) {
        let Pause::Running(pause) = &self.pause else { return };
        let (code, note) = pause.lost_code();
        self.pause_ended(ExitRecord { code, at: sys::now(), note });
    }

    /// Answers the oldest request of a connection, if it is still there.
    pub(super) fn reply(&mut self, key: u64, reply: Reply, descriptor: Option<&std::os::fd::OwnedFd>) {
        if let Some(connection) = self.connections.iter_mut().find(|connection| connection.key == key) {
            connection.busy = false;
            connection.send(&Packet::Reply(reply), descriptor.map(AsFd::as_fd));
        }
    }
}
