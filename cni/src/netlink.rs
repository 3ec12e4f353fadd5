//! Links, addresses and routes over netlink: thin calls that name what they tried. Nothing here decides.

use std::{future::Future, io, net::Ipv4Addr, os::fd::RawFd, sync::Arc, time::Duration};

use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope},
};
use rtnetlink::{
    AddressMessageBuilder, Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder, new_connection,
};
use tokio::sync::{Mutex, oneshot};

use crate::{error::NetworkError, names::POD_INTERFACE, peers::Route};

/// The kernel answers in microseconds; under a storm of link changes its one lock is held for seconds at worst.
const LIMIT: Duration = Duration::from_secs(15);

/// The loopback interface has index 1 in every network namespace.
const LOOPBACK: u32 = 1;

/// A netlink socket in the network namespace that it was opened in.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    handle: Handle,
    /// The kernel answers a second listing on the same socket with EBUSY while the first one is under way.
    listing: Arc<Mutex<()>>,
}

/// One link as far as we care.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: Vec<u8>,
    pub(crate) mtu: u32,
    pub(crate) alias: String,
    pub(crate) controller: Option<u32>,
    pub(crate) is_bridge: bool,
    pub(crate) is_veth: bool,
}

/// One IPv4 address or foreign route: which network it covers, on which link (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Network {
    pub(crate) net: Ipv4Net,
    pub(crate) link: u32,
}

/// Both ends of a new veth pair.
#[derive(Debug)]
pub(crate) struct Pair<'a> {
    pub(crate) host: &'a str,
    pub(crate) bridge: u32,
    pub(crate) netns: RawFd,
    pub(crate) pod_mac: [u8; 6],
    pub(crate) mtu: u32,
}

impl Links {
    /// Opens a socket in the calling thread's network namespace. It is served by a thread of its own: deleting a link
    /// blocks in the kernel for milliseconds, which must not happen on a worker thread of the agent. The thread ends with
    /// the last clone of the handle.
    pub(crate) async fn open() -> Result<Self, NetworkError> {
        let failed = |source| NetworkError::Link { doing: "opening a netlink socket".to_owned(), source };
        let (tell, told) = oneshot::channel();
        std::thread::Builder::new().name("netlink".to_owned()).spawn(move || serve(tell)).map_err(failed)?;
        let handle = told.await.unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into())).map_err(failed)?;
        Ok(Self { handle, listing: Arc::default() })
    }

    /// Opens a socket in the calling thread's network namespace and serves it on the current runtime.
    pub(crate) fn open_here() -> io::Result<Self> {
        let (connection, handle, _) = new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle, listing: Arc::default() })
    }

    pub(crate) async fn links(&self) -> Result<Vec<Link>, NetworkError> {
        let _alone = self.listing.lock().await;
        // Statistics are most of a dump's bytes.
        let request = self.handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let messages: Vec<_> = attempt("listing links", request.execute().try_collect()).await?;
        Ok(messages.into_iter().map(Link::from).collect())
    }

    /// `None` when there is no such link.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let request = self.handle.link().get().match_name(name).execute();
        let found = attempt(format!("looking for link {name}"), async { Box::pin(request).try_next().await }).await;
        Ok(none_if(found, nix::Error::ENODEV)?.flatten().map(Link::from))
    }

    pub(crate) async fn addresses(&self) -> Result<Vec<Network>, NetworkError> {
        let _alone = self.listing.lock().await;
        let messages: Vec<_> =
            attempt("listing addresses", self.handle.address().get().execute().try_collect()).await?;
        Ok(messages.iter().filter_map(address_network).collect())
    }

    /// The routes of the main table.
    pub(crate) async fn routes(&self) -> Result<Vec<Route>, NetworkError> {
        let _alone = self.listing.lock().await;
        let request = self.handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build());
        let messages: Vec<_> = attempt("listing routes", request.execute().try_collect()).await?;
        Ok(messages.iter().filter_map(route).collect())
    }

    pub(crate) async fn add_bridge(&self, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), NetworkError> {
        let message = LinkBridge::new(name).address(mac.to_vec()).mtu(mtu).build();
        attempt(format!("adding bridge {name}"), self.handle.link().add(message).execute()).await
    }

    /// Sets the link up, with these properties.
    pub(crate) async fn set_up(&self, link: u32, mtu: u32, alias: &str) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(link).mtu(mtu).alias(alias).up().build();
        attempt(format!("setting link {link} up"), self.handle.link().change(message).execute()).await
    }

    pub(crate) async fn add_address(&self, link: u32, address: Ipv4Addr, prefix: u8) -> Result<(), NetworkError> {
        let request = self.handle.address().add(link, address.into(), prefix);
        let done = attempt(format!("adding address {address}/{prefix} to link {link}"), request.execute()).await;
        none_if(done, nix::Error::EEXIST).map(drop)
    }

    pub(crate) async fn remove_address(&self, link: u32, address: Ipv4Net) -> Result<(), NetworkError> {
        let message =
            AddressMessageBuilder::<Ipv4Addr>::new().index(link).address(address.addr(), address.prefix_len()).build();
        let request = self.handle.address().del(message);
        let done = attempt(format!("removing address {address} from link {link}"), request.execute()).await;
        none_if(done, nix::Error::EADDRNOTAVAIL).map(drop)
    }

    /// Makes a veth pair: the host's end up and on the bridge, the pod's end down in its network namespace.
    pub(crate) async fn add_pair(&self, pair: &Pair<'_>) -> Result<(), NetworkError> {
        let pod_end = LinkMessageBuilder::<LinkUnspec>::new()
            .name(POD_INTERFACE)
            .address(pair.pod_mac.to_vec())
            .mtu(pair.mtu)
            .append_extra_attribute(LinkAttribute::NetNsFd(pair.netns))
            .build();
        let message = LinkVeth::new(pair.host, POD_INTERFACE)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(pod_end)))
            .mtu(pair.mtu)
            .append_extra_attribute(LinkAttribute::Controller(pair.bridge))
            .up()
            .build();
        let doing = format!("adding link {} with its peer {POD_INTERFACE}", pair.host);
        attempt(doing, self.handle.link().add(message).execute()).await
    }

    /// What can't be set when the link is made. Hairpin: with bridge-nf-call-iptables a pod's packet to a service that it
    /// is behind itself is translated on the bridge, and must leave by the port it came from.
    pub(crate) async fn finish_port(&self, name: &str, alias: &str) -> Result<(), NetworkError> {
        let message = LinkBridgePort::new(0).name(name).alias(alias).hairpin(true).build();
        attempt(format!("setting bridge port {name}"), self.handle.link().set_port(message).execute()).await
    }

    /// Puts an existing link on the bridge. Not in one step with [`Links::finish_port`]: the kernel looks at a port's
    /// properties before it looks at where the port should be.
    pub(crate) async fn move_port(&self, name: &str, bridge: u32) -> Result<(), NetworkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().name(name).controller(bridge).up().build();
        attempt(format!("moving link {name} to its bridge"), self.handle.link().change(message).execute()).await
    }

    /// Fine when the link does not exist.
    pub(crate) async fn remove_link(&self, name: &str) -> Result<(), NetworkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new().name(name).build();
        let request = self.handle.link().del_with_message(message);
        none_if(attempt(format!("removing link {name}"), request.execute()).await, nix::Error::ENODEV).map(drop)
    }

    /// Fine when the link does not exist.
    pub(crate) async fn set_group(&self, name: &str, group: u32) -> Result<(), NetworkError> {
        let message = LinkMessageBuilder::<LinkUnspec>::new()
            .name(name)
            .append_extra_attribute(LinkAttribute::Group(group))
            .build();
        let request = self.handle.link().change(message);
        let doing = format!("putting link {name} into group {group}");
        none_if(attempt(doing, request.execute()).await, nix::Error::ENODEV).map(drop)
    }

    /// Removes every link of the group in one step. Fine when there is none.
    pub(crate) async fn remove_group(&self, group: u32) -> Result<(), NetworkError> {
        let message =
            LinkMessageBuilder::<LinkUnspec>::new().append_extra_attribute(LinkAttribute::Group(group)).build();
        let request = self.handle.link().del_with_message(message);
        none_if(attempt(format!("removing link group {group}"), request.execute()).await, nix::Error::ENODEV).map(drop)
    }

    pub(crate) async fn set_loopback_up(&self) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(LOOPBACK).up().build();
        attempt("setting the loopback up", self.handle.link().change(message).execute()).await
    }

    pub(crate) async fn set_link_up(&self, link: u32) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(link).up().build();
        attempt(format!("setting link {link} up"), self.handle.link().change(message).execute()).await
    }

    /// Adds an address without the route to its network that the kernel would add by itself.
    pub(crate) async fn add_address_without_route(&self, link: u32, net: Ipv4Net) -> Result<(), NetworkError> {
        let mut request = self.handle.address().add(link, net.addr().into(), net.prefix_len());
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
        let done = attempt(format!("adding address {net}"), request.execute()).await;
        none_if(done, nix::Error::EEXIST).map(drop)
    }

    /// Makes the route, or lets the one of this network and metric lead there from now on, in one step.
    pub(crate) async fn set_route(
        &self,
        net: Ipv4Net,
        via: Ipv4Addr,
        protocol: u8,
        metric: u32,
    ) -> Result<(), NetworkError> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(net.network(), net.prefix_len())
            .gateway(via)
            .protocol(protocol.into())
            .priority(metric)
            .build();
        let request = self.handle.route().add(message).replace();
        attempt(format!("setting the route to {net} over {via}"), request.execute()).await
    }

    /// Fine when there is no such route.
    pub(crate) async fn remove_route(&self, route: &Route) -> Result<(), NetworkError> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.net.network(), route.net.prefix_len())
            .protocol(route.protocol.into())
            .priority(route.metric)
            .build();
        let done = attempt(format!("removing the route to {}", route.net), self.handle.route().del(message).execute());
        none_if(done.await, nix::Error::ESRCH).map(drop)
    }

    /// Everything goes to the gateway, which is on the link.
    pub(crate) async fn add_gateway(&self, link: u32, gateway: Ipv4Addr) -> Result<(), NetworkError> {
        let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(gateway, 32)
            .output_interface(link)
            .scope(RouteScope::Link)
            .build();
        let to_all = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(link).build();
        for (what, route) in [("the route to the gateway", to_gateway), ("the default route", to_all)] {
            attempt(format!("adding {what} {gateway}"), self.handle.route().add(route).replace().execute()).await?;
        }
        Ok(())
    }
}

fn serve(tell: oneshot::Sender<io::Result<Handle>>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(tell.send(Err(error))),
    };
    runtime.block_on(async {
        match new_connection() {
            Ok((connection, handle, _)) => {
                _ = tell.send(Ok(handle));
                connection.await;
            }
            Err(error) => _ = tell.send(Err(error)),
        }
    });
}

async fn attempt<T>(
    doing: impl Into<String>,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetworkError> {
    let source = match tokio::time::timeout(LIMIT, request).await {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(rtnetlink::Error::NetlinkError(message))) => message.to_io(),
        Ok(Err(other)) => io::Error::other(other),
        Err(_) => io::ErrorKind::TimedOut.into(),
    };
    Err(NetworkError::Link { doing: doing.into(), source })
}

fn none_if<T>(result: Result<T, NetworkError>, benign: nix::Error) -> Result<Option<T>, NetworkError> {
    match result {
        Err(NetworkError::Link { source, .. }) if source.raw_os_error() == Some(benign as i32) => Ok(None),
        other => other.map(Some),
    }
}

/// Whether the request failed because the link's name is taken.
pub(crate) fn is_taken(error: &NetworkError) -> bool {
    matches!(error, NetworkError::Link { source, .. } if source.raw_os_error() == Some(nix::Error::EEXIST as i32))
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self { index: message.header.index, ..Self::default() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Controller(controller) => link.controller = Some(controller),
                LinkAttribute::LinkInfo(infos) => {
                    link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                    link.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                }
                _ => (),
            }
        }
        link
    }
}

fn address_network(message: &AddressMessage) -> Option<Network> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    let net = Ipv4Net::new(local, message.header.prefix_len).ok()?;
    Some(Network { net, link: message.header.index })
}

fn route(message: &RouteMessage) -> Option<Route> {
    let (mut destination, mut table) = (Ipv4Addr::UNSPECIFIED, u32::from(message.header.table));
    let (mut link, mut via, mut metric) = (0, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = *address,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => via = Some(*address),
            RouteAttribute::Oif(index) => link = *index,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            _ => (),
        }
    }
    let net = Ipv4Net::new(destination, message.header.destination_prefix_length).ok()?;
    let protocol = message.header.protocol.into();
    (table == u32::from(RouteHeader::RT_TABLE_MAIN)).then_some(Route { net, link, via, protocol, metric })
}
