use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;

use super::{Report, container, names, resources, security, volume};

pub(super) fn spec(spec: &PodSpec, report: &mut Report) {
    container::all(spec, report);
    volume::all(spec, report);
    policies(spec, report);
    unsupported(spec, report);
    dns(spec, report);
    hostname(spec, report);
    security::pod(spec.security_context.as_ref(), report);
    resources::check(spec.resources.as_ref(), "spec", report);
    resources::whole(spec, report);
}

fn policies(spec: &PodSpec, report: &mut Report) {
    report.one_of(spec.restart_policy.as_ref(), &["Always", "OnFailure", "Never"], "spec.restartPolicy");
    let dns = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
    report.one_of(spec.dns_policy.as_ref(), dns, "spec.dnsPolicy");
    let grace = spec.termination_grace_period_seconds.unwrap_or(0);
    report.check(grace >= 0, "spec.terminationGracePeriodSeconds", || "must not be negative".to_owned());
    let deadline = spec.active_deadline_seconds;
    report.check(
        deadline.is_none_or(|seconds| (1..=i64::from(i32::MAX)).contains(&seconds)),
        "spec.activeDeadlineSeconds",
        || format!("must be between 1 and {}", i32::MAX),
    );
    let both = spec.host_pid == Some(true) && spec.share_process_namespace == Some(true);
    report.check(!both, "spec.shareProcessNamespace", || {
        "hostPID and shareProcessNamespace exclude each other".to_owned()
    });
}

/// What a cluster has and this agent on its own has not: refused, never ignored in silence.
fn unsupported(spec: &PodSpec, report: &mut Report) {
    fn filled<T>(list: Option<&Vec<T>>) -> bool {
        list.is_some_and(|list| !list.is_empty())
    }
    for (field, on_host) in [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)]
    {
        let both = spec.host_users == Some(false) && on_host == Some(true);
        report.check(!both, format!("spec.{field}"), || "must not be true where hostUsers is false".to_owned());
    }
    report.refuse(filled(spec.resource_claims.as_ref()), "spec.resourceClaims");
    let os = spec.os.as_ref().map(|os| os.name.as_str());
    report.check(os.is_none_or(|os| os == "linux"), "spec.os.name", || "this is a Linux node".to_owned());
}

fn dns(spec: &PodSpec, report: &mut Report) {
    let config = spec.dns_config.as_ref();
    let servers = config.and_then(|config| config.nameservers.as_deref()).unwrap_or_default();
    let none = spec.dns_policy.as_deref() == Some("None") && servers.is_empty();
    report.check(!none, "spec.dnsConfig.nameservers", || "is empty; dnsPolicy None needs at least one".to_owned());
    report.check(servers.len() <= 3, "spec.dnsConfig.nameservers", || "more than 3 are not possible".to_owned());
    for (index, server) in servers.iter().enumerate() {
        report.check(server.parse::<IpAddr>().is_ok(), format!("spec.dnsConfig.nameservers[{index}]"), || {
            format!("{server:?} is not an IP address")
        });
    }
    let searches = config.and_then(|config| config.searches.as_deref()).unwrap_or_default();
    report.check(searches.len() <= 32, "spec.dnsConfig.searches", || "more than 32 are not possible".to_owned());
    for (index, search) in searches.iter().enumerate() {
        // Also what keeps line breaks out of resolv.conf.
        let plain = search.strip_suffix('.').unwrap_or(search).replace('_', "a").to_lowercase();
        let fine = search == "." || names::is_subdomain(&plain);
        report.check(fine, format!("spec.dnsConfig.searches[{index}]"), || format!("{search:?} is not a domain name"));
    }
    for (index, option) in config.and_then(|config| config.options.as_deref()).unwrap_or_default().iter().enumerate() {
        let word = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
        let fine = option.name.as_deref().is_some_and(|name| !name.is_empty() && word(name));
        let fine = fine && option.value.as_deref().is_none_or(word);
        report.check(fine, format!("spec.dnsConfig.options[{index}]"), || {
            "must be a word, with a word as value".to_owned()
        });
    }
}

fn hostname(spec: &PodSpec, report: &mut Report) {
    for (field, name) in [("spec.hostname", &spec.hostname), ("spec.subdomain", &spec.subdomain)] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            names::label(name, field, report);
        }
    }
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        names::subdomain(name, "spec.hostnameOverride", report);
        report.check(spec.set_hostname_as_fqdn != Some(true), "spec.setHostnameAsFQDN", || {
            "hostnameOverride and setHostnameAsFQDN exclude each other".to_owned()
        });
    }
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let at = format!("spec.hostAliases[{index}]");
        report.check(alias.ip.parse::<IpAddr>().is_ok(), format!("{at}.ip"), || {
            format!("{:?} is not an IP address", alias.ip)
        });
        for (nth, name) in alias.hostnames.iter().flatten().enumerate() {
            names::subdomain(name, format!("{at}.hostnames[{nth}]"), report);
        }
    }
}
