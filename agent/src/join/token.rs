use std::fmt;
use std::str::FromStr;

/// A bootstrap token: `abcdef.0123456789abcdef`. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: String,
    secret: String,
}

/// Text that is no bootstrap token; it is not repeated, for it may be nearly one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a bootstrap token: six and sixteen lower-case letters or digits with a dot between (kubeadm token create prints one)"
)]
pub struct BadToken;

impl Token {
    /// The public half, by which the cluster finds it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The other half.
    pub(super) fn secret(&self) -> &str {
        &self.secret
    }

    /// Both halves, as credentials.
    pub fn whole(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let (id, secret) = text.trim().split_once('.').ok_or(BadToken)?;
        let fits = |part: &str, length| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        let token = Self { id: id.to_owned(), secret: secret.to_owned() };
        (fits(id, 6) && fits(secret, 16)).then_some(token).ok_or(BadToken)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.…)", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_two_halves_and_its_secret_is_never_printed() {
        let token: Token = "abcdef.0123456789abcdef".parse().unwrap();
        assert_eq!((token.id(), token.secret()), ("abcdef", "0123456789abcdef"));
        assert_eq!(format!("{token:?}"), "Token(abcdef.…)");
        for bad in [
            "",
            "abcdef",
            "abcdef.0123",
            "ABCDEF.0123456789abcdef",
            "abcde.0123456789abcdef",
            "abcdef.0123456789abcde!",
        ] {
            assert_eq!(bad.parse::<Token>(), Err(BadToken), "{bad}");
        }
    }
}
