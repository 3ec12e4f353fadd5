//! A sandbox's place in the pod network.

use std::fs::File;
use std::net::IpAddr;

use cni::{HostPort, Protocol};
use cri_proto::{Kind, v1};

use super::Sandbox;
use crate::core::Core;
use crate::error::{Doing, LifeError};
use crate::ids::SandboxId;

/// The network's name for a sandbox.
pub(crate) fn id_of(id: &SandboxId) -> Result<cni::SandboxId, LifeError> {
    id.as_str().parse::<cni::SandboxId>().doing(|| "naming it to the network".into())
}

/// Connects the pinned network namespace; addresses come back.
pub(super) async fn attach(core: &Core, sandbox: &Sandbox) -> Result<Vec<IpAddr>, LifeError> {
    let Some(path) = sandbox.netns() else { return Ok(Vec::new()) };
    let ports = host_ports(&sandbox.config.port_mappings)?;
    let netns = File::open(&path).doing(|| format!("opening the network namespace {}", path.display()))?;
    let attached = core.network.attach(&id_of(&sandbox.id)?, netns.into(), &ports).await;
    Ok(attached.doing(|| "connecting it to the pod network".into())?.ips)
}

/// Mappings without a host port only tell what a container listens on.
pub(super) fn host_ports(mappings: &[v1::PortMapping]) -> Result<Vec<HostPort>, LifeError> {
    mappings.iter().filter(|mapping| mapping.host_port != 0).map(host_port).collect()
}

fn host_port(mapping: &v1::PortMapping) -> Result<HostPort, LifeError> {
    let bad = |what: &str| LifeError::new(Kind::InvalidArgument, format!("port mapping {mapping:?}: {what}"));
    let port = |number: i32| u16::try_from(number).ok().filter(|port| *port != 0);
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| bad("the host address is not an address"))?),
    };
    Ok(HostPort {
        host_ip,
        host_port: port(mapping.host_port).ok_or_else(|| bad("the host port is not a port"))?,
        protocol: match mapping.protocol() {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: port(mapping.container_port).ok_or_else(|| bad("the container port is not a port"))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ports_of_the_host_are_mapped_and_only_real_ones() {
        let mapping = |host_port, container_port| v1::PortMapping { host_port, container_port, ..Default::default() };
        assert!(host_ports(&[mapping(0, 80)]).unwrap().is_empty());
        assert_eq!(host_ports(&[mapping(8080, 80)]).unwrap()[0].host_port, 8080);
        for bad in [mapping(65536, 80), mapping(-1, 80), mapping(8080, 0), mapping(8080, 70000)] {
            assert_eq!(host_ports(std::slice::from_ref(&bad)).unwrap_err().kind(), Kind::InvalidArgument, "{bad:?}");
        }
    }
}
