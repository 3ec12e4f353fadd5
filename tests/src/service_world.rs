//! A node with pods on a bridge and a neighbour outside, on which services are programmed for real.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use netfilter::apply::{Iptables, Nft};
use netfilter::iptables::{JUMPS, Tables};
use netfilter::nft;
use netfilter::{
    Endpoint, Family, LocalTraffic, Model, NodeConfig, Protocol, Ruleset, ServicePort, ServicePortName, Transaction,
};

use crate::pod_network::{NEIGHBOUR, NODE, Netns, Wire, can_run};

/// Addresses that lead to the node from outside: service addresses and those of load balancers.
const ROUTED: [&str; 2] = ["10.96.0.0/16", "203.0.113.0/24"];

/// How rules get into the kernel, and what is there.
#[derive(Debug)]
enum Programs {
    Iptables(Iptables, Ruleset),
    Nft(Nft, nft::Ruleset),
}

/// Node, neighbour and pods.
#[derive(Debug)]
pub struct World {
    /// The node, on which rules are programmed.
    pub node: Netns,
    /// Somebody outside, 192.0.2.2, to whom the node is the way to services.
    pub neighbour: Netns,
    pods: BTreeMap<u8, Netns>,
    programs: Programs,
    config: NodeConfig,
}

impl World {
    /// A node without services, its skeleton of rules in place.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> Result<Self> {
        Self::prepared("true", iptables)
    }

    /// The same with a table of nftables.
    ///
    /// # Errors
    /// The system refuses.
    pub fn with_nftables() -> Result<Self> {
        Self::prepared("true", |_| Ok(Programs::Nft(Nft::find()?, nft::Ruleset::empty(Family::V4))))
    }

    /// The same with the older tables, chosen by the mark that a kubelet would have left there.
    ///
    /// # Errors
    /// The system refuses.
    pub fn with_legacy_tables() -> Result<Self> {
        Self::prepared("iptables-legacy -t mangle -N KUBE-IPTABLES-HINT", iptables)
    }

    fn prepared(command: &str, find: fn(&Netns) -> Result<Programs>) -> Result<Self> {
        let Wire { node, neighbour } = Wire::new()?;
        node.command("sh", &["-c", command])?;
        node.set_sysctl("net/ipv4/ip_forward", "1")?;
        node.set_sysctl("net/ipv4/conf/all/route_localnet", "1")?;
        // The way to a service address leads back to the neighbour. A redirect would use up what the kernel allows
        // in ICMP errors per peer, and the refusal that is to be seen would not be sent.
        for link in ["all", "wan"] {
            node.set_sysctl(&format!("net/ipv4/conf/{link}/send_redirects"), "0")?;
        }
        node.ip("link add cni0 type bridge")?;
        node.ip("address add 10.244.1.1/24 dev cni0")?;
        node.ip("link set cni0 up")?;
        ROUTED.iter().try_for_each(|range| neighbour.ip(&format!("route add {range} via {NODE}")).map(drop))?;
        let config = NodeConfig {
            local_traffic: LocalTraffic::Cidr("10.244.0.0/16".parse()?),
            node_ips: vec![NODE.parse()?],
            ..NodeConfig::default()
        };
        let programs = find(&node)?;
        let mut world = Self { node, neighbour, pods: BTreeMap::new(), programs, config };
        world.program(&Model::new(Family::V4))?;
        if let Programs::Iptables(iptables, _) = &world.programs {
            world.node.run(|| iptables.ensure_jumps(&JUMPS))??;
        }
        Ok(world)
    }

    /// The pod 10.244.1.`number`, made when first asked for.
    ///
    /// # Errors
    /// The system refuses.
    pub fn pod(&mut self, number: u8) -> Result<Netns> {
        if let Some(pod) = self.pods.get(&number) {
            return Ok(pod.clone());
        }
        let pod = Netns::new()?;
        let fd = pod.fd()?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
        self.node.ip(&format!("link add pod{number} type veth peer name eth0 netns {path}"))?;
        self.node.ip(&format!("link set pod{number} master cni0 up"))?;
        // As the bridge plugin does: with br_netfilter loaded, a pod that calls itself is bridged back to its port.
        self.node.ip(&format!("link set pod{number} type bridge_slave hairpin on"))?;
        pod.ip(&format!("address add 10.244.1.{number}/24 dev eth0"))?;
        pod.ip("link set eth0 up")?;
        pod.ip("route add default via 10.244.1.1")?;
        self.pods.insert(number, pod.clone());
        Ok(pod)
    }

    /// A pod that answers on port 8080, over TCP and UDP, with its name and who it thinks is asking.
    ///
    /// # Errors
    /// The system refuses.
    pub fn server(&mut self, number: u8, name: &'static str) -> Result<Netns> {
        let pod = self.pod(number)?;
        pod.serve_tcp("0.0.0.0:8080", name)?;
        pod.serve_udp("0.0.0.0:8080", name)?;
        Ok(pod)
    }

    /// Brings the kernel from the last services to these.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn program(&mut self, model: &Model) -> Result<()> {
        let (node, config) = (&self.node, &self.config);
        match &mut self.programs {
            Programs::Iptables(iptables, ruleset) => {
                let next = ruleset.next(model, config);
                let transaction = Transaction::between(ruleset, &next);
                node.run(|| iptables.restore(&transaction))?.with_context(|| transaction.text())?;
                *ruleset = next;
            }
            Programs::Nft(nft, ruleset) => {
                let next = ruleset.next(model, config);
                let transaction = nft::Transaction::between(ruleset, &next);
                node.run(|| nft.restore(&transaction))?.with_context(|| transaction.text())?;
                *ruleset = next;
            }
        }
        Ok(())
    }

    /// Programs one service.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn serve(&mut self, service: ServicePort) -> Result<()> {
        self.program(&model(vec![("demo/web", service)])?)
    }

    /// What the kernel holds, for iptables.
    ///
    /// # Errors
    /// It cannot be listed.
    pub fn tables(&self) -> Result<Tables> {
        Ok(self.node.run(|| self.iptables().save(None))??)
    }

    /// What the node adds to the rules.
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// What the kernel was told last, for iptables.
    pub fn ruleset(&self) -> &Ruleset {
        self.with_iptables().1
    }

    /// The programs that tell it, for iptables.
    pub fn iptables(&self) -> &Iptables {
        self.with_iptables().0
    }

    fn with_iptables(&self) -> (&Iptables, &Ruleset) {
        match &self.programs {
            Programs::Iptables(iptables, ruleset) => (iptables, ruleset),
            Programs::Nft(..) => panic!("this world has no iptables"),
        }
    }

    /// What the kernel was told last, and the program that tells it, for nftables.
    ///
    /// # Panics
    /// In a world of iptables.
    pub fn nftables(&self) -> (&Nft, &nft::Ruleset) {
        match &self.programs {
            Programs::Nft(nft, ruleset) => (nft, ruleset),
            Programs::Iptables(..) => panic!("this world has no nftables"),
        }
    }

    /// What the neighbour hears over TCP when it asks from one of its addresses.
    ///
    /// # Errors
    /// Nobody answers.
    pub fn neighbour_asks_from(&self, source: &str, address: &str) -> Result<String> {
        let ip = address.parse::<SocketAddr>()?.ip();
        if source != NEIGHBOUR {
            self.neighbour.ip(&format!("address add {source}/24 dev lan"))?;
        }
        self.neighbour.ip(&format!("route replace {ip}/32 via {NODE} src {source}"))?;
        self.neighbour.ask_tcp(address)
    }
}

fn iptables(node: &Netns) -> Result<Programs> {
    let iptables = node.run(|| Iptables::find(Family::V4))??;
    Ok(Programs::Iptables(iptables, Ruleset::empty(Family::V4)))
}

/// A model of service ports by name.
///
/// # Errors
/// A name is none.
pub fn model(services: Vec<(&str, ServicePort)>) -> Result<Model> {
    let mut model = Model::new(Family::V4);
    for (name, service) in services {
        let (namespace, name) = name.split_once('/').context("a name without a namespace")?;
        model.insert(ServicePortName::new(namespace, name, "")?, service);
    }
    Ok(model)
}

/// A TCP service on `address`, with pods of these numbers on this node as endpoints, all at port 8080.
///
/// # Errors
/// The address is none.
pub fn service(address: &str, pods: &[u8]) -> Result<ServicePort> {
    let socket: SocketAddr = address.parse()?;
    let mut service = ServicePort::new(Protocol::Tcp, socket.ip(), port(socket.port())?);
    for number in pods {
        let mut endpoint = Endpoint::ready(IpAddr::from([10, 244, 1, *number]), port(8080)?);
        endpoint.local = true;
        service.endpoints.push(endpoint);
    }
    Ok(service)
}

/// A port that is not 0.
///
/// # Errors
/// It is 0.
pub fn port(number: u16) -> Result<NonZeroU16> {
    NonZeroU16::new(number).context("port 0")
}

/// Packets must not notice which of the three ways the rules are written.
///
/// # Panics
/// When the test fails.
pub fn on_all(test: impl Fn(World) -> Result<()>) {
    if can_run() {
        on_both(&test);
        told("nftables", World::with_nftables().and_then(test));
    }
}

/// Both back ends of iptables.
///
/// # Panics
/// When the test fails.
pub fn on_both(test: impl Fn(World) -> Result<()>) {
    if can_run() {
        told("iptables-nft", World::new().and_then(&test));
        told("iptables-legacy", World::with_legacy_tables().and_then(&test));
    }
}

fn told(way: &str, result: Result<()>) {
    if let Err(error) = result {
        panic!("with {way}: {error:?}");
    }
}
