use super::*;
use crate::ports::HostPort;

fn flow(protocol: netfilter::Protocol, ask: (&str, &str), port: u16, answer: (&str, &str)) -> Flow {
    let place = |ip: &str, port| (ip.parse::<Ipv4Addr>().unwrap(), port).into();
    let (client, to) = (place(ask.0, 4000), place(ask.1, port));
    Flow { protocol, client, to, from: place(answer.0, port), back: place(answer.1, 4000) }
}

/// A node at 192.0.2.1 with the pod 10.88.0.2 on UDP port 53, the pod 10.88.0.3 whose ports were taken back, and a client.
fn wanted() -> Wanted {
    let range = PodRange::new("10.88.0.0/24".parse().unwrap()).unwrap();
    let port_53 = HostPort { host_ip: None, host_port: 53, protocol: Protocol::Udp, container_port: 53 };
    let lease = |name: &str, ports| Lease { sandbox: name.parse().unwrap(), ports };
    let (dns, other) = ("10.88.0.2".parse().unwrap(), "10.88.0.3".parse().unwrap());
    let leases = BTreeMap::from([(dns, lease("dns", vec![port_53])), (other, lease("other", Vec::new()))]);
    Wanted::new(range, &leases, BTreeSet::from([other]))
}

fn is_stale(ask: (&str, &str), port: u16, answer: (&str, &str)) -> bool {
    wanted().is_stale(&flow(netfilter::Protocol::Udp, ask, port, answer))
}

const CLIENT: &str = "192.0.2.2";
const NODE: &str = "192.0.2.1";

#[test]
fn what_leads_to_a_pod_that_is_gone_is_stale() {
    assert!(is_stale((CLIENT, NODE), 53, ("10.88.0.9", CLIENT)), "nobody has the address");
    assert!(is_stale((CLIENT, NODE), 99, ("10.88.0.3", CLIENT)), "its ports were taken back");
    assert!(!is_stale((CLIENT, NODE), 53, ("10.88.0.2", CLIENT)), "where the port leads now");
    assert!(!is_stale((CLIENT, "10.96.0.10"), 53, ("10.244.0.7", CLIENT)), "a service of someone else");
}

#[test]
fn what_began_before_the_port_was_there_is_stale() {
    assert!(is_stale((CLIENT, NODE), 53, (NODE, CLIENT)));
    assert!(!is_stale((CLIENT, NODE), 54, (NODE, CLIENT)), "another port");
    assert!(!is_stale(("10.88.0.2", "192.0.2.9"), 53, ("192.0.2.9", NODE)), "a pod's own question to the world");
}

#[test]
fn other_protocols_are_left_alone() {
    let (ask, answer) = ((CLIENT, NODE), ("10.88.0.9", CLIENT));
    assert!(is_stale(ask, 53, answer));
    assert!(!wanted().is_stale(&flow(netfilter::Protocol::Sctp, ask, 53, answer)));
}
