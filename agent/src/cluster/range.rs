//! The Node's own range of pod addresses: given by the cluster, perhaps late, and another one after the Node was deleted and
//! registered anew.

use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::api::{Set, Sets};

/// How often the addresses are counted while they are waited for.
const LOOK: Duration = Duration::from_millis(500);

/// The range that the Node has in the API, if it has one.
fn given(nodes: Option<&Set<Node>>) -> Option<Ipv4Net> {
    let spec = nodes?.values().next()?.spec.as_ref()?;
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|cidr| cidr.parse().ok()).find_map(|cidr| match cidr {
        IpNet::V4(range) => Some(range),
        IpNet::V6(_) => None,
    })
}

/// The Node's range, as soon as the cluster has given it one; `None` when the agent ends.
pub async fn pod_cidr(mut nodes: Sets<Node>) -> Option<Ipv4Net> {
    let found = nodes.wait_for(|nodes| given(nodes.as_deref()).is_some()).await.ok()?;
    given(found.as_deref())
}

/// Whether the node can go on with the range that it works with.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the Node's, or the Node has none: the cluster takes none back.
    Same,
    /// Pods still have addresses of the former one.
    Waits(String),
    /// Nobody needs the former one any more.
    Change,
}

fn judge(used: Option<Ipv4Net>, given: Option<Ipv4Net>, pods: usize) -> Verdict {
    match (used, given) {
        (used, Some(range)) if used == Some(range) => Verdict::Same,
        (Some(used), Some(range)) if pods > 0 => Verdict::Waits(format!(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:the Node's \
            podCIDR is {range} now, and {pods} pods still have addresses of {used}"
        )),
        (_, Some(_)) => Verdict::Change,
        (_, None) => Verdict::Same,
    }
}

/// Returns when the Node has another range than `used` and no address of the former is given out any more, as `leased`
/// counts them. Until then `ready` says what is waited for. `used` is `None` for a node that was never given one.
pub async fn changed(
    used: Option<Ipv4Net>,
    mut nodes: Sets<Node>,
    leased: impl Fn() -> usize,
    ready: watch::Sender<Result<(), String>>,
) {
    loop {
        let given = given(nodes.borrow_and_update().as_deref());
        let state = match judge(used, given, leased()) {
            Verdict::Change => return,
            Verdict::Waits(message) => Err(message),
            Verdict::Same => Ok(()),
        };
        let waits = state.is_err();
        // Without a range the node is not ready, and it was said why.
        if used.is_some() {
            ready.send_if_modified(|last| {
                let news = *last != state;
                *last = state;
                news
            });
        }
        tokio::select! {
            more = nodes.changed() => if more.is_err() {
                // The agent ends.
                std::future::pending::<()>().await;
            },
            () = sleep(LOOK), if waits => {}
        }
    }
}

/// Whether the pod has a network of its own.
pub fn needs_address(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) != Some(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::names::ObjectName;

    fn range(text: &str) -> Option<Ipv4Net> {
        text.parse().ok()
    }

    #[test]
    fn the_range_is_the_first_of_ipv4() {
        let node = |spec| {
            let node: Node = serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": spec})).unwrap();
            Set::from([(ObjectName::new("", "n"), Arc::new(node))])
        };
        let both = node(json!({"podCIDR": "fd00::/64", "podCIDRs": ["fd00::/64", "10.1.0.0/24"]}));
        assert_eq!(given(Some(&both)), range("10.1.0.0/24"));
        assert_eq!(given(Some(&node(json!({})))), None);
        assert_eq!(given(None), None);
    }

    #[test]
    fn another_range_is_taken_when_the_last_address_of_the_former_is_given_back() {
        let (one, two) = (range("10.1.0.0/24"), range("10.2.0.0/24"));
        assert_eq!(judge(one, one, 3), Verdict::Same);
        assert_eq!(judge(one, None, 3), Verdict::Same);
        assert_eq!(judge(one, two, 0), Verdict::Change);
        assert_eq!(judge(None, two, 2), Verdict::Change, "pods on the host's network have none");
        let Verdict::Waits(message) = judge(one, two, 2) else { panic!() };
        assert!(
            message.ends_with("podCIDR is 10.2.0.0/24 now, and 2 pods still have addresses of 10.1.0.0/24"),
            "{message}"
        );
    }
}
