//! All rules of one address family.

use super::service::ServiceRules;
use super::{Chain, Dispatch, Rule, Table, fixed};
use crate::walk::Finder;
use crate::{Family, Model, NodeConfig, ServicePort, ServicePortName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything that is in the kernel, or should be: what no service changes, and what each adds.
///
/// Rulesets share the rules of services that did not change, so holding an old and a new one costs what
/// differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pub(super) family: Family,
    /// `None` before anything was written.
    pub(super) base: Option<Arc<Base>>,
    pub(super) services: BTreeMap<ServicePortName, Arc<ServiceRules>>,
}

/// What depends on the node alone, and what every service's rules depend on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) family: Family,
    pub(super) node: NodeConfig,
    pub(super) large: bool,
    pub(super) fixed: Vec<(Table, Chain)>,
    pub(super) tail: Vec<Rule>,
}

impl Ruleset {
    /// No rules and no chains.
    pub fn empty(family: Family) -> Self {
        Self { family, base: None, services: BTreeMap::new() }
    }

    /// The rules for a model.
    pub fn render(model: &Model, node: &NodeConfig) -> Self {
        Self::empty(model.family()).next(model, node)
    }

    /// The rules for a model, where this is an earlier ruleset: services that did not change are not
    /// rendered again. The result is the same as that of [`Ruleset::render`].
    #[must_use]
    pub fn next(&self, model: &Model, node: &NodeConfig) -> Self {
        let large = model.endpoint_count() > node.large_cluster_threshold;
        let is_same_base =
            |base: &&Arc<Base>| base.large == large && base.node == *node && base.family == model.family();
        let known = self.base.as_ref().filter(is_same_base);
        let reusable = known.is_some();
        let base = known.cloned().unwrap_or_else(|| Arc::new(Base::new(model.family(), node, large)));
        let mut before = Finder::new(&self.services);
        let mut rules = |name: &ServicePortName, service: &Arc<ServicePort>| {
            let old = before.find(name).filter(|old| reusable && is_same(&old.service, service));
            let fresh = || Arc::new(ServiceRules::render(name, service, &base));
            old.cloned().unwrap_or_else(fresh)
        };
        let services = model.services().iter().map(|(name, service)| (name.clone(), rules(name, service))).collect();
        Self { family: model.family(), base: Some(base), services }
    }

    /// Lets go of the rules' text where nobody else holds them: with thousands of services it is most of their memory, and
    /// the next transaction needs that of the services which change. It is made again when it is asked for.
    pub fn forget_text(&mut self) {
        self.services.values_mut().filter_map(Arc::get_mut).for_each(ServiceRules::forget_text);
    }

    /// The address family of all its rules.
    pub fn family(&self) -> Family {
        self.family
    }

    /// All chains with their rules, table by table; the built-in ones and the jumps from them are not
    /// part of a ruleset.
    pub fn chains(&self) -> Vec<(Table, Chain)> {
        let Some(base) = &self.base else { return Vec::new() };
        let shared = Dispatch::ALL.into_iter().map(|dispatch| (dispatch.table(), self.dispatch(dispatch)));
        let own = self.services.values().flat_map(|rules| rules.chains().iter().cloned());
        base.fixed.iter().cloned().chain(shared).chain(own.map(|chain| (Table::Nat, chain))).collect()
    }

    /// One of the chains that services share, with its rules in order.
    pub fn dispatch(&self, dispatch: Dispatch) -> Chain {
        let services = self.services.values().flat_map(|rules| rules.rules_in(dispatch));
        let tail = self.base.iter().flat_map(|base| &base.tail).filter(|_| dispatch == Dispatch::NatServices);
        Chain { name: dispatch.chain().into(), rules: services.chain(tail).cloned().collect() }
    }

    /// How many rules stand at the end of nat KUBE-SERVICES and nowhere else in it.
    pub(super) fn tail_length(&self) -> usize {
        self.base.as_ref().map_or(0, |base| base.tail.len())
    }

    /// How many rules a table holds, without the jumps from built-in chains.
    pub fn rule_count(&self, table: Table) -> usize {
        let Some(base) = &self.base else { return 0 };
        let fixed: usize = base.fixed.iter().filter(|(of, _)| *of == table).map(|(_, chain)| chain.rules.len()).sum();
        let services: usize = self.services.values().map(|rules| rules.count(table)).sum();
        fixed + services + if table == Table::Nat { base.tail.len() } else { 0 }
    }
}

impl Base {
    fn new(family: Family, node: &NodeConfig, large: bool) -> Self {
        let (fixed, tail) = (fixed::chains(family, node), fixed::tail(family, node));
        Self { family, node: node.clone(), large, fixed, tail }
    }
}

fn is_same(old: &Arc<ServicePort>, new: &Arc<ServicePort>) -> bool {
    Arc::ptr_eq(old, new) || old == new
}

#[cfg(test)]
mod tests;
