//! Probes: they look at containers and report; what follows is decided by `pods`.
//!
//! ```text
//! Probes::new(exec: Arc<dyn Exec>, Recorder) -> Probes       // Clone; Runtime implements Exec
//! track(pod: &Arc<Pod>, uid, Option<SavedProbes>) -> watch::Receiver<Arc<ProbeResults>>   // again: the same channel
//! container_running(uid, Running { container, id, started_at, restored, pod_ip })         // after postStart
//! container_stopped(uid, container)                          // results become Failure, as the kubelet's do
//! readiness_wanted(uid)                                      // a status was computed: unready ones are probed at once
//! terminating(uid)                                           // liveness and startup of regular containers end
//! forget(uid)                                                // all end
//! save(uid) -> Option<SavedProbes>                           // counters, to survive a restart of the agent
//! hook::http_get(..)                                         // lifecycle hooks share the HTTP prober
//! ```

mod results;

pub use results::{ContainerResults, Outcome, ProbeKind, ProbeResults};
