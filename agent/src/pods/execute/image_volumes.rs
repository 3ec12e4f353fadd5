use cri_proto::v1;
use k8s_openapi::api::core::v1::Container;

use super::Job;
use crate::events::EventType::Normal;
use crate::images::{ImageError, Keyring};
use crate::volumes::ImageVolume;

impl Job {
    /// The images that a container mounts as volumes, pulled like its own: what is wrong with one is a reason for the
    /// container to wait.
    pub(super) async fn image_volumes(&self, container: &Container, keyring: &Keyring) -> Result<(), ImageError> {
        let volumes = self.pod().spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mounted = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
        let images = volumes.filter(|volume| mounted(&volume.name)).filter_map(|volume| volume.image.as_ref());
        for image in images.map(ImageVolume::of) {
            let name = &image.reference;
            let sandbox = v1::PodSandboxConfig::default();
            let pulling = || {
                self.tools.say_of(self.pod(), &container.name, Normal, "Pulling", format!("Pulling image \"{name}\""))
            };
            let pulled = self.tools.images.ensure(name, image.policy, keyring, &sandbox, pulling).await;
            self.say_image(&container.name, name, &pulled);
            pulled?;
        }
        Ok(())
    }
}
