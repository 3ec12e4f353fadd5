use std::sync::Arc;
use std::time::Duration;

use cri_proto::{Kind, RuntimeError, v1};

use super::*;
use crate::testing::FakeRuntime;

const IMAGE: &str = "registry.example/app:1";

fn images(runtime: &Arc<FakeRuntime>, parallel: usize) -> Images {
    Images::new(Arc::clone(runtime) as _, parallel, Duration::from_secs(10))
}

async fn ensure(images: &Images, image: &str, policy: Policy) -> Result<Pulled, ImageError> {
    images.ensure(image, policy, &Keyring::default(), &v1::PodSandboxConfig::default(), || {}).await
}

#[tokio::test]
async fn the_policy_decides_about_pulls() {
    let runtime = Arc::new(FakeRuntime::default());
    let images = images(&runtime, 1);
    assert!(matches!(ensure(&images, IMAGE, Policy::IfNotPresent).await, Ok(Pulled::Present(_))));
    assert!(matches!(ensure(&images, IMAGE, Policy::Never).await, Ok(Pulled::Present(_))));
    assert_eq!(runtime.count(&format!("PullImage {IMAGE}")), 0);
    assert!(matches!(ensure(&images, IMAGE, Policy::Always).await, Ok(Pulled::Now { .. })));
    runtime.lose_image(IMAGE);
    assert_eq!(ensure(&images, IMAGE, Policy::Never).await, Err(ImageError::NeverPull(IMAGE.to_owned())));
    assert!(matches!(ensure(&images, IMAGE, Policy::IfNotPresent).await, Ok(Pulled::Now { .. })));
    assert_eq!(runtime.count(&format!("PullImage {IMAGE}")), 2);
}

#[tokio::test]
async fn an_imported_image_is_not_asked_for_in_a_registry() {
    let runtime = Arc::new(FakeRuntime::default());
    runtime.import_image(IMAGE);
    assert!(matches!(ensure(&images(&runtime, 1), IMAGE, Policy::Always).await, Ok(Pulled::Present(_))));
    assert_eq!(runtime.count(&format!("PullImage {IMAGE}")), 0);
}

#[tokio::test]
async fn pods_with_one_image_pull_it_once() {
    let runtime = Arc::new(FakeRuntime::default());
    runtime.lose_image(IMAGE);
    let images = images(&runtime, 4);
    let all = futures::future::join_all((0..20).map(|_| ensure(&images, IMAGE, Policy::IfNotPresent))).await;
    assert!(all.iter().all(Result::is_ok));
    assert_eq!(runtime.count(&format!("PullImage {IMAGE}")), 1);
}

#[tokio::test]
async fn no_more_than_the_bound_are_pulled_at_a_time() {
    let runtime = Arc::new(FakeRuntime::default());
    let names: Vec<_> = (0..3).map(|n| format!("registry.example/app:{n}")).collect();
    for name in &names {
        runtime.lose_image(name);
        runtime.hang(&format!("PullImage {name}"));
    }
    let images = images(&runtime, 2);
    let pulls: Vec<_> = names
        .iter()
        .map(|name| {
            let (images, name) = (images.clone(), name.clone());
            tokio::spawn(async move { ensure(&images, &name, Policy::IfNotPresent).await })
        })
        .collect();
    let begun = |runtime: &FakeRuntime| runtime.calls().iter().filter(|call| call.starts_with("PullImage")).count();
    runtime.until("two begun", |runtime| begun(runtime) == 2).await;
    // The third has had every chance to begin: the others are stuck, and nothing else is left to run.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(begun(&runtime), 2);
    names.iter().for_each(|name| runtime.let_go(&format!("PullImage {name}")));
    for pull in pulls {
        assert!(pull.await.unwrap().is_ok());
    }
    assert_eq!(begun(&runtime), 3);
}

#[tokio::test]
async fn a_failed_pull_tells_the_registrys_words() {
    let runtime = Arc::new(FakeRuntime::default());
    runtime.lose_image(IMAGE);
    let refused = RuntimeError::new("PullImage", Kind::PermissionDenied, "denied");
    runtime.fail(&format!("PullImage {IMAGE}"), 1, refused);
    let error = ensure(&images(&runtime, 1), IMAGE, Policy::IfNotPresent).await.unwrap_err();
    assert_eq!((error.reason(), error.to_string().as_str()), ("ErrImagePull", "denied"));
}

#[test]
fn what_the_kubelet_knows_of_runtimes_errors_becomes_a_reason() {
    let told = |message: &str| {
        let error = ImageError::Pull { source: RuntimeError::new("PullImage", Kind::Internal, message) };
        format!("{}: {}", error.reason(), error.message(IMAGE))
    };
    assert_eq!(
        told("RegistryUnavailable: no route"),
        "RegistryUnavailable: image pull failed for registry.example/app:1 because the registry is unavailable: no route"
    );
    assert_eq!(
        told("SignatureValidationFailed: no key"),
        "SignatureValidationFailed: image pull failed for registry.example/app:1 because the signature validation failed: no key"
    );
    assert_eq!(told("denied"), "ErrImagePull: denied");
}
