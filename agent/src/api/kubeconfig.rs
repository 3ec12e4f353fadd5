//! A kubeconfig: where the API server is, whom to believe there, and who we are.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{files, yaml};

/// The current context of a kubeconfig, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    /// `https://host:port`, without a path.
    pub server: String,
    /// The cluster's authority; the system's where none is named.
    pub ca: Option<Source>,
    /// The name that the server's certificate must be for, where it is not the host.
    pub server_name: Option<String>,
    /// Who we are.
    pub user: User,
    /// The context's namespace.
    pub namespace: String,
    /// Anybody is believed to be the API server: only for what is proved in another way. No file can ask for it.
    pub unverified: bool,
}

/// How we say who we are. All may be absent: the API server then sees nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Client certificate and its key.
    pub certificate: Option<(Source, Source)>,
    /// Bearer token.
    pub token: Option<Source>,
}

/// A value, or the file that holds it. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// Read anew whenever it changes.
    File(PathBuf),
    /// In the kubeconfig itself.
    Data(Vec<u8>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "File({})", path.display()),
            Source::Data(_) => f.write_str("Data(…)"),
        }
    }
}

impl Source {
    /// The bytes, no more than a megabyte of them.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        match self {
            Source::Data(data) => Ok(data.clone()),
            Source::File(path) => files::read(path),
        }
    }

    /// What to call it in messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Source::File(path) => path.display().to_string(),
            Source::Data(_) => "the kubeconfig's own data".to_owned(),
        }
    }
}

/// A kubeconfig that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// It cannot be read.
    #[error("reading the kubeconfig {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It says something that cannot be.
    #[error("the kubeconfig {}: {problem}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What, and what would be right; several are joined by semicolons.
        problem: String,
    },
}

impl Kubeconfig {
    /// Reads the current context of a file. Paths in it are relative to its folder.
    ///
    /// # Errors
    /// [`KubeconfigError`] names the file and the field.
    pub fn load(path: &Path) -> Result<Self, KubeconfigError> {
        Self::load_by(path, Self::parse)
    }

    /// The same of a file that may say only where a cluster is, as those of `cluster-info` do.
    ///
    /// # Errors
    /// [`KubeconfigError`] names the file and the field.
    pub fn load_cluster(path: &Path) -> Result<Self, KubeconfigError> {
        Self::load_by(path, Self::parse_cluster)
    }

    fn load_by(path: &Path, parse: fn(&str, &Path) -> Result<Self, String>) -> Result<Self, KubeconfigError> {
        let read = |source| KubeconfigError::Read { path: path.to_owned(), source };
        let text = files::read_text(path).map_err(read)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        parse(&text, folder).map_err(|problem| KubeconfigError::Bad { path: path.to_owned(), problem })
    }

    /// Reads the current context of a kubeconfig's text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, String> {
        Self::file(text)?.current(folder)
    }

    /// Reads the only cluster of a kubeconfig's text, and nobody's credentials, where it has no current context.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse_cluster(text: &str, folder: &Path) -> Result<Self, String> {
        let mut file = Self::file(text)?;
        if !file.current_context.is_empty() {
            return file.current(folder);
        }
        let clusters = file.clusters.get_or_insert_default();
        match clusters.pop() {
            Some(only) if clusters.is_empty() => only.value.checked(folder, User::default(), None),
            Some(_) => Err("clusters: there are several, and no current-context".to_owned()),
            None => Err("clusters: there is none".to_owned()),
        }
    }

    fn file(text: &str) -> Result<File, String> {
        let document = yaml::documents(text).into_iter().next().ok_or("is empty")?;
        let document = document.map_err(|broken| format!("line {}: {}", broken.line, broken.message))?;
        yaml::decode(&document, true).map_err(|mistakes| {
            let lines: Vec<_> =
                mistakes.iter().map(|m| format!("line {}: {}: {}", m.line, m.field, m.message)).collect();
            lines.join("; ")
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(rename = "apiVersion", default)]
    _api_version: Option<String>,
    #[serde(rename = "kind", default)]
    kind: Option<String>,
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    clusters: Option<Vec<Named<Cluster>>>,
    #[serde(default)]
    users: Option<Vec<Named<RawUser>>>,
    #[serde(default)]
    contexts: Option<Vec<Named<Context>>>,
    #[serde(rename = "preferences", default)]
    _preferences: IgnoredAny,
    #[serde(rename = "extensions", default)]
    _extensions: IgnoredAny,
}

#[derive(Deserialize)]
struct Named<T> {
    name: String,
    #[serde(alias = "cluster", alias = "user", alias = "context")]
    value: T,
}

#[derive(Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    proxy_url: Option<String>,
    #[serde(rename = "disable-compression")]
    _disable_compression: IgnoredAny,
    #[serde(rename = "extensions")]
    _extensions: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct RawUser {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    #[serde(rename = "as")]
    impersonate: Option<IgnoredAny>,
    as_uid: Option<IgnoredAny>,
    as_groups: Option<IgnoredAny>,
    as_user_extra: Option<IgnoredAny>,
    username: Option<IgnoredAny>,
    password: Option<IgnoredAny>,
    auth_provider: Option<IgnoredAny>,
    exec: Option<IgnoredAny>,
    #[serde(rename = "extensions")]
    _extensions: IgnoredAny,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: Option<String>,
    #[serde(rename = "extensions")]
    _extensions: IgnoredAny,
}

impl File {
    fn current(self, folder: &Path) -> Result<Kubeconfig, String> {
        if self.kind.as_deref().is_some_and(|kind| kind != "Config") {
            return Err(format!("kind: is {:?}, must be Config", self.kind.unwrap_or_default()));
        }
        let context = pick(self.contexts, &self.current_context, "context", "current-context")?;
        let cluster = pick(self.clusters, &context.cluster, "cluster", "contexts[].context.cluster")?;
        let user = match context.user.as_str() {
            "" => User::default(),
            name => pick(self.users, name, "user", "contexts[].context.user")?.checked(folder)?,
        };
        cluster.checked(folder, user, context.namespace)
    }
}

impl Cluster {
    fn checked(self, folder: &Path, user: User, namespace: Option<String>) -> Result<Kubeconfig, String> {
        let cluster = self;
        if cluster.insecure_skip_tls_verify {
            return Err("insecure-skip-tls-verify: is not supported; name the cluster's certificate-authority".into());
        }
        if cluster.proxy_url.is_some() {
            return Err("proxy-url: is not supported".into());
        }
        let ca =
            source(cluster.certificate_authority, cluster.certificate_authority_data, folder, "certificate-authority")?;
        Ok(Kubeconfig {
            server: server(&cluster.server)?,
            ca,
            server_name: cluster.tls_server_name,
            user,
            namespace: namespace.unwrap_or_else(|| "default".to_owned()),
            unverified: false,
        })
    }
}

fn pick<T>(all: Option<Vec<Named<T>>>, name: &str, what: &str, field: &str) -> Result<T, String> {
    let all = all.unwrap_or_default();
    let known: Vec<String> = all.iter().map(|named| named.name.clone()).collect();
    let found = all.into_iter().find(|named| named.name == name);
    found.map(|named| named.value).ok_or_else(|| match known.is_empty() {
        true => format!("{field}: names the {what} {name:?}, and there are no {what}s"),
        false => format!("{field}: names the {what} {name:?}; there are: {}", known.join(", ")),
    })
}

fn server(url: &str) -> Result<String, String> {
    let url = url.trim_end_matches('/');
    let uri: hyper::Uri = url.parse().map_err(|_| format!("server: {url:?} is not a URL such as https://host:6443"))?;
    match (uri.scheme_str(), uri.authority(), uri.path()) {
        (Some("https"), Some(_), "" | "/") => Ok(url.to_owned()),
        (Some("https"), ..) => Err(format!("server: {url:?}: a path behind the host is not supported")),
        _ => Err(format!("server: {url:?} must begin with https://")),
    }
}

impl RawUser {
    fn checked(self, folder: &Path) -> Result<User, String> {
        let unsupported = [
            ("as", self.impersonate.is_some() || self.as_uid.is_some()),
            ("as-groups", self.as_groups.is_some() || self.as_user_extra.is_some()),
            ("username", self.username.is_some() || self.password.is_some()),
            ("auth-provider", self.auth_provider.is_some()),
            ("exec", self.exec.is_some()),
        ];
        if let Some((field, _)) = unsupported.iter().find(|(_, there)| *there) {
            return Err(format!(
                "users[].user.{field}: is not supported; use a client certificate, token or tokenFile"
            ));
        }
        let certificate = source(self.client_certificate, self.client_certificate_data, folder, "client-certificate")?;
        let key = source(self.client_key, self.client_key_data, folder, "client-key")?;
        let certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => return Err("client-key: is missing beside client-certificate".into()),
            (None, Some(_)) => return Err("client-certificate: is missing beside client-key".into()),
        };
        // As in every client of Kubernetes: the file wins, for it can be renewed.
        let token = match (self.token_file, self.token) {
            (Some(file), _) => Some(Source::File(folder.join(file))),
            (None, Some(token)) if !token.is_empty() => Some(Source::Data(token.into_bytes())),
            (None, _) => None,
        };
        Ok(User { certificate, token })
    }
}

/// Data wins over a file of the same field, as in every client of Kubernetes.
fn source(file: Option<PathBuf>, data: Option<String>, folder: &Path, field: &str) -> Result<Option<Source>, String> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let decoded = STANDARD.decode(data.trim()).map_err(|_| format!("{field}-data: is not base64"))?;
        return Ok(Some(Source::Data(decoded)));
    }
    Ok(file.filter(|path| !path.as_os_str().is_empty()).map(|path| Source::File(folder.join(path))))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const GOOD: &str = "
apiVersion: v1
kind: Config
clusters:
- {name: c, cluster: {server: 'https://192.0.2.1:6443/', certificate-authority-data: Q0E=}}
users:
- {name: u, user: {client-certificate: pki/current.pem, client-key: /pki/current.pem}}
contexts:
- {name: x, context: {cluster: c, user: u, namespace: demo}}
current-context: x
preferences: {}
";

    fn check(text: &str, seen: Expect) {
        let parsed = Kubeconfig::parse(text, Path::new("/etc/kubernetes"));
        seen.assert_eq(&match parsed {
            Ok(config) => format!("{config:?}"),
            Err(problem) => problem,
        });
    }

    #[test]
    fn the_current_context_is_read_and_paths_are_relative_to_the_file() {
        check(
            GOOD,
            expect![[
                r#"Kubeconfig { server: "https://192.0.2.1:6443", ca: Some(Data(…)), server_name: None, user: User { certificate: Some((File(/etc/kubernetes/pki/current.pem), File(/pki/current.pem))), token: None }, namespace: "demo", unverified: false }"#
            ]],
        );
    }

    #[test]
    fn a_token_is_never_printed() {
        let text =
            GOOD.replace("client-certificate: pki/current.pem, client-key: /pki/current.pem", "token: 'hush.hush'");
        let config = Kubeconfig::parse(&text, Path::new("/")).unwrap();
        assert_eq!(config.user.token, Some(Source::Data(b"hush.hush".to_vec())));
        assert!(!format!("{config:?}").contains("hush"));
        check(
            &text.replace("token: 'hush.hush'", "token: [hush]"),
            expect!["line 7: users[0].user.token: is a list, must be text"],
        );
    }

    #[test]
    fn mistakes_name_their_field() {
        check("", expect!["is empty"]);
        check(
            &GOOD.replace("current-context: x", "current-context: y"),
            expect![[r#"current-context: names the context "y"; there are: x"#]],
        );
        check(
            &GOOD.replace("cluster: c,", "cluster: d,"),
            expect![[r#"contexts[].context.cluster: names the cluster "d"; there are: c"#]],
        );
        check(
            &GOOD.replace("https://192", "http://192"),
            expect![[r#"server: "http://192.0.2.1:6443" must begin with https://"#]],
        );
        check(&GOOD.replace("Q0E=", "'%'"), expect!["certificate-authority-data: is not base64"]);
        check(
            &GOOD.replace(", client-key: /pki/current.pem", ""),
            expect!["client-key: is missing beside client-certificate"],
        );
        check(
            &GOOD.replace("client-certificate: pki/current.pem", "exec: {command: aws}"),
            expect!["users[].user.exec: is not supported; use a client certificate, token or tokenFile"],
        );
        check(
            &GOOD.replace("client-key:", "client-kee:"),
            expect![[r#"line 7: users[0].user[client-kee]: unknown field; did you mean client-key?"#]],
        );
    }
}
