//! `longshore join`: asks, checks, writes, starts the agent, and waits until the Node is Ready; says each step.

mod discover;
mod found;
mod start;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;

pub(super) use start::{UNIT_NAME, has_systemd, systemctl};

use super::host_name;
use super::talk::print;
use crate::cluster::Credentials;
use crate::join::{Files, Layout, Obstacle, Pin, Pins, Token, obstacles};

#[derive(Args, Debug)]
pub(super) struct JoinArgs {
    /// Where the API server is.
    #[arg(value_name = "HOST:PORT", required_unless_present = "discovery_file")]
    endpoint: Option<String>,
    /// The bootstrap token: proves the cluster to this machine, and this machine to the cluster.
    #[arg(long, value_name = "TOKEN", hide_env_values = true, env = "LONGSHORE_JOIN_TOKEN")]
    token: Option<String>,
    /// What the CA's public key must hash to; may be given several times.
    #[arg(long, value_name = "sha256:HEX", value_delimiter = ',')]
    discovery_token_ca_cert_hash: Vec<Pin>,
    /// Believe any CA that knows the token: whoever has the token can then pretend to be the cluster.
    #[arg(long, conflicts_with = "discovery_token_ca_cert_hash")]
    discovery_token_unsafe_skip_ca_verification: bool,
    /// A kubeconfig that says where the cluster is and what its CA is, instead of asking for it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["endpoint", "discovery_token_ca_cert_hash"])]
    discovery_file: Option<PathBuf>,
    /// The Node's name; the host's where it is not given.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// The kubelet's configuration, for clusters that have no kubelet-config of their own.
    #[arg(long, value_name = "FILE")]
    kubelet_config: Option<PathBuf>,
    /// How long each step that waits for somebody else may take, seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// Run the agent here also where systemd runs.
    #[arg(long)]
    foreground: bool,
    /// Where etc/kubernetes and var/lib/kubelet lie.
    #[arg(long, default_value = "/", value_name = "DIR")]
    prefix: PathBuf,
    /// Flags for the agent, behind --.
    #[arg(last = true, value_name = "FLAG")]
    agent: Vec<String>,
}

/// What was asked for, checked.
struct Wanted {
    endpoint: Option<String>,
    token: Option<Token>,
    pins: Pins,
    node: String,
    layout: Layout,
    patience: Duration,
}

/// Joins; in the foreground it returns when the agent ends.
pub(super) async fn run(args: JoinArgs, run_dir: PathBuf) -> anyhow::Result<ExitCode> {
    let wanted = wanted(&args)?;
    say("checking this machine")?;
    refuse(&obstacles(&found::facts(&wanted.node, &wanted.layout), false))?;
    let start = start::Start {
        flags: agent_flags(&args, &wanted),
        run_dir,
        unit: !args.foreground && start::has_systemd() && args.prefix == Path::new("/"),
    };
    // A machine that has its certificate was interrupted later than here: what is missing is only to be Ready.
    let certificate = Credentials::of(&wanted.layout.kubeconfig(), jiff::Timestamp::now());
    match wanted.layout.is_ours() && certificate == Credentials::Good {
        true => say("this machine has its certificate already: going on where it was interrupted")?,
        false => prepare(&args, &wanted).await?,
    }
    start.until_ready(&wanted).await
}

fn wanted(args: &JoinArgs) -> anyhow::Result<Wanted> {
    let token = args.token.as_deref().map(str::parse::<Token>).transpose().context("--token")?;
    let pins = match (args.discovery_token_ca_cert_hash.as_slice(), args.discovery_token_unsafe_skip_ca_verification) {
        ([], true) => Pins::Any,
        ([], false) if args.discovery_file.is_none() => bail!(
            "--discovery-token-ca-cert-hash is missing: without it anybody who has the token could pretend to be the cluster. On \
             a control plane: openssl x509 -pubkey -in /etc/kubernetes/pki/ca.crt | openssl pkey -pubin -outform der | sha256sum"
        ),
        (pins, _) => Pins::OneOf(pins.to_vec()),
    };
    ensure!(token.is_some() || args.discovery_file.is_some(), "--token is missing: `kubeadm token create` makes one");
    let prefix = std::path::absolute(&args.prefix)?;
    Ok(Wanted {
        endpoint: args.endpoint.clone(),
        token,
        pins,
        node: args.node_name.as_ref().map_or_else(host_name, |name| name.trim().to_lowercase()),
        layout: Layout::below(&prefix),
        patience: Duration::from_secs(args.timeout),
    })
}

/// Everything that can be asked and checked is, before the first file is written.
async fn prepare(args: &JoinArgs, wanted: &Wanted) -> anyhow::Result<()> {
    let discovered = match &args.discovery_file {
        Some(file) => discover::from_file(file, wanted.token.as_ref())?,
        None => discover::by_token(wanted).await?,
    };
    say(&format!("the cluster is at {}", discovered.cluster.server))?;
    let client = discovered.client()?;
    discover::check_name(&client, &wanted.node).await?;
    let configuration = match &args.kubelet_config {
        Some(file) => crate::files::read_text(file).with_context(|| format!("reading {}", file.display()))?,
        None => discover::configuration(&client).await?,
    };
    let loaded = found::configuration(&configuration)?;
    refuse(&obstacles(&found::late_facts(&loaded.server, &wanted.node), loaded.fail_swap_on))?;
    let files = Files {
        cluster: discovered.cluster,
        token: Some(discovered.token),
        configuration: found::with_resolver(configuration),
        flags: flags_of_unit(args, wanted),
    };
    say(&format!("writing {} and what belongs to it", wanted.layout.configuration().display()))?;
    let layout = &wanted.layout;
    layout.write(&files).or_else(|(path, error)| {
        let _ = layout.roll_back();
        Err(error).with_context(|| format!("writing {}; what was written is removed again", path.display()))
    })
}

fn refuse(found: &[Obstacle]) -> anyhow::Result<()> {
    let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
    ensure!(lines.is_empty(), "this machine cannot join yet:\n  {}", lines.join("\n  "));
    Ok(())
}

/// What the unit gets from kubeadm-flags.env.
fn flags_of_unit(args: &JoinArgs, wanted: &Wanted) -> Vec<String> {
    let name = args.node_name.is_some().then(|| format!("--hostname-override={}", wanted.node));
    name.into_iter().chain(args.agent.iter().cloned()).collect()
}

fn agent_flags(args: &JoinArgs, wanted: &Wanted) -> Vec<String> {
    wanted.layout.agent_flags().into_iter().chain(flags_of_unit(args, wanted)).collect()
}

fn say(line: &str) -> anyhow::Result<()> {
    print([format!("join: {line}")])
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        join: JoinArgs,
    }

    fn said(words: &str) -> String {
        let words = ["join"].into_iter().chain(words.split_whitespace());
        match Alone::try_parse_from(words) {
            Ok(alone) => wanted(&alone.join).err().map(|error| format!("{error:#}")).unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_missing_is_said_before_anything_is_asked() {
        let pin = format!("sha256:{}", "0".repeat(64));
        assert_eq!(
            said(&format!("192.0.2.1:6443 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash {pin}")),
            ""
        );
        assert!(
            said("192.0.2.1:6443 --token abcdef.0123456789abcdef")
                .contains("--discovery-token-ca-cert-hash is missing")
        );
        assert!(said(&format!("192.0.2.1:6443 --discovery-token-ca-cert-hash {pin}")).contains("--token is missing"));
        let bad = said(&format!("192.0.2.1:6443 --token hush --discovery-token-ca-cert-hash {pin}"));
        assert!(bad.contains("is not a bootstrap token") && !bad.contains("hush"), "{bad}");
        assert!(
            said("a:1 --token abcdef.0123456789abcdef --discovery-token-ca-cert-hash sha1:00")
                .contains("64 hexadecimal digits")
        );
        assert!(said("--token abcdef.0123456789abcdef").contains("HOST:PORT"));
    }
}
