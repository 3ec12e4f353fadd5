//! HTTP requests of postStart and preStop.

use k8s_openapi::api::core::v1::{Container, HTTPGetAction};

use super::http::{self, Http, Request};
use super::target::authority;

/// A hook's request got no answer.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HookFailed(String);

/// How a hook's request went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookAnswer {
    /// Something answered; what it said does not matter.
    Answered,
    /// TLS was asked for and plain HTTP was spoken: it was asked again that way (`LifecycleHTTPFallback`).
    AnsweredInPlainText {
        /// Host and port that were asked.
        host: String,
    },
}

/// Sends the GET of a hook. Any answer is success; redirects are not followed. It has no time limit of its own: whoever
/// waits has one.
///
/// # Errors
/// When no answer came, in the words of whoever refused.
pub async fn http_get(
    http: &Http,
    action: &HTTPGetAction,
    container: &Container,
    pod_ip: Option<&str>,
) -> Result<HookAnswer, HookFailed> {
    let request = Request::of(action, container, pod_ip, "kube-lifecycle").map_err(|e| HookFailed(e.to_string()))?;
    let failed = |error: &http::SendError| HookFailed(format!("Get \"{}\": {}", request.url, error.in_words()));
    match http::send(http, &request).await {
        Ok(_) => Ok(HookAnswer::Answered),
        Err(error) if error.is_plain_http() => match http::send(http, &request.in_plain_text()).await {
            Ok(_) => Ok(HookAnswer::AnsweredInPlainText { host: authority(&request.url.host, request.url.port) }),
            Err(error) => Err(failed(&error)),
        },
        Err(error) => Err(failed(&error)),
    }
}
