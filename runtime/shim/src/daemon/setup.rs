//! From `main` to the loop.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::pause::Pause;
use super::{SCRATCH, Shim, adopt, files, process};
use crate::launch::{Doing, Failure};
use crate::sys;

/// Least likely to be chosen when memory is short, after the agent: without it the pod has no log and no exit code.
const OOM_SCORE: &[u8] = b"-998";

/// Becomes the shim of a sandbox directory, and returns when that was shut down.
pub(crate) fn run(directory: &Path) -> Result<(), Failure> {
    // What is wrong with the plan is told by whoever starts the pause.
    if let Ok(launch) = files::launch(&directory.join("pause.launch")) {
        crate::launch::move_in(&launch);
    }
    stand_alone().doing(|| "leaving the starter's surroundings".into())?;
    let doing = || format!("opening sandbox {}", directory.display());
    let opened = sys::open(directory, libc::O_PATH | libc::O_DIRECTORY).doing(doing)?;
    let lock = sys::open(&directory.join("shim.lock"), libc::O_RDWR | libc::O_CREAT | libc::O_NOFOLLOW).doing(doing)?;
    sys::lock(lock.as_fd()).doing(|| format!("another shim serves {}", directory.display()))?;
    files::remove(directory, &["shim.error"]);
    begin(directory, opened.as_fd(), lock).inspect_err(|failure| {
        // Whoever looks later finds the reason, and nothing to connect to.
        let _ = files::replace(&directory.join("shim.error"), &failure.reason);
        files::remove(directory, &["shim.sock", "shim.pid"]);
    })
}

/// Starts or adopts everything, then serves.
fn begin(directory: &Path, opened: BorrowedFd<'_>, lock: OwnedFd) -> Result<(), Failure> {
    let signals = sys::process::child_signals().doing(|| "watching for children".into())?;
    let listener = listen(opened).doing(|| "opening shim.sock".into())?;
    let own = process::record(std::process::id().cast_signed());
    files::replace(&directory.join("shim.pid"), &own.to_string()).doing(|| "writing shim.pid".into())?;
    let pause = match Pause::adopt(directory) {
        Some(pause) => pause,
        None => Pause::start(directory)?,
    };
    let tasks = adopt::tasks(directory);
    sys::trim_memory();
    silence(1).doing(|| "closing stdout".into())?;
    let shim = Shim {
        directory: PathBuf::from(directory),
        _lock: lock,
        listener,
        signals,
        pause,
        last_task: tasks.len() as u32,
        tasks,
        connections: Vec::new(),
        last_connection: 0,
        scratch: vec![0; SCRATCH].into(),
        shutdown: None,
        done: false,
    };
    shim.serve();
    Ok(())
}

/// Nothing of whoever started us is kept but stdout, whose end says that we answer.
fn stand_alone() -> io::Result<()> {
    sys::process::close_all_but(&[0, 1, 2])?;
    silence(0)?;
    silence(2)?;
    sys::process::block_signals(true);
    sys::process::default_signals();
    sys::process::set_name(c"longshore-shim")?;
    // Fails for a session's leader, which is fine as well.
    let _ = sys::process::new_session();
    sys::process::chdir(c"/")?;
    sys::process::set_umask(0);
    sys::process::prctl(libc::PR_SET_CHILD_SUBREAPER, 1)?;
    // Inherited by children until their exec: a container that one of them has joined can't reach our memory
    // or descriptors through it.
    sys::process::prctl(libc::PR_SET_DUMPABLE, 0)?;
    let score = sys::open(Path::new("/proc/self/oom_score_adj"), libc::O_WRONLY)?;
    // Not allowed without CAP_SYS_RESOURCE: then we are as likely as our starter.
    let _ = sys::write_value(score.as_fd(), OOM_SCORE);
    Ok(())
}

fn silence(number: i32) -> io::Result<()> {
    sys::put_at(sys::open(Path::new("/dev/null"), libc::O_RDWR)?.as_fd(), number)
}

/// Through the directory's descriptor: sun_path has 108 bytes, a sandbox directory may well be longer.
fn listen(directory: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}/shim.sock", directory.as_raw_fd());
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: only numbers.
    let socket = sys::own(unsafe { libc::socket(libc::AF_UNIX, kind, 0) }.into())?;
    // SAFETY: all zero bytes are a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let path = CString::new(path.as_bytes())?;
    for (place, byte) in address.sun_path.iter_mut().zip(path.as_bytes_with_nul()) {
        *place = byte.cast_signed() as libc::c_char;
    }
    sys::process::set_umask(0o177);
    // SAFETY: `address` is live and of the length given.
    let bound = sys::check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            mem::size_of::<libc::sockaddr_un>() as libc::socklen_t,
        )
    });
    sys::process::set_umask(0);
    bound?;
    // SAFETY: only numbers.
    sys::check(unsafe { libc::listen(socket.as_raw_fd(), 64) })?;
    Ok(socket)
}

/// Tells whoever started us why there is no shim.
pub(crate) fn report(failure: &Failure) {
    // SAFETY: descriptor 1 is open from the start.
    let stdout = unsafe { BorrowedFd::borrow_raw(1) };
    let _ = sys::write(stdout, failure.reason.as_bytes());
}
