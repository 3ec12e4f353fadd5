use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cri_proto::v1::AuthConfig;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde::Deserialize;

use crate::names::ObjectName;
use crate::sources::Objects;

/// Registry credentials in the order in which they are tried. Never printed.
#[derive(Clone, Default)]
pub struct Keyring {
    entries: Vec<(String, AuthConfig)>,
    /// Pull secrets that are not there.
    pub missing: Vec<String>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("entries", &self.entries.len()).field("missing", &self.missing).finish()
    }
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

/// The pod's pull secrets, in order.
pub fn keyring(pod: &Pod, objects: &Objects) -> Keyring {
    let mut keyring = Keyring::default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    for reference in secrets.filter(|reference| !reference.name.is_empty()) {
        match objects.secrets.get(&ObjectName::new(namespace, &reference.name)) {
            Some(secret) => keyring.entries.extend(entries(secret)),
            None => keyring.missing.push(reference.name.clone()),
        }
    }
    keyring
}

fn entries(secret: &Secret) -> Vec<(String, AuthConfig)> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let auths = match secret.type_.as_deref() {
        Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
            .and_then(|bytes| serde_json::from_slice::<DockerConfig>(bytes).ok())
            .map(|config| config.auths),
        Some("kubernetes.io/dockercfg") => data(".dockercfg").and_then(|bytes| serde_json::from_slice(bytes).ok()),
        _ => None,
    };
    auths.unwrap_or_default().into_iter().map(|(server, entry)| (server.clone(), entry.into_auth(server))).collect()
}

impl Entry {
    fn into_auth(self, server: String) -> AuthConfig {
        let (mut username, mut password) = (self.username, self.password);
        // `auth` is base64 of `user:password`; it wins where both are written, as in Docker.
        let decoded = STANDARD.decode(self.auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((user, word)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
            (username, password) = (user.to_owned(), word.trim_end_matches('\0').to_owned());
        }
        AuthConfig {
            username,
            password,
            server_address: server,
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
            auth: String::new(),
        }
    }
}

impl Keyring {
    /// Tells one set of credentials for the image from another, without telling what they are.
    pub fn mark(&self, image: &str) -> u64 {
        use std::hash::{DefaultHasher, Hash, Hasher};
        let mut hasher = DefaultHasher::new();
        for auth in self.matching(image) {
            let parts =
                [&auth.username, &auth.password, &auth.identity_token, &auth.registry_token, &auth.server_address];
            parts.hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The credentials whose registry (and path) match the image, in order.
    pub fn matching(&self, image: &str) -> Vec<AuthConfig> {
        let image = normal(image);
        self.entries.iter().filter(|(server, _)| is_for(server, &image)).map(|(_, auth)| auth.clone()).collect()
    }
}

/// `host[:port]/path` of an image, with Docker Hub's short forms written out.
fn normal(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

fn is_for(server: &str, image: &str) -> bool {
    let server = server.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    // Docker's own key for its hub, and other registries' API prefixes, name no repository.
    let server = server.trim_end_matches("/v1").trim_end_matches("/v2");
    let server = if server == "index.docker.io" { "docker.io" } else { server };
    let (want_host, want_path) = server.split_once('/').unwrap_or((server, ""));
    let (host, path) = image.split_once('/').unwrap_or((image, ""));
    host_matches(want_host, host)
        && path
            .strip_prefix(want_path)
            .is_some_and(|rest| want_path.is_empty() || rest.is_empty() || rest.starts_with(['/', ':', '@']))
}

/// `*` stands for one label, or for part of one.
fn host_matches(pattern: &str, host: &str) -> bool {
    let (patterns, labels): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    patterns.len() == labels.len() && patterns.iter().zip(labels).all(|(pattern, label)| label_matches(pattern, label))
}

fn label_matches(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((start, end)) => {
            label.len() >= start.len() + end.len() && label.starts_with(start) && label.ends_with(end)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    fn ring(auths: serde_json::Value) -> Keyring {
        let config = STANDARD.encode(json!({ "auths": auths }).to_string());
        let secret = json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": config}});
        let mut objects = Objects::default();
        objects.secrets.insert(ObjectName::new("shop", "reg"), Arc::new(serde_json::from_value(secret).unwrap()));
        let pod = crate::container::testing::pod(
            json!({"imagePullSecrets": [{"name": "reg"}, {"name": "none"}, {"name": ""}]}),
        );
        keyring(&pod, &objects)
    }

    #[test]
    fn credentials_are_those_of_the_images_registry_and_path() {
        let ring = ring(json!({
            "registry.example:5000": {"auth": STANDARD.encode("me:se:cret")},
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
            "*.example/team": {"username": "team", "password": "p"}}));
        assert_eq!(ring.missing, ["none"]);
        let users = |image: &str| ring.matching(image).into_iter().map(|auth| auth.username).collect::<Vec<_>>();
        assert_eq!(users("registry.example:5000/app:1"), ["me"]);
        assert_eq!(ring.matching("registry.example:5000/app")[0].password, "se:cret");
        assert_eq!(users("busybox"), ["hub"]);
        assert_eq!(users("library/busybox"), ["hub"]);
        assert_eq!(users("eu.example/team/app"), ["team"]);
        assert!(users("eu.example/teammate/app").is_empty() && users("other.test/app").is_empty());
    }

    #[test]
    fn other_credentials_for_the_same_image_have_another_mark() {
        let with = |password: &str| {
            ring(
                json!({"registry.example": {"username": "me", "password": password}, "other.test": {"username": password}}),
            )
        };
        let mark = |password: &str, image: &str| with(password).mark(image);
        assert_eq!(mark("a", "registry.example/app"), mark("a", "registry.example/app:2"));
        assert_ne!(mark("a", "registry.example/app"), mark("b", "registry.example/app"));
        assert_eq!(mark("a", "busybox"), mark("b", "busybox"));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let ring = ring(json!({"registry.example": {"username": "u", "password": "topsecret"}}));
        assert!(!format!("{ring:?}").contains("topsecret"));
    }
}
