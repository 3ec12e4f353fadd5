//! One sandbox: onto the bridge and off it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::Ordering,
};

use ipnet::Ipv4Net;

use crate::{
    bridge::{self, Bridge},
    error::NetworkError,
    ids::SandboxId,
    names::{self, POD_INTERFACE},
    netlink::{self, Pair},
    pod_netns::{self, PodSide},
    ports::{self, HostPort, Protocol},
};

/// A sandbox' place in the pod network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The sandbox' addresses; one, IPv4.
    pub ips: Vec<IpAddr>,
    /// Where it sends everything: the bridge's address.
    pub gateway: IpAddr,
    /// Its interface, inside.
    pub interface: &'static str,
    /// That interface's hardware address, `00:11:22:33:44:55`.
    pub mac: String,
    /// The other end, on the node.
    pub host_interface: String,
}

/// What [`Bridge::release_unknown`] cleared away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Sandboxes that still had a lease.
    pub sandboxes: Vec<SandboxId>,
    /// Links that no lease spoke of.
    pub links: Vec<String>,
}

impl Bridge {
    /// Gives the sandbox an address, an interface in its network namespace, and its host ports. For a sandbox that has
    /// them already they are made anew, with the same address.
    ///
    /// # Errors
    /// No address is free, a host port is taken, or a step failed; then nothing of the attachment is left.
    pub async fn attach(
        &self,
        sandbox: &SandboxId,
        netns: OwnedFd,
        ports: &[HostPort],
    ) -> Result<Attachment, NetworkError> {
        ports::check(ports).map_err(|source| NetworkError::Ports { sandbox: sandbox.clone(), source })?;
        check_netns(sandbox, &netns)?;
        let had_ports = self.leases.of(sandbox).is_some_and(|(_, lease)| !lease.ports.is_empty());
        // File operations of microseconds, here and below: a hop to another thread would cost more.
        let address = self.leases.reserve(sandbox, ports)?;
        let has_ports = had_ports || !ports.is_empty();
        self.ports_changed.fetch_or(has_ports, Ordering::SeqCst);
        match self.connect(sandbox, netns, address, has_ports).await {
            Ok(()) => Ok(self.attachment(sandbox, address)),
            Err(error) => {
                if let Err(undo) = self.detach(sandbox).await {
                    tracing::warn!(%sandbox, error = &undo as &dyn std::error::Error, "half an attachment is left");
                }
                Err(error)
            }
        }
    }

    /// Takes host ports, link and address back. Fine when there are none, when the network namespace is gone, and again.
    ///
    /// # Errors
    /// A step failed; the lease is then still there, and the call can be repeated.
    pub async fn detach(&self, sandbox: &SandboxId) -> Result<(), NetworkError> {
        let link = names::host_link(&self.config.instance, sandbox);
        tokio::try_join!(self.give_ports_back(std::slice::from_ref(&sandbox)), self.removal.remove(&link))?;
        self.leases.release(sandbox)
    }

    /// Every sandbox that has a lease: what a restarted agent needs to know.
    pub fn attachments(&self) -> BTreeMap<SandboxId, Attachment> {
        let leases = self.leases.all().into_iter();
        leases.map(|(address, lease)| (lease.sandbox.clone(), self.attachment(&lease.sandbox, address))).collect()
    }

    /// Takes back what belongs to sandboxes that are not known any more. No attach may run at the same time unless its
    /// sandbox is among the known.
    ///
    /// # Errors
    /// The first step that failed; the call can be repeated.
    pub async fn release_unknown(&self, known: &BTreeSet<SandboxId>) -> Result<Released, NetworkError> {
        let leases = self.leases.all();
        let unknown: Vec<_> = leases.values().map(|lease| &lease.sandbox).filter(|id| !known.contains(id)).collect();
        self.give_ports_back(&unknown).await?;
        futures::future::try_join_all(unknown.iter().map(|sandbox| self.detach(sandbox))).await?;
        let links = self.remove_unknown_links(known).await?;
        Ok(Released { sandboxes: unknown.into_iter().cloned().collect(), links })
    }

    async fn connect(
        &self,
        sandbox: &SandboxId,
        netns: OwnedFd,
        address: Ipv4Addr,
        has_ports: bool,
    ) -> Result<(), NetworkError> {
        let host = names::host_link(&self.config.instance, sandbox);
        let alias = names::link_alias(&self.config.instance, sandbox);
        let pod_mac = names::pod_mac(address);
        let pair = Pair { host: &host, bridge: self.index, netns: netns.as_raw_fd(), pod_mac, mtu: self.mtu };
        self.add_pair(&pair).await?;
        let net = Ipv4Net::new_assert(address, self.range.net().prefix_len());
        let side = PodSide { address: net, gateway: self.gateway() };
        let pod = pod_netns::configure(sandbox, netns, side);
        tokio::try_join!(self.links.finish_port(&host, &alias), pod, self.set_ports(has_ports))?;
        Ok(())
    }

    /// A link of that name is what an earlier try left.
    async fn add_pair(&self, pair: &Pair<'_>) -> Result<(), NetworkError> {
        match self.links.add_pair(pair).await {
            Err(error) if netlink::is_taken(&error) => {
                self.links.remove_link(pair.host).await?;
                self.links.add_pair(pair).await
            }
            done => done,
        }
    }

    async fn set_ports(&self, has_ports: bool) -> Result<(), NetworkError> {
        if has_ports {
            self.ensure_ports().await?;
            self.forget_stale_connections(BTreeSet::new()).await;
        }
        Ok(())
    }

    /// The leases say so first: a rule that is set again after this moment is set without these ports.
    async fn give_ports_back(&self, sandboxes: &[&SandboxId]) -> Result<(), NetworkError> {
        let mut gone = BTreeSet::new();
        let mut had_ports = false;
        for sandbox in sandboxes {
            let Some((address, lease)) = self.leases.of(sandbox).filter(|(_, lease)| !lease.ports.is_empty()) else {
                continue;
            };
            had_ports = true;
            self.ports_changed.store(true, Ordering::SeqCst);
            self.leases.drop_ports(sandbox)?;
            gone.extend(lease.ports.iter().any(|port| port.protocol == Protocol::Udp).then_some(address));
        }
        // Plain pods pass by without waiting for a writer.
        if had_ports || self.ports_changed.load(Ordering::SeqCst) {
            self.ensure_ports().await?;
        }
        if !gone.is_empty() {
            self.forget_stale_connections(gone).await;
        }
        Ok(())
    }

    async fn remove_unknown_links(&self, known: &BTreeSet<SandboxId>) -> Result<Vec<String>, NetworkError> {
        let expected: BTreeSet<_> = known.iter().map(|id| names::host_link(&self.config.instance, id)).collect();
        let survey = bridge::look(&self.links, &self.config).await?;
        let links = survey.pod_links(&self.config.instance, Some(self.index));
        let unknown: BTreeSet<_> =
            links.map(|link| link.name.clone()).filter(|name| !expected.contains(name)).collect();
        self.removal.remove_all(&unknown).await?;
        Ok(unknown.into_iter().collect())
    }

    fn attachment(&self, sandbox: &SandboxId, address: Ipv4Addr) -> Attachment {
        Attachment {
            ips: vec![address.into()],
            gateway: self.gateway().into(),
            interface: POD_INTERFACE,
            mac: names::mac_text(names::pod_mac(address)),
            host_interface: names::host_link(&self.config.instance, sandbox),
        }
    }
}

/// Setting the node's own `eth0` up as a pod's would take the node off its network.
fn check_netns(sandbox: &SandboxId, netns: &OwnedFd) -> Result<(), NetworkError> {
    match pod_netns::is_own(netns) {
        Ok(false) => Ok(()),
        Ok(true) => Err(NetworkError::OwnNamespace { sandbox: sandbox.clone() }),
        Err(source) => {
            let doing = "examining it".to_owned();
            Err(NetworkError::PodNamespace { sandbox: sandbox.clone(), doing, source })
        }
    }
}
