//! Who may do what: the API server is asked about the node's subresources, and its answers count for a while.

use std::time::Duration;

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use tokio::time::Instant;

use super::remembered::Remembered;
use super::route::Asked;
use super::users::User;
use crate::api::{ApiError, Client, path_of_all};
use crate::config::kubelet;
use crate::errors::chain;

const MOST_ANSWERS: usize = 2_048;

/// Judges requests.
pub(super) enum Authorization {
    AlwaysAllow,
    Webhook(Webhook),
}

/// Asks the API server.
pub(super) struct Webhook {
    client: Client,
    node: String,
    allowed: Duration,
    denied: Duration,
    known: Remembered<Attributes, bool>,
}

/// What the API server is asked about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attributes {
    user: User,
    verb: &'static str,
    subresource: &'static str,
}

/// Why a request is not served.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Denied {
    /// 403 with these words.
    Forbidden(String),
    /// 500 with these words: nobody could say.
    Unknown(String),
}

impl Authorization {
    pub(super) fn new(settings: kubelet::Authorization, client: Client, node: &str) -> Self {
        match settings {
            kubelet::Authorization::AlwaysAllow => Self::AlwaysAllow,
            kubelet::Authorization::Webhook { allowed, denied } => Self::Webhook(Webhook {
                client,
                node: node.to_owned(),
                allowed,
                denied,
                known: Remembered::new(MOST_ANSWERS),
            }),
        }
    }

    /// Any of the subresources is enough.
    pub(super) async fn check(&self, user: &User, asked: &Asked) -> Result<(), Denied> {
        let Self::Webhook(webhook) = self else { return Ok(()) };
        for subresource in asked.subresources {
            let attributes = Attributes { user: user.clone(), verb: asked.verb, subresource };
            match webhook.allows(&attributes).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    let said = attributes.unknown();
                    tracing::warn!("{said}: {}", chain(&error));
                    return Err(Denied::Unknown(said));
                }
            }
        }
        Err(Denied::Forbidden(forbidden(user, asked)))
    }
}

/// The kubelet's words.
fn forbidden(user: &User, asked: &Asked) -> String {
    format!(
        "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])\n",
        user.name,
        asked.verb,
        asked.subresources.join(" ")
    )
}

impl Webhook {
    async fn allows(&self, attributes: &Attributes) -> Result<bool, ApiError> {
        if let Some(known) = self.known.get(attributes, Instant::now()) {
            return Ok(known);
        }
        let review = attributes.review(&self.node);
        let path = path_of_all::<SubjectAccessReview>(None);
        let answer: SubjectAccessReview = self.client.create(&path, &review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed && status.denied != Some(true));
        let now = Instant::now();
        let counts_for = if allowed { self.allowed } else { self.denied };
        self.known.put(attributes.clone(), allowed, now + counts_for, now);
        Ok(allowed)
    }
}

impl Attributes {
    fn review(&self, node: &str) -> SubjectAccessReview {
        let wanted = ResourceAttributes {
            verb: Some(self.verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(self.subresource.to_owned()),
            name: Some(node.to_owned()),
            ..ResourceAttributes::default()
        };
        let user = self.user.clone();
        let spec = SubjectAccessReviewSpec {
            resource_attributes: Some(wanted),
            user: Some(user.name),
            uid: Some(user.uid),
            groups: Some(user.groups),
            extra: Some(user.extra),
            ..SubjectAccessReviewSpec::default()
        };
        SubjectAccessReview { spec, ..SubjectAccessReview::default() }
    }

    /// The kubelet's words.
    fn unknown(&self) -> String {
        let (user, verb, subresource) = (&self.user.name, self.verb, self.subresource);
        format!("Authorization error (user={user}, verb={verb}, resource=nodes, subresource={subresource})")
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use hyper::Method;

    use super::*;

    #[test]
    fn what_is_asked_is_about_the_node_and_the_user() {
        let user = User { name: "jane".into(), groups: vec!["dev".into()], ..User::default() };
        let attributes = Attributes { user, verb: "get", subresource: "stats" };
        expect![[r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","metadata":{},"spec":{"extra":{},"groups":["dev"],"resourceAttributes":{"name":"n1","resource":"nodes","subresource":"stats","verb":"get","version":"v1"},"uid":"","user":"jane"}}"#]]
        .assert_eq(&serde_json::to_value(attributes.review("n1")).unwrap().to_string());
        expect!["Authorization error (user=jane, verb=get, resource=nodes, subresource=stats)"]
            .assert_eq(&attributes.unknown());
    }

    #[test]
    fn who_is_denied_is_told_what_was_asked() {
        expect![[r#"
            Forbidden (user=system:anonymous, verb=get, resource=nodes, subresource(s)=[pods proxy])
        "#]]
        .assert_eq(&forbidden(&User::anonymous(), &Asked::of(&Method::GET, "/pods")));
    }
}
