//! What came for each service port, as the kernel counts it.

use crate::Count;
use std::collections::BTreeMap;

/// What follows a service port's name in the comment of a rule that leads to its chains.
const WAYS: [&str; 4] = [" cluster IP", " external IP", " loadbalancer IP", ""];

/// Reads the nat table as `iptables-save -c` prints it: by the name of the service port, what its rules in
/// KUBE-SERVICES and KUBE-NODEPORTS matched.
///
/// The kernel asks the nat table once for each connection, so these are first packets: their number is that of new
/// connections. A rule that is written anew begins at zero.
pub fn counts(text: &str) -> BTreeMap<String, Count> {
    let mut counts = BTreeMap::<_, Count>::new();
    for (name, count) in text.lines().filter_map(counted) {
        counts.entry(name.to_owned()).or_default().add(count);
    }
    counts
}

/// `[12:720] -A KUBE-SERVICES … --comment "demo/web:http cluster IP" … -j KUBE-SVC-…`
fn counted(line: &str) -> Option<(&str, Count)> {
    let (count, rule) = line.strip_prefix('[')?.split_once("] -A ")?;
    let (packets, bytes) = count.split_once(':')?;
    let (chain, rule) = rule.split_once(' ')?;
    let target = rule.rsplit_once("-j ")?.1;
    let leads = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-"].iter().any(|prefix| target.starts_with(prefix));
    if !leads || !matches!(chain, "KUBE-SERVICES" | "KUBE-NODEPORTS") {
        return None;
    }
    let comment = rule.split_once("--comment \"")?.1.split_once('"')?.0;
    let name = WAYS.iter().find_map(|way| comment.strip_suffix(way))?;
    Some((name, Count { packets: packets.parse().ok()?, bytes: bytes.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_a_service_counts_and_nothing_else() {
        let text = r#"*nat
:KUBE-SERVICES - [0:0]
[2:120] -A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "demo/web:http cluster IP" -m tcp --dport 80 -j KUBE-SVC-A
[1:60] -A KUBE-SERVICES -d 203.0.113.1/32 -p tcp -m comment --comment "demo/web:http external IP" -m tcp --dport 80 -j KUBE-EXT-A
[4:240] -A KUBE-SERVICES -d 203.0.113.2/32 -p tcp -m comment --comment "demo/web:http loadbalancer IP" -m tcp --dport 80 -j KUBE-FW-A
[8:480] -A KUBE-NODEPORTS -p tcp -m comment --comment "demo/web:http" -m tcp --dport 30080 -j KUBE-EXT-A
[9:999] -A KUBE-SERVICES -m comment --comment "kubernetes service nodeports" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
[9:999] -A KUBE-SVC-A -d 10.96.0.1/32 -p tcp -m comment --comment "demo/web:http cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ
[0:0] -A KUBE-SERVICES -d 10.96.0.2/32 -p udp -m comment --comment "demo/dns cluster IP" -m udp --dport 53 -j KUBE-SVL-B
[x:y] -A KUBE-SERVICES nonsense
COMMIT
"#;
        let counts = counts(text);
        assert_eq!(counts.len(), 2);
        assert_eq!(counts["demo/web:http"], Count { packets: 15, bytes: 900 });
        assert_eq!(counts["demo/dns"], Count::default());
    }
}
