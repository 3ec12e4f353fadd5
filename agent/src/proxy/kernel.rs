//! The kernel's rules of this node, and the right to change them.

use netfilter::apply::{ApplyError, Iptables};
use netfilter::iptables::Jump;
use netfilter::{Family, Model, Ruleset, Transaction};
use tokio::task::{JoinError, spawn_blocking};

use super::Settings;
use super::owner::{Owner, Taken};

/// Why the rules could not be changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelError {
    /// Another agent works on the same chains.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// iptables refused.
    #[error("programming Services")]
    Apply(#[from] ApplyError),
    /// The thread that ran iptables is gone.
    #[error("waiting for iptables")]
    Lost(#[from] JoinError),
}

/// The rules as they were left, and the right to change them.
pub(super) struct Kernel {
    iptables: Iptables,
    settings: Settings,
    rules: Ruleset,
    _owner: Owner,
}

impl Kernel {
    /// Takes the chains over, whoever wrote what is in them.
    pub(super) async fn open(settings: Settings) -> Result<Self, KernelError> {
        spawn_blocking(|| {
            let owner = Owner::take()?;
            let iptables = Iptables::find(Family::V4)?;
            let node = settings.node_config(iptables.knows_random_fully());
            let rules = Ruleset::render(&Model::new(Family::V4), &node);
            let found = iptables.save(None)?;
            iptables.restore(&Transaction::takeover(&found, &rules))?;
            // KUBE-FIREWALL is the kubelet's too and would stay behind; without localhost node ports it is empty.
            let jumps: Vec<_> = Jump::missing_from(&found).into_iter().filter(Jump::is_ours_alone).collect();
            iptables.ensure_jumps(&jumps)?;
            Ok(Self { iptables, settings, rules, _owner: owner })
        })
        .await?
    }

    /// Makes the rules those of `model`.
    pub(super) async fn program(&mut self, model: Model) -> Result<(), KernelError> {
        let node = self.settings.node_config(self.iptables.knows_random_fully());
        let (old, iptables) = (self.rules.clone(), self.iptables.clone());
        self.rules = spawn_blocking(move || {
            let new = old.next(&model, &node);
            iptables.restore(&Transaction::between(&old, &new))?;
            Ok::<_, ApplyError>(new)
        })
        .await??;
        Ok(())
    }

    /// Removes every rule and chain that is ours.
    pub(super) async fn clean_up(self) -> Result<(), KernelError> {
        spawn_blocking(move || {
            let found = self.iptables.save(None)?;
            Ok(self.iptables.restore(&Transaction::cleanup(&found))?)
        })
        .await?
    }
}
