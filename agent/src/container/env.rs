//! The environment: `envFrom`, then `env`, then service variables for names that are still free.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EnvFromSource, EnvVar, EnvVarSource, FileKeySelector, Pod};

use super::{ConfigError, env_file, services};
use crate::expand::expand;
use crate::fields::{Allocatable, pod_field, resource_field};
use crate::names::ObjectName;
use crate::sources::Objects;

/// Everything that variables can come from.
pub struct EnvInputs<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// ConfigMaps, Secrets and Services.
    pub objects: &'a Objects,
    /// The fallback of limits that are not set.
    pub allocatable: &'a Allocatable,
    /// The pod's addresses, primary first.
    pub pod_ips: &'a [String],
    /// The node's addresses, primary first.
    pub host_ips: &'a [String],
    /// The files of every `fileKeyRef`.
    pub files: &'a EnvFiles,
}

/// Files that variables come from, by volume and path; `None` is one that could not be read.
pub type EnvFiles = BTreeMap<(String, String), Option<String>>;

/// The files that a container's variables come from, as volume and path.
pub fn files_of(container: &Container) -> impl Iterator<Item = (&str, &str)> {
    let sources =
        container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()?.file_key_ref.as_ref());
    sources.map(|source| (source.volume_name.as_str(), source.path.as_str()))
}

/// Names and values in the order they were first set. Values of Secrets are bytes and among them: never print one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Env {
    order: Vec<String>,
    values: BTreeMap<String, Vec<u8>>,
}

impl Env {
    /// The value of `name` as text, for `$(VAR)`.
    pub fn text(&self, name: &str) -> Option<String> {
        self.values.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Every variable.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.order.iter().filter_map(|name| Some((name.as_str(), self.values.get(name)?.as_slice())))
    }

    fn set(&mut self, name: &str, value: Vec<u8>) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.order).finish()
    }
}

/// A container's variables.
///
/// # Errors
/// A missing object or key that is not optional, a bad field, or `enableServiceLinks` unset.
pub fn env(inputs: &EnvInputs<'_>) -> Result<Env, ConfigError> {
    let links = inputs.pod.spec.as_ref().and_then(|spec| spec.enable_service_links);
    let links = links.ok_or(ConfigError::NoServiceLinks)?;
    let namespace = inputs.pod.metadata.namespace.as_deref().unwrap_or_default();
    let services = services::variables(inputs.objects, namespace, links);
    let mut env = Env::default();
    for source in inputs.container.env_from.iter().flatten() {
        from_object(&mut env, source, inputs)?;
    }
    for variable in inputs.container.env.iter().flatten() {
        if let Some(value) = value_of(variable, &env, &services, inputs)? {
            env.set(&variable.name, value);
        }
    }
    for (name, value) in services {
        if !env.values.contains_key(&name) {
            env.set(&name, value.into_bytes());
        }
    }
    Ok(env)
}

fn from_object(env: &mut Env, source: &EnvFromSource, inputs: &EnvInputs<'_>) -> Result<(), ConfigError> {
    let prefix = source.prefix.as_deref().unwrap_or_default();
    if let Some(reference) = &source.config_map_ref {
        let name = object(inputs, &reference.name);
        match inputs.objects.config_maps.get(&name) {
            Some(map) => {
                for (key, value) in map.data.iter().flatten() {
                    env.set(&format!("{prefix}{key}"), value.clone().into_bytes());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(ConfigError::NoConfigMap(name)),
        }
    }
    if let Some(reference) = &source.secret_ref {
        let name = object(inputs, &reference.name);
        match inputs.objects.secrets.get(&name) {
            Some(secret) => {
                for (key, value) in secret.data.iter().flatten() {
                    env.set(&format!("{prefix}{key}"), value.0.clone());
                }
            }
            None if reference.optional == Some(true) => {}
            None => return Err(ConfigError::NoSecret(name)),
        }
    }
    Ok(())
}

fn object(inputs: &EnvInputs<'_>, name: &str) -> ObjectName {
    ObjectName::new(inputs.pod.metadata.namespace.clone().unwrap_or_default(), name)
}

fn value_of(
    variable: &EnvVar,
    env: &Env,
    services: &BTreeMap<String, String>,
    inputs: &EnvInputs<'_>,
) -> Result<Option<Vec<u8>>, ConfigError> {
    // An empty value beside valueFrom means "look at valueFrom".
    match (variable.value.as_deref().filter(|value| !value.is_empty()), &variable.value_from) {
        (None, Some(source)) => referred(source, inputs),
        (value, _) => {
            let lookup = |name: &str| env.text(name).or_else(|| services.get(name).cloned());
            Ok(Some(expand(value.unwrap_or_default(), lookup).into_bytes()))
        }
    }
}

fn referred(source: &EnvVarSource, inputs: &EnvInputs<'_>) -> Result<Option<Vec<u8>>, ConfigError> {
    if let Some(field) = &source.field_ref {
        return self_field(&field.field_path, inputs).map(|text| Some(text.into_bytes()));
    }
    if let Some(field) = &source.resource_field_ref {
        let text = resource_field(inputs.pod, Some(&inputs.container.name), field, inputs.allocatable)?;
        return Ok(Some(text.into_bytes()));
    }
    if let Some(key) = &source.config_map_key_ref {
        let name = object(inputs, &key.name);
        return config_map_key(inputs, name, &key.key, key.optional == Some(true));
    }
    if let Some(key) = &source.secret_key_ref {
        let name = object(inputs, &key.name);
        return secret_key(inputs, name, &key.key, key.optional == Some(true));
    }
    match &source.file_key_ref {
        Some(key) => file_key(inputs, key),
        None => Err(ConfigError::Unsupported("env: valueFrom names a source that this agent does not know".to_owned())),
    }
}

fn file_key(inputs: &EnvInputs<'_>, source: &FileKeySelector) -> Result<Option<Vec<u8>>, ConfigError> {
    let FileKeySelector { key, path, volume_name, optional } = source;
    let file = inputs.files.get(&(volume_name.clone(), path.clone()));
    let text = file.ok_or_else(|| ConfigError::NoEnvVolume(volume_name.clone()))?;
    let text = text.as_deref().ok_or(ConfigError::EnvFile)?;
    match env_file::value(text, key).map_err(|_| ConfigError::EnvFile)? {
        Some(value) => Ok(Some(value.into_bytes())),
        None if *optional == Some(true) => Ok(None),
        None => Err(ConfigError::NoEnvKey { key: key.clone(), path: path.clone() }),
    }
}

fn self_field(path: &str, inputs: &EnvInputs<'_>) -> Result<String, ConfigError> {
    let first = |list: &[String]| list.first().cloned().unwrap_or_default();
    Ok(match path {
        "status.hostIP" => first(inputs.host_ips),
        "status.hostIPs" => inputs.host_ips.join(","),
        "status.podIP" => first(inputs.pod_ips),
        "status.podIPs" => inputs.pod_ips[..inputs.pod_ips.len().min(2)].join(","),
        path => pod_field(inputs.pod, path)?,
    })
}

fn config_map_key(
    inputs: &EnvInputs<'_>,
    name: ObjectName,
    key: &str,
    optional: bool,
) -> Result<Option<Vec<u8>>, ConfigError> {
    let Some(map) = inputs.objects.config_maps.get(&name) else {
        return if optional { Ok(None) } else { Err(ConfigError::NoConfigMap(name)) };
    };
    match map.data.as_ref().and_then(|data| data.get(key)) {
        Some(value) => Ok(Some(value.clone().into_bytes())),
        None if optional => Ok(None),
        None => Err(ConfigError::NoKey { key: key.to_owned(), kind: "ConfigMap", name }),
    }
}

fn secret_key(
    inputs: &EnvInputs<'_>,
    name: ObjectName,
    key: &str,
    optional: bool,
) -> Result<Option<Vec<u8>>, ConfigError> {
    let Some(secret) = inputs.objects.secrets.get(&name) else {
        return if optional { Ok(None) } else { Err(ConfigError::NoSecret(name)) };
    };
    match secret.data.as_ref().and_then(|data| data.get(key)) {
        Some(value) => Ok(Some(value.0.clone())),
        None if optional => Ok(None),
        None => Err(ConfigError::NoKey { key: key.to_owned(), kind: "Secret", name }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn objects() -> Objects {
        let mut objects = Objects::default();
        let map = json!({"metadata": {"name": "cfg", "namespace": "shop"}, "data": {"A": "cfg-a", "B": "cfg-b"}});
        let secret = json!({"metadata": {"name": "sec", "namespace": "shop"}, "data": {"A": "c2Vj"}});
        let service = json!({"metadata": {"name": "my-db", "namespace": "shop"},
            "spec": {"clusterIP": "10.0.0.7", "ports": [{"name": "sql", "port": 5432}]}});
        let name = |name: &str| ObjectName::new("shop", name);
        objects.config_maps.insert(name("cfg"), Arc::new(serde_json::from_value(map).unwrap()));
        objects.secrets.insert(name("sec"), Arc::new(serde_json::from_value(secret).unwrap()));
        objects.services.insert(name("my-db"), Arc::new(serde_json::from_value(service).unwrap()));
        objects
    }

    fn of(mut container: serde_json::Value, links: Option<bool>) -> Result<Env, ConfigError> {
        container["name"] = json!("c");
        let pod = super::super::testing::pod(
            json!({"enableServiceLinks": links, "nodeName": "n1", "containers": [container]}),
        );
        env(&EnvInputs {
            pod: &pod,
            container: &pod.spec.as_ref().unwrap().containers[0],
            objects: &objects(),
            allocatable: &Allocatable { cpu_millis: 2_000, memory_bytes: 1 << 30, ephemeral_storage_bytes: 0 },
            pod_ips: &["10.88.0.2".to_owned(), "fd00::2".to_owned()],
            host_ips: &["192.0.2.1".to_owned()],
            files: &EnvFiles::from([
                (("v".to_owned(), "a/env".to_owned()), Some("K='from a file'\nBAD".to_owned())),
                (("v".to_owned(), "none".to_owned()), None),
            ]),
        })
    }

    fn check(container: serde_json::Value, want: Expect) {
        let text = match of(container, Some(false)) {
            Ok(env) => env.iter().map(|(name, value)| format!("{name}={}\n", String::from_utf8_lossy(value))).collect(),
            Err(error) => format!("{error}\n"),
        };
        want.assert_eq(&text);
    }

    #[test]
    fn env_wins_over_env_from_and_later_over_earlier() {
        check(
            json!({"envFrom": [{"configMapRef": {"name": "cfg"}}, {"secretRef": {"name": "sec"}, "prefix": "P_"},
                    {"secretRef": {"name": "sec"}}, {"configMapRef": {"name": "none", "optional": true}}],
                "env": [{"name": "B", "value": "own"}]}),
            expect![[r#"
                A=sec
                B=own
                P_A=sec
            "#]],
        );
    }

    #[test]
    fn references_see_what_was_set_so_far() {
        check(
            json!({"env": [{"name": "X", "value": "$(Y)-$(MY_DB_SERVICE_HOST)"}, {"name": "Y", "value": "1"}, {"name": "Z", "value": "$(Y)$$(Y)"},
                {"name": "Y", "value": "$(Y)2"}]}),
            expect![[r#"
                X=$(Y)-$(MY_DB_SERVICE_HOST)
                Y=12
                Z=1$(Y)
            "#]],
        );
    }

    #[test]
    fn fields_resources_and_keys_are_looked_up() {
        let from = |source: serde_json::Value| json!({"name": "V", "value": "", "valueFrom": source});
        check(
            json!({"env": [from(json!({"fieldRef": {"fieldPath": "status.podIPs"}}))]}),
            expect![[r#"
            V=10.88.0.2,fd00::2
        "#]],
        );
        check(
            json!({"env": [from(json!({"fieldRef": {"fieldPath": "spec.nodeName"}}))]}),
            expect![[r#"
            V=n1
        "#]],
        );
        check(
            json!({"env": [from(json!({"resourceFieldRef": {"resource": "limits.cpu"}}))]}),
            expect![[r#"
            V=2
        "#]],
        );
        check(
            json!({"env": [from(json!({"secretKeyRef": {"name": "sec", "key": "A"}}))]}),
            expect![[r#"
            V=sec
        "#]],
        );
        check(
            json!({"env": [from(json!({"configMapKeyRef": {"name": "cfg", "key": "none", "optional": true}}))]}),
            expect![""],
        );
    }

    #[test]
    fn files_of_volumes_are_sources_too() {
        let from = |source: serde_json::Value| json!({"env": [{"name": "V", "valueFrom": {"fileKeyRef": source}}]});
        check(
            from(json!({"volumeName": "v", "path": "a/env", "key": "K"})),
            expect![[r#"
            V=from a file
        "#]],
        );
        check(
            from(json!({"volumeName": "v", "path": "a/env", "key": "X"})),
            expect![[r#"
            couldn't parse env file
        "#]],
        );
        check(
            from(json!({"volumeName": "v", "path": "none", "key": "K", "optional": true})),
            expect![[r#"
            couldn't parse env file
        "#]],
        );
        check(
            from(json!({"volumeName": "w", "path": "a", "key": "K"})),
            expect![[r#"
            cannot find the volume "w" referenced by FileKeyRef
        "#]],
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let from = |source: serde_json::Value| json!({"env": [{"name": "V", "valueFrom": source}]});
        check(
            from(json!({"configMapKeyRef": {"name": "cfg", "key": "none"}})),
            expect![[r#"
            couldn't find key none in ConfigMap shop/cfg
        "#]],
        );
        check(
            from(json!({"secretKeyRef": {"name": "sec", "key": "none"}})),
            expect![[r#"
            couldn't find key none in Secret shop/sec
        "#]],
        );
        check(
            from(json!({"secretKeyRef": {"name": "none", "key": "A"}})),
            expect![[r#"
            secret "none" not found
        "#]],
        );
        check(
            json!({"envFrom": [{"configMapRef": {"name": "none"}}]}),
            expect![[r#"
            configmap "none" not found
        "#]],
        );
        assert_eq!(
            of(json!({}), None).unwrap_err().to_string(),
            "nil pod.spec.enableServiceLinks encountered, cannot construct envvars"
        );
    }

    #[test]
    fn service_variables_fill_only_free_names() {
        let env = of(
            json!({"env": [{"name": "MY_DB_PORT", "value": "mine"}, {"name": "U", "value": "$(MY_DB_SERVICE_PORT)"}]}),
            Some(true),
        )
        .unwrap();
        assert_eq!(env.text("MY_DB_PORT").unwrap(), "mine");
        assert_eq!(env.text("U").unwrap(), "5432");
        assert_eq!(env.text("MY_DB_SERVICE_PORT_SQL").unwrap(), "5432");
    }

    #[test]
    fn debug_output_has_no_values() {
        let env = of(json!({"envFrom": [{"secretRef": {"name": "sec"}}]}), Some(false)).unwrap();
        assert_eq!(format!("{env:?}"), r#"["A"]"#);
    }
}
