//! Making a container: its record first, then root file system, cgroup and plan. Nothing of it runs yet.

use std::sync::Arc;

use cri_proto::Kind;
use cri_proto::v1::{self, ContainerEventType, NamespaceMode};
use tracing::warn;

use super::{Container, image_mounts, plan, remove};
use crate::blocking::{blocking, now_ns};
use crate::cgroups::{CgroupPath, Resources};
use crate::core::Core;
use crate::error::{Doing, LifeError, chain};
use crate::ids::ContainerId;
use crate::images::Image;
use crate::sandbox::Sandbox;
use crate::signals;
use crate::state::files::make_dir;
use crate::state::records::{self, ContainerPhase, ContainerRecord, SandboxPhase, UserRecord};

/// Makes the container that `config` describes in `sandbox`.
///
/// # Errors
/// The first step that failed; nothing of the container is left then, or what is left is taken away at the next start.
pub(crate) async fn create(
    core: &Arc<Core>,
    sandbox: &Arc<Sandbox>,
    config: v1::ContainerConfig,
) -> Result<Arc<Container>, LifeError> {
    let _changes = sandbox.changes.read().await;
    let name = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
    let doing = || format!("making container {name} in sandbox {}", sandbox.id);
    if sandbox.phase() != SandboxPhase::Ready {
        return Err(LifeError::new(Kind::FailedPrecondition, "the sandbox is not ready")).doing(doing);
    }
    let image = find_image(core, &config).doing(doing)?;
    let container = Arc::new(begin(core, sandbox, config, &image).await.doing(doing)?);
    match fill(core, sandbox, &container, &image).await {
        Ok(()) => {
            core.add_container(sandbox, &container);
            core.tell(ContainerEventType::ContainerCreatedEvent, sandbox, &container);
            Ok(container)
        }
        Err(error) => {
            if let Err(left) = remove::give_back(core, sandbox, &container).await {
                let error = chain(&left);
                warn!(container = %container.id, error, "a half-made container could not be taken away yet");
            }
            Err(error).doing(doing)
        }
    }
}

fn find_image(core: &Core, config: &v1::ContainerConfig) -> Result<Image, LifeError> {
    let wanted = config.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
    core.images
        .find(wanted)
        .ok_or_else(|| LifeError::new(Kind::NotFound, format!("image {wanted:?} is not here: pull or import it first")))
}

/// Writes down what is going to be made.
async fn begin(
    core: &Arc<Core>,
    sandbox: &Arc<Sandbox>,
    config: v1::ContainerConfig,
    image: &Image,
) -> Result<Container, LifeError> {
    let id = ContainerId::random().doing(|| "choosing an id".into())?;
    let record = ContainerRecord {
        phase: ContainerPhase::Creating,
        created_at: now_ns(),
        cgroup: sandbox.record().cgroup_of(&id),
        image_ref: image_ref(image),
        image_id: image.id.to_string(),
        user: UserRecord::default(),
        stop_signal: stop_signal(&config, image),
        own_pid_namespace: plan::options(&config).pid() == NamespaceMode::Container,
        id,
    };
    let (dir, sandbox) = (core.layout.sandbox(&sandbox.id).container(&record.id), sandbox.id.clone());
    blocking(move || {
        make_dir(dir.path())?;
        records::save(&dir.state(), &record)?;
        records::save_message(&dir.config(), &config)?;
        Ok(Container::new(dir, sandbox, config, record))
    })
    .await
    .map_err(|error: crate::state::files::FileError| LifeError::because("writing its record", error))
}

/// What `ContainerStatus` reports as the image: a digest by which it could be pulled again, else its id.
fn image_ref(image: &Image) -> String {
    image.digests.first().cloned().unwrap_or_else(|| image.id.to_string())
}

fn stop_signal(config: &v1::ContainerConfig, image: &Image) -> i32 {
    let of_image = || image.config.stop_signal.as_deref().and_then(signals::number);
    signals::from_cri(config.stop_signal()).or_else(of_image).unwrap_or(signals::SIGTERM)
}

async fn fill(
    core: &Arc<Core>,
    sandbox: &Arc<Sandbox>,
    container: &Arc<Container>,
    image: &Image,
) -> Result<(), LifeError> {
    let limits = limit(core, container);
    let snapshot = core.images.prepare_snapshot_for(container.id.as_str(), image, sandbox.users());
    let (snapshot, limited) = tokio::join!(snapshot, limits);
    let snapshot = snapshot.doing(|| "preparing its root file system".into())?;
    limited?;
    let images = image_mounts::prepare(core, container).await?;
    let (core, sandbox, container, image) = (core.clone(), sandbox.clone(), container.clone(), image.clone());
    blocking(move || plan::plan(&core, &sandbox, &container, &image, &snapshot, &images)).await
}

/// Its cgroup with its limits; device rules follow from the spec.
async fn limit(core: &Arc<Core>, container: &Arc<Container>) -> Result<(), LifeError> {
    let (core, container) = (core.clone(), container.clone());
    blocking(move || {
        let config = container.config();
        let wanted = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let limits = wanted.map(Resources::from).unwrap_or_default();
        CgroupPath::new(&container.record().cgroup).and_then(|path| core.cgroups.create(&path, &limits))
    })
    .await
    .doing(|| "making its cgroup".into())
}
