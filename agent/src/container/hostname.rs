//! The pod's name for itself.

use k8s_openapi::api::core::v1::Pod;

use super::ConfigError;

/// Longest host name the kernel takes, and longest DNS label.
const LABEL: usize = 63;
const KERNEL: usize = 64;

/// Host name and domain of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname {
    /// The short name.
    pub name: String,
    /// `<subdomain>.<namespace>.svc.<cluster domain>`, where the pod has a subdomain.
    pub domain: Option<String>,
    /// What the sandbox is given: the short name, or all of it with `setHostnameAsFQDN`. Empty on the host's network.
    pub of_sandbox: String,
}

/// How the pod is called.
///
/// # Errors
/// [`ConfigError::FqdnTooLong`] where the kernel would cut the name.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<Hostname, ConfigError> {
    let spec = pod.spec.as_ref();
    let text = |field: Option<&String>| field.filter(|value| !value.is_empty()).cloned();
    let overridden = text(spec.and_then(|spec| spec.hostname_override.as_ref()));
    let domain = match overridden {
        Some(_) => None,
        None => text(spec.and_then(|spec| spec.subdomain.as_ref())).map(|sub| domain(pod, &sub, cluster_domain)),
    };
    let name = overridden
        .or_else(|| text(spec.and_then(|spec| spec.hostname.as_ref())))
        .unwrap_or_else(|| cut(pod.metadata.name.as_deref().unwrap_or_default()));
    let fqdn = spec.and_then(|spec| spec.set_hostname_as_fqdn).unwrap_or(false);
    let of_sandbox = match (&domain, fqdn) {
        _ if super::on_host_network(pod) => String::new(),
        (Some(domain), true) => full_name(&name, domain)?,
        _ => name.clone(),
    };
    Ok(Hostname { name, domain, of_sandbox })
}

fn domain(pod: &Pod, subdomain: &str, cluster_domain: &str) -> String {
    format!("{subdomain}.{}.svc.{cluster_domain}", pod.metadata.namespace.as_deref().unwrap_or_default())
}

fn full_name(name: &str, domain: &str) -> Result<String, ConfigError> {
    let fqdn = format!("{name}.{domain}");
    if fqdn.len() > KERNEL { Err(ConfigError::FqdnTooLong { length: fqdn.len(), fqdn }) } else { Ok(fqdn) }
}

fn cut(name: &str) -> String {
    let end = name.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= LABEL).last();
    let short = &name[..end.unwrap_or(0)];
    if short.len() == name.len() { name.to_owned() } else { short.trim_end_matches(['-', '.']).to_owned() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::pod;
    use super::*;

    fn of(spec: serde_json::Value) -> (String, Option<String>, String) {
        let name = hostname(&pod(spec), "cluster.local").unwrap();
        (name.name, name.domain, name.of_sandbox)
    }

    #[test]
    fn the_name_comes_from_the_override_the_spec_or_the_pod() {
        assert_eq!(of(json!({})), ("web".into(), None, "web".into()));
        let domain = "db.shop.svc.cluster.local";
        assert_eq!(of(json!({"hostname": "a", "subdomain": "db"})), ("a".into(), Some(domain.into()), "a".into()));
        assert_eq!(
            of(json!({"hostname": "a", "subdomain": "db", "setHostnameAsFQDN": true})),
            ("a".into(), Some(domain.into()), format!("a.{domain}"))
        );
        assert_eq!(of(json!({"hostnameOverride": "x.y", "subdomain": "db"})), ("x.y".into(), None, "x.y".into()));
        assert_eq!(of(json!({"hostNetwork": true})), ("web".into(), None, String::new()));
    }

    #[test]
    fn a_long_pod_name_is_cut_without_a_trailing_dash() {
        assert_eq!(cut(&format!("{}-{}", "a".repeat(62), "b")), "a".repeat(62));
        assert_eq!(cut(&"a".repeat(63)), "a".repeat(63));
    }

    #[test]
    fn a_name_that_the_kernel_would_cut_is_refused() {
        let error = hostname(
            &pod(json!({"hostname": "a".repeat(40), "subdomain": "db", "setHostnameAsFQDN": true})),
            "cluster.local",
        );
        let text = error.unwrap_err().to_string();
        assert!(text.ends_with("is too long (64 characters is the max, 66 characters requested)"), "{text}");
    }
}
