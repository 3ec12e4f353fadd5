//! What kube-proxy measures, under kube-proxy's names.

use std::time::Duration;

use netfilter::Family;

use crate::metrics::{Exposition, Figures, Metric, exponential};

/// The name of a family in labels and in bodies.
pub(super) fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Clones share one set of figures.
#[derive(Clone, Default)]
pub(super) struct Metrics(Figures);

/// What each of them is.
const HELP: [(&str, &str); 17] = [
    ("kubeproxy_conntrack_reconciler_deleted_entries_total", "Tracked connections that were forgotten."),
    ("kubeproxy_conntrack_reconciler_sync_duration_seconds", "How long a look for stale connections took."),
    ("kubeproxy_network_programming_duration_seconds", "From the change of a Service or its endpoints to its rules."),
    ("kubeproxy_proxy_healthz_total", "Answers of /healthz, by code."),
    ("kubeproxy_proxy_livez_total", "Answers of /livez, by code."),
    ("kubeproxy_sync_full_proxy_rules_duration_seconds", "How long it took to write all rules."),
    ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "How long it took to write what had changed."),
    ("kubeproxy_sync_proxy_rules_duration_seconds", "How long it took to write rules."),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "Changes of endpoints that are not taken in yet."),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "Changes of endpoints."),
    ("kubeproxy_sync_proxy_rules_iptables_last", "Rules that were written the last time."),
    ("kubeproxy_sync_proxy_rules_iptables_restore_failures_total", "Rules that the kernel refused."),
    ("kubeproxy_sync_proxy_rules_iptables_total", "Rules that there are."),
    ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "Rules that the kernel refused."),
    ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "Services of a Local policy without endpoints here."),
    ("kubeproxy_sync_proxy_rules_service_changes_pending", "Changes of Services that are not taken in yet."),
    ("kubeproxy_sync_proxy_rules_service_changes_total", "Changes of Services."),
];

fn help(name: &str) -> &'static str {
    let found = HELP.iter().find(|(known, _)| *known == name);
    found.map_or("As kube-proxy has it.", |(_, help)| help)
}

/// 15 buckets from a millisecond to 16 s.
fn sync_bounds() -> Vec<f64> {
    exponential(0.001, 2.0, 15)
}

/// From a quarter of a second to five minutes.
fn programming_bounds() -> Vec<f64> {
    let whole = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(whole.map(f64::from)).collect()
}

impl Metrics {
    /// Adds to a counter.
    pub(super) fn add(&self, name: &'static str, labels: &str, more: f64) {
        self.0.add_written(Metric::counter(name, help(name)), labels.to_owned(), more);
    }

    /// Sets a gauge.
    pub(super) fn set(&self, name: &'static str, labels: &str, value: f64) {
        self.0.set_written(Metric::gauge(name, help(name)), labels.to_owned(), value);
    }

    /// How long something took that takes milliseconds.
    pub(super) fn took(&self, name: &'static str, labels: &str, time: Duration) {
        self.0.took_written(Metric::histogram(name, help(name), sync_bounds), labels.to_owned(), time);
    }

    /// How long a change took from whoever made it to the kernel.
    pub(super) fn programmed(&self, labels: &str, time: Duration) {
        let name = "kubeproxy_network_programming_duration_seconds";
        self.0.took_written(Metric::histogram(name, help(name), programming_bounds), labels.to_owned(), time);
    }

    /// Everything in Prometheus' text format.
    pub(super) fn text(&self) -> String {
        let mut text = Exposition::default();
        self.0.write(&mut text);
        text.finish()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::metrics::lint;

    #[test]
    fn figures_are_printed_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.add("a_total", "", 1.0);
        metrics.add("a_total", "", 2.0);
        metrics.set("b", "ip_family=\"IPv4\"", 7.0);
        metrics.set("b", "ip_family=\"IPv6\"", 1.5);
        lint::check(&metrics.text());
        expect![[r#"
            # HELP a_total As kube-proxy has it.
            # TYPE a_total counter
            a_total 3
            # HELP b As kube-proxy has it.
            # TYPE b gauge
            b{ip_family="IPv4"} 7
            b{ip_family="IPv6"} 1.5
        "#]]
        .assert_eq(&metrics.text());
    }

    #[test]
    fn a_histogram_counts_upwards() {
        let metrics = Metrics::default();
        metrics.took("t", "ip_family=\"IPv4\"", Duration::from_millis(3));
        metrics.took("t", "ip_family=\"IPv4\"", Duration::from_secs(60));
        let text = metrics.text();
        lint::check(&text);
        for line in [
            "t_bucket{ip_family=\"IPv4\",le=\"0.002\"} 0",
            "t_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1",
            "t_bucket{ip_family=\"IPv4\",le=\"16.384\"} 1",
            "t_bucket{ip_family=\"IPv4\",le=\"+Inf\"} 2",
            "t_sum{ip_family=\"IPv4\"} 60.003",
            "t_count{ip_family=\"IPv4\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert_eq!(programming_bounds().len(), 2 + 59 + 12 + 7);
    }
}
