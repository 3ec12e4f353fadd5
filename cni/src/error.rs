//! What can go wrong in the pod network. The cause is only in `source`; whoever handles the error prints the chain.

use std::{io, net::Ipv4Addr, path::PathBuf, time::Duration};

use ipnet::Ipv4Net;

use crate::{
    config::ConfigError,
    ids::SandboxId,
    ports::{HostPort, PortError},
};

/// A failed operation on the pod network.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The configuration cannot work; nothing was touched.
    #[error("pod network configuration")]
    Config(#[from] ConfigError),
    /// The machine already uses addresses of the pod range.
    #[error("pod range {range} overlaps {other} on {interface}: choose another range or remove that one")]
    Overlap {
        /// The configured pod range.
        range: Ipv4Net,
        /// The address or route that is in the way.
        other: Ipv4Net,
        /// The interface that holds it, or "no interface" for a route without one.
        interface: String,
    },
    /// A link of the bridge's name exists and is not ours.
    #[error("link {bridge} exists and belongs to {owner}: choose another bridge name")]
    BridgeTaken {
        /// The configured name.
        bridge: String,
        /// Who holds it, as far as can be seen.
        owner: String,
    },
    /// A pod that still runs has an address outside the configured range.
    #[error("sandbox {sandbox} still runs with address {address}, outside the pod range {range}: stop it first")]
    OutsideRange {
        /// The running sandbox.
        sandbox: SandboxId,
        /// Its address.
        address: Ipv4Addr,
        /// The configured range.
        range: Ipv4Net,
    },
    /// Every address of the range is leased.
    #[error("pod range {range} is exhausted: all {capacity} addresses are leased")]
    Exhausted {
        /// The configured range.
        range: Ipv4Net,
        /// How many pods it can hold.
        capacity: u32,
    },
    /// The requested host ports cannot be given.
    #[error("host ports of sandbox {sandbox}")]
    Ports {
        /// Who asked.
        sandbox: SandboxId,
        /// Which port and why.
        source: PortError,
    },
    /// Another sandbox holds the host port.
    #[error("host port {port} wanted by sandbox {wanted_by} is held by sandbox {held_by}")]
    HostPortTaken {
        /// The port as the other sandbox holds it.
        port: HostPort,
        /// Who asked.
        wanted_by: SandboxId,
        /// Who has it.
        held_by: SandboxId,
    },
    /// The network namespace handed in is the node's own.
    #[error("network namespace of sandbox {sandbox} is the node's own")]
    OwnNamespace {
        /// The sandbox.
        sandbox: SandboxId,
    },
    /// Something in the pod's network namespace failed.
    #[error("in the network namespace of sandbox {sandbox}: {doing}")]
    PodNamespace {
        /// The sandbox.
        sandbox: SandboxId,
        /// What was tried.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A netlink request failed.
    #[error("{doing}")]
    Link {
        /// What was tried, on which link.
        doing: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A packet rule could not be set or removed.
    #[error("{doing}")]
    Firewall {
        /// What was tried.
        doing: &'static str,
        /// What the tool said.
        source: FirewallError,
    },
    /// A kernel parameter could not be read or set.
    #[error("setting {key} to {value}")]
    Sysctl {
        /// Path below `/proc/sys`.
        key: String,
        /// The value that is needed.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// As [`NetworkError::Sysctl`], where `/proc/sys` is read-only.
    #[error("{key} must be set to {value}, but /proc/sys is read-only here: run `mount -o remount,rw /proc/sys` first")]
    SysctlReadOnly {
        /// Path below `/proc/sys`.
        key: String,
        /// The value that is needed.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The lease store on disk could not be read or written.
    #[error("address leases: {doing} {path}")]
    Leases {
        /// What was tried.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Why the packet filter's tools failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FirewallError {
    /// The program is not installed.
    #[error("{tool} is not installed: install the package iptables")]
    Missing {
        /// The program.
        tool: &'static str,
    },
    /// The program could not be started or talked to.
    #[error("running {tool}")]
    Run {
        /// The program.
        tool: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The program ended with an error.
    #[error("{tool}: {message}")]
    Refused {
        /// The program.
        tool: &'static str,
        /// The end of what it printed.
        message: String,
    },
    /// The program did not end in time.
    #[error("{tool} did not end within {limit:?}")]
    Deadline {
        /// The program.
        tool: &'static str,
        /// How long it was given.
        limit: Duration,
    },
}
