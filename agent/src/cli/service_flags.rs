//! What the proxy is told on the command line, in kube-proxy's words: the same for a node of its own and one of a cluster.

use anyhow::{Context, ensure};
use clap::{ArgAction, Args};
use ipnet::IpNet;

use crate::config::Config;
use crate::proxy::{self, Detect, LocalMode};

#[derive(Args, Debug)]
pub(super) struct ServiceFlags {
    /// How Services get into the kernel; `off` leaves that to a kube-proxy or another program.
    #[arg(long, alias = "proxy", default_value = "iptables", value_parser = ["iptables", "nftables", "off"])]
    proxy_mode: String,
    /// On which of the node's addresses node ports answer: ranges, or the word `primary`; all of them where none is given.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// Node ports answer on 127.0.0.1 too (iptables, IPv4). Sets the sysctl route_localnet, with a rule that keeps
    /// neighbours out of the node's loopback. Off unless it is asked for: kube-proxy's default is true.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", action = ArgAction::Set)]
    iptables_localhost_nodeports: bool,
    /// Where the cluster's pods get their addresses from, for each address family: what comes from elsewhere to a cluster
    /// IP is masqueraded. This node's own pods' range where it is not given.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// How packets of pods are recognised; ClusterCIDR with --cluster-cidr, else NodeCIDR, where it is not given.
    #[arg(long, value_name = "MODE", value_enum)]
    detect_local_mode: Option<LocalMode>,
    /// For BridgeInterface: the bridge that pods' packets come from; the pod network's where it is not given.
    #[arg(long, value_name = "NAME")]
    pod_bridge_interface: Option<String>,
    /// For InterfaceNamePrefix: how the interfaces begin that pods' packets come from.
    #[arg(long, value_name = "PREFIX")]
    pod_interface_name_prefix: Option<String>,
    /// Masquerade everything that goes to a cluster IP.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", action = ArgAction::Set)]
    masquerade_all: bool,
    /// Which bit of the packet mark says "masquerade", 0 to 31.
    #[arg(long, value_name = "BIT", default_value_t = 14, value_parser = clap::value_parser!(u8).range(0..=31))]
    iptables_masquerade_bit: u8,
}

impl ServiceFlags {
    /// `None` when Services are another program's.
    ///
    /// # Errors
    /// What does not go together, whether it is used or not.
    pub(super) fn settings(&self, config: &Config, turns: proxy::Turns) -> anyhow::Result<Option<proxy::Settings>> {
        let detect = Detect {
            mode: self.detect_local_mode,
            cluster_cidr: &self.cluster_cidr,
            bridge: self.pod_bridge_interface.as_deref(),
            prefix: self.pod_interface_name_prefix.as_deref(),
        };
        let local_traffic = detect.local_traffic(config.network.pod_cidr, &config.network.bridge)?;
        let node_ports = proxy::NodePorts::parse(&self.nodeport_addresses).context("--nodeport-addresses")?;
        let mode = match self.proxy_mode.as_str() {
            "off" => return Ok(None),
            "nftables" => proxy::Mode::Nftables,
            _ => proxy::Mode::Iptables,
        };
        ensure!(
            mode == proxy::Mode::Iptables || !self.iptables_localhost_nodeports,
            "--iptables-localhost-nodeports: with --proxy-mode=nftables node ports never answer on 127.0.0.1"
        );
        Ok(Some(proxy::Settings {
            node_ips: config.network.node_ips.clone(),
            mode,
            local_traffic,
            node_ports,
            localhost_node_ports: self.iptables_localhost_nodeports,
            masquerade_bit: self.iptables_masquerade_bit,
            masquerade_all: self.masquerade_all,
            turns,
            ..proxy::Settings::new(&config.node_name)
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use netfilter::LocalTraffic;

    use super::*;
    use crate::config::Draft;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: ServiceFlags,
    }

    fn settings(words: &[&str]) -> Result<Option<proxy::Settings>, String> {
        let line = Line::try_parse_from([&["run"], words].concat()).map_err(|error| error.to_string())?;
        let config = Draft { node_name: "n1".into(), ..Draft::default() }.check().expect("the defaults are good");
        line.flags.settings(&config, proxy::Turns::default()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn flags_become_settings() {
        let usual = settings(&[]).unwrap().unwrap();
        assert_eq!((usual.localhost_node_ports, usual.masquerade_all, usual.masquerade_bit), (false, false, 14));
        assert!(matches!(usual.local_traffic[..], [LocalTraffic::Cidr(_)]));
        let words = [
            "--iptables-localhost-nodeports",
            "--masquerade-all=true",
            "--iptables-masquerade-bit=9",
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=cni0",
        ];
        let other = settings(&words).unwrap().unwrap();
        assert_eq!((other.localhost_node_ports, other.masquerade_all, other.masquerade_bit), (true, true, 9));
        assert!(matches!(&other.local_traffic[..], [LocalTraffic::Bridge(name)] if name.as_str() == "cni0"));
        assert!(settings(&["--proxy-mode=off"]).unwrap().is_none());
        assert!(!settings(&["--iptables-localhost-nodeports=false"]).unwrap().unwrap().localhost_node_ports);
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_touched() {
        for (words, said) in [
            (&["--iptables-masquerade-bit=32"][..], "32 is not in 0..=31"),
            (&["--detect-local-mode=Guess"], "ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix"),
            (&["--detect-local-mode=ClusterCIDR"], "needs --cluster-cidr"),
            (&["--proxy-mode=off", "--pod-bridge-interface=cni0"], "has no effect"),
            (&["--proxy-mode=nftables", "--iptables-localhost-nodeports"], "never answer on 127.0.0.1"),
            (&["--nodeport-addresses=primary,10.0.0.0/8"], "--nodeport-addresses"),
        ] {
            let error = settings(words).unwrap_err();
            assert!(error.contains(said), "{words:?}: {error}");
        }
    }
}
