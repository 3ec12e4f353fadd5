//! What the kubelet's own servers do: where they listen, whom they believe, what they show.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::checks::{Checks, path};
use super::file::{Authentication as AuthenticationFile, Authorization as AuthorizationFile, File};

/// The HTTPS server, `/healthz`, and the read-only port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `enableServer`: off means that nothing listens, health included.
    pub enabled: bool,
    /// `address` and `port`: HTTPS.
    pub listen: SocketAddr,
    /// `readOnlyPort` at the same address: plain HTTP, nobody is asked who they are. `None` is off.
    pub read_only: Option<SocketAddr>,
    /// `healthzBindAddress` and `healthzPort`; `None` is off.
    pub healthz: Option<SocketAddr>,
    /// Who is believed to be whom.
    pub authentication: Authentication,
    /// Who may do what.
    pub authorization: Authorization,
    /// Where the certificate comes from that is shown to callers.
    pub certificate: ServingCertificate,
    /// `tlsMinVersion`.
    pub tls_min: TlsVersion,
    /// `tlsCipherSuites`, by Go's names; empty for the library's own choice.
    pub tls_cipher_suites: Vec<String>,
    /// `enableDebuggingHandlers`: exec, attach, port-forward, logs.
    pub debugging_handlers: bool,
    /// `enableSystemLogHandler`: `/logs/`.
    pub system_logs: bool,
    /// `enableSystemLogQuery`: queries to services' logs there.
    pub system_log_query: bool,
    /// `enableProfilingHandler`.
    pub profiling: bool,
    /// `enableDebugFlagsHandler`.
    pub debug_flags: bool,
    /// `streamingConnectionIdleTimeout`.
    pub streaming_idle: Duration,
}

/// Who is believed to be whom, in this order: client certificate, bearer token, nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// `x509.clientCAFile`: certificates that it signed are believed.
    pub client_ca: Option<PathBuf>,
    /// `webhook`: bearer tokens are shown to the API server, and its answer is kept for so long. `None` is off.
    pub tokens: Option<Duration>,
    /// `anonymous`: who shows nothing is `system:anonymous`.
    pub anonymous: bool,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Everybody who is authenticated may do everything.
    AlwaysAllow,
    /// The API server is asked, and its answers are kept.
    Webhook {
        /// How long a yes is kept.
        allowed: Duration,
        /// How long a no is kept.
        denied: Duration,
    },
}

/// Where the serving certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServingCertificate {
    /// `tlsCertFile` and `tlsPrivateKeyFile`, read anew when they change.
    Files {
        /// PEM, the server's own certificate first.
        certificate: PathBuf,
        /// PEM.
        key: PathBuf,
    },
    /// `serverTLSBootstrap`: asked for from the cluster, kept and renewed as `<cert-dir>/kubelet-server-current.pem`. Until
    /// there is one, handshakes fail.
    Requested,
    /// `<cert-dir>/kubelet.crt` and `kubelet.key`, made where they are missing.
    SelfSigned,
}

/// The lowest version of TLS that is spoken. Versions before 1.2 are not spoken at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    V12,
    /// 1.3.
    V13,
}

const VERSIONS: [(&str, TlsVersion); 4] = [
    ("VersionTLS10", TlsVersion::V12),
    ("VersionTLS11", TlsVersion::V12),
    ("VersionTLS12", TlsVersion::V12),
    ("VersionTLS13", TlsVersion::V13),
];

pub(super) fn checked(file: &File, checks: &mut Checks) -> Server {
    let ip = |checks: &mut Checks, field, text: &Option<String>| {
        checks.address(field, text.as_deref().unwrap_or_default()).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    };
    let address = ip(checks, "address", &file.address);
    let healthz = ip(checks, "healthzBindAddress", &file.healthz_bind_address);
    let port = |checks: &mut Checks, field, value| checks.number::<u16>(field, value, (0, 65_535));
    let on = |port: u16, address| (port != 0).then_some(SocketAddr::new(address, port));
    Server {
        enabled: file.enable_server == Some(true),
        listen: SocketAddr::new(address, checks.number("port", file.port, (1, 65_535))),
        read_only: on(port(checks, "readOnlyPort", file.read_only_port), address),
        healthz: on(port(checks, "healthzPort", file.healthz_port), healthz),
        authentication: authentication(&file.authentication.clone().unwrap_or_default(), checks),
        authorization: authorization(&file.authorization.clone().unwrap_or_default(), checks),
        certificate: certificate(file, checks),
        tls_min: checks.word("tlsMinVersion", file.tls_min_version.as_deref(), &VERSIONS).unwrap_or(TlsVersion::V12),
        tls_cipher_suites: file.tls_cipher_suites.clone().unwrap_or_default(),
        debugging_handlers: file.enable_debugging_handlers == Some(true),
        system_logs: file.enable_system_log_handler == Some(true),
        system_log_query: file.enable_system_log_query == Some(true),
        profiling: file.enable_profiling_handler == Some(true),
        debug_flags: file.enable_debug_flags_handler == Some(true),
        streaming_idle: checks.time("streamingConnectionIdleTimeout", file.streaming_connection_idle_timeout),
    }
}

fn authentication(file: &AuthenticationFile, checks: &mut Checks) -> Authentication {
    let webhook = file.webhook.clone().unwrap_or_default();
    let kept = checks.time("authentication.webhook.cacheTTL", webhook.cache_ttl);
    Authentication {
        client_ca: path(file.x509.as_ref().and_then(|x509| x509.client_ca_file.as_ref())),
        tokens: (webhook.enabled == Some(true)).then_some(kept),
        anonymous: file.anonymous.as_ref().is_some_and(|anonymous| anonymous.enabled == Some(true)),
    }
}

fn authorization(file: &AuthorizationFile, checks: &mut Checks) -> Authorization {
    let webhook = file.webhook.clone().unwrap_or_default();
    let asked = Authorization::Webhook {
        allowed: checks.time("authorization.webhook.cacheAuthorizedTTL", webhook.cache_authorized_ttl),
        denied: checks.time("authorization.webhook.cacheUnauthorizedTTL", webhook.cache_unauthorized_ttl),
    };
    let modes = [("AlwaysAllow", Authorization::AlwaysAllow), ("Webhook", asked)];
    checks.word("authorization.mode", file.mode.as_deref(), &modes).unwrap_or(asked)
}

/// Files that are named win over a certificate that is asked for, as in the kubelet.
fn certificate(file: &File, checks: &mut Checks) -> ServingCertificate {
    match (path(file.tls_cert_file.as_ref()), path(file.tls_private_key_file.as_ref())) {
        (Some(certificate), Some(key)) => ServingCertificate::Files { certificate, key },
        (None, None) if file.server_tls_bootstrap == Some(true) => ServingCertificate::Requested,
        (None, None) => ServingCertificate::SelfSigned,
        (Some(_), None) => {
            checks.say("tlsPrivateKeyFile", "is missing beside tlsCertFile");
            ServingCertificate::SelfSigned
        }
        (None, Some(_)) => {
            checks.say("tlsCertFile", "is missing beside tlsPrivateKeyFile");
            ServingCertificate::SelfSigned
        }
    }
}
