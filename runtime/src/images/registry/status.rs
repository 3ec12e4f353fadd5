//! What a status that is no success means, with the registry's own words.

use std::time::Duration;

use hyper::Response;
use hyper::body::Incoming;
use hyper::header::RETRY_AFTER;
use hyper::http::uri::Uri;
use serde::Deserialize;

use super::error::RegistryError;
use super::http::{read_all, shown};

// Error bodies are one sentence; proxies send whole pages, of which nothing is shown.
const MAX_BODY: u64 = 64 << 10;
const MAX_WORDS: usize = 300;

/// The error that an answer stands for.
pub(super) async fn error(uri: &Uri, answer: Response<Incoming>) -> RegistryError {
    let status = answer.status().as_u16();
    let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = read_all(answer, uri, MAX_BODY).await.unwrap_or_default();
    let (address, message) = (shown(uri), words(&body));
    match status {
        401 | 403 => RegistryError::Denied { address, message },
        404 => RegistryError::NotFound { address, message },
        _ => RegistryError::Status { address, status, retry_after: seconds.map(Duration::from_secs), message },
    }
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Reason>,
    #[serde(default)]
    details: String,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// ` (message)`, or nothing. Foreign text: bounded, and nothing in it can move a terminal's cursor.
fn words(body: &[u8]) -> String {
    let Ok(body) = serde_json::from_slice::<Body>(body) else { return String::new() };
    let said = match body.errors.into_iter().next() {
        Some(reason) if !reason.message.is_empty() => reason.message,
        Some(reason) => reason.code,
        None => body.details,
    };
    let said: String = said.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
    if said.is_empty() { said } else { format!(" ({said})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_words_are_shown_without_control_characters() {
        assert_eq!(words(br#"{"errors":[{"code":"DENIED","message":"no \u001b[31mway"}]}"#), " (no [31mway)");
        assert_eq!(words(br#"{"errors":[{"code":"DENIED"}]}"#), " (DENIED)");
        assert_eq!(words(br#"{"details":"incorrect username or password"}"#), " (incorrect username or password)");
        assert_eq!(words(b"<html>"), "");
        assert_eq!(words(br#"{"errors":[]}"#), "");
    }
}
