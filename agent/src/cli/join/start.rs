//! Starts the agent, as a unit or here, and waits for its certificate and for the Node to be Ready.

use std::future::{Future, pending};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use k8s_openapi::api::core::v1::Node;
use tokio::time::{Instant, sleep, timeout};

use super::{Wanted, discover, say};
use crate::api::{Client, Kubeconfig};
use crate::cli::{Cli, Command, agent};
use crate::cluster::Bootstrap;
use crate::errors::chain;

/// The unit, as it is packaged.
const UNIT: &str = include_str!("../../../../systemd/longshore-agent.service");
pub(in crate::cli) const UNIT_NAME: &str = "longshore-agent.service";
const LOOK: Duration = Duration::from_millis(200);
/// systemd answers at once, or waits for a start that takes seconds.
const SYSTEMCTL: Duration = Duration::from_secs(60);

/// How the agent is started.
pub(super) struct Start {
    pub(super) flags: Vec<String>,
    pub(super) run_dir: PathBuf,
    /// As a unit of systemd.
    pub(super) unit: bool,
}

type Agent = Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>>>>;

impl Start {
    /// Returns when the Node is Ready; in the foreground when the agent has ended.
    pub(super) async fn until_ready(&self, wanted: &Wanted) -> anyhow::Result<ExitCode> {
        let mut agent = self.agent().await.inspect_err(|_| drop(wanted.layout.roll_back()))?;
        let certificate = tokio::select! {
            // An agent that has just ended says why: look at it first.
            biased;
            ended = &mut agent => ended.and_then(|_| bail!("the agent was stopped before the machine had joined")),
            came = certificate(wanted) => came,
        };
        if let Err(error) = certificate {
            drop(agent);
            // What has a certificate is not begun anew, but gone on with.
            if wanted.layout.kubeconfig().exists() {
                return Err(error.context("the machine has its certificate, and joining goes on with it the next time"));
            }
            self.take_back(wanted).await?;
            return Err(error.context("joining; what was written is removed again, and a second try begins anew"));
        }
        forget_token(wanted)?;
        tokio::select! {
            biased;
            ended = &mut agent => return ended,
            ready = ready(wanted) => ready?,
        }
        say(&format!("the Node {} is Ready", wanted.node))?;
        if self.unit { Ok(ExitCode::SUCCESS) } else { agent.await }
    }

    /// The agent; one that is a unit never ends here.
    async fn agent(&self) -> anyhow::Result<Agent> {
        if self.unit {
            install_unit()?;
            systemctl(&["daemon-reload"]).await?;
            systemctl(&["enable", "--now", UNIT_NAME]).await?;
            say(&format!("{UNIT_NAME} is started (journalctl -u {UNIT_NAME} shows what it says)"))?;
            return Ok(Box::pin(pending()));
        }
        say("starting the agent")?;
        let run = format!("--run-dir={}", self.run_dir.display());
        let words = ["longshore".to_owned(), run, "agent".to_owned()].into_iter().chain(self.flags.iter().cloned());
        let cli = Cli::try_parse_from(words).context("the agent's flags")?;
        match cli.command {
            Command::Agent(args) => Ok(Box::pin(agent::run(*args, self.run_dir.clone()))),
            _ => bail!("the agent's flags are another command's"),
        }
    }

    async fn take_back(&self, wanted: &Wanted) -> anyhow::Result<()> {
        if self.unit {
            systemctl(&["disable", "--now", UNIT_NAME]).await?;
        }
        wanted.layout.roll_back().map_err(|(path, error)| anyhow::anyhow!("removing {}: {error}", path.display()))
    }
}

fn forget_token(wanted: &Wanted) -> anyhow::Result<()> {
    let removed = wanted.layout.forget_token();
    removed.map_err(|(path, error)| anyhow::anyhow!("removing {}: {error}", path.display()))
}

/// Waits until the kubeconfig is there, which the agent writes last.
async fn certificate(wanted: &Wanted) -> anyhow::Result<()> {
    let layout = &wanted.layout;
    let until = Instant::now() + wanted.patience;
    let mut told = false;
    while !layout.kubeconfig().exists() {
        let pending = Bootstrap::pending_in(&layout.cert_dir());
        if let (Some(name), false) = (&pending, told) {
            say(&format!("asking for a certificate: CertificateSigningRequest {name}"))?;
            told = true;
        }
        if Instant::now() > until {
            let name = pending.unwrap_or_else(|| "of this node".to_owned());
            bail!(
                "no certificate came within {} s: is the CertificateSigningRequest {name} approved (kubectl get csr; kubectl \
                 certificate approve {name}), does the kube-controller-manager run, and may the token's group have its \
                 requests approved (ClusterRole system:certificates.k8s.io:certificatesigningrequests:nodeclient)?",
                wanted.patience.as_secs()
            );
        }
        sleep(LOOK).await;
    }
    say("the certificate is here")
}

/// A node that has joined and is not Ready stays joined: what it waits for may need the cluster's own pods.
async fn ready(wanted: &Wanted) -> anyhow::Result<()> {
    let client = Client::new(Kubeconfig::load(&wanted.layout.kubeconfig())?)?;
    let (until, mut told) = (Instant::now() + wanted.patience, String::new());
    loop {
        let now = match client.read::<Node>(None, &wanted.node).await {
            Ok(Some(node)) if discover::is_ready(&node) => return Ok(()),
            Ok(Some(node)) => why_not(&node),
            Ok(None) => "it is not registered yet".to_owned(),
            Err(error) => chain(&error),
        };
        if now != told {
            say(&format!("waiting for the Node {}: {now}", wanted.node))?;
            told = now;
        }
        if Instant::now() > until {
            return say(&format!(
                "the Node {} has joined and is not Ready after {} s: {told}; `kubectl describe node` shows more",
                wanted.node,
                wanted.patience.as_secs()
            ));
        }
        sleep(LOOK).await;
    }
}

fn why_not(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref()).into_iter().flatten();
    let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready");
    ready.and_then(|condition| condition.message.clone()).unwrap_or_else(|| "it has no conditions yet".to_owned())
}

/// Whether systemd is this machine's init, as sd_booted(3) tells it.
pub(in crate::cli) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Packaged machines have the unit; others get it, with the place of this program.
fn install_unit() -> anyhow::Result<()> {
    let places = ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
    if places.iter().any(|folder| Path::new(folder).join(UNIT_NAME).exists()) {
        return Ok(());
    }
    let program = std::env::current_exe().context("finding this program")?;
    let text = UNIT.replace("/usr/bin/longshore", &program.display().to_string());
    let path = Path::new(places[0]).join(UNIT_NAME);
    crate::files::write(&path, text.as_bytes(), 0o644).with_context(|| format!("writing {}", path.display()))
}

pub(in crate::cli) async fn systemctl(words: &[&str]) -> anyhow::Result<()> {
    let mut command = tokio::process::Command::new("systemctl");
    command.args(words).stdin(Stdio::null()).kill_on_drop(true);
    let shown = words.join(" ");
    let output = timeout(SYSTEMCTL, command.output()).await.with_context(|| format!("systemctl {shown}: no answer"))?;
    let output = output.with_context(|| format!("running systemctl {shown}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "systemctl {shown}: {}", said.trim());
    Ok(())
}
