use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Why there is no port to probe. The texts are the kubelet's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadPort {
    #[error("strconv.Atoi: parsing {0:?}: invalid syntax")]
    Name(String),
    #[error("invalid port number: {0}")]
    Range(i64),
}

/// A probe's port: a number, the name of one of the container's ports, or a number in quotes.
pub(super) fn port(port: &IntOrString, container: &Container) -> Result<u16, BadPort> {
    let number = match port {
        IntOrString::Int(number) => i64::from(*number),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|port| port.name.as_ref() == Some(name));
            match named {
                Some(port) => i64::from(port.container_port),
                None => name.parse().map_err(|_| BadPort::Name(name.clone()))?,
            }
        }
    };
    in_range(number)
}

/// A number as a port.
pub(super) fn in_range(number: i64) -> Result<u16, BadPort> {
    u16::try_from(number).ok().filter(|port| *port != 0).ok_or(BadPort::Range(number))
}

/// Where to go: the action's own host, else the pod.
pub(super) fn host<'a>(own: Option<&'a str>, pod_ip: Option<&'a str>) -> &'a str {
    own.filter(|host| !host.is_empty()).or(pod_ip).unwrap_or_default()
}

/// `host:port`, with the brackets that an IPv6 address needs.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_a_name_of_the_container() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c", "ports": [{"name": "http", "containerPort": 8080}, {"name": "81", "containerPort": 82}]}))
        .unwrap();
        let ask = |text: &str| port(&IntOrString::String(text.to_owned()), &container).map_err(|e| e.to_string());
        assert_eq!(port(&IntOrString::Int(80), &container), Ok(80));
        assert_eq!(ask("http"), Ok(8080));
        assert_eq!(ask("81"), Ok(82));
        assert_eq!(ask("80"), Ok(80));
        assert_eq!(ask("htp"), Err("strconv.Atoi: parsing \"htp\": invalid syntax".to_owned()));
        assert_eq!(ask("0"), Err("invalid port number: 0".to_owned()));
        assert_eq!(port(&IntOrString::Int(65_536), &container), Err(BadPort::Range(65_536)));
        assert_eq!(authority("::1", 80), "[::1]:80");
    }
}
