//! What came of a sync, in kube-proxy's figures.

use std::time::Duration;

use jiff::Timestamp;
use netfilter::{Family, Model, Policy, ServicePort};

use super::compile::Changes;
use super::kernel::Outcome;
use super::metrics::{Metrics, family_name};
use super::rules::Written;
use super::settings::Mode;

/// How much was new, all of which is taken in by now.
pub(super) fn changes(metrics: &Metrics, changes: &Changes) {
    metrics.add("kubeproxy_sync_proxy_rules_service_changes_total", "", changes.services as f64);
    metrics.add("kubeproxy_sync_proxy_rules_endpoint_changes_total", "", changes.slices as f64);
    metrics.set("kubeproxy_sync_proxy_rules_service_changes_pending", "", 0.0);
    metrics.set("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "", 0.0);
}

/// Something is to be programmed.
pub(super) fn queued(metrics: &Metrics, family: Family, at: Timestamp) {
    metrics.set("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", &label(family), seconds(at));
}

/// What came of one family; `triggered` says when what led to it happened.
pub(super) fn outcome(metrics: &Metrics, mode: Mode, outcome: &Outcome, triggered: &[Timestamp]) {
    let family = label(outcome.family());
    match &outcome.written {
        Ok(Some(done)) => {
            written(metrics, outcome, done);
            let now = Timestamp::now();
            for waited in triggered.iter().filter_map(|at| Duration::try_from(now.duration_since(*at)).ok()) {
                metrics.programmed(&family, waited);
            }
        }
        Ok(None) => {}
        Err(_) => {
            let name = match mode {
                Mode::Iptables => "kubeproxy_sync_proxy_rules_iptables_restore_failures_total",
                Mode::Nftables => "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
            };
            metrics.add(name, &family, 1.0);
        }
    }
    if let Some((Ok(count), took)) = &outcome.forgotten {
        metrics.took("kubeproxy_conntrack_reconciler_sync_duration_seconds", &family, *took);
        metrics.add("kubeproxy_conntrack_reconciler_deleted_entries_total", &family, *count as f64);
    }
}

fn written(metrics: &Metrics, outcome: &Outcome, written: &Written) {
    let family = label(outcome.family());
    let kind = match written.is_full {
        true => "kubeproxy_sync_full_proxy_rules_duration_seconds",
        false => "kubeproxy_sync_partial_proxy_rules_duration_seconds",
    };
    for name in ["kubeproxy_sync_proxy_rules_duration_seconds", kind] {
        metrics.took(name, &family, outcome.took);
    }
    let stamp = seconds(Timestamp::now());
    metrics.set("kubeproxy_sync_proxy_rules_last_timestamp_seconds", &family, stamp);
    let counts = written.rules.iter().zip(outcome.rules.unwrap_or_default());
    for (table, (last, all)) in ["nat", "filter"].iter().zip(counts) {
        let labels = format!("{family},table=\"{table}\"");
        metrics.set("kubeproxy_sync_proxy_rules_iptables_last", &labels, *last as f64);
        metrics.set("kubeproxy_sync_proxy_rules_iptables_total", &labels, all as f64);
    }
    for (policy, count) in ["internal", "external"].iter().zip(without_local_endpoints(&outcome.wanted.model)) {
        let labels = format!("{family},traffic_policy=\"{policy}\"");
        metrics.set("kubeproxy_sync_proxy_rules_no_local_endpoints_total", &labels, count as f64);
    }
}

/// Service ports whose policy is Local and that have endpoints, but none here: by internal and by external policy.
fn without_local_endpoints(model: &Model) -> [usize; 2] {
    let count = |policy: fn(&ServicePort) -> Policy| {
        let concerned = model.services().values().filter(|service| policy(service) == Policy::Local);
        let takes = |end: &&netfilter::Endpoint| end.ready || (end.serving && end.terminating);
        concerned
            .filter(|service| {
                let mut usable = service.endpoints.iter().filter(takes).peekable();
                usable.peek().is_some() && !usable.any(|end| end.local)
            })
            .count()
    };
    [count(|service| service.internal_policy), count(|service| service.external_policy)]
}

fn label(family: Family) -> String {
    format!("ip_family=\"{}\"", family_name(family))
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}
