use std::net::IpAddr;

use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

use super::{Report, names};

/// The API's limits for one slice.
const MOST_ENDPOINTS: usize = 1_000;
const MOST_PORTS: usize = 100;
const MOST_ADDRESSES: usize = 100;

pub(super) fn endpoint_slice(slice: &EndpointSlice, report: &mut Report) {
    let types = &["IPv4", "IPv6", "FQDN"];
    match slice.address_type.as_str() {
        "" => report.add("addressType", "is missing; IPv4 is one"),
        _ => report.one_of(Some(&slice.address_type), types, "addressType"),
    }
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    report.check(endpoints.len() <= MOST_ENDPOINTS, "endpoints", || format!("more than {MOST_ENDPOINTS}"));
    for (index, one) in endpoints.iter().enumerate().take(MOST_ENDPOINTS) {
        endpoint(one, &slice.address_type, &format!("endpoints[{index}]"), report);
    }
    let ports = slice.ports.as_deref().unwrap_or_default();
    report.check(ports.len() <= MOST_PORTS, "ports", || format!("more than {MOST_PORTS}"));
    for (index, one) in ports.iter().enumerate().take(MOST_PORTS) {
        port(one, &format!("ports[{index}]"), report);
    }
}

fn endpoint(endpoint: &Endpoint, kind: &str, at: &str, report: &mut Report) {
    let count = endpoint.addresses.len();
    report.check((1..=MOST_ADDRESSES).contains(&count), format!("{at}.addresses"), || {
        format!("must hold 1 to {MOST_ADDRESSES} addresses")
    });
    for (index, address) in endpoint.addresses.iter().enumerate().take(MOST_ADDRESSES) {
        let fine = match (kind, address.parse::<IpAddr>()) {
            ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => true,
            ("FQDN", _) => names::is_subdomain(address),
            _ => false,
        };
        report.check(fine, format!("{at}.addresses[{index}]"), || format!("{address:?} is no {kind} address"));
    }
}

fn port(port: &EndpointPort, at: &str, report: &mut Report) {
    report.one_of(port.protocol.as_ref(), &["TCP", "UDP", "SCTP"], format!("{at}.protocol"));
    report.check(port.port.is_none_or(|port| (1..=65_535).contains(&port)), format!("{at}.port"), || {
        "must be between 1 and 65535".to_owned()
    });
    let name = port.name.as_deref().unwrap_or_default();
    report.check(name.is_empty() || names::is_label(name), format!("{at}.name"), || {
        "must be up to 63 lower-case letters, digits or '-'".to_owned()
    });
}
