use proptest::prelude::*;

use super::*;
use crate::ports::HostPort;

fn nested(kind: u16, parts: &[(u16, &[u8])]) -> Vec<u8> {
    let mut inner = Vec::new();
    for (kind, value) in parts {
        push(&mut inner, *kind, value);
    }
    let mut outer = Vec::new();
    push(&mut outer, kind, &inner);
    outer
}

fn tuple_bytes(kind: u16, source: &str, destination: &str, protocol: u8, port: u16) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv4Addr>().unwrap().octets();
    let addresses = [(IPV4_SOURCE, &address(source)[..]), (IPV4_DESTINATION, &address(destination)[..])];
    let addresses = nested(TUPLE_IP, &addresses);
    let protocol = [(PROTOCOL_NUMBER, &[protocol][..]), (DESTINATION_PORT, &port.to_be_bytes()[..])];
    let inner = [addresses, nested(TUPLE_PROTOCOL, &protocol)].concat();
    let mut bytes = Vec::new();
    push(&mut bytes, kind, &inner);
    bytes
}

fn body(ask: (&str, &str), port: u16, answer: (&str, &str)) -> Vec<u8> {
    let original = tuple_bytes(TUPLE_ORIGINAL, ask.0, ask.1, UDP, port);
    [original, tuple_bytes(TUPLE_REPLY, answer.0, answer.1, UDP, 4000)].concat()
}

/// A node at 192.0.2.1 with the pod 10.88.0.2 on UDP port 53, the pod 10.88.0.3 whose ports were taken back, and a client.
fn is_stale(ask: (&str, &str), port: u16, answer: (&str, &str)) -> bool {
    let range = PodRange::new("10.88.0.0/24".parse().unwrap()).unwrap();
    let port_53 = HostPort { host_ip: None, host_port: 53, protocol: Protocol::Udp, container_port: 53 };
    let lease = |name: &str, ports| Lease { sandbox: name.parse().unwrap(), ports };
    let (dns, other) = ("10.88.0.2".parse().unwrap(), "10.88.0.3".parse().unwrap());
    let leases = BTreeMap::from([(dns, lease("dns", vec![port_53])), (other, lease("other", Vec::new()))]);
    let wanted = Wanted::new(range, &leases, BTreeSet::from([other]));
    wanted.is_stale(&connection(&body(ask, port, answer)).unwrap())
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
    let original = tuple_bytes(TUPLE_ORIGINAL, CLIENT, NODE, 6, 53);
    assert_eq!(connection(&[original, tuple_bytes(TUPLE_REPLY, NODE, CLIENT, 6, 4000)].concat()), None);
}

proptest! {
    #[test]
    fn no_bytes_can_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        _ = connection(&bytes);
    }

    #[test]
    fn no_damage_can_break_the_reader(at in 0_usize..100, byte: u8) {
        let mut bytes = body((CLIENT, NODE), 53, (NODE, CLIENT));
        let at = at % bytes.len();
        bytes[at] = byte;
        _ = connection(&bytes);
    }
}
