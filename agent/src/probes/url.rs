use std::fmt::{self, Write};

use super::target::authority;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub tls: bool,
    /// Name or address, without brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, escaped.
    pub path: String,
}

impl Url {
    fn default_port(&self) -> u16 {
        if self.tls { 443 } else { 80 }
    }

    /// What the `Host` header says: the port only where it is not the scheme's own.
    pub(super) fn host_header(&self) -> String {
        let full = authority(&self.host, self.port);
        if self.port != self.default_port() {
            return full;
        }
        full.rsplit_once(':').map_or_else(|| full.clone(), |(host, _)| host.to_owned())
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", authority(&self.host, self.port), self.path)
    }
}

/// A path with its query as it may stand in a request: what may not is written as `%XX`, a fragment is dropped.
pub(super) fn escaped(path: &str) -> String {
    let path = path.split('#').next().unwrap_or_default();
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%[]".contains(&byte);
        if plain {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// A `Location` that says itself which host is meant.
pub(super) fn names_host(location: &str) -> bool {
    ["http://", "https://", "//"].iter().any(|start| location.starts_with(start))
}

/// Where a `Location` leads, seen from `from`.
pub(super) fn resolved(from: &Url, location: &str) -> Option<Url> {
    let (tls, rest) = if let Some(rest) = location.strip_prefix("https://") {
        (true, rest)
    } else if let Some(rest) = location.strip_prefix("http://") {
        (false, rest)
    } else if let Some(rest) = location.strip_prefix("//") {
        (from.tls, rest)
    } else if location.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':')) {
        // Another scheme: nothing that we could follow.
        return None;
    } else {
        return Some(Url { path: relative(&from.path, location), ..from.clone() });
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let host = host.rsplit('@').next().unwrap_or_default();
    let (host, port) = match host.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (host, if tls { 443 } else { 80 }),
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    (!host.is_empty()).then(|| Url { tls, host, port, path: escaped(path) })
}

fn relative(base: &str, location: &str) -> String {
    let path = base.split('?').next().unwrap_or_default();
    if location.starts_with('/') {
        return escaped(location);
    }
    if location.starts_with('?') || location.is_empty() {
        return escaped(&format!("{path}{location}"));
    }
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let (location, query) = location.split_at(location.find('?').unwrap_or(location.len()));
    let mut parts: Vec<&str> = folder.split('/').skip(1).collect();
    for part in location.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    escaped(&format!("/{}{query}", parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_seen_from_where_it_was_found() {
        let from = Url { tls: false, host: "10.0.0.1".to_owned(), port: 8080, path: "/a/b?c".to_owned() };
        for (location, want) in [
            ("/x", "http://10.0.0.1:8080/x"),
            ("x?y=1", "http://10.0.0.1:8080/a/x?y=1"),
            ("../x", "http://10.0.0.1:8080/x"),
            ("?z", "http://10.0.0.1:8080/a/b?z"),
            ("https://10.0.0.1/x#top", "https://10.0.0.1:443/x"),
            ("//other:81", "http://other:81/"),
            ("http://[::1]:90/x", "http://[::1]:90/x"),
            ("http://[::1]/x", "http://[::1]:80/x"),
            ("mailto:me", "none"),
            ("http://h:99999/", "none"),
            ("http:///x", "none"),
        ] {
            let found = resolved(&from, location).map_or("none".to_owned(), |url| url.to_string());
            assert_eq!(found, want, "{location}");
        }
    }

    #[test]
    fn paths_are_escaped_but_not_twice() {
        assert_eq!(escaped("health?a=b c&d=%20"), "/health?a=b%20c&d=%20");
        assert_eq!(escaped("/ü#x"), "/%C3%BC");
        assert_eq!(Url { tls: true, host: "::1".into(), port: 443, path: "/".into() }.host_header(), "[::1]");
    }
}
