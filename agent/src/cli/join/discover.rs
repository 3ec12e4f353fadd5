//! Asks the cluster: who it is, whether the name is free, and how its kubelets are configured.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::{Wanted, say};
use crate::api::{ApiError, Call, Client, Kubeconfig, Source, User};
use crate::errors::chain;
use crate::join::{Cluster, ClusterInfoError, SignedBy, Token, verify};

/// Between two looks for a signature or a server.
const PAUSE: Duration = Duration::from_secs(1);
/// New tokens are signed with within seconds, and a server that is not there now may be restarting; more is no accident.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster and who we are there.
pub(super) struct Discovered {
    pub(super) cluster: Cluster,
    /// A bootstrap token, or another bearer token.
    pub(super) token: String,
}

impl Discovered {
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let user = User { token: Some(Source::Data(self.token.clone().into_bytes())), ..User::default() };
        Ok(Client::new(kubeconfig(&self.cluster.server, Some(&self.cluster.ca), user))?)
    }
}

/// Without an authority the server is not verified.
fn kubeconfig(server: &str, ca: Option<&[u8]>, user: User) -> Kubeconfig {
    Kubeconfig {
        server: server.to_owned(),
        ca: ca.map(|ca| Source::Data(ca.to_vec())),
        server_name: None,
        user,
        namespace: "default".to_owned(),
        unverified: ca.is_none(),
    }
}

/// From a file that somebody trusted brought here.
pub(super) fn from_file(file: &Path, token: Option<&Token>) -> anyhow::Result<Discovered> {
    let config = Kubeconfig::load_cluster(file)?;
    let ca = config.ca.as_ref().with_context(|| format!("{} names no certificate-authority", file.display()))?;
    let ca = ca.read().with_context(|| format!("reading the authority of {}", file.display()))?;
    let own = match &config.user.token {
        Some(source) => Some(String::from_utf8(source.read()?).map_err(|_| anyhow!("the token is not text"))?),
        None => None,
    };
    let token = token.map(Token::whole).or(own);
    let token = token.with_context(|| format!("{} holds no token: --token is needed beside it", file.display()))?;
    Ok(Discovered { cluster: Cluster { server: config.server, ca }, token })
}

/// From the cluster itself: first from anybody who answers, proved by signature and pin, then from the cluster that was
/// proved, which must say the same.
pub(super) async fn by_token(wanted: &Wanted) -> anyhow::Result<Discovered> {
    let (Some(endpoint), Some(token)) = (&wanted.endpoint, &wanted.token) else {
        bail!("HOST:PORT and --token are needed")
    };
    let server = server(endpoint)?;
    say(&format!("asking {server} for cluster-info"))?;
    let anybody = Client::new(kubeconfig(&server, None, User::default()))?;
    let by = SignedBy { token, pins: &wanted.pins };
    let first = proved(&anybody, by, wanted.patience.min(PATIENCE)).await?;
    say("cluster-info is signed with the token, and its CA is the right one")?;
    let proved = Client::new(kubeconfig(&first.server, Some(&first.ca), User::default()))?;
    let again = cluster_info(&proved).await.with_context(|| {
        format!(
            "asking {} again, with its CA: does its certificate name this address, and is this machine's clock right ({})?",
            first.server,
            jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC")
        )
    })?;
    let again = verify(&again, by).context("what the cluster said the second time")?;
    if again.ca != first.ca {
        bail!(
            "the cluster named another CA when it was asked again: its CA is being replaced, or somebody is in between"
        );
    }
    Ok(Discovered { cluster: again, token: token.whole() })
}

fn server(endpoint: &str) -> anyhow::Result<String> {
    let host = endpoint.strip_prefix("https://").unwrap_or(endpoint).trim_end_matches('/');
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none() || host.contains('/') || host.starts_with(':') {
        bail!("{endpoint:?} is not of the form HOST:PORT, such as 192.0.2.1:6443 or [2001:db8::1]:6443");
    }
    Ok(format!("https://{host}"))
}

/// Tried until it is signed; what will not pass is said at once.
async fn proved(client: &Client, by: SignedBy<'_>, patience: Duration) -> anyhow::Result<Cluster> {
    let until = Instant::now() + patience;
    loop {
        let error = match cluster_info(client).await {
            Ok(data) => match verify(&data, by) {
                Ok(cluster) => return Ok(cluster),
                Err(error) => anyhow::Error::new(error),
            },
            Err(error) => error,
        };
        let unsigned = error.downcast_ref().is_some_and(ClusterInfoError::may_pass);
        let unreachable = error.downcast_ref().is_some_and(ApiError::is_unreachable);
        if !(unsigned || unreachable) || Instant::now() >= until {
            return Err(error);
        }
        sleep(PAUSE).await;
    }
}

async fn cluster_info(client: &Client) -> anyhow::Result<BTreeMap<String, String>> {
    let found = client.read::<ConfigMap>(Some("kube-public"), "cluster-info").await;
    let found = found.map_err(|error| {
        let help = match &error {
            error if error.is_unreachable() => {
                "is the address right, does the API server run, and does every firewall between let this machine through?"
            }
            error if error.is_unauthorized() || error.is_forbidden() => {
                "the cluster shows cluster-info to nobody without credentials: use --discovery-file"
            }
            _ => "is this the API server of a cluster?",
        };
        anyhow::Error::new(error).context(format!("asking {} for cluster-info; {help}", client.server()))
    })?;
    let found = found.with_context(|| {
        format!(
            "{} has no ConfigMap kube-public/cluster-info: kubeadm init makes it; use --discovery-file",
            client.server()
        )
    })?;
    Ok(found.data.unwrap_or_default())
}

/// Two nodes of one name would fight over it.
pub(super) async fn check_name(client: &Client, node: &str) -> anyhow::Result<()> {
    let there = match client.read::<Node>(None, node).await {
        Ok(there) => there,
        // Not every cluster lets those look that have only a token.
        Err(error) if error.is_forbidden() => None,
        Err(error) => return Err(anyhow::Error::new(error).context(format!("asking for the Node {node}; {TOKEN}"))),
    };
    if there.as_ref().is_some_and(is_ready) {
        bail!(
            "there is a Node {node} already, and it is Ready: another machine has this name; --node-name gives this one \
             another, or kubectl delete node {node} if that machine is gone"
        );
    }
    Ok(())
}

const TOKEN: &str = "has the token expired, or does it lack usage-bootstrap-authentication? (kubeadm token list)";

pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

#[derive(Deserialize)]
struct Version {
    minor: String,
}

/// The cluster's `KubeletConfiguration`: of clusters before 1.24 under a name with their version.
pub(super) async fn configuration(client: &Client) -> anyhow::Result<String> {
    say("reading the cluster's kubelet-config")?;
    let mut tried = Vec::new();
    let version = client.ask::<Version>(Call::get("/version")).await.context("asking for the cluster's version")?;
    let minor: String = version.minor.chars().take_while(char::is_ascii_digit).collect();
    for name in ["kubelet-config".to_owned(), format!("kubelet-config-1.{minor}")] {
        match client.read::<ConfigMap>(Some("kube-system"), &name).await {
            Ok(Some(map)) => {
                let text = map.data.and_then(|mut data| data.remove("kubelet"));
                return text.with_context(|| format!("the ConfigMap kube-system/{name} has no key kubelet"));
            }
            Ok(None) => tried.push(format!("{name}: there is none")),
            // Rules name the ConfigMap that there is; others look forbidden.
            Err(error) if error.is_forbidden() => tried.push(chain(&error)),
            Err(error) => return Err(anyhow::Error::new(error).context(format!("reading kube-system/{name}; {TOKEN}"))),
        }
    }
    bail!(
        "the cluster's kubelet-config cannot be read:\n  {}\nkubeadm init phase upload-config kubelet makes it, with the right \
         to read it; --kubelet-config FILE does without",
        tried.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        assert_eq!(server("192.0.2.1:6443").unwrap(), "https://192.0.2.1:6443");
        assert_eq!(server("https://cluster.example:443/").unwrap(), "https://cluster.example:443");
        assert_eq!(server("[2001:db8::1]:6443").unwrap(), "https://[2001:db8::1]:6443");
        for bad in ["", "192.0.2.1", ":6443", "a:b", "http://a/x:1/"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
