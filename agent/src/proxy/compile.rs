//! Snapshots as models, one of each address family. Each looks only at what differs from the one before: with thousands of
//! Services everything else would take longer than the kernel does.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use netfilter::{Endpoint, Family, Model, Protocol};

use super::rows;
use super::slice::{Slice, SliceAddress};
use super::snapshot::Snapshot;
use crate::errors::chain;
use crate::names::ObjectName;

/// The model of one snapshot, and what cannot be in it, in words.
pub fn model_of(snapshot: Snapshot, family: Family, node: &str) -> (Arc<Model>, Vec<String>) {
    let mut compiler = Compiler::new([family], node);
    compiler.advance(&Arc::new(snapshot));
    let problems = compiler.problems().map(str::to_owned).collect();
    let [compiled] = compiler.families;
    (compiled.model, problems)
}

/// Keeps the models of the last snapshot, in as many families.
pub(super) struct Compiler<const N: usize> {
    node: String,
    seen: Arc<Snapshot>,
    /// Each Service with the names of its slices, which the snapshot has.
    slices: BTreeSet<(ObjectName, ObjectName)>,
    families: [Compiled; N],
}

/// What became of a snapshot in one family.
pub(super) struct Compiled {
    /// Everything that can be programmed.
    model: Arc<Model>,
    /// The same with every claim given to one Service only.
    settled: Arc<Model>,
    clashes: Vec<String>,
    problems: BTreeMap<ObjectName, Vec<String>>,
}

/// What differs from the snapshot before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// How many Services.
    pub(super) services: u64,
    /// How many slices.
    pub(super) slices: u64,
    /// When what led to them happened, where a slice says it.
    pub(super) triggered: Vec<Timestamp>,
}

impl<const N: usize> Compiler<N> {
    pub(super) fn new(families: [Family; N], node: &str) -> Self {
        Self {
            node: node.to_owned(),
            seen: Arc::default(),
            slices: BTreeSet::new(),
            families: families.map(Compiled::new),
        }
    }

    /// Makes the models those of `snapshot`.
    pub(super) fn advance(&mut self, snapshot: &Arc<Snapshot>) -> Changes {
        let seen = std::mem::replace(&mut self.seen, snapshot.clone());
        let (mut changes, mut dirty) = (Changes::default(), BTreeSet::new());
        for (name, _, _) in differing(&seen.services, &snapshot.services) {
            changes.services += 1;
            dirty.insert(name);
        }
        for (name, old, new) in differing(&seen.slices, &snapshot.slices) {
            changes.slices += 1;
            changes.triggered.extend(new.and_then(|slice| slice.triggered));
            dirty.extend([old, new].into_iter().flatten().map(|slice| &slice.service));
            self.index(name, old, new);
        }
        for service in dirty {
            self.rebuild(service, snapshot);
        }
        self.families.iter_mut().for_each(Compiled::settle);
        changes
    }

    /// What the kernel should have, in each family: the models with every claim given to one Service only.
    pub(super) fn models(&self) -> [&Arc<Model>; N] {
        self.families.each_ref().map(|family| &family.settled)
    }

    /// What of the last snapshot cannot be programmed, and why.
    pub(super) fn problems(&self) -> impl Iterator<Item = &str> {
        self.families.iter().flat_map(|family| family.problems.values().flatten()).map(String::as_str)
    }

    /// Who claims what another has, in words.
    pub(super) fn clashes(&self) -> impl Iterator<Item = &String> {
        self.families.iter().flat_map(|family| &family.clashes)
    }

    fn index(&mut self, name: &ObjectName, old: Option<&Arc<Slice>>, new: Option<&Arc<Slice>>) {
        if old.map(|old| &old.service) == new.map(|new| &new.service) {
            return;
        }
        if let Some(old) = old {
            self.slices.remove(&(old.service.clone(), name.clone()));
        }
        if let Some(new) = new {
            self.slices.insert((new.service.clone(), name.clone()));
        }
    }

    fn rebuild(&mut self, name: &ObjectName, snapshot: &Snapshot) {
        let first = (name.clone(), ObjectName::new("", ""));
        let own = self.slices.range(first..).take_while(|(service, _)| service == name);
        let slices: Vec<_> = own.filter_map(|(_, slice)| snapshot.slices.get(slice)).map(|slice| &**slice).collect();
        let service = snapshot.services.get(name);
        for family in &mut self.families {
            family.rebuild(name, service.map(|service| &**service), &slices, &self.node);
        }
    }
}

impl Compiled {
    fn new(family: Family) -> Self {
        let model = Arc::new(Model::new(family));
        Self { settled: model.clone(), model, clashes: Vec::new(), problems: BTreeMap::new() }
    }

    fn rebuild(&mut self, name: &ObjectName, service: Option<&Service>, slices: &[&Slice], node: &str) {
        let (mut ports, mut problems) = (BTreeSet::new(), Vec::new());
        let family = self.model.family();
        let model = Arc::make_mut(&mut self.model);
        for row in service.into_iter().flat_map(|service| rows::rows(name, service, family)) {
            match row {
                Ok(mut row) => {
                    let label = row.port.name.as_deref().unwrap_or_default();
                    row.rules.endpoints = endpoints(slices, label, row.rules.protocol, family, node);
                    model.insert(row.name.clone(), row.rules);
                    ports.insert(row.name);
                }
                Err(bad) => problems.push(chain(&bad)),
            }
        }
        let gone = model.ports_of(&name.namespace, &name.name).filter(|port| !ports.contains(*port));
        for gone in gone.cloned().collect::<Vec<_>>() {
            model.remove(&gone);
        }
        self.problems.remove(name);
        if !problems.is_empty() {
            self.problems.insert(name.clone(), problems);
        }
    }

    /// Costs nothing where only endpoints changed: the model knows.
    fn settle(&mut self) {
        let (settled, clashes) = self.model.without_clashes();
        self.settled = match settled {
            Cow::Borrowed(_) => self.model.clone(),
            Cow::Owned(settled) => Arc::new(settled),
        };
        self.clashes = clashes.iter().map(ToString::to_string).collect();
        if self.clashes.is_empty() {
            self.model = self.settled.clone();
        }
    }
}

/// The same `ip:port` from two slices is sorted out by the model: what stays wins over what goes.
fn endpoints(slices: &[&Slice], port: &str, protocol: Protocol, family: Family, node: &str) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for group in slices.iter().flat_map(|slice| &slice.groups) {
        for number in group.ports.iter().filter(|p| p.name == port && p.protocol == protocol).map(|p| p.number) {
            let of_family = group.addresses.iter().filter(|address| family.has(address.address));
            endpoints.extend(of_family.map(|address| endpoint(address, number, node)));
        }
    }
    endpoints
}

fn endpoint(address: &SliceAddress, port: std::num::NonZeroU16, node: &str) -> Endpoint {
    Endpoint {
        local: address.node.as_deref() == Some(node),
        ready: address.ready,
        serving: address.serving,
        terminating: address.terminating,
        zone_hints: address.zone_hints.clone(),
        node_hints: address.node_hints.clone(),
        ..Endpoint::ready(address.address, port)
    }
}

type Differing<'a, T> = (&'a ObjectName, Option<&'a Arc<T>>, Option<&'a Arc<T>>);

/// What stands in one of two maps only, or differs. Pointers first: most entries are the same ones.
fn differing<'a, T: PartialEq>(
    old: &'a BTreeMap<ObjectName, Arc<T>>,
    new: &'a BTreeMap<ObjectName, Arc<T>>,
) -> Vec<Differing<'a, T>> {
    let mut differing = Vec::new();
    if std::ptr::eq(old, new) {
        return differing;
    }
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return differing,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        match (before, after) {
            (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) || a == b => {}
            (before, after) => {
                let name = before.or(after).map(|(name, _)| name);
                differing.extend(name.map(|name| (name, before.map(|(_, a)| a), after.map(|(_, b)| b))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn name(number: u8) -> ObjectName {
        ObjectName::new("demo", format!("s{number}"))
    }

    fn service(address: u8, port: u16) -> Arc<Service> {
        let spec =
            json!({"clusterIP": format!("10.0.0.{address}"), "ports": [{"name": format!("p{port}"), "port": port}]});
        Arc::new(serde_json::from_value(json!({"spec": spec})).unwrap())
    }

    fn slice(of: u8, port: u16, last: u8, terminating: bool) -> Arc<Slice> {
        let object = json!({"metadata": {"namespace": "demo", "labels": {"kubernetes.io/service-name": format!("s{of}")}},
            "addressType": "IPv4", "ports": [{"name": format!("p{port}"), "port": 8000 + port}],
            "endpoints": [{"addresses": [format!("10.1.0.{last}")], "nodeName": "n1",
                "conditions": {"ready": !terminating, "terminating": terminating}}]});
        Arc::new(Slice::of_slice(&serde_json::from_value(object).unwrap()).unwrap())
    }

    #[test]
    fn endpoints_of_several_slices_come_together() {
        let snapshot = Snapshot {
            services: Arc::new([(name(1), service(1, 80))].into()),
            slices: Arc::new(
                [
                    (name(10), slice(1, 80, 7, true)),
                    (name(11), slice(1, 80, 7, false)),
                    (name(12), slice(1, 80, 8, false)),
                    (name(13), slice(1, 81, 9, false)),
                    (name(14), slice(2, 80, 9, false)),
                ]
                .into(),
            ),
            ..Snapshot::default()
        };
        let (model, problems) = model_of(snapshot.clone(), Family::V4, "n1");
        assert_eq!(problems, Vec::<String>::new());
        let row = model.services().values().next().unwrap();
        let seen: Vec<_> = row.endpoints.iter().map(|e| (e.socket().to_string(), e.local, e.terminating)).collect();
        assert_eq!(seen, [("10.1.0.7:8080".into(), true, false), ("10.1.0.8:8080".into(), true, false)]);
        assert!(model_of(snapshot, Family::V6, "n1").0.services().is_empty());
    }

    #[test]
    fn a_port_that_cannot_be_programmed_is_told_as_long_as_it_is_there() {
        let bad =
            json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "a", "port": 0}, {"name": "b", "port": 1}]}});
        let bad = Arc::new(serde_json::from_value(bad).unwrap());
        let mut compiler = Compiler::new([Family::V4], "n1");
        let with = Arc::new(Snapshot { services: Arc::new([(name(1), bad)].into()), ..Snapshot::default() });
        assert_eq!(compiler.advance(&with).services, 1);
        assert_eq!((compiler.problems().count(), compiler.models()[0].services().len()), (1, 1));
        compiler.advance(&Arc::default());
        assert_eq!((compiler.problems().count(), compiler.models()[0].services().len()), (0, 0));
    }

    fn snapshots() -> impl Strategy<Value = Vec<Arc<Snapshot>>> {
        let services = prop::collection::btree_map(0_u8..4, (1_u8..3, 80_u16..82), 0..4);
        let slices = prop::collection::btree_map(0_u8..5, (0_u8..4, 80_u16..82, 1_u8..4, any::<bool>()), 0..5);
        let one = (services, slices).prop_map(|(services, slices)| {
            Arc::new(Snapshot {
                services: Arc::new(
                    services.into_iter().map(|(n, (address, port))| (name(n), service(address, port))).collect(),
                ),
                slices: Arc::new(
                    slices
                        .into_iter()
                        .map(|(n, (of, port, ip, going))| (name(n), slice(of, port, ip, going)))
                        .collect(),
                ),
                ..Snapshot::default()
            })
        });
        prop::collection::vec(one, 1..6)
    }

    proptest! {
        #[test]
        fn any_way_to_a_snapshot_ends_in_the_same_model(snapshots in snapshots()) {
            let mut compiler = Compiler::new([Family::V4, Family::V6], "n1");
            for snapshot in &snapshots {
                compiler.advance(snapshot);
                let (fresh, _) = model_of(Snapshot::clone(snapshot), Family::V4, "n1");
                prop_assert_eq!(&compiler.families[0].model, &fresh);
                // Whatever was known of claims before, they are as if all were looked at for the first time.
                let (settled, clashes) = fresh.without_clashes();
                prop_assert_eq!(&**compiler.models()[0], &*settled);
                prop_assert_eq!(compiler.clashes().count(), clashes.len());
                prop_assert!(compiler.models()[1].services().is_empty());
                prop_assert_eq!(compiler.advance(&Arc::new(Snapshot::clone(snapshot))), Changes::default());
            }
        }
    }
}
