//! The pod's side: what has to be done inside its network namespace.
//!
//! A thread enters a namespace for good and ends with it; a worker thread of the agent never may. Sockets and
//! `/proc/sys/net` follow the thread that opens them.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use ipnet::Ipv4Net;
use nix::{
    sched::{CloneFlags, setns},
    sys::stat::{fstat, stat},
};
use tokio::sync::oneshot;

use crate::{error::NetworkError, ids::SandboxId, names::POD_INTERFACE, netlink::Links, sysctl};

/// What the pod's interface gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PodSide {
    /// The pod's address with the prefix of the pod range.
    pub(crate) address: Ipv4Net,
    pub(crate) gateway: Ipv4Addr,
}

/// Opens a network namespace by its path, such as `/proc/<pid>/ns/net`.
///
/// # Errors
/// The system's answer.
pub fn open_netns(path: &Path) -> io::Result<OwnedFd> {
    std::fs::File::open(path).map(OwnedFd::from)
}

/// Whether the descriptor is the calling thread's own network namespace.
pub(crate) fn is_own(netns: impl AsFd) -> io::Result<bool> {
    let (theirs, ours) = (fstat(netns)?, stat("/proc/thread-self/ns/net")?);
    Ok((theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino))
}

/// Sets the loopback and the pod's interface up, with address and routes. Repeatable.
pub(crate) async fn configure(sandbox: &SandboxId, netns: OwnedFd, side: PodSide) -> Result<(), NetworkError> {
    let failed =
        |doing: &str, source| NetworkError::PodNamespace { sandbox: sandbox.clone(), doing: doing.to_owned(), source };
    let (tell, told) = oneshot::channel();
    let run = move || drop(tell.send(enter(&netns).map(|runtime| runtime.block_on(set_up(side)))));
    let thread = std::thread::Builder::new().name("pod-netns".to_owned()).spawn(run);
    thread.map_err(|source| failed("starting a thread", source))?;
    match told.await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(NetworkError::Link { doing, source }))) => Err(failed(&doing, source)),
        Ok(Ok(Err(other))) => Err(other),
        Ok(Err(source)) => Err(failed("entering it", source)),
        Err(_) => Err(failed("waiting for the thread", io::ErrorKind::BrokenPipe.into())),
    }
}

fn enter(netns: &OwnedFd) -> io::Result<tokio::runtime::Runtime> {
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// The address carries the range's prefix, but the only neighbour is the gateway: packets between pods of one node pass
/// through the node's IP layer in both directions. Otherwise an answer would go straight over the bridge, past the
/// connection tracking that translated the question, unless br_netfilter is loaded.
async fn set_up(side: PodSide) -> Result<(), NetworkError> {
    let doing = "opening a netlink socket".to_owned();
    let links = Links::open_here().map_err(|source| NetworkError::Link { doing, source })?;
    links.set_loopback_up().await?;
    let Some(interface) = links.link(POD_INTERFACE).await? else {
        let doing = format!("looking for {POD_INTERFACE}");
        return Err(NetworkError::Link { doing, source: io::ErrorKind::NotFound.into() });
    };
    sysctl::harden_pod(POD_INTERFACE)?;
    links.set_link_up(interface.index).await?;
    links.add_address_without_route(interface.index, side.address).await?;
    links.add_gateway(interface.index, side.gateway).await
}
