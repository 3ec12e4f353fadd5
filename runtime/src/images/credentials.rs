//! What a registry is shown to prove who asks.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cri_proto::v1::AuthConfig;

/// One way to log in to a registry. `Debug` shows which, never the secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// User and password, sent to the registry (basic) or to its token server (bearer).
    Basic {
        /// User name.
        username: String,
        /// Password, or a personal token in its place.
        password: String,
    },
    /// An OAuth2 refresh token that the token server exchanges: CRI's `identity_token`.
    IdentityToken(String),
    /// A bearer token for the registry itself: CRI's `registry_token`.
    RegistryToken(String),
}

/// The `auth` field of an `AuthConfig` is not base64 of `user:password`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the registry credentials' auth field is not base64 of user:password")]
pub struct BadAuth;

impl Credentials {
    /// What CRI hands over for a pull from `host`; `None` when it is empty or meant for another server.
    ///
    /// Order of preference as containerd has it: user and password, identity token, `auth`, registry token.
    pub fn from_cri(auth: &AuthConfig, host: &str) -> Result<Option<Self>, BadAuth> {
        if !auth.server_address.is_empty() && !same_server(&auth.server_address, host) {
            return Ok(None);
        }
        if !auth.username.is_empty() {
            let (username, password) = (auth.username.clone(), auth.password.clone());
            return Ok(Some(Self::Basic { username, password }));
        }
        if !auth.identity_token.is_empty() {
            return Ok(Some(Self::IdentityToken(auth.identity_token.clone())));
        }
        if !auth.auth.is_empty() {
            return decode(&auth.auth).map(Some);
        }
        Ok((!auth.registry_token.is_empty()).then(|| Self::RegistryToken(auth.registry_token.clone())))
    }
}

fn decode(auth: &str) -> Result<Credentials, BadAuth> {
    let text = String::from_utf8(STANDARD.decode(auth.trim()).map_err(|_| BadAuth)?).map_err(|_| BadAuth)?;
    let (username, password) = text.split_once(':').ok_or(BadAuth)?;
    // Docker pads the password with NULs.
    let password = password.trim_end_matches('\0').to_owned();
    Ok(Credentials::Basic { username: username.to_owned(), password })
}

/// Docker's configuration names servers as URLs with a path, and its own hub by three names.
fn same_server(server: &str, host: &str) -> bool {
    let bare = server.split_once("://").map_or(server, |(_, rest)| rest);
    let bare = bare.split('/').next().unwrap_or(bare);
    let hub = |name: &str| matches!(name, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    bare.eq_ignore_ascii_case(host) || (hub(bare) && hub(host))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => f.debug_struct("Basic").field("username", username).finish_non_exhaustive(),
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
            Self::RegistryToken(_) => f.write_str("RegistryToken(..)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Basic { username: username.into(), password: password.into() })
    }

    #[test]
    fn auth_is_user_and_password_in_base64() {
        let auth = AuthConfig { auth: STANDARD.encode("ann:a:b\0"), ..AuthConfig::default() };
        assert_eq!(Credentials::from_cri(&auth, "docker.io"), Ok(basic("ann", "a:b")));
        let bad = AuthConfig { auth: "%%".into(), ..AuthConfig::default() };
        assert_eq!(Credentials::from_cri(&bad, "docker.io"), Err(BadAuth));
        assert_eq!(Credentials::from_cri(&AuthConfig::default(), "docker.io"), Ok(None));
    }

    #[test]
    fn credentials_stay_with_the_server_they_are_for() {
        let auth = |server: &str| AuthConfig {
            username: "ann".into(),
            server_address: server.into(),
            ..AuthConfig::default()
        };
        assert_eq!(Credentials::from_cri(&auth("https://quay.io/v1/"), "docker.io"), Ok(None));
        assert_eq!(Credentials::from_cri(&auth("https://quay.io/v1/"), "quay.io"), Ok(basic("ann", "")));
        assert_eq!(Credentials::from_cri(&auth("https://index.docker.io/v1/"), "docker.io"), Ok(basic("ann", "")));
        assert_eq!(Credentials::from_cri(&auth("localhost:5000"), "localhost:5001"), Ok(None));
    }

    #[test]
    fn no_secret_is_printed() {
        let all = [
            Credentials::Basic { username: "ann".into(), password: "hunter2".into() },
            Credentials::IdentityToken("hunter2".into()),
            Credentials::RegistryToken("hunter2".into()),
        ];
        assert!(!format!("{all:?}").contains("hunter2"));
    }
}
