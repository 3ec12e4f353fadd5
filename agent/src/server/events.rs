use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::BroadcastStream;

use super::Surface;

#[derive(Debug, Deserialize)]
pub(super) struct EventsQuery {
    #[serde(default)]
    follow: bool,
}

/// What is kept, and with `follow` what comes.
pub(super) async fn list(State(surface): State<Surface>, Query(query): Query<EventsQuery>) -> Response {
    // Listening starts before the look back: an event between the two is told twice rather than never.
    let live = surface.recorder.listen();
    let past = stream::iter(surface.recorder.recent()).map(|event| line(&event));
    if query.follow {
        // A follower that lags skips what it missed; `events` without --follow still has it.
        let live = BroadcastStream::new(live).filter_map(|event| async { event.ok().map(|event| line(&event)) });
        return Body::from_stream(past.chain(live)).into_response();
    }
    Body::from_stream(past).into_response()
}

/// One value as one line.
pub(super) fn line(value: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    Ok(text.into())
}
