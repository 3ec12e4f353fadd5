//! Calls that hand out a URL: exec, attach, port-forward.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Kind, v1};
use futures::FutureExt;
use shim::wire::Request;
use tokio::net::TcpStream;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tracing::debug;

use crate::Embedded;
use crate::blocking::blocking;
use crate::container::Container;
use crate::container::exec::{self, Command, set_size};
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::sandbox::{Sandbox, namespaces};
use crate::state::records::{ContainerPhase, SandboxPhase};
use crate::streaming::terminal::Terminal;
use crate::streaming::{Ended, Input, Output, Session, Streams, Wanted};

/// A port of a pod is on this machine: it answers at once or not at all.
const DIAL: Duration = Duration::from_secs(10);

/// Sizes that wait for a terminal; a newer one makes an older one pointless.
const SIZES: usize = 4;

impl Embedded {
    pub(super) fn offer_exec(&self, request: v1::ExecRequest) -> Result<v1::ExecResponse, LifeError> {
        check_streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        let container = self.core.container(&request.container_id)?;
        must_run(&container)?;
        let core = self.core.clone();
        let wanted = Wanted { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty };
        let begin =
            move || async move { begin_exec(&core, &container, request).await.map_err(|error| chain(&error)) }.boxed();
        Ok(v1::ExecResponse { url: self.offer("exec", Session::Process(wanted, Box::new(begin)))? })
    }

    pub(super) fn offer_attach(&self, request: v1::AttachRequest) -> Result<v1::AttachResponse, LifeError> {
        let container = self.core.container(&request.container_id)?;
        must_run(&container)?;
        let tty = container.config().tty;
        check_streams(request.stdin, request.stdout, request.stderr, tty)?;
        let wanted = Wanted { stdin: request.stdin, stdout: request.stdout, stderr: request.stderr, tty: request.tty };
        let core = self.core.clone();
        let begin = move || {
            async move { begin_attach(&core, &container, &request).await.map_err(|error| chain(&error)) }.boxed()
        };
        Ok(v1::AttachResponse { url: self.offer("attach", Session::Process(wanted, Box::new(begin)))? })
    }

    pub(super) fn offer_forward(&self, request: &v1::PortForwardRequest) -> Result<v1::PortForwardResponse, LifeError> {
        let sandbox = self.core.sandbox(&request.pod_sandbox_id)?;
        if sandbox.phase() != SandboxPhase::Ready {
            return Err(LifeError::new(Kind::FailedPrecondition, format!("sandbox {} is not ready", sandbox.id)));
        }
        let dial = move |port| dial(sandbox.clone(), port).boxed();
        Ok(v1::PortForwardResponse { url: self.offer("portforward", Session::Forward(Box::new(dial)))? })
    }

    fn offer(&self, what: &'static str, session: Session) -> Result<String, LifeError> {
        self.streams.offer(what, session).map_err(|error| LifeError::new(Kind::ResourceExhausted, error.to_string()))
    }
}

/// As the CRI asks of runtimes.
fn check_streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<(), LifeError> {
    let bad = |why: &str| Err(LifeError::new(Kind::InvalidArgument, why));
    match () {
        () if !stdin && !stdout && !stderr => bad("one of stdin, stdout and stderr must be asked for"),
        () if tty && stderr => bad("a terminal has no stderr of its own: tty and stderr cannot be combined"),
        () => Ok(()),
    }
}

fn must_run(container: &Container) -> Result<(), LifeError> {
    let why = || format!("container {} ({}) does not run", container.id, container.name);
    container.running().map(|_| ()).ok_or_else(|| LifeError::new(Kind::FailedPrecondition, why()))
}

async fn dial(sandbox: Arc<Sandbox>, port: u16) -> Result<TcpStream, String> {
    let netns = sandbox.netns();
    let connected = blocking(move || {
        let stream = namespaces::dial_loopback(netns.as_deref(), port, DIAL)?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    })
    .await;
    let stream: io::Result<TcpStream> = connected.and_then(TcpStream::from_std);
    stream.map_err(|error| format!("connecting to port {port} in sandbox {}: {error}", sandbox.id))
}

async fn begin_exec(
    core: &Arc<Core>,
    container: &Arc<Container>,
    request: v1::ExecRequest,
) -> Result<Streams, LifeError> {
    let command = Command { args: request.cmd, terminal: request.tty };
    if request.tty {
        let mut running = exec::start(core, container, command, None).await?;
        let master = running.terminal.take();
        let master = master.ok_or_else(|| LifeError::new(Kind::Internal, "the shim sent no terminal"))?;
        return on_terminal(running, master, request.stdin).doing(|| "connecting to its terminal".into());
    }
    let (ours, theirs) = pipes().doing(|| "making pipes".into())?;
    let running = exec::start(core, container, command, Some(theirs)).await?;
    let [stdin, stdout, stderr] = ours;
    let streams = Streams {
        stdin: input(stdin, request.stdin).doing(|| "connecting to its input".into())?,
        stdout: output(stdout, request.stdout).doing(|| "connecting to its output".into())?,
        stderr: output(stderr, request.stderr).doing(|| "connecting to its output".into())?,
        resize: None,
        ..until_end(core, running)
    };
    Ok(streams)
}

fn on_terminal(running: exec::Running, master: OwnedFd, wants_input: bool) -> io::Result<Streams> {
    let (resize, mut sizes) = mpsc::channel::<(u16, u16)>(SIZES);
    let of_sizes = master.try_clone()?;
    let terminal = Terminal::new(master)?;
    let (reader, writer) = tokio::io::split(terminal);
    tokio::spawn(async move {
        while let Some((width, height)) = sizes.recv().await {
            if let Err(error) = set_size(&of_sizes, width, height) {
                debug!(%error, "resizing a terminal");
            }
        }
    });
    Ok(Streams {
        stdin: wants_input.then(|| Box::pin(writer) as Input),
        stdout: Some(Box::pin(reader)),
        stderr: None,
        resize: Some(resize),
        ended: ended(running).boxed(),
        // Closing the master hangs the terminal up, which is what a lost client means.
        abandon: Box::new(|| {}),
    })
}

/// The parts of [`Streams`] that follow from a running command alone.
fn until_end(core: &Arc<Core>, running: exec::Running) -> Streams {
    let hang_up = running.signaller();
    let tasks = core.tasks.clone();
    Streams {
        stdin: None,
        stdout: None,
        stderr: None,
        resize: None,
        ended: ended(running).boxed(),
        // As when a terminal is hung up: who wants to outlive the connection can.
        abandon: Box::new(move || drop(tasks.spawn(async move { hang_up.send(libc::SIGHUP).await }))),
    }
}

async fn ended(mut running: exec::Running) -> Ended {
    match (&mut running.ended).await {
        Ok(code) => Ended::Exited(code),
        Err(_) => Ended::Failed("the container was stopped".into()),
    }
}

async fn begin_attach(
    core: &Arc<Core>,
    container: &Arc<Container>,
    request: &v1::AttachRequest,
) -> Result<Streams, LifeError> {
    let sandbox = core.sandbox_of(container)?;
    let doing = || format!("attaching to container {} ({})", container.id, container.name);
    let terminal = container.config().tty;
    let (ours, theirs) = pipes().doing(doing)?;
    let count = if terminal { 2 } else { 3 };
    let descriptors: Vec<_> = theirs.iter().take(count).map(AsFd::as_fd).collect();
    sandbox.link.ask(&Request::Attach { id: container.id.to_string() }, &descriptors).await.doing(doing)?;
    drop(theirs);
    let [stdin, stdout, stderr] = ours;
    Ok(Streams {
        stdin: input(stdin, request.stdin).doing(doing)?,
        stdout: output(stdout, request.stdout).doing(doing)?,
        stderr: output(stderr, request.stderr && !terminal).doing(doing)?,
        resize: terminal.then(|| resizer(core, sandbox, container)),
        ended: end_of(container.clone()).boxed(),
        abandon: Box::new(|| {}),
    })
}

fn resizer(core: &Arc<Core>, sandbox: Arc<Sandbox>, container: &Container) -> mpsc::Sender<(u16, u16)> {
    let (resize, mut sizes) = mpsc::channel(SIZES);
    let id = container.id.to_string();
    core.tasks.spawn(async move {
        while let Some((width, height)) = sizes.recv().await {
            if let Err(error) = sandbox.link.ask(&Request::Resize { id: id.clone(), width, height }, &[]).await {
                debug!(container = id, error = chain(&error), "resizing a terminal");
            }
        }
    });
    resize
}

/// To an attached client the end of the container is the end, whatever its exit code.
async fn end_of(container: Arc<Container>) -> Ended {
    loop {
        if container.wait(Duration::from_secs(3600)).await.is_some() {
            return Ended::Exited(0);
        }
        if !matches!(container.record().phase, ContainerPhase::Running(_)) {
            return Ended::Failed("the container is gone".into());
        }
    }
}

type Three = [OwnedFd; 3];

/// Our ends and the process's, in the order stdin, stdout, stderr.
fn pipes() -> io::Result<(Three, Three)> {
    let ((stdin, to_stdin), (from_out, stdout), (from_err, stderr)) = (exec::pipe()?, exec::pipe()?, exec::pipe()?);
    Ok(([to_stdin, from_out, from_err], [stdin, stdout, stderr]))
}

/// An end that is not wanted is closed: the process reads the end of its input.
fn input(end: OwnedFd, wanted: bool) -> io::Result<Option<Input>> {
    let open = |end| pipe::Sender::from_owned_fd(end).map(|sender| Box::pin(sender) as Input);
    wanted.then(|| open(end)).transpose()
}

/// An output that is not wanted is read and dropped, so that the process does not die of a broken pipe.
fn output(end: OwnedFd, wanted: bool) -> io::Result<Option<Output>> {
    let mut receiver = pipe::Receiver::from_owned_fd(end)?;
    if wanted {
        return Ok(Some(Box::pin(receiver)));
    }
    tokio::spawn(async move { tokio::io::copy(&mut receiver, &mut tokio::io::sink()).await });
    Ok(None)
}
