//! `GET /v1/logs`: a container's log as text.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Deserialize;

use super::exec::container_status;
use super::{Refusal, Surface, pods};
use crate::container_logs::{self, Choice};
use crate::names::ObjectName;

#[derive(Debug, Deserialize)]
pub(super) struct LogsQuery {
    namespace: String,
    pod: String,
    container: Option<String>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    previous: bool,
    #[serde(default)]
    timestamps: bool,
    tail: Option<u64>,
    since: Option<Timestamp>,
}

pub(super) async fn read(State(surface): State<Surface>, Query(query): Query<LogsQuery>) -> Result<Response, Refusal> {
    let name = ObjectName::new(&query.namespace, &query.pod);
    let view = pods::find(&surface, &name)?;
    let status = container_status(&view, query.container.as_deref())?;
    let instance = container_logs::instance(status, query.previous, &query.pod).map_err(Refusal::bad)?;
    let choice = Choice { tail: query.tail, since: query.since, timestamps: query.timestamps, ..Choice::default() };
    let which = (status.name.as_str(), instance);
    let lines = container_logs::open(&surface.logs, &surface.views, &view, which, choice, query.follow).await;
    Ok(Body::from_stream(lines.map_err(|error| Refusal::failed(&error))?).into_response())
}
