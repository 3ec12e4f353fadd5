use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use cri_proto::{Deadline, Kind, Runtime, RuntimeError, v1};
use k8s_openapi::api::core::v1::Container;
use tokio::sync::Semaphore;

use super::Keyring;
use crate::container::ImageFacts;

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Ask the registry every time.
    Always,
    /// Only what is not here.
    IfNotPresent,
    /// Nothing is pulled.
    Never,
}

impl Policy {
    /// The container's policy; an image without a tag, or `latest`, is asked for every time.
    pub fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            _ if with_default_tag(container.image.as_deref().unwrap_or_default()).ends_with(":latest") => Self::Always,
            _ => Self::IfNotPresent,
        }
    }
}

/// First words of runtimes' messages that the kubelet makes reasons of (`cri-api/pkg/errors`).
const UNAVAILABLE: &str = "RegistryUnavailable";
const UNSIGNED: &str = "SignatureValidationFailed";

/// Why there is no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// No image can have this name.
    #[error("Failed to apply default image tag \"{0}\": couldn't parse image name \"{0}\": invalid reference format")]
    Name(String),
    /// The runtime could not say whether it has the image.
    // The kubelet quotes the image's id, which nobody knows yet: the quotes are empty.
    #[error("Failed to inspect image \"\"")]
    Inspect {
        /// The image.
        image: String,
        /// Why.
        source: RuntimeError,
    },
    /// It may not be pulled and is not here.
    #[error("Container image \"{0}\" is not present with pull policy of Never")]
    NeverPull(String),
    /// It could not be pulled.
    #[error(transparent)]
    Pull {
        /// The last try's error.
        source: RuntimeError,
    },
}

impl ImageError {
    /// The message that the container's status shows: the error with its causes, in the kubelet's words where the
    /// runtime's first word is one that the kubelet knows.
    pub fn message(&self, name: &str) -> String {
        let Self::Pull { source } = self else { return crate::errors::chain(self) };
        let known = [(UNAVAILABLE, "the registry is unavailable"), (UNSIGNED, "the signature validation failed")];
        let told = known.iter().find_map(|(word, why)| {
            let rest = source.message.strip_prefix(word)?;
            Some(format!("image pull failed for {name} because {why}{rest}"))
        });
        told.unwrap_or_else(|| source.message.clone())
    }

    /// The reason that the container's status shows.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Name(_) => "InvalidImageName",
            Self::Inspect { .. } => "ImageInspectError",
            Self::NeverPull(_) => "ErrImageNeverPull",
            Self::Pull { source } if source.message.starts_with(UNAVAILABLE) => UNAVAILABLE,
            Self::Pull { source } if source.message.starts_with(UNSIGNED) => UNSIGNED,
            Self::Pull { .. } => "ErrImagePull",
        }
    }
}

/// How an image came to be here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// It was here.
    Present(ImageFacts),
    /// It was pulled.
    Now {
        /// The image.
        facts: ImageFacts,
        /// How long the pull itself took.
        took: Duration,
        /// The same, with the wait for its turn.
        with_waiting: Duration,
    },
}

/// Counts one more, for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Locks = Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>;

/// Makes sure of images; clones share the bound on parallel pulls.
#[derive(Clone)]
pub struct Images {
    runtime: Arc<dyn Runtime>,
    turns: Arc<Semaphore>,
    /// Fifty pods with one image pull it once.
    same: Arc<Locks>,
    /// Pulls that were asked for and have not ended.
    wanted: Arc<AtomicUsize>,
    limit: Duration,
}

impl Images {
    /// At most `parallel` pulls at a time; `limit` is for calls that are not pulls.
    pub fn new(runtime: Arc<dyn Runtime>, parallel: usize, limit: Duration) -> Self {
        Self {
            runtime,
            turns: Arc::new(Semaphore::new(parallel.max(1))),
            same: Arc::default(),
            wanted: Arc::default(),
            limit,
        }
    }

    /// The image, pulled where the policy says so. `pulling` is called when a pull is about to begin.
    ///
    /// # Errors
    /// [`ImageError`]; with several matching credentials that of the last one.
    pub async fn ensure(
        &self,
        name: &str,
        policy: Policy,
        keyring: &Keyring,
        sandbox: &v1::PodSandboxConfig,
        pulling: impl Fn() + Send + Sync,
    ) -> Result<Pulled, ImageError> {
        let image = checked(name)?;
        match (policy, self.find(&image).await?) {
            (Policy::Never | Policy::IfNotPresent, Some(facts)) => return Ok(Pulled::Present(facts)),
            // The API's default for `latest` is Always. Of an image that was imported here there is nothing newer to ask
            // for; a registry that happens to know the name would hand out another one, and most often none does.
            (Policy::Always, Some(facts)) if facts.by_hand => return Ok(Pulled::Present(facts)),
            (Policy::Never, None) => return Err(ImageError::NeverPull(name.to_owned())),
            (Policy::Always, _) | (_, None) => {}
        }
        let (asked, _counted) = (Instant::now(), Counted::new(&self.wanted));
        let same = self.lock_of(&image);
        let _alone = same.lock().await;
        if policy == Policy::IfNotPresent
            && let Some(facts) = self.find(&image).await?
        {
            return Ok(Pulled::Present(facts));
        }
        // Closed never: the semaphore lives as long as we do.
        let _turn = self.turns.acquire().await;
        pulling();
        let began = Instant::now();
        let facts = self.pull(&image, keyring, sandbox).await?;
        Ok(Pulled::Now { facts, took: began.elapsed(), with_waiting: asked.elapsed() })
    }

    /// How many pulls were asked for and have not ended, those that wait for their turn among them.
    pub(crate) fn wanted(&self) -> usize {
        self.wanted.load(Ordering::Relaxed)
    }

    /// The image as the runtime has it, if it has it.
    ///
    /// # Errors
    /// [`ImageError::Inspect`].
    pub async fn find(&self, image: &str) -> Result<Option<ImageFacts>, ImageError> {
        let request = v1::ImageStatusRequest { image: Some(spec(image)), verbose: false };
        match self.runtime.image_status(request, Deadline::within(self.limit)).await {
            Ok(answer) => Ok(answer.image.map(facts)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(source) => Err(ImageError::Inspect { image: image.to_owned(), source }),
        }
    }

    async fn pull(
        &self,
        image: &str,
        keyring: &Keyring,
        sandbox: &v1::PodSandboxConfig,
    ) -> Result<ImageFacts, ImageError> {
        let mut tries: Vec<_> = keyring.matching(image).into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = None;
        for auth in tries {
            let sandbox_config = Some(sandbox.clone());
            let request = v1::PullImageRequest { image: Some(spec(image)), auth, sandbox_config };
            match self.runtime.pull_image(request, Deadline::never()).await {
                Ok(answer) => return self.pulled(image, answer.image_ref).await,
                Err(error) => last = Some(error),
            }
        }
        let nothing = || RuntimeError::new("PullImage", Kind::Internal, "nothing was tried");
        Err(ImageError::Pull { source: last.unwrap_or_else(nothing) })
    }

    async fn pulled(&self, image: &str, reference: String) -> Result<ImageFacts, ImageError> {
        let found = self.find(&reference).await?;
        let found = match found {
            Some(found) => Some(found),
            None => self.find(image).await?,
        };
        Ok(found.unwrap_or(ImageFacts { reference, ..ImageFacts::default() }))
    }

    fn lock_of(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.same.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(image).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(image.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

fn spec(image: &str) -> v1::ImageSpec {
    v1::ImageSpec { image: image.to_owned(), user_specified_image: image.to_owned(), ..Default::default() }
}

fn facts(image: v1::Image) -> ImageFacts {
    ImageFacts {
        reference: image.id,
        uid: image.uid.map(|uid| uid.value),
        username: image.username,
        size: image.size,
        by_hand: image.repo_digests.is_empty(),
    }
}

/// The name with `:latest` where it has neither tag nor digest.
pub fn with_default_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or_default();
    if last.contains([':', '@']) { name.to_owned() } else { format!("{name}:latest") }
}

fn checked(name: &str) -> Result<String, ImageError> {
    let bad = || ImageError::Name(name.to_owned());
    let (path, digest) = name.split_once('@').map_or((name, None), |(path, digest)| (path, Some(digest)));
    let (path, tag) = match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (path, None),
    };
    let (host, repository) = match path.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), rest),
        _ => (None, path),
    };
    let good = host.is_none_or(is_host)
        && repository.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest)
        && path.len() <= 255;
    if good { Ok(with_default_tag(name)) } else { Err(bad()) }
}

fn is_host(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]_".contains(&b))
}

fn is_component(part: &str) -> bool {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    edge(part.bytes().next())
        && edge(part.bytes().last())
        && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(kind, hex)| {
        !kind.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_get_a_tag_where_they_have_none() {
        let digest = format!("busybox@sha256:{}", "a".repeat(64));
        for (name, want) in [
            ("busybox", "busybox:latest"),
            ("busybox:1", "busybox:1"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            (&digest, &digest),
            ("registry.example/x:v1.0-rc_1", "registry.example/x:v1.0-rc_1"),
        ] {
            assert_eq!(checked(name).as_deref(), Ok(want));
        }
    }

    #[test]
    fn what_no_image_can_be_called_is_refused() {
        for bad in ["", "Busybox", "a b", "a:", ":x", "a//b", "a@sha256:xyz", "-a", "a:b c", "http://a/b"] {
            assert_eq!(checked(bad), Err(ImageError::Name(bad.to_owned())), "{bad}");
        }
    }
}
