//! What came for each service port, as the kernel counts it.

use crate::Count;
use std::collections::BTreeMap;

/// Stands before everything else in the first rule of a service port's chain.
pub(super) const COUNTER: &str = "counter ";

/// Reads what `nft list table` prints: by the name of the service port, what came into the chains that choose its
/// endpoints, whichever way it came.
///
/// The kernel asks them once for each connection, so their number is that of new connections. A chain that is written anew
/// begins at zero. A service port whose name had to be cut to be a chain's is left out.
pub fn counts(listing: &str) -> BTreeMap<String, Count> {
    let mut counts = BTreeMap::<_, Count>::new();
    let mut owner = None;
    for line in listing.lines().map(str::trim_start) {
        if let Some(name) = line.strip_prefix("chain ").and_then(|line| line.strip_suffix(" {")) {
            owner = service_port(name);
        } else if let (Some(name), Some(count)) = (&owner, counted(line)) {
            counts.entry(name.clone()).or_default().add(count);
        }
    }
    counts
}

/// `service-AXK6CI2C-demo/web/tcp/http` is demo/web:http.
fn service_port(chain: &str) -> Option<String> {
    let base = ["service-", "local-"].iter().find_map(|prefix| chain.strip_prefix(prefix))?;
    let (_, path) = base.split_once('-')?;
    let parts: Vec<_> = path.split('/').collect();
    match parts[..] {
        [namespace, service, _, ""] => Some(format!("{namespace}/{service}")),
        [namespace, service, _, port] if !port.ends_with("...") => Some(format!("{namespace}/{service}:{port}")),
        _ => None,
    }
}

/// `counter packets 12 bytes 720 …`
fn counted(line: &str) -> Option<Count> {
    let mut words = line.strip_prefix("counter packets ")?.split(' ');
    let packets = words.next()?.parse().ok()?;
    let bytes = words.nth(1)?.parse().ok()?;
    Some(Count { packets, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_a_service_ends_in_a_chain_that_counts() {
        let listing = "table ip kube-proxy {\n\tchain services {\n\t\tcounter packets 99 bytes 99\n\t}\n\n\
            \tchain service-AXK6CI2C-demo/web/tcp/http {\n\t\tcounter packets 2 bytes 120 meta l4proto tcp dnat ip to 10.0.0.1:80\n\t}\n\
            \tchain local-AXK6CI2C-demo/web/tcp/http {\n\t\tcounter packets 3 bytes 180 meta l4proto tcp dnat ip to 10.0.0.1:80\n\t}\n\
            \tchain external-AXK6CI2C-demo/web/tcp/http {\n\t\tcounter packets 7 bytes 7 goto local-AXK6CI2C-demo/web/tcp/http\n\t}\n\
            \tchain service-FLVA37E4-demo/dns/udp/ {\n\t\tcounter packets 0 bytes 0 meta l4proto udp dnat ip to 10.0.0.2:53\n\t}\n\
            \tchain service-FLVA37E4-demo/long/udp/cut... {\n\t\tcounter packets 5 bytes 5\n\t}\n}\n";
        let counts = counts(listing);
        assert_eq!(counts.len(), 2, "{counts:?}");
        assert_eq!(counts["demo/web:http"], Count { packets: 5, bytes: 300 });
        assert_eq!(counts["demo/dns"], Count::default());
    }
}
