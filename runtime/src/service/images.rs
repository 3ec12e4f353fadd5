//! Calls about images.

use std::collections::HashMap;

use cri_proto::{Kind, v1};

use crate::Embedded;
use crate::blocking::now_ns;
use crate::error::{Doing, LifeError};
use crate::images::{BadAuth, Credentials, Image, ImageRef, PullProgress};

impl Embedded {
    pub(super) fn list_stored_images(&self, filter: Option<&v1::ImageFilter>) -> Vec<v1::Image> {
        let wanted =
            filter.and_then(|filter| filter.image.as_ref()).map(|spec| spec.image.as_str()).unwrap_or_default();
        match wanted {
            "" => self.core.images.list().iter().map(image).collect(),
            name => self.core.images.find(name).iter().map(image).collect(),
        }
    }

    /// An image that is not here has no status; that is no error.
    pub(super) fn status_of_image(&self, request: &v1::ImageStatusRequest) -> v1::ImageStatusResponse {
        let found = self.core.images.find(name_of(request.image.as_ref()));
        let info = match (&found, request.verbose) {
            (Some(found), true) => HashMap::from([("config".to_owned(), found.raw_config.clone())]),
            _ => HashMap::new(),
        };
        v1::ImageStatusResponse { image: found.as_ref().map(image), info }
    }

    pub(super) async fn pull(&self, request: v1::PullImageRequest) -> Result<v1::PullImageResponse, LifeError> {
        let name = name_of(request.image.as_ref());
        let doing = || format!("pulling image {name:?}");
        let reference: ImageRef = name.parse().map_err(|error| invalid(&error)).doing(doing)?;
        let bad_auth = |error: BadAuth| LifeError::new(Kind::InvalidArgument, error.to_string());
        let credentials = match &request.auth {
            Some(auth) => Credentials::from_cri(auth, reference.host()).map_err(bad_auth).doing(doing)?,
            None => None,
        };
        let progress = PullProgress::default();
        let _listed = self.pulls.list(name, &progress);
        let pulled = self.core.images.pull(&reference, credentials, &progress).await.doing(doing)?;
        let image_ref = pulled.digests.first().cloned().unwrap_or_else(|| pulled.id.to_string());
        Ok(v1::PullImageResponse { image_ref })
    }

    pub(super) async fn remove_stored_image(
        &self,
        request: v1::RemoveImageRequest,
    ) -> Result<v1::RemoveImageResponse, LifeError> {
        let name = name_of(request.image.as_ref());
        self.core.images.remove(name).await.doing(|| format!("removing image {name:?}"))?;
        Ok(v1::RemoveImageResponse {})
    }

    pub(super) async fn say_image_fs(&self) -> Result<v1::ImageFsInfoResponse, LifeError> {
        let info = self.core.images.fs_info().doing(|| "measuring the image store".into())?;
        let usage = v1::FilesystemUsage {
            timestamp: now_ns(),
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: info.mountpoint.display().to_string() }),
            used_bytes: Some(v1::UInt64Value { value: info.used_bytes }),
            inodes_used: Some(v1::UInt64Value { value: info.inodes_used }),
        };
        // Writable layers are on the same disk as the images.
        Ok(v1::ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] })
    }
}

fn invalid(error: &dyn std::error::Error) -> LifeError {
    LifeError::new(Kind::InvalidArgument, error.to_string())
}

fn name_of(spec: Option<&v1::ImageSpec>) -> &str {
    spec.map(|spec| spec.image.as_str()).unwrap_or_default()
}

fn image(image: &Image) -> v1::Image {
    let (uid, username) = user(&image.config.user);
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.tags.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        uid,
        username,
        spec: Some(v1::ImageSpec { image: image.id.to_string(), ..Default::default() }),
        pinned: image.pinned,
    }
}

/// The user part of `USER`: a number where it is one, which the kubelet needs for runAsNonRoot, else a name.
fn user(user: &str) -> (Option<v1::Int64Value>, String) {
    let user = user.split(':').next().unwrap_or_default();
    match (user, user.parse::<u32>()) {
        ("", _) => (None, String::new()),
        (_, Ok(uid)) => (Some(v1::Int64Value { value: uid.into() }), String::new()),
        (name, Err(_)) => (None, name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numeric_user_is_told_as_a_number() {
        assert_eq!(user("1000:10"), (Some(v1::Int64Value { value: 1000 }), String::new()));
        assert_eq!(user("app"), (None, "app".to_owned()));
        assert_eq!(user(""), (None, String::new()));
    }
}
