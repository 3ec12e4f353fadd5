//! Services on a node of a cluster: the work of a kube-proxy.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::api::{Client, Kubeconfig};
use crate::cli::service_flags::ServiceFlags;
use crate::config::Config;
use crate::proxy;

#[derive(Args, Debug)]
pub(super) struct ServiceArgs {
    #[command(flatten)]
    flags: ServiceFlags,
    /// Credentials for reading Services and EndpointSlices (ClusterRole system:node-proxier); the node's own where it is
    /// not given, which need that role too.
    #[arg(long, value_name = "FILE")]
    proxy_kubeconfig: Option<PathBuf>,
    /// Where the proxy's /healthz and /livez answer.
    #[arg(long, default_value = "0.0.0.0:10256", value_name = "ADDRESS:PORT")]
    proxy_healthz_bind_address: SocketAddr,
    /// Where the proxy's /metrics answer.
    #[arg(long, default_value = "127.0.0.1:10249", value_name = "ADDRESS:PORT")]
    proxy_metrics_bind_address: SocketAddr,
}

impl ServiceArgs {
    /// `None` when Services are another program's.
    pub(super) fn settings(&self, config: &Config, turns: proxy::Turns) -> anyhow::Result<Option<proxy::Settings>> {
        let settings = self.flags.settings(config, turns)?;
        Ok(settings.map(|settings| proxy::Settings {
            conntrack: Some(proxy::Conntrack::default()),
            healthz: Some(self.proxy_healthz_bind_address),
            metrics: Some(self.proxy_metrics_bind_address),
            on_its_own: false,
            ..settings
        }))
    }

    /// Who reads Services and endpoints.
    pub(super) fn client(&self, node: &Client) -> anyhow::Result<Client> {
        match &self.proxy_kubeconfig {
            Some(file) => Ok(Client::new(Kubeconfig::load(file)?)?),
            None => Ok(node.clone()),
        }
    }
}
