//! The kubelet's defaults (Kubernetes 1.36). As there, a duration or number of zero and an empty text mean the default.

use std::collections::BTreeMap;

use super::duration::GoDuration;
use super::file::File;

/// Thresholds where a configuration names none.
const EVICTION_HARD: [(&str, &str); 5] = [
    ("memory.available", "100Mi"),
    ("nodefs.available", "10%"),
    ("nodefs.inodesFree", "5%"),
    ("imagefs.available", "15%"),
    ("imagefs.inodesFree", "5%"),
];

/// Fills what is not set.
pub(super) fn fill(file: &mut File) {
    frequencies(file);
    server(file);
    eviction(file);
    amounts(file);
    switches(file);
    words(file);
}

fn or<T>(field: &mut Option<T>, default: T) {
    if field.is_none() {
        *field = Some(default);
    }
}

fn time(field: &mut Option<GoDuration>, default: GoDuration) {
    if field.is_none_or(GoDuration::is_zero) {
        *field = Some(default);
    }
}

fn text(field: &mut Option<String>, default: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(default.to_owned());
    }
}

fn number(field: &mut Option<i32>, default: i32) {
    if matches!(*field, None | Some(0)) {
        *field = Some(default);
    }
}

fn frequencies(file: &mut File) {
    let seconds = GoDuration::seconds;
    // Who sets how often it is computed, and not how often it is sent, gets it sent each time.
    let report = file.node_status_update_frequency.filter(|often| !often.is_zero()).unwrap_or(seconds(300));
    time(&mut file.node_status_report_frequency, report);
    time(&mut file.node_status_update_frequency, seconds(10));
    number(&mut file.node_lease_duration_seconds, 40);
    time(&mut file.sync_frequency, seconds(60));
    time(&mut file.file_check_frequency, seconds(20));
    time(&mut file.http_check_frequency, seconds(20));
    time(&mut file.streaming_connection_idle_timeout, seconds(4 * 3_600));
    time(&mut file.image_minimum_gc_age, seconds(120));
    time(&mut file.volume_stats_agg_period, seconds(60));
    time(&mut file.cpu_manager_reconcile_period, seconds(10));
    time(&mut file.runtime_request_timeout, seconds(120));
    or(&mut file.cpu_cfs_quota_period, GoDuration::millis(100));
    time(&mut file.eviction_pressure_transition_period, seconds(300));
    or(&mut file.container_log_monitor_interval, seconds(10));
    or(&mut file.crash_loop_back_off.get_or_insert_default().max_container_restart_period, seconds(300));
}

fn server(file: &mut File) {
    or(&mut file.enable_server, true);
    text(&mut file.address, "0.0.0.0");
    number(&mut file.port, 10_250);
    or(&mut file.read_only_port, 0);
    or(&mut file.healthz_port, 10_248);
    text(&mut file.healthz_bind_address, "127.0.0.1");
    let who = file.authentication.get_or_insert_default();
    or(&mut who.anonymous.get_or_insert_default().enabled, false);
    let webhook = who.webhook.get_or_insert_default();
    or(&mut webhook.enabled, true);
    time(&mut webhook.cache_ttl, GoDuration::seconds(120));
    let may = file.authorization.get_or_insert_default();
    text(&mut may.mode, "Webhook");
    let webhook = may.webhook.get_or_insert_default();
    time(&mut webhook.cache_authorized_ttl, GoDuration::seconds(300));
    time(&mut webhook.cache_unauthorized_ttl, GoDuration::seconds(30));
    or(&mut file.enable_debugging_handlers, true);
    or(&mut file.enable_system_log_handler, true);
    or(&mut file.enable_system_log_query, false);
    or(&mut file.enable_profiling_handler, true);
    or(&mut file.enable_debug_flags_handler, true);
}

/// Thresholds of one's own replace the default ones, unless they are to be merged.
fn eviction(file: &mut File) {
    or(&mut file.merge_default_eviction_settings, false);
    let merge = file.merge_default_eviction_settings == Some(true);
    let hard: &mut BTreeMap<_, _> = file.eviction_hard.get_or_insert_default();
    if hard.is_empty() || merge {
        for (signal, amount) in EVICTION_HARD {
            hard.entry(signal.to_owned()).or_insert_with(|| amount.to_owned());
        }
    }
    or(&mut file.eviction_max_pod_grace_period, 0);
    or(&mut file.enforce_node_allocatable, vec!["pods".to_owned()]);
}

fn amounts(file: &mut File) {
    or(&mut file.registry_pull_qps, 5);
    number(&mut file.registry_burst, 10);
    or(&mut file.event_record_qps, 50);
    number(&mut file.event_burst, 100);
    or(&mut file.kube_api_qps, 50);
    number(&mut file.kube_api_burst, 100);
    or(&mut file.oom_score_adj, -999);
    or(&mut file.image_gc_high_threshold_percent, 85);
    or(&mut file.image_gc_low_threshold_percent, 80);
    number(&mut file.max_pods, 110);
    or(&mut file.node_status_max_images, 50);
    or(&mut file.container_log_max_files, 5);
    or(&mut file.container_log_max_workers, 1);
    or(&mut file.iptables_masquerade_bit, 14);
    or(&mut file.iptables_drop_bit, 15);
    or(&mut file.memory_throttling_factor, 0.9);
    if file.pod_pids_limit.is_none_or(|limit| limit < 0) {
        file.pod_pids_limit = Some(-1);
    }
    if matches!(file.max_open_files, None | Some(0)) {
        file.max_open_files = Some(1_000_000);
    }
    or(&mut file.user_namespaces.get_or_insert_default().ids_per_pod, 65_536);
}

fn switches(file: &mut File) {
    or(&mut file.rotate_certificates, false);
    or(&mut file.server_tls_bootstrap, false);
    or(&mut file.register_node, true);
    or(&mut file.cgroups_per_qos, true);
    or(&mut file.cpu_cfs_quota, true);
    or(&mut file.enable_controller_attach_detach, true);
    or(&mut file.make_iptables_util_chains, true);
    or(&mut file.fail_swap_on, true);
    or(&mut file.fail_cgroup_v1, true);
    or(&mut file.seccomp_default, false);
    or(&mut file.local_storage_capacity_isolation, true);
}

fn words(file: &mut File) {
    or(&mut file.resolv_conf, "/etc/resolv.conf".to_owned());
    text(&mut file.pod_logs_dir, "/var/log/pods");
    text(&mut file.container_log_max_size, "10Mi");
    text(&mut file.cgroup_driver, "cgroupfs");
    text(&mut file.cpu_manager_policy, "none");
    text(&mut file.memory_manager_policy, "None");
    text(&mut file.topology_manager_policy, "none");
    text(&mut file.topology_manager_scope, "container");
    text(&mut file.memory_reservation_policy, "None");
    text(&mut file.hairpin_mode, "promiscuous-bridge");
    text(&mut file.content_type, "application/vnd.kubernetes.protobuf");
    text(&mut file.change_detection_strategy, "Watch");
    text(&mut file.image_pull_credentials_verification_policy, "NeverVerifyPreloadedImages");
    text(&mut file.tls_min_version, "VersionTLS12");
}
