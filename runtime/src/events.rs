//! What happens to containers, told to whoever listens.

use cri_proto::{Kind, Listing, RuntimeError, v1};
use futures::StreamExt;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

/// Events that a listener may be behind: a hundred pods coming and going at once. Whoever is slower is told so, and
/// has to list, instead of being told a story with holes.
const QUEUE: usize = 1024;

/// Where events are told.
#[derive(Clone, Debug)]
pub(crate) struct EventHub(broadcast::Sender<v1::ContainerEventResponse>);

impl Default for EventHub {
    fn default() -> Self {
        Self(broadcast::channel(QUEUE).0)
    }
}

impl EventHub {
    /// Tells everybody; nobody listening is fine.
    pub(crate) fn tell(&self, event: v1::ContainerEventResponse) {
        let _ = self.0.send(event);
    }

    /// Is there anybody to tell? Events are not put together for nobody.
    pub(crate) fn has_listeners(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// Everything from now on. The stream ends with an error when the listener is too slow.
    pub(crate) fn listen(&self) -> Listing<v1::ContainerEventResponse> {
        let mut ended = false;
        BroadcastStream::new(self.0.subscribe())
            .map(|event| {
                event.map_err(|BroadcastStreamRecvError::Lagged(missed)| {
                    let why = format!("{missed} container events were missed: list, then listen again");
                    RuntimeError::new("GetContainerEvents", Kind::ResourceExhausted, why)
                })
            })
            .take_while(move |event| {
                let go_on = !ended;
                ended = event.is_err();
                std::future::ready(go_on)
            })
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_that_is_too_slow_is_told_and_cut_off() {
        let hub = EventHub::default();
        let mut slow = hub.listen();
        for at in 0..(QUEUE as i64 + 2) {
            hub.tell(v1::ContainerEventResponse { created_at: at, ..Default::default() });
        }
        let error = slow.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind, Kind::ResourceExhausted);
        assert!(slow.next().await.is_none());
        assert!(!hub.has_listeners() || hub.0.receiver_count() == 1);
    }
}
