//! The bridge itself: made once per agent, adopted by the next one, removed at the very end.

use std::{
    collections::BTreeSet,
    io,
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
};

use tokio::sync::Mutex;

use crate::{
    config::NetworkConfig,
    conntrack::{self, Wanted},
    error::NetworkError,
    firewall, forwarding,
    leases::Leases,
    names,
    netlink::{Links, Network},
    peers::{self, Peers, Route},
    range::PodRange,
    removal::Removal,
    rules::{self, Table},
    survey::Survey,
    sysctl,
};

/// One agent's pod network, in the network namespace that [`Bridge::open`] was called in.
///
/// Calls need a tokio runtime with I/O and time. They may run at the same time, except for two about the same sandbox,
/// and except [`Bridge::remove_all`], which must be alone. A call that is dropped half-way has done a part of its work,
/// as if the process had been killed: the same call, or [`Bridge::detach`], completes or undoes it.
#[derive(Debug)]
pub struct Bridge {
    pub(crate) config: NetworkConfig,
    pub(crate) range: PodRange,
    pub(crate) links: Links,
    pub(crate) removal: Removal,
    pub(crate) leases: Leases,
    pub(crate) index: u32,
    pub(crate) mtu: u32,
    pub(crate) peers: Peers,
    /// Set while the kernel's rules may lack a host port that the leases have, or the other way round.
    pub(crate) ports_changed: AtomicBool,
    /// One writer of rules at a time, so that the last one writes the newest leases.
    written: Mutex<Written>,
}

impl Bridge {
    /// Makes the pod network, or adopts what an earlier run left of it. Everything that can be found wrong without
    /// changing the machine is found first. Repeatable.
    ///
    /// # Errors
    /// The configuration or the machine does not allow it, or a step failed; what a failed first start made is undone.
    pub async fn open(config: NetworkConfig) -> Result<Self, NetworkError> {
        let range = config.check()?;
        sysctl::check_writable()?;
        let links = Links::open().await?;
        let survey = look(&links, &config).await?;
        let own = survey.own_bridge(&config)?.map(|link| link.index);
        survey.check_range(range.net(), own)?;
        let leases = Leases::load(config.leases.clone(), range)?;
        let mtu = config.mtu.unwrap_or_else(|| survey.outer_mtu());
        let (ports_changed, written) = (AtomicBool::new(false), Mutex::default());
        let removal = Removal::new(links.clone(), &config.instance);
        let (index, peers) = (own.unwrap_or(0), Peers::default());
        peers.set(peers::peers_of(&survey.to_peers, range.net()));
        let mut bridge = Self { config, range, links, removal, leases, index, mtu, peers, ports_changed, written };
        bridge.drop_leases_outside_range(&survey)?;
        match bridge.establish(&survey, own).await {
            Ok(()) => Ok(bridge),
            Err(error) => {
                if own.is_none() && bridge.leases.all().is_empty() {
                    _ = bridge.remove_all().await;
                }
                Err(error)
            }
        }
    }

    /// Writes the packet rules again if they are missing, as after a firewall was reloaded. Cheap enough for once a
    /// minute: one process when nothing is missing.
    ///
    /// # Errors
    /// The tools failed, or a kernel parameter cannot be set.
    pub async fn ensure_rules(&self) -> Result<(), NetworkError> {
        let mut written = self.written.lock().await;
        written.is_guarded = false;
        self.write_rules(&mut written, |tables, _| tables).await
    }

    /// Brings the host ports' rules to what the leases say; runs nothing when they are.
    pub(crate) async fn ensure_ports(&self) -> Result<(), NetworkError> {
        // The turn first: a writer that is still at work has already taken the mark away.
        let mut written = self.written.lock().await;
        if !self.ports_changed.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.write_rules(&mut written, rules::port_rules_only).await
    }

    /// After the rules: lets UDP connections find their new way. The ports work for new ones without it.
    pub(crate) async fn forget_stale_connections(&self, gone: BTreeSet<Ipv4Addr>) {
        let wanted = Wanted::new(self.range, &self.leases.all(), gone);
        if wanted.is_nothing() {
            return;
        }
        let done = tokio::task::spawn_blocking(move || conntrack::forget_stale(&wanted)).await;
        match done.map_err(io::Error::other).flatten() {
            Ok(count) => tracing::debug!(count, "stale UDP connections forgotten"),
            Err(error) => tracing::warn!(%error, "UDP connections from before a host port changed may go astray"),
        }
    }

    async fn write_rules(
        &self,
        written: &mut Written,
        choose: impl FnOnce(Vec<Table>, bool) -> Vec<Table>,
    ) -> Result<(), NetworkError> {
        // The mark goes before the leases are read, so that a change in between sets it again; it comes back when this
        // fails or is dropped half-way.
        self.ports_changed.store(false, Ordering::SeqCst);
        let mut mark = MarkUnlessDone { mark: &self.ports_changed, is_done: false };
        let leases = self.leases.all();
        let tables = rules::ruleset(&self.config, &leases, &self.peers.known());
        firewall::apply(&choose(tables, written.is_guarded)).await?;
        // After the rules: they hold the guard that makes it harmless.
        if self.index != 0 && rules::needs_loopback(&leases) {
            sysctl::ensure(&format!("net/ipv4/conf/{}/route_localnet", self.config.bridge), "1")?;
            written.is_guarded = true;
        }
        mark.is_done = true;
        Ok(())
    }

    /// Removes everything of this agent: rules, links, bridge, leases; forwarding gets its former value back unless
    /// another agent still needs it. Repeatable. The bridge must not be used afterwards.
    ///
    /// # Errors
    /// The first step that failed; what comes after it is still there.
    pub async fn remove_all(&self) -> Result<(), NetworkError> {
        firewall::remove(rules::every_table(&self.config)).await?;
        self.remove_routes().await?;
        let survey = look(&self.links, &self.config).await?;
        let bridge = survey.own_bridge(&self.config)?.map(|link| link.index);
        let pods = survey.pod_links(&self.config.instance, bridge).map(|link| link.name.clone());
        self.removal.remove_all(&pods.collect()).await?;
        forwarding::give_back(&self.config, &self.links, bridge.is_some()).await?;
        self.leases.remove()
    }

    /// How many addresses are given out. One whose pod is gone counts until it was detached.
    pub fn leased(&self) -> usize {
        self.leases.all().len()
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.range.gateway()
    }

    async fn establish(&mut self, survey: &Survey, own: Option<u32>) -> Result<(), NetworkError> {
        // Rules first: no packet takes a way that they are there to close, and a machine without them changes nothing.
        if own.is_some() {
            self.ensure_rules().await?;
        } else {
            firewall::apply_first(&rules::ruleset(&self.config, &self.leases.all(), &self.peers.known())).await?;
        }
        self.index = self.ensure_link(own).await?;
        self.ensure_addresses(survey).await?;
        forwarding::enable(&self.config, &self.links, self.index, self.mtu).await?;
        self.adopt_ports(survey).await?;
        if rules::needs_loopback(&self.leases.all()) {
            self.ensure_rules().await?;
        }
        self.forget_stale_connections(BTreeSet::new()).await;
        Ok(())
    }

    async fn ensure_link(&self, own: Option<u32>) -> Result<u32, NetworkError> {
        if let Some(index) = own {
            return Ok(index);
        }
        let name = &self.config.bridge;
        self.links.add_bridge(name, names::bridge_mac(&self.config.instance), self.mtu).await?;
        sysctl::harden_bridge(name);
        let link = self.links.link(name).await?;
        link.map(|link| link.index).ok_or_else(|| NetworkError::Link {
            doing: format!("looking for the bridge {name} that was just made"),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    async fn ensure_addresses(&self, survey: &Survey) -> Result<(), NetworkError> {
        let (gateway, prefix) = (self.gateway(), self.range.net().prefix_len());
        self.links.add_address(self.index, gateway, prefix).await?;
        for stale in survey.stale_addresses(self.index, gateway, prefix) {
            self.links.remove_address(self.index, stale).await?;
        }
        Ok(())
    }

    /// Pods whose links outlived their bridge come back to it.
    async fn adopt_ports(&self, survey: &Survey) -> Result<(), NetworkError> {
        for lease in self.leases.all().values() {
            let name = names::host_link(&self.config.instance, &lease.sandbox);
            let link = survey.links.iter().find(|link| link.name == name);
            if link.is_some_and(|link| link.controller != Some(self.index)) {
                let alias = names::link_alias(&self.config.instance, &lease.sandbox);
                self.links.move_port(&name, self.index).await?;
                self.links.finish_port(&name, &alias).await?;
            }
        }
        Ok(())
    }

    /// A lease outside the range is from an earlier configuration. Without a link its pod is gone.
    fn drop_leases_outside_range(&self, survey: &Survey) -> Result<(), NetworkError> {
        let range = self.range.net();
        for (address, lease) in self.leases.all() {
            if self.range.holds(address) {
                continue;
            }
            let (sandbox, name) = (lease.sandbox.clone(), names::host_link(&self.config.instance, &lease.sandbox));
            if survey.links.iter().any(|link| link.name == name) {
                return Err(NetworkError::OutsideRange { sandbox, address, range });
            }
            self.leases.release(&sandbox)?;
        }
        Ok(())
    }
}

/// What this process knows to stand in the kernel.
#[derive(Debug, Default)]
struct Written {
    /// The guard in front of the loopback.
    is_guarded: bool,
}

/// Reads everything that the survey is made of.
pub(crate) async fn look(links: &Links, config: &NetworkConfig) -> Result<Survey, NetworkError> {
    let (links, addresses, routes) = tokio::try_join!(links.links(), links.addresses(), links.routes())?;
    let (to_peers, others): (Vec<Route>, Vec<Route>) =
        routes.into_iter().partition(|route| route.is_of(&config.instance));
    let routes = others.into_iter().map(|route| Network { net: route.net, link: route.link }).collect();
    Ok(Survey { links, addresses, routes, to_peers })
}

/// Sets the mark when it is dropped before it is done.
struct MarkUnlessDone<'a> {
    mark: &'a AtomicBool,
    is_done: bool,
}

impl Drop for MarkUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.mark.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Agents run these on the worker threads of a runtime.
    #[test]
    fn every_call_can_be_spawned() {
        fn can_be_spawned<F: Future + Send>(_: impl FnOnce(&'static Bridge) -> F) {}
        can_be_spawned(|bridge| async move {
            let (sandbox, netns) = ("one".parse().ok()?, crate::open_netns("/nowhere".as_ref()).ok()?);
            bridge.attach(&sandbox, netns, &[]).await.ok()?;
            bridge.detach(&sandbox).await.ok()?;
            bridge.release_unknown(&BTreeSet::new()).await.ok()?;
            bridge.ensure_rules().await.ok()?;
            bridge.remove_all().await.ok()
        });
        can_be_spawned(|bridge| Bridge::open(bridge.config.clone()));
    }
}
