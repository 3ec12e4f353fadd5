//! Everything that the table of one family holds.

use super::base;
use super::object::{Chain, Element};
use super::service::ServiceRules;
use crate::walk::Finder;
use crate::{Family, Model, NodeConfig, ServicePort, ServicePortName};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The table: what no service changes, and what each adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    pub(super) family: Family,
    /// `None` before anything was written.
    pub(super) base: Option<Arc<Base>>,
    pub(super) services: BTreeMap<ServicePortName, Arc<ServiceRules>>,
}

/// What depends on the node alone.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    node: NodeConfig,
    pub(super) chains: Vec<Chain>,
    pub(super) elements: Vec<Element>,
}

impl Ruleset {
    /// No table.
    pub fn empty(family: Family) -> Self {
        Self { family, base: None, services: BTreeMap::new() }
    }

    /// The table for a model. A map has one verdict per key, so of services that clash only one gets what
    /// both claim: see [`Model::without_clashes`].
    pub fn render(model: &Model, node: &NodeConfig) -> Self {
        Self::empty(model.family()).next(model, node)
    }

    /// The table for a model, where this is an earlier ruleset: services that did not change are not
    /// rendered again. The result is the same as that of [`Ruleset::render`].
    #[must_use]
    pub fn next(&self, model: &Model, node: &NodeConfig) -> Self {
        let family = model.family();
        let known = self.base.as_ref().filter(|base| base.node == *node && self.family == family);
        let base = known.cloned().unwrap_or_else(|| Arc::new(Base::new(family, node)));
        let reusable = known.is_some();
        let mut before = Finder::new(&self.services);
        let mut rules = |name: &ServicePortName, service: &Arc<ServicePort>| {
            let old = before.find(name).filter(|old| reusable && is_same(&old.service, service));
            old.cloned().unwrap_or_else(|| Arc::new(ServiceRules::render(name, service, family, node)))
        };
        let (model, _) = model.without_clashes();
        let services = model.services().iter().map(|(name, service)| (name.clone(), rules(name, service))).collect();
        Self { family, base: Some(base), services }
    }

    /// The address family of the table.
    pub fn family(&self) -> Family {
        self.family
    }

    /// All chains with their rules.
    pub fn chains(&self) -> impl Iterator<Item = &Chain> {
        let always = self.base.iter().flat_map(|base| &base.chains);
        always.chain(self.services.values().flat_map(|rules| &rules.chains))
    }

    /// All elements of the sets and maps that are always there; those of shared sets may repeat.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        let always = self.base.iter().flat_map(|base| &base.elements);
        always.chain(self.services.values().flat_map(|rules| &rules.elements))
    }
}

impl Base {
    fn new(family: Family, node: &NodeConfig) -> Self {
        Self { node: node.clone(), chains: base::chains(family, node), elements: base::elements(family, node) }
    }
}

fn is_same(old: &Arc<ServicePort>, new: &Arc<ServicePort>) -> bool {
    Arc::ptr_eq(old, new) || old == new
}
