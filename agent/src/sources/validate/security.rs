use k8s_openapi::api::core::v1::{PodSecurityContext, SeccompProfile, SecurityContext};

use super::Report;

/// Ids the kernel and the API both take: larger ones would wrap somewhere on the way.
const LARGEST_ID: i64 = i32::MAX as i64;

pub(super) fn pod(context: Option<&PodSecurityContext>, report: &mut Report) {
    let Some(context) = context else { return };
    let at = "spec.securityContext";
    id(context.run_as_user, format!("{at}.runAsUser"), report);
    id(context.run_as_group, format!("{at}.runAsGroup"), report);
    id(context.fs_group, format!("{at}.fsGroup"), report);
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(Some(*group), format!("{at}.supplementalGroups[{index}]"), report);
    }
    let changes = &["Always", "OnRootMismatch"];
    report.one_of(context.fs_group_change_policy.as_ref(), changes, format!("{at}.fsGroupChangePolicy"));
    let policies = &["Merge", "Strict"];
    report.one_of(context.supplemental_groups_policy.as_ref(), policies, format!("{at}.supplementalGroupsPolicy"));
    seccomp(context.seccomp_profile.as_ref(), at, report);
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b'*');
        let fine = !sysctl.name.is_empty() && sysctl.name.bytes().all(plain) && !sysctl.name.contains("..");
        report.check(fine, format!("{at}.sysctls[{index}].name"), || {
            format!("{:?} is not a sysctl such as net.ipv4.tcp_syncookies", sysctl.name)
        });
    }
    report
        .check(context.windows_options.is_none(), format!("{at}.windowsOptions"), || "this is a Linux node".to_owned());
}

pub(super) fn container(context: Option<&SecurityContext>, field: &str, report: &mut Report) {
    let Some(context) = context else { return };
    let at = format!("{field}.securityContext");
    id(context.run_as_user, format!("{at}.runAsUser"), report);
    id(context.run_as_group, format!("{at}.runAsGroup"), report);
    seccomp(context.seccomp_profile.as_ref(), &at, report);
    report.one_of(context.proc_mount.as_ref(), &["Default", "Unmasked"], format!("{at}.procMount"));
    let contradiction = context.privileged == Some(true) && context.allow_privilege_escalation == Some(false);
    report.check(!contradiction, format!("{at}.allowPrivilegeEscalation"), || {
        "must not be false for a privileged container".to_owned()
    });
    report
        .check(context.windows_options.is_none(), format!("{at}.windowsOptions"), || "this is a Linux node".to_owned());
}

fn id(id: Option<i64>, field: String, report: &mut Report) {
    let fine = id.is_none_or(|id| (0..=LARGEST_ID).contains(&id));
    report.check(fine, field, || format!("must be between 0 and {LARGEST_ID}"));
}

fn seccomp(profile: Option<&SeccompProfile>, field: &str, report: &mut Report) {
    let Some(profile) = profile else { return };
    let at = format!("{field}.seccompProfile");
    report.one_of(Some(&profile.type_), &["RuntimeDefault", "Unconfined", "Localhost"], format!("{at}.type"));
    let local = profile.localhost_profile.as_deref().filter(|profile| !profile.is_empty());
    match (profile.type_.as_str(), local) {
        ("Localhost", None) => report.add(format!("{at}.localhostProfile"), "is missing; type Localhost needs it"),
        ("Localhost", Some(path)) => {
            let fine = !path.starts_with('/') && !path.split('/').any(|part| part == "..");
            report.check(fine, format!("{at}.localhostProfile"), || "must be a relative path without ..".to_owned());
        }
        (_, Some(_)) => report.add(format!("{at}.localhostProfile"), "is for type Localhost only"),
        (_, None) => {}
    }
}
