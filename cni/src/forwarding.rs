//! Forwarding is one switch for the whole machine, and several agents may need it: the first notes its former value, each
//! passes that on in its bridge's alias, and the last one to leave puts it back.
//!
//! What belongs together is done under a lock on the switch itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    bridge,
    config::NetworkConfig,
    error::NetworkError,
    netlink::Links,
    survey,
    sysctl::{self, FormerForwarding, IP_FORWARD},
};

/// Holders do a handful of netlink calls.
const LOCK_LIMIT: Duration = Duration::from_secs(30);

/// In the directory of the leases.
const RECORD: &str = "former-forwarding";

/// Sets the bridge up and forwarding on, after noting its former value on disk and in the bridge's alias.
pub(crate) async fn enable(config: &NetworkConfig, links: &Links, index: u32, mtu: u32) -> Result<(), NetworkError> {
    let _lock = lock().await?;
    let record = config.leases.join(RECORD);
    let former = match read(&record) {
        Some(former) => former,
        None => {
            let from_others = bridge::look(links, config).await?.former_forwarding(&config.bridge);
            let former = from_others.map_or_else(|| sysctl::read(IP_FORWARD), Ok).and_then(FormerForwarding::new);
            let former = former.map_err(failed("1"))?;
            write(&record, &former)?;
            former
        }
    };
    links.set_up(index, mtu, &survey::bridge_alias(&config.instance, &former.value)).await?;
    sysctl::ensure(IP_FORWARD, "1")
}

/// Removes the bridge, and puts the former value back when it was the last one.
pub(crate) async fn give_back(config: &NetworkConfig, links: &Links, has_bridge: bool) -> Result<(), NetworkError> {
    let _lock = lock().await?;
    if has_bridge {
        links.remove_link(&config.bridge).await?;
    }
    let record = config.leases.join(RECORD);
    if let Some(former) = read(&record)
        && !bridge::look(links, config).await?.has_other_bridges(&config.bridge)
    {
        sysctl::ensure(IP_FORWARD, &former.value)?;
    }
    match fs::remove_file(&record) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NetworkError::Leases { doing: "removing", path: record, source })
        }
        _ => Ok(()),
    }
}

/// Waits in a thread of its own: another agent may hold it.
async fn lock() -> Result<fs::File, NetworkError> {
    let path = PathBuf::from("/proc/sys").join(IP_FORWARD);
    let take = move || fs::File::open(path).and_then(|file| file.lock().map(|()| file));
    let taken = tokio::time::timeout(LOCK_LIMIT, tokio::task::spawn_blocking(take)).await;
    let taken = taken.map_err(io::Error::from).and_then(|joined| joined.map_err(io::Error::other)).flatten();
    taken.map_err(failed("1"))
}

/// A record that cannot be read is none: then the present value counts as the former one.
fn read(path: &Path) -> Option<FormerForwarding> {
    let former: FormerForwarding = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    former.is_of_this_boot().then_some(former)
}

fn write(path: &Path, former: &FormerForwarding) -> Result<(), NetworkError> {
    let temporary = path.with_file_name(".new-former-forwarding");
    let written = serde_json::to_vec(former).map_err(io::Error::from);
    let written = written.and_then(|text| fs::write(&temporary, text)).and_then(|()| fs::rename(&temporary, path));
    written.map_err(|source| NetworkError::Leases { doing: "writing", path: path.to_owned(), source })
}

fn failed(value: &str) -> impl FnOnce(io::Error) -> NetworkError {
    let value = value.to_owned();
    move |source| NetworkError::Sysctl { key: IP_FORWARD.to_owned(), value, source }
}
