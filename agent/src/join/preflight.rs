//! What must be right before anything is asked or written.

use std::path::PathBuf;

/// What was found on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Root.
    pub root: bool,
    /// The name that the Node would have.
    pub node_name: String,
    /// Kubelets that run, by process id; agents of ours in other folders are none.
    pub kubelets: Vec<u32>,
    /// Ports that are taken, of those that the agent needs.
    pub taken_ports: Vec<u16>,
    /// There is swap.
    pub swap: bool,
    /// Files of a former joining that are not ours.
    pub strangers: Vec<PathBuf>,
    /// What keeps pods from running here, and what helps.
    pub machine: Vec<String>,
}

/// Something in the way.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {help}")]
pub struct Obstacle {
    what: String,
    help: String,
}

/// Everything in the way, at once. `fail_swap_on` is the configuration's.
pub fn obstacles(facts: &Facts, fail_swap_on: bool) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let mut say = |what: String, help: &str| found.push(Obstacle { what, help: help.to_owned() });
    if !facts.root {
        say("not running as root".to_owned(), "run it as root or through sudo");
    }
    if !is_node_name(&facts.node_name) {
        let what = format!("{:?} is not a name that a Node can have", facts.node_name);
        say(what, "lower-case letters, digits, '-' and '.'; give the machine another one, or --node-name");
    }
    for pid in &facts.kubelets {
        say(format!("a kubelet runs here (pid {pid})"), "two cannot share a machine: stop and disable it");
    }
    for port in &facts.taken_ports {
        say(format!("port {port} is taken"), "`ss -ltnp` shows by whom; the agent listens there");
    }
    if facts.swap && fail_swap_on {
        say(
            "there is swap".to_owned(),
            "turn it off (swapoff -a, and /etc/fstab), or set failSwapOn: false in the cluster's kubelet-config",
        );
    }
    for file in &facts.strangers {
        let what = format!("{} is there", file.display());
        say(
            what,
            "something else joined this machine to a cluster: reset that (kubeadm reset), or remove what it left",
        );
    }
    found.extend(facts.machine.iter().filter_map(|line| {
        let (what, help) = line.split_once(": ")?;
        Some(Obstacle { what: what.to_owned(), help: help.to_owned() })
    }));
    found
}

/// A DNS subdomain (RFC 1123).
fn is_node_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn everything_in_the_way_is_told_at_once_with_what_helps() {
        let facts = Facts {
            root: true,
            node_name: "my_node".into(),
            kubelets: vec![17],
            taken_ports: vec![10_250],
            swap: true,
            strangers: vec!["/etc/kubernetes/kubelet.conf".into()],
            machine: vec!["the kernel has no overlayfs: load it".into()],
        };
        let said: Vec<_> = obstacles(&facts, true).iter().map(ToString::to_string).collect();
        expect![[r#"
            "my_node" is not a name that a Node can have: lower-case letters, digits, '-' and '.'; give the machine another one, or --node-name
            a kubelet runs here (pid 17): two cannot share a machine: stop and disable it
            port 10250 is taken: `ss -ltnp` shows by whom; the agent listens there
            there is swap: turn it off (swapoff -a, and /etc/fstab), or set failSwapOn: false in the cluster's kubelet-config
            /etc/kubernetes/kubelet.conf is there: something else joined this machine to a cluster: reset that (kubeadm reset), or remove what it left
            the kernel has no overlayfs: load it"#]]
        .assert_eq(&said.join("\n"));
        let fine = Facts { root: true, node_name: "n1.example".into(), swap: true, ..Facts::default() };
        assert_eq!(obstacles(&fine, false), []);
    }
}
