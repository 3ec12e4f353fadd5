//! The lease store: one file per address, named by it, that says which sandbox has it and with which host ports.
//!
//! A lease is written under a temporary name and then linked to the address, which fails when the address is taken: a
//! lease is whole or not there, and never shared. Nothing is synced to the platter: after a power cut no pod runs any
//! more, and a lease that came out empty counts as none.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    io::{Read as _, Write as _},
    net::Ipv4Addr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{error::NetworkError, ids::SandboxId, ports::HostPort, range::PodRange};

/// A lease with the most ports that are allowed is a third of it.
const LARGEST_FILE: u64 = 256 * 1024;

/// The last address that was given, so that the round goes on after a restart.
const LAST_GIVEN: &str = "last-given";

const TEMPORARY: &str = ".new-";

/// What one sandbox holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lease {
    pub(crate) sandbox: SandboxId,
    #[serde(default)]
    pub(crate) ports: Vec<HostPort>,
}

/// The store. Calls are short file operations; the map in memory is a copy of the directory, changed after it.
#[derive(Debug)]
pub(crate) struct Leases {
    directory: PathBuf,
    range: PodRange,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    leases: BTreeMap<Ipv4Addr, Lease>,
    last_given: Option<Ipv4Addr>,
}

impl Leases {
    /// Reads the store, making the directory where there is none, and clears away half-written files.
    pub(crate) fn load(directory: PathBuf, range: PodRange) -> Result<Self, NetworkError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&directory).map_err(failed("creating", &directory))?;
        let mut held = Held { last_given: read_last_given(&directory.join(LAST_GIVEN)), ..Held::default() };
        let entries = fs::read_dir(&directory).map_err(failed("listing", &directory))?;
        for entry in entries {
            let path = entry.map_err(failed("listing", &directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(TEMPORARY) {
                remove_file(&path)?;
            } else if let Ok(address) = name.parse() {
                held.leases.extend(read_lease(&path)?.map(|lease| (address, lease)));
            }
        }
        Ok(Self { directory, range, held: Mutex::new(held) })
    }

    /// Every lease, by address.
    pub(crate) fn all(&self) -> BTreeMap<Ipv4Addr, Lease> {
        self.held().leases.clone()
    }

    /// The address and lease of one sandbox.
    pub(crate) fn of(&self, sandbox: &SandboxId) -> Option<(Ipv4Addr, Lease)> {
        self.held().find(sandbox)
    }

    /// Gives the sandbox an address and its host ports. A sandbox that has an address keeps it.
    pub(crate) fn reserve(&self, sandbox: &SandboxId, ports: &[HostPort]) -> Result<Ipv4Addr, NetworkError> {
        let mut held = self.held();
        held.check_ports(sandbox, ports)?;
        let lease = Lease { sandbox: sandbox.clone(), ports: ports.to_vec() };
        match held.find(sandbox) {
            Some((address, former)) if former == lease && self.range.holds(address) => Ok(address),
            Some((address, _)) if self.range.holds(address) => self.rewrite(&mut held, address, lease),
            _ => self.take(&mut held, lease),
        }
    }

    /// Gives the host ports back and keeps the address.
    pub(crate) fn drop_ports(&self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        let mut held = self.held();
        match held.find(sandbox) {
            Some((address, lease)) if !lease.ports.is_empty() => {
                let lease = Lease { ports: Vec::new(), ..lease };
                self.rewrite(&mut held, address, lease).map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Gives everything of the sandbox back; fine when it holds nothing.
    pub(crate) fn release(&self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        let mut held = self.held();
        while let Some((address, _)) = held.find(sandbox) {
            remove_file(&self.directory.join(address.to_string()))?;
            held.leases.remove(&address);
        }
        Ok(())
    }

    /// Removes the store. Files that are not ours stay, and the directory with them.
    pub(crate) fn remove(&self) -> Result<(), NetworkError> {
        let mut held = self.held();
        for address in held.leases.keys() {
            remove_file(&self.directory.join(address.to_string()))?;
        }
        *held = Held::default();
        remove_file(&self.directory.join(LAST_GIVEN))?;
        match fs::remove_dir(&self.directory) {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(failed("removing", &self.directory)(error))
            }
            _ => Ok(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // The map is changed only after the disk, in single steps: a panic elsewhere leaves it true.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, held: &mut Held, lease: Lease) -> Result<Ipv4Addr, NetworkError> {
        let mut taken: BTreeSet<_> = held.leases.keys().copied().collect();
        let temporary = write_temporary(&self.directory, "lease", &lease)?;
        let given = loop {
            let Some(address) = self.range.next_free(held.last_given, &taken) else {
                remove_file(&temporary)?;
                return Err(NetworkError::Exhausted { range: self.range.net(), capacity: self.range.capacity() });
            };
            let path = self.directory.join(address.to_string());
            match fs::hard_link(&temporary, &path) {
                Ok(()) => break address,
                // Another process on the same directory, or a file that nobody can read: not ours to give.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => _ = taken.insert(address),
                Err(error) => return Err(failed("writing", &path)(error)),
            }
        };
        remove_file(&temporary)?;
        held.leases.insert(given, lease);
        held.last_given = Some(given);
        replace(&self.directory, LAST_GIVEN, &given)?;
        Ok(given)
    }

    fn rewrite(&self, held: &mut Held, address: Ipv4Addr, lease: Lease) -> Result<Ipv4Addr, NetworkError> {
        replace(&self.directory, &address.to_string(), &lease)?;
        held.leases.insert(address, lease);
        Ok(address)
    }
}

impl Held {
    fn find(&self, sandbox: &SandboxId) -> Option<(Ipv4Addr, Lease)> {
        let mine = self.leases.iter().find(|(_, lease)| lease.sandbox == *sandbox);
        mine.map(|(address, lease)| (*address, lease.clone()))
    }

    fn check_ports(&self, sandbox: &SandboxId, ports: &[HostPort]) -> Result<(), NetworkError> {
        let others = self.leases.values().filter(|lease| lease.sandbox != *sandbox);
        for lease in others {
            let taken = lease.ports.iter().find(|held| ports.iter().any(|port| port.conflicts_with(held)));
            if let Some(port) = taken {
                let (wanted_by, held_by) = (sandbox.clone(), lease.sandbox.clone());
                return Err(NetworkError::HostPortTaken { port: port.clone(), wanted_by, held_by });
            }
        }
        Ok(())
    }
}

/// A file that cannot be understood is no lease: it is removed and said so, or its address would be lost for ever.
fn read_lease(path: &Path) -> Result<Option<Lease>, NetworkError> {
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(failed("opening", path))?;
    file.take(LARGEST_FILE + 1).read_to_end(&mut text).map_err(failed("reading", path))?;
    match serde_json::from_slice(&text) {
        Ok(lease) if text.len() as u64 <= LARGEST_FILE => Ok(Some(lease)),
        _ => {
            tracing::warn!(path = %path.display(), "removing a lease that cannot be read");
            remove_file(path).map(|()| None)
        }
    }
}

/// Only a hint: without it the round starts over.
fn read_last_given(path: &Path) -> Option<Ipv4Addr> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(64).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn replace(directory: &Path, name: &str, value: &impl Serialize) -> Result<(), NetworkError> {
    let (temporary, path) = (write_temporary(directory, name, value)?, directory.join(name));
    fs::rename(&temporary, &path).map_err(failed("writing", &path))
}

/// Callers hold the lock, so one temporary file per name is enough; one that a killed agent left is written over.
fn write_temporary(directory: &Path, name: &str, value: &impl Serialize) -> Result<PathBuf, NetworkError> {
    let path = directory.join(format!("{TEMPORARY}{name}"));
    let text = serde_json::to_vec(value).map_err(io::Error::from).map_err(failed("writing", &path))?;
    // Never through a name that exists: it may be another link to a lease.
    remove_file(&path)?;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    file.and_then(|mut file| file.write_all(&text)).map_err(failed("writing", &path))?;
    Ok(path)
}

fn remove_file(path: &Path) -> Result<(), NetworkError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("removing", path)(error)),
        _ => Ok(()),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::Leases { doing, path, source }
}

#[cfg(test)]
mod tests;
