//! The rules of one address family in the kernel. Everything here starts programs and waits for them.

use std::sync::Arc;

use netfilter::apply::{ApplyError, Backend, Iptables, Nft};
use netfilter::iptables::{Jump, Table};
use netfilter::{Family, Model, NodeConfig, Ruleset, Transaction, nft};
use tokio::time::Instant;

use super::isolated::Isolated;
use super::settings::Mode;
use super::sysctls;
use super::watched::Watched;

/// So many service ports may be refused in one go; with more than that it is not the services' fault.
const MOST_REFUSED: usize = 8;

/// The rules of a family as we left them.
pub(super) struct Rules {
    pub(super) family: Family,
    tool: Tool,
    /// The kernel holds what `tool` says.
    is_sure: bool,
    /// Whether the other mode's rules are still to be removed.
    is_other_mode_there: bool,
    isolated: Isolated,
    /// Whether somebody else wrote.
    pub(super) watched: Watched,
}

enum Tool {
    Iptables(Iptables, Ruleset),
    Nft(Nft, nft::Ruleset),
}

/// What came of writing.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Service ports that were set aside, with the line that was refused.
    pub(super) refused: Vec<ApplyError>,
    /// How many commits it took; `None` where they cannot be counted.
    pub(super) commits: Option<u32>,
    /// Everything was looked at, not only what differs.
    pub(super) is_full: bool,
    /// Rules written, in nat and in filter; none in nftables mode.
    pub(super) rules: [usize; 2],
    /// Lines of text that were written.
    pub(super) lines: usize,
}

impl Rules {
    /// Finds the programs. `None` where the kernel has no such family, which is an error for IPv4 alone.
    pub(super) fn open(family: Family, mode: Mode) -> Result<Option<Self>, ApplyError> {
        let (tool, backend) = match mode {
            Mode::Nftables => (Tool::Nft(Nft::find()?, nft::Ruleset::empty(family)), Backend::Nft),
            Mode::Iptables => {
                let tool = Iptables::find(family)?;
                let backend = tool.backend();
                (Tool::Iptables(tool, Ruleset::empty(family)), backend)
            }
        };
        if family == Family::V6 && !is_supported(&tool) {
            return Ok(None);
        }
        let watched = Watched::open(family, backend, mode);
        Ok(Some(Self {
            family,
            tool,
            is_sure: false,
            is_other_mode_there: true,
            isolated: Isolated::default(),
            watched,
        }))
    }

    /// Makes the rules those of `model`. Service ports that the kernel refuses are left out.
    pub(super) fn program(
        &mut self,
        model: &Arc<Model>,
        node: &NodeConfig,
        now: Instant,
    ) -> Result<Written, ApplyError> {
        let mut refused = Vec::new();
        loop {
            let wanted = self.isolated.without(model, now);
            match self.write(&wanted, node) {
                Ok(written) => {
                    self.isolated.taken(now);
                    self.remove_other_mode();
                    return Ok(Written { refused, ..written });
                }
                // What is there may not be what it was taken for: only a look at it shows whose fault it was.
                Err(_) if std::mem::take(&mut self.is_sure) => {}
                Err(ApplyError::Refused { owner: Some(owner), number, line, message })
                    if refused.len() < MOST_REFUSED && self.isolated.put(&owner, &wanted, now) =>
                {
                    refused.push(ApplyError::Refused { owner: Some(owner), number, line, message });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// When a service port that was set aside is to be tried again.
    pub(super) fn retry(&self) -> Option<Instant> {
        self.isolated.due()
    }

    /// Looks at everything in the kernel and writes what is not as it should be; says whether there was anything.
    pub(super) fn repair(&mut self) -> Result<bool, ApplyError> {
        if !self.is_sure {
            return Ok(false);
        }
        let is_touched = self.watched.begin_repair();
        match &mut self.tool {
            Tool::Iptables(tool, rules) => {
                let found = tool.save(None)?;
                let (transaction, jumps) = (Transaction::takeover(&found, rules), missing_jumps(&found, rules));
                rules.forget_text();
                tool.restore(&transaction)?;
                tool.ensure_jumps(&jumps)?;
                Ok(!transaction.is_empty() || !jumps.is_empty())
            }
            Tool::Nft(tool, rules) => {
                // Counting shows what is missing, not what was replaced: where somebody wrote, all is written again.
                if !is_touched && tool.census(self.family)? == Some(nft::Census::of(rules)) {
                    return Ok(false);
                }
                take_over_table(tool, rules)?;
                self.watched.repaired();
                Ok(true)
            }
        }
    }

    /// Whether somebody has written since the last look, where this agent has made `own` commits.
    pub(super) fn look(&mut self, own: u32) {
        self.watched.look(own, self.is_sure);
    }

    /// The same where nobody counts and only reading tells. Blocks.
    pub(super) fn read(&mut self, now: Instant) {
        if self.is_sure && self.watched.is_read_due(now) {
            self.watched.read(now);
        }
    }

    /// Removes every rule and chain that is ours.
    pub(super) fn clean_up(&self) -> Result<(), ApplyError> {
        match &self.tool {
            Tool::Iptables(tool, rules) => {
                let found = tool.save(None)?;
                // With the loopback closed again nobody needs the rule that guards it.
                let is_useless = rules.serves_localhost() && !sysctls::is_loopback_open();
                let cleanup = if is_useless { Transaction::cleanup_with_firewall } else { Transaction::cleanup };
                tool.restore(&cleanup(&found))
            }
            Tool::Nft(tool, _) => tool.restore(&nft::Transaction::cleanup(self.family)),
        }
    }

    /// How many rules there are, in nat and in filter.
    pub(super) fn rule_counts(&self) -> Option<[usize; 2]> {
        match &self.tool {
            Tool::Iptables(_, rules) => Some([Table::Nat, Table::Filter].map(|table| rules.rule_count(table))),
            Tool::Nft(..) => None,
        }
    }

    fn write(&mut self, model: &Model, node: &NodeConfig) -> Result<Written, ApplyError> {
        let is_full = !self.is_sure;
        let written = match &mut self.tool {
            Tool::Iptables(tool, rules) => {
                let node = NodeConfig { random_fully: tool.knows_random_fully(), ..node.clone() };
                let new = rules.next(model, &node);
                let written = write_tables(tool, rules, &new, is_full)?;
                *rules = new;
                rules.forget_text();
                written
            }
            Tool::Nft(tool, rules) => {
                let new = rules.next(model, node);
                let mut written = Written { is_full, ..Written::default() };
                if is_full {
                    take_over_table(tool, &new)?;
                } else {
                    let transaction = nft::Transaction::between(rules, &new);
                    tool.restore(&transaction)?;
                    written.commits = u32::try_from(transaction.batches().len()).ok();
                    written.lines = transaction.line_count();
                }
                *rules = new;
                written
            }
        };
        self.is_sure = true;
        Ok(written)
    }

    /// Once ours are in force, so that Services work at every moment. Best effort: the other program may be missing.
    fn remove_other_mode(&mut self) {
        if !std::mem::take(&mut self.is_other_mode_there) {
            return;
        }
        let removed = match self.tool {
            Tool::Iptables(..) => remove_table(self.family),
            Tool::Nft(..) => remove_chains(self.family),
        };
        match removed {
            Ok(false) | Err(ApplyError::Missing(_)) => {}
            Ok(true) => tracing::info!(family = ?self.family, "rules of the other proxy mode removed"),
            Err(error) => {
                tracing::warn!(family = ?self.family, "rules of the other proxy mode may be left: {}", crate::errors::chain(&error))
            }
        }
    }
}

fn is_supported(tool: &Tool) -> bool {
    match tool {
        Tool::Iptables(tool, _) => tool.is_supported(),
        Tool::Nft(..) => std::path::Path::new("/proc/net/if_inet6").exists(),
    }
}

fn write_tables(tool: &Iptables, old: &Ruleset, new: &Ruleset, is_full: bool) -> Result<Written, ApplyError> {
    let (transaction, jumps) = if is_full {
        let found = tool.save(None)?;
        (Transaction::takeover(&found, new), missing_jumps(&found, new))
    } else {
        (Transaction::between(old, new), Vec::new())
    };
    tool.restore(&transaction)?;
    tool.ensure_jumps(&jumps)?;
    Ok(Written {
        refused: Vec::new(),
        commits: u32::try_from(transaction.sections().len()).ok().filter(|_| !is_full),
        is_full,
        rules: [Table::Nat, Table::Filter].map(|table| transaction.rules_written(table)),
        lines: transaction.line_count(),
    })
}

/// KUBE-FIREWALL is the kubelet's too and would stay behind; without localhost node ports it is empty.
fn missing_jumps(found: &netfilter::iptables::Tables, new: &Ruleset) -> Vec<Jump> {
    let missing = Jump::missing_from(found).into_iter();
    missing.filter(|jump| jump.is_ours_alone() || new.serves_localhost()).collect()
}

fn take_over_table(tool: &Nft, new: &nft::Ruleset) -> Result<(), ApplyError> {
    let Some(found) = tool.found(new.family())? else {
        return tool.restore(&nft::Transaction::between(&nft::Ruleset::empty(new.family()), new));
    };
    match tool.restore(&nft::Transaction::takeover(&found, new)) {
        // A set of another kind under one of our names, which only making all anew gets rid of.
        Err(ApplyError::Refused { owner: None, .. } | ApplyError::Failed { .. }) => {
            tool.restore(&nft::Transaction::replacing(new))
        }
        done => done,
    }
}

fn remove_table(family: Family) -> Result<bool, ApplyError> {
    let tool = Nft::find()?;
    if tool.found(family)?.is_none() {
        return Ok(false);
    }
    tool.restore(&nft::Transaction::cleanup(family)).map(|()| true)
}

fn remove_chains(family: Family) -> Result<bool, ApplyError> {
    let tool = Iptables::find(family)?;
    let transaction = Transaction::cleanup(&tool.save(None)?);
    tool.restore(&transaction).map(|()| !transaction.is_empty())
}
