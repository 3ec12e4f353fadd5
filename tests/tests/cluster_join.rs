//! Joining a real cluster, and leaving it: by token, against what may be wrong, and with certificates that end.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::cluster_node::ClusterNode;
use tests::control_plane::{ControlPlane, SERVER, TOKEN};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn is_ready(node: &Value) -> bool {
    let all = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The words of a good join, as kubeadm prints them.
fn words(plane: &ControlPlane) -> Vec<String> {
    let (endpoint, pin) = (SERVER.trim_start_matches("https://"), plane.ca_hash());
    let all = [endpoint, "--token", TOKEN, "--discovery-token-ca-cert-hash", pin];
    all.iter().map(|word| (*word).to_owned()).collect()
}

fn joining(plane: &ControlPlane, last: u8, more: &[&str]) -> Result<ClusterNode> {
    let good = words(plane);
    let all: Vec<_> = good.iter().map(String::as_str).chain(more.iter().copied()).collect();
    ClusterNode::joining(plane, last, &all)
}

fn wait_until_ready(plane: &ControlPlane, node: &mut ClusterNode) -> Result<Value> {
    let path = format!("/api/v1/nodes/{}", node.name);
    let found = node.wait("ready Node", |_| Ok(plane.get(&path)?.filter(is_ready)))?;
    let said = format!("the Node {} is Ready", node.name);
    node.wait("last word of the join", |node| Ok(node.log().contains(&said).then_some(())))?;
    Ok(found)
}

/// Files below the machine's `/etc` and `/var/lib`, but for the key of a request that may be asked for again.
fn files(node: &ClusterNode) -> Result<Vec<String>> {
    fn below(folder: &Path, found: &mut Vec<String>) -> Result<()> {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry?.path();
            match path.is_dir() {
                true => below(&path, found)?,
                false => found.push(path.display().to_string()),
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    below(&node.host(""), &mut found)?;
    found.retain(|path| !path.ends_with("kubelet-client.key.tmp"));
    Ok(found)
}

/// A join that fails: what it says, when nothing of it is left.
fn refused(mut node: ClusterNode) -> Result<String> {
    node.spawn()?;
    ensure!(!node.ended()?.success(), "it joined: {}", node.log());
    let left = files(&node)?;
    ensure!(left.is_empty(), "{left:?} is left: {}", node.log());
    let said = node.log();
    let (_, secret) = TOKEN.split_once('.').context("the token")?;
    ensure!(!said.contains(secret), "the token is shown: {said}");
    Ok(said)
}

#[test]
fn three_machines_join_side_by_side_and_one_leaves() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let mut nodes = (21..24).map(|last| joining(&plane, last, &[])).collect::<Result<Vec<_>>>()?;
    nodes.iter_mut().try_for_each(ClusterNode::spawn)?;
    for node in &mut nodes {
        let object = wait_until_ready(&plane, node)?;
        ensure!(object["status"]["capacity"]["pods"] == "77", "the cluster's configuration has no effect: {object}");
        ensure!(std::fs::read(node.host("etc/kubernetes/pki/ca.crt"))? == std::fs::read(plane.path("ca.crt"))?);
        ensure!(!node.host("etc/kubernetes/bootstrap-kubelet.conf").exists(), "the token is left");
        let flags = std::fs::read_to_string(node.host("var/lib/kubelet/kubeadm-flags.env"))?;
        ensure!(flags.contains(&format!("--hostname-override={}", node.name)), "{flags}");
    }
    // What was written is enough for an agent that is started by itself.
    let node = &mut nodes[0];
    node.terminate()?;
    node.has_joined();
    node.come_back()?;

    let said = String::from_utf8_lossy(&node.cli(&["leave", &format!("--prefix={}", node.host("").display())])?.stdout)
        .into_owned();
    ensure!(said.contains("this machine has left"), "{said}\n{}", node.log());
    ensure!(node.ended()?.success(), "{}", node.log());
    let mut left = files(node)?;
    left.extend(node.place().leftovers());
    ensure!(left.is_empty(), "{left:?}\n{said}");
    // A node may not delete itself everywhere; then it is said who can.
    let there = plane.get("/api/v1/nodes/n21")?.is_some();
    ensure!(!there || said.contains("kubectl delete node n21"), "{said}");
    let again = node.cli(&["leave", &format!("--prefix={}", node.host("").display())])?;
    ensure!(!again.status.success(), "it left twice");
    nodes.iter_mut().skip(1).try_for_each(ClusterNode::terminate)
}

#[test]
fn what_stands_in_the_way_is_said_and_nothing_of_it_is_left() -> Result<()> {
    let Some(plane) = ControlPlane::start()? else { return Ok(()) };
    let good = words(&plane);
    let with = |last, words: &[&str]| ClusterNode::joining(&plane, last, words);
    let (endpoint, pin) = (good[0].as_str(), good[4].as_str());
    let quick = "--timeout=3";

    let expired = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": "bootstrap-token-exprd0", "namespace": "kube-system"},
        "stringData": {"token-id": "exprd0", "token-secret": "0123456789abcdef", "expiration": "2020-01-01T00:00:00Z",
            "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true"}});
    plane.apply(&expired)?;
    for (last, token, say) in [
        (31, "nobody.0123456789abcdef", "is not signed with the token nobody"),
        (32, "exprd0.0123456789abcdef", "Has the token expired"),
        (33, "abcdef.aaaaaaaaaaaaaaaa", "the second half of the token is wrong"),
    ] {
        let said = refused(with(last, &[endpoint, "--token", token, "--discovery-token-ca-cert-hash", pin, quick])?)?;
        ensure!(said.contains(say), "{said}");
    }
    let other = format!("sha256:{}", "0".repeat(64));
    let said = refused(with(34, &[endpoint, "--token", TOKEN, "--discovery-token-ca-cert-hash", &other, quick])?)?;
    ensure!(said.contains(pin) && said.contains("none of the given hashes"), "{said}");
    let said = refused(with(35, &["192.0.2.1:6444", "--token", TOKEN, "--discovery-token-ca-cert-hash", pin, quick])?)?;
    ensure!(said.contains("does the API server run") && said.contains("refused"), "{said}");
    let said = refused(joining(&plane, 36, &["--node-name=my_node", quick])?)?;
    ensure!(said.contains("is not a name that a Node can have"), "{said}");

    // Nobody approves: it is said which request waits, and a second try finds the same one.
    plane.print(&["delete", "clusterrolebinding", "approve"])?;
    let mut node = joining(&plane, 37, &[quick])?;
    node.spawn()?;
    ensure!(!node.ended()?.success() && files(&node)?.is_empty(), "{}", node.log());
    let list = plane.get(REQUESTS)?.context("the requests")?;
    let name = list["items"][0]["metadata"]["name"].as_str().context("a request")?.to_owned();
    ensure!(node.log().contains(&format!("kubectl certificate approve {name}")), "{}", node.log());
    plane.print(&["certificate", "deny", &name])?;
    node.spawn()?;
    ensure!(!node.ended()?.success() && files(&node)?.is_empty(), "{}", node.log());
    ensure!(node.log().contains(&format!("{name} was Denied")), "{}", node.log());

    // A denied one is not asked for again, and what failed is not in the way of what is right.
    let mut node = node.again(&["--timeout=120"]);
    node.spawn()?;
    let waits = node.wait("another request", |_| {
        let list = plane.get(REQUESTS)?.context("the requests")?;
        let names = list["items"].as_array().cloned().unwrap_or_default();
        let names = names.iter().filter_map(|item| item["metadata"]["name"].as_str());
        Ok(names.map(str::to_owned).find(|other| *other != name))
    })?;
    plane.print(&["certificate", "approve", &waits])?;
    wait_until_ready(&plane, &mut node)?;
    node.terminate()
}

#[test]
fn certificates_are_renewed_and_one_that_has_ended_is_had_again_for_a_token() -> Result<()> {
    // Short enough to be seen, long enough for a loaded machine to use.
    let Some(plane) = ControlPlane::start_signing_for(Some(90))? else { return Ok(()) };
    let mut node = joining(&plane, 41, &[])?;
    node.add_flag("--rotate-server-certificates");
    node.spawn()?;
    wait_until_ready(&plane, &mut node)?;
    let current = node.host("var/lib/kubelet/pki/kubelet-client-current.pem");
    let first = std::fs::read_link(&current)?;

    // The serving certificate is asked for with the node's own names; only a person approves it.
    let serving = node.wait("request for the serving certificate", |_| {
        let list = plane.get(REQUESTS)?.context("the requests")?;
        let all = list["items"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().find(|item| item["spec"]["signerName"] == "kubernetes.io/kubelet-serving"))
    })?;
    ensure!(serving["spec"]["username"] == "system:node:n41", "{serving}");
    plane.print(&["certificate", "approve", serving["metadata"]["name"].as_str().context("its name")?])?;
    let served = node.host("var/lib/kubelet/pki/kubelet-server-current.pem");
    node.wait("serving certificate", |_| Ok(served.exists().then_some(())))?;

    node.wait("renewed certificate", |_| Ok((std::fs::read_link(&current)? != first).then_some(())))?;
    let list = plane.get(REQUESTS)?.context("the requests")?;
    let own = list["items"].as_array().into_iter().flatten().find(|item| {
        item["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"
            && item["spec"]["username"] == "system:node:n41"
    });
    own.context("the node did not ask with its own certificate")?;
    node.terminate()?;

    // Months later.
    let (ended, key) = plane.ended_certificate("system:node:n41", "system:nodes")?;
    std::fs::remove_file(&current)?;
    std::fs::write(&current, format!("{ended}{key}"))?;
    node.has_joined();
    node.spawn()?;
    ensure!(!node.ended()?.success(), "it started with a certificate that has ended");
    ensure!(node.log().contains("has its certificate expired?"), "{}", node.log());
    std::fs::write(node.host("etc/kubernetes/bootstrap-kubelet.conf"), plane.bootstrap_kubeconfig(TOKEN).to_string())?;
    node.come_back()?;
    ensure!(std::fs::read_link(&current).is_ok(), "the certificate was not replaced");
    node.terminate()
}
