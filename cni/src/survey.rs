//! What the machine's network looks like before we touch it, and whether our plans fit in. Pure.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::{
    config::NetworkConfig,
    error::NetworkError,
    ids::Instance,
    names,
    netlink::{Link, Network},
    peers::Route,
};

/// The largest packet where nothing says otherwise: Ethernet's.
const USUAL_MTU: u32 = 1500;

/// Everything of one network namespace that decides whether a pod network fits in.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    pub(crate) links: Vec<Link>,
    pub(crate) addresses: Vec<Network>,
    /// Those that are not ours.
    pub(crate) routes: Vec<Network>,
    /// Ours, to the pods of other nodes.
    pub(crate) to_peers: Vec<Route>,
}

/// What the alias of every bridge of any agent begins with.
const BRIDGE_ALIAS: &str = "longshore bridge of ";

/// Shown by `ip link`, and read by other agents on the machine: it carries the value that forwarding had before any of
/// them changed it.
pub(crate) fn bridge_alias(instance: &Instance, former_forwarding: &str) -> String {
    format!("{BRIDGE_ALIAS}{instance}, ip_forward was {former_forwarding}")
}

impl Survey {
    /// Our bridge, when it is there.
    ///
    /// # Errors
    /// [`NetworkError::BridgeTaken`] when the name belongs to someone else.
    pub(crate) fn own_bridge(&self, config: &NetworkConfig) -> Result<Option<&Link>, NetworkError> {
        let Some(link) = self.links.iter().find(|link| link.name == config.bridge) else { return Ok(None) };
        if link.is_bridge && link.mac == names::bridge_mac(&config.instance) {
            return Ok(Some(link));
        }
        let owner = match link.alias.strip_prefix(BRIDGE_ALIAS).and_then(|rest| rest.split(',').next()) {
            Some(instance) => format!("the Longshore agent {instance}"),
            None if link.is_bridge => "someone else".to_owned(),
            None => "someone else and is no bridge".to_owned(),
        };
        Err(NetworkError::BridgeTaken { bridge: config.bridge.clone(), owner })
    }

    /// Refuses a range of which the machine already uses a part. A default route covers everything and is no conflict.
    pub(crate) fn check_range(&self, range: Ipv4Net, own_bridge: Option<u32>) -> Result<(), NetworkError> {
        let networks = self.addresses.iter().chain(&self.routes);
        let mut foreign = networks.filter(|network| network.net.prefix_len() > 0 && Some(network.link) != own_bridge);
        let overlaps = |network: &&Network| {
            let net = network.net.trunc();
            range.contains(&net.network()) || net.contains(&range.network())
        };
        match foreign.find(overlaps) {
            Some(network) => {
                Err(NetworkError::Overlap { range, other: network.net, interface: self.interface(network.link) })
            }
            None => Ok(()),
        }
    }

    /// What forwarding was before any agent that still runs changed it, as far as the others' bridges tell.
    pub(crate) fn former_forwarding(&self, but: &str) -> Option<String> {
        let others = self.other_bridges(but);
        others.into_iter().find_map(|alias| alias.rsplit_once("ip_forward was ").map(|(_, value)| value.to_owned()))
    }

    /// Whether another agent's bridge needs forwarding.
    pub(crate) fn has_other_bridges(&self, but: &str) -> bool {
        !self.other_bridges(but).is_empty()
    }

    fn other_bridges(&self, but: &str) -> Vec<&str> {
        let others = self.links.iter().filter(|link| link.is_bridge && link.name != but);
        others.filter(|link| link.alias.starts_with(BRIDGE_ALIAS)).map(|link| link.alias.as_str()).collect()
    }

    /// The MTU of the interface that packets to the world leave by.
    pub(crate) fn outer_mtu(&self) -> u32 {
        let default = self.routes.iter().find(|route| route.net.prefix_len() == 0);
        let link = default.and_then(|route| self.links.iter().find(|link| link.index == route.link));
        link.map_or(USUAL_MTU, |link| link.mtu)
    }

    /// Addresses of the bridge that belong to an earlier configuration.
    pub(crate) fn stale_addresses(&self, bridge: u32, wanted: Ipv4Addr, prefix: u8) -> Vec<Ipv4Net> {
        let on_bridge = self.addresses.iter().filter(|address| address.link == bridge).map(|address| address.net);
        on_bridge.filter(|net| (net.addr(), net.prefix_len()) != (wanted, prefix)).collect()
    }

    /// Host ends of pods' links that are ours: on the bridge, or left without one.
    pub(crate) fn pod_links<'a>(&'a self, instance: &Instance, bridge: Option<u32>) -> impl Iterator<Item = &'a Link> {
        let alias = names::link_alias_prefix(instance);
        let links = self.links.iter().filter(|link| link.is_veth && names::is_host_link(&link.name));
        links.filter(move |link| (bridge.is_some() && link.controller == bridge) || link.alias.starts_with(&alias))
    }

    fn interface(&self, index: u32) -> String {
        let link = self.links.iter().find(|link| link.index == index);
        link.map_or_else(|| "no interface".to_owned(), |link| format!("interface {}", link.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey() -> Survey {
        let link = |index, name: &str, mac: &[u8], alias: &str| Link {
            index,
            name: name.to_owned(),
            mac: mac.to_vec(),
            mtu: 1400,
            alias: alias.to_owned(),
            is_bridge: name != "eth0",
            ..Link::default()
        };
        let network = |net: &str, link| Network { net: net.parse().unwrap(), link };
        Survey {
            links: vec![
                link(2, "eth0", &[2, 0, 0, 0, 0, 1], ""),
                link(3, "own", &names::bridge_mac(&"one".parse().unwrap()), ""),
                link(4, "two", &[1; 6], &bridge_alias(&"two".parse().unwrap(), "0")),
                link(5, "docker0", &[1; 6], ""),
            ],
            addresses: vec![network("192.0.2.7/24", 2), network("10.88.0.1/16", 3)],
            routes: vec![network("0.0.0.0/0", 2), network("172.16.0.0/12", 0)],
            to_peers: Vec::new(),
        }
    }

    fn own(bridge: &str) -> Result<Option<u32>, String> {
        let config = NetworkConfig {
            bridge: bridge.to_owned(),
            pod_cidr: "10.88.0.0/16".parse().unwrap(),
            no_masquerade: Vec::new(),
            leases: "/nowhere".into(),
            mtu: None,
            instance: "one".parse().unwrap(),
        };
        let survey = survey();
        survey.own_bridge(&config).map(|link| link.map(|link| link.index)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_bridge_of_ours_is_adopted_and_every_other_is_refused() {
        assert_eq!(own("own"), Ok(Some(3)));
        assert_eq!(own("free"), Ok(None));
        let refusals = ["two", "docker0", "eth0"].map(|name| own(name).unwrap_err());
        assert!(refusals[0].contains("belongs to the Longshore agent two:"), "{}", refusals[0]);
        assert!(refusals[1].contains("belongs to someone else:"), "{}", refusals[1]);
        assert!(refusals[2].contains("is no bridge"), "{}", refusals[2]);
    }

    #[test]
    fn a_range_that_the_machine_uses_is_refused_by_the_interface_name() {
        let check = |range: &str| survey().check_range(range.parse().unwrap(), Some(3)).map_err(|e| e.to_string());
        assert_eq!(check("10.88.0.0/16"), Ok(()), "the own bridge is no conflict");
        let error = check("192.0.0.0/16").unwrap_err();
        assert!(error.starts_with("pod range 192.0.0.0/16 overlaps 192.0.2.7/24 on interface eth0:"), "{error}");
        let error = check("172.17.0.0/24").unwrap_err();
        assert!(error.starts_with("pod range 172.17.0.0/24 overlaps 172.16.0.0/12 on no interface:"), "{error}");
    }

    #[test]
    fn the_others_tell_what_forwarding_was() {
        assert_eq!(survey().former_forwarding("own"), Some("0".to_owned()));
        assert!(!survey().has_other_bridges("two"));
    }

    #[test]
    fn the_largest_packet_is_that_of_the_way_out() {
        assert_eq!((survey().outer_mtu(), Survey::default().outer_mtu()), (1400, 1500));
    }
}
