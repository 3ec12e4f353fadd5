//! Calls of the runtime, counted under the kubelet's names.

use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Observed, Observer, Runtime, RuntimeError};

use crate::metrics::{Figures, Metric, exponential};

const CALLS: Metric = Metric::counter("kubelet_runtime_operations_total", "Calls of the runtime, by their kind.");
const FAILED: Metric = Metric::counter("kubelet_runtime_operations_errors_total", "Those of them that failed.");
const TOOK: Metric = Metric::histogram(
    "kubelet_runtime_operations_duration_seconds",
    "How long calls of the runtime took, by their kind.",
    // The kubelet's begin at 5 ms, which is where those of a runtime in one's own process end.
    || [exponential(0.0002, 2.5, 3), exponential(0.005, 2.5, 14)].concat(),
);
const SANDBOX_TOOK: Metric =
    Metric::histogram("kubelet_run_podsandbox_duration_seconds", "How long it took to run a sandbox.", || {
        exponential(0.005, 2.0, 12)
    });
const SANDBOX_FAILED: Metric =
    Metric::counter("kubelet_run_podsandbox_errors_total", "Sandboxes that could not be run.");
const PULL_TOOK: Metric =
    Metric::histogram("kubelet_image_pull_duration_seconds", "How long pulls of images took.", || {
        vec![1., 5., 10., 20., 30., 60., 180., 300., 600., 900., 1_200., 1_800., 2_700., 3_600.]
    });

/// `runtime`, with its calls counted.
pub(super) fn counted(runtime: Arc<dyn Runtime>, figures: Figures) -> Arc<dyn Runtime> {
    Arc::new(Observed::new(runtime, Counted(figures)))
}

struct Counted(Figures);

impl Observer for Counted {
    fn called(&self, call: &'static str, took: Duration, error: Option<&RuntimeError>) {
        let (operation, failed) = (operation(call), error.is_some());
        let labels = [("operation_type", operation.as_str())];
        self.0.add(CALLS, &labels, 1.0);
        self.0.took(TOOK, &labels, took);
        if failed {
            self.0.add(FAILED, &labels, 1.0);
        }
        match call {
            "run_pod_sandbox" => {
                self.0.took(SANDBOX_TOOK, &[], took);
                self.0.add(SANDBOX_FAILED, &[], f64::from(u8::from(failed)));
            }
            "pull_image" if !failed => self.0.took(PULL_TOOK, &[], took),
            _ => {}
        }
    }
}

/// The kubelet's word for a call.
fn operation(call: &str) -> String {
    match call {
        "update_container_resources" => "update_container".to_owned(),
        call => call.replace("pod_sandbox", "podsandbox"),
    }
}

#[cfg(test)]
mod tests {
    use cri_proto::{Deadline, v1};

    use super::*;
    use crate::metrics::{Exposition, lint};
    use crate::testing::FakeRuntime;

    #[tokio::test]
    async fn calls_are_counted_with_their_failures() {
        let figures = Figures::default();
        let runtime = counted(Arc::new(FakeRuntime::default()), figures.clone());
        let request = || v1::VersionRequest { version: cri_proto::KUBELET_API_VERSION.to_owned() };
        for _ in 0..2 {
            runtime.version(request(), Deadline::never()).await.unwrap();
        }
        let nowhere = v1::StopPodSandboxRequest { pod_sandbox_id: "nowhere".to_owned() };
        let stopped = runtime.stop_pod_sandbox(nowhere, Deadline::never()).await;
        let unknown = v1::CheckpointContainerRequest::default();
        assert!(runtime.checkpoint_container(unknown, Deadline::never()).await.is_err());
        let mut text = Exposition::default();
        figures.write(&mut text);
        let text = text.finish();
        lint::check(&text);
        let has = |line: &str| assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        has("kubelet_runtime_operations_total{operation_type=\"version\"} 2");
        has("kubelet_runtime_operations_duration_seconds_count{operation_type=\"version\"} 2");
        has("kubelet_runtime_operations_errors_total{operation_type=\"checkpoint_container\"} 1");
        has("kubelet_runtime_operations_total{operation_type=\"stop_podsandbox\"} 1");
        assert_eq!(stopped.is_err(), text.contains("errors_total{operation_type=\"stop_podsandbox\"}"));
    }
}
