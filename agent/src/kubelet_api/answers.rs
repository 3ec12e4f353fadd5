//! What answers look like: the kubelet's words and content types.

use axum::body::Body;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::route::Miss;

/// Any answer of this API.
pub type Answer = Response<Body>;

/// A whole answer of this type.
pub(super) fn whole(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

/// Words.
pub fn text(status: StatusCode, body: impl Into<String>) -> Answer {
    whole(status, "text/plain; charset=utf-8", body.into())
}

/// A value.
pub(super) fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => whole(StatusCode::OK, "application/json", body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("encoding the answer: {error}")),
    }
}

/// There is nothing to be served.
pub(super) fn miss(miss: Miss) -> Answer {
    match miss {
        Miss::NotFound => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        Miss::Method(methods) => {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
            answer
        }
    }
}
