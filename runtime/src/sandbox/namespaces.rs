//! Network namespaces: made on a thread of their own, pinned by a bind mount, entered for a moment.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use rustix::mount::mount_bind;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::files::MountError;

/// Makes a network namespace and pins it at `path`, so that it lives until it is unmounted there.
///
/// The mount keeps the propagation of what it lies on: where that is shared, others have copies of it, and only the end
/// of a shared mount is told to them too.
///
/// Blocks for about a millisecond.
///
/// # Errors
/// When the namespace cannot be made or pinned.
pub(crate) fn pin_new_network(path: &Path) -> Result<(), MountError> {
    let failed = |what| move |source: io::Error| MountError::new(what, path, source);
    File::create(path).map_err(failed("making"))?;
    in_thread(|| {
        // SAFETY: only this thread leaves its network namespace, nothing of it is shared with others, and it ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        mount_bind("/proc/thread-self/ns/net", path)?;
        Ok(())
    })
    .map_err(failed("pinning a new network namespace at"))
}

/// Connects to `port` on the loopback of the network namespace at `path`, or of our own where there is none.
///
/// # Errors
/// When nothing listens there.
pub(crate) fn dial_loopback(path: Option<&Path>, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let connect = || {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        TcpStream::connect_timeout(&v4, patience)
            .or_else(|first| TcpStream::connect_timeout(&v6, patience).map_err(|_| first))
    };
    match path {
        None => connect(),
        Some(path) => in_network(path, connect),
    }
}

/// Runs `work` on a thread inside the network namespace at `path`; sockets made there stay there.
///
/// # Errors
/// When the namespace cannot be entered, or what `work` says.
pub(crate) fn in_network<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = fs::File::open(path)?;
    in_thread(|| {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))?;
        work()
    })
}

/// A thread of its own, because a namespace belongs to a thread and ours are shared with other work.
fn in_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().stack_size(64 << 10).name("namespace".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the namespace thread panicked")))
    })
}
