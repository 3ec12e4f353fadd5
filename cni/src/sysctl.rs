//! Kernel parameters of the network namespace that the calling thread is in.

use std::{fs, io, path::Path};

use nix::unistd::{AccessFlags, access};
use serde::{Deserialize, Serialize};

use crate::error::NetworkError;

const ROOT: &str = "/proc/sys";

/// Whether the node forwards packets, for all interfaces.
pub(crate) const IP_FORWARD: &str = "net/ipv4/ip_forward";

/// Changes with every boot of the machine.
const BOOT_ID: &str = "kernel/random/boot_id";

/// The value of forwarding before the first agent of this boot changed it: kept so that the last one can put it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormerForwarding {
    boot: String,
    pub(crate) value: String,
}

impl FormerForwarding {
    pub(crate) fn new(value: String) -> io::Result<Self> {
        Ok(Self { boot: read(BOOT_ID)?, value })
    }

    /// A record of an earlier boot says nothing about this one.
    pub(crate) fn is_of_this_boot(&self) -> bool {
        read(BOOT_ID).is_ok_and(|boot| boot == self.boot)
    }
}

/// The value without its line end; `key` is the path below `/proc/sys`.
pub(crate) fn read(key: &str) -> io::Result<String> {
    fs::read_to_string(Path::new(ROOT).join(key)).map(|value| value.trim_end().to_owned())
}

/// Asked before anything is changed: pods need parameters of their own, even where the node's are right already.
pub(crate) fn check_writable() -> Result<(), NetworkError> {
    match access(&Path::new(ROOT).join(IP_FORWARD), AccessFlags::W_OK) {
        Ok(()) => Ok(()),
        Err(error) => Err(not_set(IP_FORWARD, "1", error.into())),
    }
}

/// Sets a value unless it is already set.
pub(crate) fn ensure(key: &str, value: &str) -> Result<(), NetworkError> {
    if read(key).is_ok_and(|present| present == value) {
        return Ok(());
    }
    fs::write(Path::new(ROOT).join(key), value).map_err(|source| not_set(key, value, source))
}

fn not_set(key: &str, value: &str, source: io::Error) -> NetworkError {
    let (key, value) = (key.to_owned(), value.to_owned());
    if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
        NetworkError::SysctlReadOnly { key, value, source }
    } else {
        NetworkError::Sysctl { key, value, source }
    }
}

/// Pods must not let each other redirect their traffic: by ICMP redirects (the node sends them too, since packets between
/// its pods leave by the interface they came from; a pod that took one would get answers past the translation of addresses)
/// or as an IPv6 router (CVE-2020-10749).
pub(crate) fn harden_pod(interface: &str) -> Result<(), NetworkError> {
    for scope in ["all", interface] {
        ensure(&format!("net/ipv4/conf/{scope}/accept_redirects"), "0")?;
    }
    harden_ipv6(interface);
    Ok(())
}

/// As [`harden_pod`], for the node's side.
pub(crate) fn harden_bridge(bridge: &str) {
    harden_ipv6(bridge);
}

fn harden_ipv6(interface: &str) {
    for key in ["accept_ra", "accept_redirects"] {
        harden(&format!("net/ipv6/conf/{interface}/{key}"));
    }
}

fn harden(key: &str) {
    if let Err(error) = fs::write(Path::new(ROOT).join(key), "0")
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(key, %error, "kernel parameter left as it is");
    }
}
