//! `KubeletConfiguration` v1beta1 as it is written: every field of Kubernetes 1.36, none of them checked yet.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::duration::GoDuration;

macro_rules! fields {
    ($(#[$about:meta])* struct $name:ident { $($field:ident $json:literal: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
        #[serde(default)]
        pub(super) struct $name {
            $(
                #[serde(rename = $json, skip_serializing_if = "Option::is_none")]
                pub(super) $field: Option<$type>,
            )*
        }
    };
}

type Strings = BTreeMap<String, String>;

fields! {
    struct File {
        api_version "apiVersion": String,
        kind "kind": String,
        enable_server "enableServer": bool,
        static_pod_path "staticPodPath": String,
        pod_logs_dir "podLogsDir": String,
        sync_frequency "syncFrequency": GoDuration,
        file_check_frequency "fileCheckFrequency": GoDuration,
        http_check_frequency "httpCheckFrequency": GoDuration,
        static_pod_url "staticPodURL": String,
        static_pod_url_header "staticPodURLHeader": BTreeMap<String, Vec<String>>,
        address "address": String,
        port "port": i32,
        read_only_port "readOnlyPort": i32,
        tls_cert_file "tlsCertFile": String,
        tls_private_key_file "tlsPrivateKeyFile": String,
        tls_cipher_suites "tlsCipherSuites": Vec<String>,
        tls_curve_preferences "tlsCurvePreferences": Vec<i32>,
        tls_min_version "tlsMinVersion": String,
        rotate_certificates "rotateCertificates": bool,
        server_tls_bootstrap "serverTLSBootstrap": bool,
        authentication "authentication": Authentication,
        authorization "authorization": Authorization,
        registry_pull_qps "registryPullQPS": i32,
        registry_burst "registryBurst": i32,
        image_pull_credentials_verification_policy "imagePullCredentialsVerificationPolicy": String,
        preloaded_images_verification_allowlist "preloadedImagesVerificationAllowlist": Vec<String>,
        event_record_qps "eventRecordQPS": i32,
        event_burst "eventBurst": i32,
        enable_debugging_handlers "enableDebuggingHandlers": bool,
        enable_contention_profiling "enableContentionProfiling": bool,
        healthz_port "healthzPort": i32,
        healthz_bind_address "healthzBindAddress": String,
        oom_score_adj "oomScoreAdj": i32,
        cluster_domain "clusterDomain": String,
        cluster_dns "clusterDNS": Vec<String>,
        streaming_connection_idle_timeout "streamingConnectionIdleTimeout": GoDuration,
        node_status_update_frequency "nodeStatusUpdateFrequency": GoDuration,
        node_status_report_frequency "nodeStatusReportFrequency": GoDuration,
        node_lease_duration_seconds "nodeLeaseDurationSeconds": i32,
        image_minimum_gc_age "imageMinimumGCAge": GoDuration,
        image_maximum_gc_age "imageMaximumGCAge": GoDuration,
        image_gc_high_threshold_percent "imageGCHighThresholdPercent": i32,
        image_gc_low_threshold_percent "imageGCLowThresholdPercent": i32,
        volume_stats_agg_period "volumeStatsAggPeriod": GoDuration,
        kubelet_cgroups "kubeletCgroups": String,
        system_cgroups "systemCgroups": String,
        cgroup_root "cgroupRoot": String,
        cgroups_per_qos "cgroupsPerQOS": bool,
        cgroup_driver "cgroupDriver": String,
        cpu_manager_policy "cpuManagerPolicy": String,
        single_process_oom_kill "singleProcessOOMKill": bool,
        cpu_manager_policy_options "cpuManagerPolicyOptions": Strings,
        cpu_manager_reconcile_period "cpuManagerReconcilePeriod": GoDuration,
        memory_manager_policy "memoryManagerPolicy": String,
        topology_manager_policy "topologyManagerPolicy": String,
        topology_manager_scope "topologyManagerScope": String,
        topology_manager_policy_options "topologyManagerPolicyOptions": Strings,
        qos_reserved "qosReserved": Strings,
        runtime_request_timeout "runtimeRequestTimeout": GoDuration,
        hairpin_mode "hairpinMode": String,
        max_pods "maxPods": i32,
        pod_cidr "podCIDR": String,
        pod_pids_limit "podPidsLimit": i64,
        resolv_conf "resolvConf": String,
        run_once "runOnce": bool,
        cpu_cfs_quota "cpuCFSQuota": bool,
        cpu_cfs_quota_period "cpuCFSQuotaPeriod": GoDuration,
        node_status_max_images "nodeStatusMaxImages": i32,
        max_open_files "maxOpenFiles": i64,
        content_type "contentType": String,
        kube_api_qps "kubeAPIQPS": i32,
        kube_api_burst "kubeAPIBurst": i32,
        serialize_image_pulls "serializeImagePulls": bool,
        max_parallel_image_pulls "maxParallelImagePulls": i32,
        eviction_hard "evictionHard": Strings,
        eviction_soft "evictionSoft": Strings,
        eviction_soft_grace_period "evictionSoftGracePeriod": Strings,
        eviction_pressure_transition_period "evictionPressureTransitionPeriod": GoDuration,
        eviction_max_pod_grace_period "evictionMaxPodGracePeriod": i32,
        eviction_minimum_reclaim "evictionMinimumReclaim": Strings,
        merge_default_eviction_settings "mergeDefaultEvictionSettings": bool,
        pods_per_core "podsPerCore": i32,
        enable_controller_attach_detach "enableControllerAttachDetach": bool,
        protect_kernel_defaults "protectKernelDefaults": bool,
        make_iptables_util_chains "makeIPTablesUtilChains": bool,
        iptables_masquerade_bit "iptablesMasqueradeBit": i32,
        iptables_drop_bit "iptablesDropBit": i32,
        feature_gates "featureGates": BTreeMap<String, bool>,
        fail_swap_on "failSwapOn": bool,
        memory_swap "memorySwap": MemorySwap,
        container_log_max_size "containerLogMaxSize": String,
        container_log_max_files "containerLogMaxFiles": i32,
        container_log_max_workers "containerLogMaxWorkers": i32,
        container_log_monitor_interval "containerLogMonitorInterval": GoDuration,
        change_detection_strategy "configMapAndSecretChangeDetectionStrategy": String,
        system_reserved "systemReserved": Strings,
        kube_reserved "kubeReserved": Strings,
        reserved_system_cpus "reservedSystemCPUs": String,
        show_hidden_metrics_for_version "showHiddenMetricsForVersion": String,
        system_reserved_cgroup "systemReservedCgroup": String,
        kube_reserved_cgroup "kubeReservedCgroup": String,
        enforce_node_allocatable "enforceNodeAllocatable": Vec<String>,
        allowed_unsafe_sysctls "allowedUnsafeSysctls": Vec<String>,
        volume_plugin_dir "volumePluginDir": String,
        provider_id "providerID": String,
        kernel_memcg_notification "kernelMemcgNotification": bool,
        logging "logging": Logging,
        enable_system_log_handler "enableSystemLogHandler": bool,
        enable_system_log_query "enableSystemLogQuery": bool,
        shutdown_grace_period "shutdownGracePeriod": GoDuration,
        shutdown_grace_period_critical_pods "shutdownGracePeriodCriticalPods": GoDuration,
        shutdown_grace_period_by_pod_priority "shutdownGracePeriodByPodPriority": Vec<ShutdownOfPriority>,
        crash_loop_back_off "crashLoopBackOff": CrashLoopBackOff,
        reserved_memory "reservedMemory": Value,
        enable_profiling_handler "enableProfilingHandler": bool,
        enable_debug_flags_handler "enableDebugFlagsHandler": bool,
        seccomp_default "seccompDefault": bool,
        memory_throttling_factor "memoryThrottlingFactor": f64,
        memory_reservation_policy "memoryReservationPolicy": String,
        register_with_taints "registerWithTaints": Vec<Taint>,
        register_node "registerNode": bool,
        tracing "tracing": Tracing,
        local_storage_capacity_isolation "localStorageCapacityIsolation": bool,
        container_runtime_endpoint "containerRuntimeEndpoint": String,
        image_service_endpoint "imageServiceEndpoint": String,
        fail_cgroup_v1 "failCgroupV1": bool,
        user_namespaces "userNamespaces": UserNamespaces,
    }
}

fields! {
    struct Logging {
        format "format": String,
        flush_frequency "flushFrequency": Value,
        verbosity "verbosity": i64,
        vmodule "vmodule": Vec<Module>,
        options "options": Value,
    }
}

fields! {
    struct Module {
        file_pattern "filePattern": String,
        verbosity "verbosity": i64,
    }
}

fields! {
    struct Tracing {
        endpoint "endpoint": String,
        sampling_rate "samplingRatePerMillion": i32,
    }
}

fields! {
    struct Authentication {
        x509 "x509": X509,
        webhook "webhook": AuthenticationWebhook,
        anonymous "anonymous": Anonymous,
    }
}

fields! {
    struct X509 {
        client_ca_file "clientCAFile": String,
    }
}

fields! {
    struct AuthenticationWebhook {
        enabled "enabled": bool,
        cache_ttl "cacheTTL": GoDuration,
    }
}

fields! {
    struct Anonymous {
        enabled "enabled": bool,
    }
}

fields! {
    struct Authorization {
        mode "mode": String,
        webhook "webhook": AuthorizationWebhook,
    }
}

fields! {
    struct AuthorizationWebhook {
        cache_authorized_ttl "cacheAuthorizedTTL": GoDuration,
        cache_unauthorized_ttl "cacheUnauthorizedTTL": GoDuration,
    }
}

fields! {
    struct MemorySwap {
        swap_behavior "swapBehavior": String,
    }
}

fields! {
    struct ShutdownOfPriority {
        priority "priority": i32,
        seconds "shutdownGracePeriodSeconds": i64,
    }
}

fields! {
    struct CrashLoopBackOff {
        max_container_restart_period "maxContainerRestartPeriod": GoDuration,
    }
}

fields! {
    struct UserNamespaces {
        ids_per_pod "idsPerPod": i64,
    }
}
