/// Why a text is no image reference (`[registry/]name[:tag][@digest]`), if it is none.
pub(super) fn problem(reference: &str) -> Option<String> {
    if reference.trim() != reference || reference.is_empty() || reference.len() > 512 {
        return Some("must be 1 to 512 characters without spaces around them".to_owned());
    }
    let (rest, digest) = match reference.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (reference, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some("the digest after '@' must be sha256: and 64 hexadecimal digits".to_owned());
    }
    let after = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[after..].find(':') {
        Some(colon) => (&rest[..after + colon], Some(&rest[after + colon + 1..])),
        None => (rest, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Some("the tag after ':' must be up to 128 letters, digits, '_', '-' or '.'".to_owned());
    }
    name_problem(name)
}

fn name_problem(name: &str) -> Option<String> {
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), path),
        _ => (None, name),
    };
    if registry.is_some_and(|registry| !is_registry(registry)) {
        return Some(
            "the registry in front of the first '/' must be a host name or address with an optional port".into(),
        );
    }
    if path.split('/').all(is_component) {
        return None;
    }
    let hint = if path.bytes().any(|b| b.is_ascii_uppercase()) { " (lower-case only)" } else { "" };
    Some(format!("{name:?} is not an image name such as nginx or registry.example/team/app{hint}"))
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(|part| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            !part.is_empty() && part.bytes().all(fits)
        }),
    };
    host_fits && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// Lower-case letters and digits, separated by one '.', one or two '_', or any number of '-'.
fn is_component(text: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(alnum) && bytes.last().is_some_and(alnum);
    ends && bytes.split(alnum).all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|b| *b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    (1..=128).contains(&text.len()) && text.bytes().all(inner) && !text.starts_with(['-', '.'])
}

fn is_digest(text: &str) -> bool {
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match text.split_once(':') {
        Some(("sha256", digest)) => digest.len() == 64 && hex(digest),
        Some(("sha512", digest)) => digest.len() == 128 && hex(digest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_people_write_are_fine() {
        let digest = format!("app@sha256:{}", "a1".repeat(32));
        for fine in [
            "busybox",
            "nginx:1.25",
            "docker.io/library/busybox:latest",
            "localhost/app",
            "localhost:5000/a/b__c:v1_2",
            "[::1]:5000/app",
            "registry.example/a-b--c/d.e:T-1",
            "10.0.0.1:5000/x",
            &digest,
            &format!("reg.io/app:1@sha256:{}", "0".repeat(64)),
        ] {
            assert_eq!(problem(fine), None, "{fine}");
        }
    }

    #[test]
    fn what_no_registry_could_serve_is_refused() {
        for bad in [
            "",
            " nginx",
            "Nginx",
            "nginx:",
            "nginx:-x",
            "a//b",
            "/a",
            "a/",
            "a@sha256:12",
            "a@md5:0",
            "a b",
            "reg:99999/x",
            "http://reg/x",
            "a___b",
            ".a",
            "a:b:c",
            "ü",
        ] {
            assert!(problem(bad).is_some(), "{bad}");
        }
    }
}
