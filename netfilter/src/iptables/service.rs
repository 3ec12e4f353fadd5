//! The rules of one service port: its own chains, and its rules in the shared ones.

use super::chain::Names;
use super::fixed::MARK_MASQ;
use super::ruleset::Base;
use super::{Chain, ChainName, Dispatch, Rule, Table};
use crate::select::{self, Selection, Verdict};
use crate::{Endpoint, NodeConfig, Policy, ServicePort, ServicePortName};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, OnceLock};

/// What one service port adds to the tables.
///
/// The rules themselves are a kilobyte and a half of text. They follow from what is kept here, so that they can be let go of
/// once they are written, and are made again when somebody asks.
#[derive(Debug, Clone)]
pub(crate) struct ServiceRules {
    name: ServicePortName,
    /// What the rules are made from.
    pub(crate) service: Arc<ServicePort>,
    base: Arc<Base>,
    rendered: OnceLock<Box<Rendered>>,
    counts: [u32; 2],
}

#[derive(Debug, Clone)]
struct Rendered {
    /// Its own chains in the nat table; they refer to each other and to KUBE-MARK-MASQ only.
    chains: Vec<Chain>,
    /// Its rules in the chains it shares, in order.
    dispatch: Vec<(Dispatch, Rule)>,
}

impl PartialEq for ServiceRules {
    fn eq(&self, other: &Self) -> bool {
        let is_same = Arc::ptr_eq(&self.base, &other.base) || self.base == other.base;
        is_same && self.name == other.name && self.service == other.service
    }
}

impl Eq for ServiceRules {}

impl ServiceRules {
    pub(crate) fn render(name: &ServicePortName, service: &Arc<ServicePort>, base: &Arc<Base>) -> Self {
        let rendered = OnceLock::new();
        let mut rules =
            Self { name: name.clone(), service: service.clone(), base: base.clone(), rendered, counts: [0; 2] };
        rules.counts = rules.rendered().counts();
        rules
    }

    fn rendered(&self) -> &Rendered {
        self.rendered.get_or_init(|| {
            let view = View::new(&self.name, &self.service, &self.base);
            Box::new(Rendered { chains: view.chains(), dispatch: view.dispatch() })
        })
    }

    /// Lets go of the text.
    pub(crate) fn forget_text(&mut self) {
        self.rendered = OnceLock::new();
    }

    /// Its own chains in the nat table.
    pub(crate) fn chains(&self) -> &[Chain] {
        &self.rendered().chains
    }

    /// Its rules in one of the shared chains.
    pub(crate) fn rules_in(&self, dispatch: Dispatch) -> impl Iterator<Item = &Rule> {
        self.rendered().dispatch.iter().filter(move |(chain, _)| *chain == dispatch).map(|(_, rule)| rule)
    }

    /// How many rules it has in a table.
    pub(crate) fn count(&self, table: Table) -> usize {
        let [nat, filter] = self.counts;
        match table {
            Table::Nat => nat as usize,
            Table::Filter => filter as usize,
            Table::Mangle => 0,
        }
    }
}

impl Rendered {
    /// In nat and in filter.
    fn counts(&self) -> [u32; 2] {
        let shared = |table| self.dispatch.iter().filter(|(chain, _)| chain.table() == table).count();
        let own: usize = self.chains.iter().map(|chain| chain.rules.len()).sum();
        [own + shared(Table::Nat), shared(Table::Filter)].map(|count| u32::try_from(count).unwrap_or(u32::MAX))
    }
}

/// One service port with everything that its rules are made from.
struct View<'a> {
    name: &'a ServicePortName,
    service: &'a ServicePort,
    node: &'a NodeConfig,
    /// Rules that lead to endpoints go without comments.
    large: bool,
    localhost: bool,
    /// How pods' own packets are recognised.
    detector: Option<String>,
    selection: Selection<'a>,
    names: Names<'a>,
    svc: ChainName,
    svl: ChainName,
    ext: ChainName,
    fw: ChainName,
}

impl<'a> View<'a> {
    fn new(name: &'a ServicePortName, service: &'a ServicePort, base: &'a Base) -> Self {
        let (node, family, large) = (&base.node, base.family, base.large);
        let names = Names::new(name, service.protocol);
        let (svc, svl, ext, fw) = (names.of("SVC"), names.of("SVL"), names.of("EXT"), names.of("FW"));
        let selection = Selection::of(service, node);
        let (localhost, detector) = (node.serves_localhost(family), node.local_traffic_match(family));
        Self { name, service, node, large, localhost, detector, selection, names, svc, svl, ext, fw }
    }

    fn chain_for(&self, policy: Policy) -> &ChainName {
        match policy {
            Policy::Cluster => &self.svc,
            Policy::Local => &self.svl,
        }
    }

    fn has_firewall(&self) -> bool {
        self.selection.any && !self.service.load_balancer_ips.is_empty() && !self.service.source_ranges.is_empty()
    }

    // ---- rules in shared chains ----

    fn dispatch(&self) -> Vec<(Dispatch, Rule)> {
        let mut rules = vec![self.cluster_ip()];
        for ip in &self.service.external_ips {
            self.external(*ip, "external IP", &self.ext, &mut rules);
        }
        let entry = if self.has_firewall() { &self.fw } else { &self.ext };
        for ip in &self.service.load_balancer_ips {
            self.external(*ip, "loadbalancer IP", entry, &mut rules);
            if self.has_firewall() {
                let comment = format!("{} traffic not accepted by {}", self.name, self.fw);
                rules.push((Dispatch::FilterFirewall, self.to_address(&comment, *ip).jump("DROP")));
            }
        }
        self.service.node_port.into_iter().for_each(|port| self.node_port(port, &mut rules));
        if let Some(port) = self.service.health_check_node_port {
            let rule = Rule::comment(format_args!("{} health check node port", self.name));
            let rule = rule.with(format_args!("-m tcp -p tcp --dport {port}")).jump("ACCEPT");
            rules.push((Dispatch::FilterNodePorts, rule));
        }
        rules
    }

    fn cluster_ip(&self) -> (Dispatch, Rule) {
        let ip = self.service.cluster_ip;
        match self.selection.verdict(self.service.internal_policy) {
            None => {
                let rule = self.to_address(&format!("{} cluster IP", self.name), ip);
                (Dispatch::NatServices, rule.jump(self.chain_for(self.service.internal_policy)))
            }
            Some(verdict) => {
                (Dispatch::FilterServices, self.to_address(&self.excuse(verdict), ip).jump(target(verdict)))
            }
        }
    }

    fn external(&self, ip: IpAddr, what: &str, entry: &str, rules: &mut Vec<(Dispatch, Rule)>) {
        if self.selection.any {
            let rule = self.to_address(&format!("{} {what}", self.name), ip);
            rules.push((Dispatch::NatServices, rule.jump(entry)));
        }
        if let Some(verdict) = self.selection.verdict(self.service.external_policy) {
            let rule = self.to_address(&self.excuse(verdict), ip);
            rules.push((Dispatch::FilterExternalServices, rule.jump(target(verdict))));
        }
    }

    fn node_port(&self, port: NonZeroU16, rules: &mut Vec<(Dispatch, Rule)>) {
        let protocol = self.service.protocol;
        let rule = || Rule::comment(self.name).protocol(protocol);
        if self.selection.any && self.localhost && self.node.nfacct {
            let count = "-m nfacct --nfacct-name localhost_nps_accepted_pkts";
            let rule = rule().matching("-d 127.0.0.0/8").destination_port(port).matching(count).jump(&self.ext);
            rules.push((Dispatch::NatNodePorts, rule));
        }
        if self.selection.any {
            rules.push((Dispatch::NatNodePorts, rule().destination_port(port).jump(&self.ext)));
        }
        if let Some(verdict) = self.selection.verdict(self.service.external_policy) {
            let rule = Rule::comment(self.excuse(verdict)).matching("-m addrtype --dst-type LOCAL");
            let rule = rule.protocol(protocol).destination_port(port).jump(target(verdict));
            rules.push((Dispatch::FilterExternalServices, rule));
        }
    }

    fn to_address(&self, comment: &str, ip: IpAddr) -> super::chain::Draft {
        let ServicePort { protocol, port, .. } = *self.service;
        Rule::comment(comment).protocol(protocol).destination(ip).destination_port(port)
    }

    fn excuse(&self, verdict: Verdict) -> String {
        match verdict {
            Verdict::Reject => format!("{} has no endpoints", self.name),
            Verdict::Drop => format!("{} has no local endpoints", self.name),
        }
    }

    // ---- chains of its own ----

    fn chains(&self) -> Vec<Chain> {
        if !self.selection.any {
            return Vec::new();
        }
        let endpoints: Vec<_> = self.selection.reachable.iter().map(|endpoint| self.endpoint(endpoint)).collect();
        let mut chains = Vec::with_capacity(endpoints.len() + 4);
        if !self.selection.cluster.is_empty() && select::uses_cluster(self.service) {
            chains.push(self.balance(Policy::Cluster, &self.selection.cluster));
        }
        if !self.selection.local.is_empty() && select::uses_local(self.service) {
            chains.push(self.balance(Policy::Local, &self.selection.local));
        }
        if self.service.is_externally_accessible() {
            chains.push(Chain { name: self.ext.clone(), rules: self.external_entry() });
        }
        if self.has_firewall() {
            chains.push(Chain { name: self.fw.clone(), rules: self.firewall() });
        }
        chains.extend(endpoints);
        chains.shrink_to_fit();
        chains
    }

    fn balance(&self, policy: Policy, endpoints: &[&Endpoint]) -> Chain {
        let name = self.chain_for(policy).clone();
        let targets: Vec<_> = endpoints
            .iter()
            .map(|endpoint| endpoint.socket().to_string())
            .map(|socket| (self.names.endpoint(&socket), socket))
            .collect();
        let is_entry = policy == self.service.internal_policy && self.selection.verdict(policy).is_none();
        let mut rules: Vec<_> = is_entry.then(|| self.masquerade_to_cluster_ip()).flatten().into_iter().collect();
        if let Some(seconds) = self.service.affinity_seconds {
            rules.extend(targets.iter().map(|(chain, socket)| self.stick(chain, socket, seconds.get())));
        }
        let choices = targets.iter().enumerate();
        rules.extend(choices.map(|(index, (chain, socket))| self.choose(chain, socket, targets.len() - index)));
        Chain { name, rules }
    }

    fn masquerade_to_cluster_ip(&self) -> Option<Rule> {
        let unless_local = match &self.detector {
            _ if self.node.masquerade_all => String::new(),
            Some(detector) => format!("! {detector}"),
            None => return None,
        };
        let rule = self.to_address(&format!("{} cluster IP", self.name), self.service.cluster_ip);
        Some(rule.matching(&unless_local).jump(MARK_MASQ))
    }

    fn stick(&self, chain: &str, socket: &str, seconds: u32) -> Rule {
        Rule::bare()
            .comment_unless(self.large, format_args!("{} -> {socket}", self.name))
            .with(format_args!("-m recent --name {chain} --rcheck --seconds {seconds} --reap"))
            .jump(chain)
    }

    /// One of `left` endpoints that no earlier rule took.
    fn choose(&self, chain: &str, socket: &str, left: usize) -> Rule {
        let rule = Rule::bare().comment_unless(self.large, format_args!("{} -> {socket}", self.name));
        let chance = if left > 1 { probability(left) } else { String::new() };
        rule.matching(&chance).jump(chain)
    }

    fn external_entry(&self) -> Vec<Rule> {
        let name = self.name;
        let what = |verb: &str| Rule::comment(format_args!("{verb} traffic for {name} external destinations"));
        if self.service.external_policy == Policy::Cluster {
            return vec![what("masquerade").jump(MARK_MASQ), Rule::bare().jump(&self.svc)];
        }
        let mut rules = Vec::with_capacity(4);
        // Pods and the node itself may use every endpoint: only what comes from outside must keep its
        // source address, and so its path.
        rules.extend(self.detector.iter().map(|detector| what("pod").matching(detector).jump(&self.svc)));
        let from_node = "-m addrtype --src-type LOCAL";
        rules.push(what("masquerade LOCAL").matching(from_node).jump(MARK_MASQ));
        rules.push(what("route LOCAL").matching(from_node).jump(&self.svc));
        if self.selection.verdict(Policy::Local).is_none() {
            rules.push(Rule::bare().jump(&self.svl));
        }
        rules
    }

    fn firewall(&self) -> Vec<Rule> {
        let comment = format!("{} loadbalancer IP", self.name);
        let allow = |source: &str| Rule::comment(&comment).source(source).jump(&self.ext);
        let ranges = &self.service.source_ranges;
        let mut rules: Vec<_> = ranges.iter().map(|range| allow(&range.to_string())).collect();
        if ranges.iter().any(|range| self.node.has_address_in(range)) {
            // The node's own packets to the address leave with that address as their source.
            rules.extend(self.service.load_balancer_ips.iter().map(|ip| allow(&ip.to_string())));
        }
        let rest = format_args!("other traffic to {} will be dropped by KUBE-PROXY-FIREWALL", self.name);
        rules.push(Rule::comment(rest).without_target());
        rules
    }

    fn endpoint(&self, endpoint: &Endpoint) -> Chain {
        let socket = endpoint.socket().to_string();
        let name = self.names.endpoint(&socket);
        let comment = || Rule::bare().comment_unless(self.large, self.name);
        let remember = match self.service.affinity_seconds {
            Some(_) => format!("-m recent --name {name} --set"),
            None => String::new(),
        };
        let hairpin = comment().source(endpoint.address).jump(MARK_MASQ);
        let rewrite = comment().matching(&remember).protocol(self.service.protocol);
        let rewrite = rewrite.jump(format_args!("DNAT --to-destination {socket}"));
        Chain { name, rules: vec![hairpin, rewrite] }
    }
}

fn target(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Reject => "REJECT",
        Verdict::Drop => "DROP",
    }
}

fn probability(left: usize) -> String {
    // Exact: no service has 2^53 endpoints.
    #[expect(clippy::cast_precision_loss)]
    let chance = 1.0 / left as f64;
    format!("-m statistic --mode random --probability {chance:.10}")
}
