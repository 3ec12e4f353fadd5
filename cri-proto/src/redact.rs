//! `Debug` for the messages that carry secrets: what there is is shown, its value never.

use std::fmt;

use crate::v1::{AuthConfig, KeyValue};

impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig")
            .field("username", &self.username)
            .field("server_address", &self.server_address)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed() {
        let auth = AuthConfig {
            username: "ann".into(),
            password: "hunter2".into(),
            auth: "YW5uOmh1bnRlcjI=".into(),
            identity_token: "idtoken".into(),
            registry_token: "regtoken".into(),
            ..AuthConfig::default()
        };
        let env = KeyValue { key: "TOKEN".into(), value: b"hunter2".to_vec() };
        let printed = format!(
            "{auth:?} {env:?} {:#?}",
            crate::v1::PullImageRequest { auth: Some(auth.clone()), ..Default::default() }
        );
        for secret in ["hunter2", "YW5u", "idtoken", "regtoken", "104, 117"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }
}
