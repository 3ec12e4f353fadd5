//! Images pulled from a real registry, in a network namespace of the test's own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use runtime::images::{
    Credentials, Digest, ErrorKind, Image, ImageError, ImageRef, ImageStore, Phase, Platform, PullProgress,
    RegistryConfig,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::pod_network::Netns;
use tests::registry::{Answer, Asked, Layer, Registry, can_run, noise, serve, serve_broken};
use tests::trust::{Certificates, TokenSigner};

const REGISTRY: &str = "127.0.0.1:5000";

/// A namespace, a registry in it that speaks plain HTTP, and a store.
struct World {
    netns: Netns,
    folder: TempDir,
    registry: Registry,
    store: ImageStore,
}

impl World {
    fn new() -> Result<Self> {
        let (netns, folder) = (Netns::new()?, TempDir::new()?);
        let registry = Registry::start(&netns, REGISTRY, &folder.path().join("registry"), &json!({}))?;
        let store = ImageStore::open(&folder.path().join("store"), config(folder.path()))?;
        Ok(Self { netns, folder, registry, store })
    }

    /// Another registry on the same content.
    fn second(&self, address: &str, extra: &Value) -> Result<Registry> {
        Registry::start(&self.netns, address, &self.folder.path().join("registry"), extra)
    }

    fn hosts(&self, host: &str, text: &str) -> Result<()> {
        let folder = self.folder.path().join("certs.d").join(host);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join("hosts.toml"), text)?)
    }

    fn pull_with(&self, name: &str, credentials: Option<Credentials>) -> Result<Result<Image, ImageError>> {
        let name: ImageRef = name.parse()?;
        self.netns.block_on(self.store.pull(&name, credentials, &PullProgress::default()))
    }

    fn pull(&self, name: &str) -> Result<Image> {
        Ok(self.pull_with(name, None)??)
    }

    fn refusal(&self, name: &str, credentials: Option<Credentials>) -> Result<(ErrorKind, String)> {
        let error = self.pull_with(name, credentials)?.err().context("it was pulled")?;
        let chain = anyhow::Error::from(error);
        let kind = chain.downcast_ref::<ImageError>().context("an image error")?.kind();
        ensure!(self.unfinished()? == 0, "{} things are left in tmp", self.unfinished()?);
        Ok((kind, format!("{chain:#}")))
    }

    fn unfinished(&self) -> Result<usize> {
        Ok(fs::read_dir(self.folder.path().join("store/images/tmp"))?.count())
    }

    /// One file of the image's root file system.
    fn read(&self, image: &Image, file: &str) -> Result<Vec<u8>> {
        self.netns.block_on(async {
            let snapshot = self.store.prepare_snapshot("reader", image).await?;
            let content = fs::read(snapshot.root.join(file));
            self.store.remove_snapshot("reader").await?;
            // What the snapshot held is deleted in the background of this runtime, which ends with this block.
            let by = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while self.unfinished()? > 0 {
                ensure!(std::time::Instant::now() < by, "the snapshot's files are still there");
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
            Ok(content?)
        })?
    }
}

fn config(folder: &Path) -> RegistryConfig {
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() };
    RegistryConfig { config_folders: vec![folder.join("certs.d")], platform, layers_at_once: 3 }
}

fn user(password: &str) -> Option<Credentials> {
    Some(Credentials::Basic { username: "ann".into(), password: password.into() })
}

#[test]
fn an_image_of_three_compressions_is_pulled_over_plain_http() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    let layers = [Layer::plain("a", b"1"), Layer::gzip("b", b"2"), Layer::zstd("c", &noise(300_000))];
    world.registry.push_image("app", Some("v1"), "amd64", &layers)?;
    let name: ImageRef = "127.0.0.1:5000/app:v1".parse()?;
    let progress = PullProgress::default();
    let image = world.netns.block_on(world.store.pull(&name, None, &progress))??;
    assert_eq!(image.tags, ["127.0.0.1:5000/app:v1"]);
    assert_eq!(image.layers.len(), 3);
    let seen = progress.layers();
    assert!(seen.iter().all(|layer| layer.phase == Phase::Done && layer.done == layer.total));
    assert_eq!(progress.bytes().0, layers.iter().map(|layer| layer.blob.len() as u64).sum::<u64>());
    assert_eq!(
        [world.read(&image, "a")?, world.read(&image, "b")?, world.read(&image, "c")?],
        [b"1".to_vec(), b"2".to_vec(), noise(300_000)]
    );
    assert_eq!(world.pull(&image.digests[0])?.id, image.id);
    Ok(())
}

#[test]
fn of_an_index_this_machines_image_is_pulled_and_the_index_names_it() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    let mut manifests = Vec::new();
    for architecture in ["arm64", "amd64"] {
        let layer = Layer::gzip("arch", architecture.as_bytes());
        let mut manifest = world.registry.push_image("app", None, architecture, &[layer])?;
        manifest["platform"] = json!({"os": "linux", "architecture": architecture});
        manifests.push(manifest);
    }
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
    let index = world.registry.push_manifest("app", Some("v1"), &index)?;
    let image = world.pull("127.0.0.1:5000/app:v1")?;
    assert_eq!(world.read(&image, "arch")?, b"amd64");
    assert_eq!(image.digests, [format!("127.0.0.1:5000/app@{}", index["digest"].as_str().context("digest")?)]);
    Ok(())
}

#[test]
fn a_tag_that_moved_is_pulled_again_and_one_that_did_not_is_only_asked_about() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    serve(&world.netns, "127.0.0.1:6000", move |request: &Asked| {
        log.lock().unwrap().push(format!("{} {}", request.method, request.path));
        Answer::redirect(request, REGISTRY)
    })?;
    let take = || std::mem::take(&mut *asked.lock().unwrap());
    world.registry.push_image("app", Some("v1"), "amd64", &[Layer::gzip("a", b"old")])?;
    let old = world.pull("127.0.0.1:6000/app:v1")?;
    assert_eq!(take().len(), 3, "manifest, configuration, layer");
    assert_eq!(world.pull("127.0.0.1:6000/app:v1")?, old);
    assert_eq!(take(), ["HEAD /v2/app/manifests/v1"]);
    world.registry.push_image("app", Some("v1"), "amd64", &[Layer::gzip("a", b"new")])?;
    let new = world.pull("127.0.0.1:6000/app:v1")?;
    assert_eq!(world.read(&new, "a")?, b"new");
    assert_eq!(world.store.find(&old.id.to_string()).context("the old image")?.tags, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_registry_with_an_authority_of_its_own_is_believed_only_when_configured() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    world.registry.push_image("app", Some("v1"), "amd64", &[Layer::gzip("a", b"1")])?;
    let files = Certificates::make(world.folder.path())?;
    let _tls = world.second("127.0.0.1:5443", &json!({"tls": {"certificate": files.certificate, "key": files.key}}))?;
    world.hosts("localhost:5443", "server = 'https://localhost:5443'")?;
    let started = Instant::now();
    let (kind, text) = world.refusal("localhost:5443/app:v1", None)?;
    assert!(kind == ErrorKind::Unavailable && text.contains("certificate"), "{text}");
    assert!(started.elapsed() < Duration::from_millis(400), "a certificate that is not trusted was tried again");
    let trusted = format!("server = 'https://localhost:5443'\nca = '{}'", files.ca.display());
    world.hosts("localhost:5443", &trusted)?;
    assert_eq!(world.read(&world.pull("localhost:5443/app:v1")?, "a")?, b"1");
    world.hosts("127.0.0.1:5443", "server = 'https://127.0.0.1:5443'\nskip_verify = true")?;
    world.pull("127.0.0.1:5443/app:v1")?;
    Ok(())
}

#[test]
fn a_registry_that_wants_a_password_gets_the_right_one() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    world.registry.push_image("app", Some("v1"), "amd64", &[Layer::gzip("a", b"1")])?;
    let passwords = world.folder.path().join("htpasswd");
    let made = Command::new("htpasswd").args(["-nbB", "ann", "hunter2"]).output()?;
    fs::write(&passwords, made.stdout)?;
    let _basic =
        world.second("127.0.0.1:5001", &json!({"auth": {"htpasswd": {"realm": "test", "path": passwords}}}))?;
    for credentials in [None, user("wrong-secret"), Some(Credentials::IdentityToken("wrong-secret".into()))] {
        let (kind, text) = world.refusal("127.0.0.1:5001/app:v1", credentials)?;
        assert_eq!(kind, ErrorKind::Denied, "{text}");
        assert!(text.contains("refused access") && !text.contains("wrong-secret"), "{text}");
    }
    let image = world.pull_with("127.0.0.1:5001/app:v1", user("hunter2"))??;
    assert_eq!(world.read(&image, "a")?, b"1");
    Ok(())
}

#[test]
fn a_token_is_fetched_once_for_a_repository_with_password_and_with_refresh_token() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    for (repository, tag) in [("team/app", "v1"), ("team/app", "v2"), ("team/other", "v1")] {
        world.registry.push_image(repository, Some(tag), "amd64", &[Layer::gzip("a", tag.as_bytes())])?;
    }
    let signer = Arc::new(TokenSigner::new()?);
    let trusted = world.folder.path().join("token.pem");
    fs::write(&trusted, signer.certificate())?;
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let log = asked.clone();
    serve(&world.netns, "127.0.0.1:7000", move |request| {
        log.lock().unwrap().push(request.clone());
        // "ann:hunter2"; a refresh token in the form; nothing else.
        let known = request.headers.get("authorization").is_some_and(|value| value == "Basic YW5uOmh1bnRlcjI=")
            || request.body.contains("refresh_token=long-lived");
        if !known {
            return Answer::new(401, r#"{"details":"incorrect username or password"}"#);
        }
        let repository =
            if format!("{}{}", request.path, request.body).contains("other") { "team/other" } else { "team/app" };
        match signer.token("reg", repository) {
            Ok(token) => Answer::new(200, json!({"token": token, "expires_in": 300}).to_string()),
            Err(error) => Answer::new(500, error.to_string()),
        }
    })?;
    let token = json!({"realm": "http://127.0.0.1:7000/token", "service": "reg", "issuer": "longshore test",
        "rootcertbundle": trusted});
    let _bearer = world.second("127.0.0.1:5002", &json!({"auth": {"token": token}}))?;
    let (kind, text) = world.refusal("127.0.0.1:5002/team/app:v1", user("wrong"))?;
    assert_eq!(kind, ErrorKind::Denied);
    assert!(text.contains("127.0.0.1:7000/token refused access (incorrect username or password)"), "{text}");
    asked.lock().unwrap().clear();
    let image = world.pull_with("127.0.0.1:5002/team/app:v1", user("hunter2"))??;
    world.pull_with("127.0.0.1:5002/team/app:v2", user("hunter2"))??;
    assert_eq!(world.read(&image, "a")?, b"v1");
    let requests = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert!(requests[0].path.contains("scope=repository%3Ateam%2Fapp%3Apull"), "{}", requests[0].path);
    world.pull_with("127.0.0.1:5002/team/other:v1", Some(Credentials::IdentityToken("long-lived".into())))??;
    let requests = std::mem::take(&mut *asked.lock().unwrap());
    assert_eq!(requests.iter().map(|r| r.method.as_str()).collect::<Vec<_>>(), ["POST"]);
    let ready = TokenSigner::token(&TokenSigner::new()?, "reg", "team/app")?;
    let (kind, _) = world.refusal("127.0.0.1:5002/team/app:v1", Some(Credentials::RegistryToken(ready)))?;
    assert_eq!(kind, ErrorKind::Denied, "a token of a signer that is not trusted");
    Ok(())
}

#[test]
fn mirrors_are_asked_first_and_never_see_the_registrys_password() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    world.registry.push_image("library/app", Some("v1"), "amd64", &[Layer::gzip("a", b"1")])?;
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let log = asked.clone();
    serve(&world.netns, "127.0.0.1:6000", move |request: &Asked| {
        log.lock().unwrap().push(request.clone());
        match request.headers.get("authorization") {
            Some(_) => Answer::redirect(request, REGISTRY),
            None => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=x"),
        }
    })?;
    // Nobody listens at the first; the second wants a password that is not meant for it; the third is one.
    world.hosts(
        "docker.io",
        "server = 'http://127.0.0.1:1'\n[host.'http://127.0.0.1:2']\n[host.'http://127.0.0.1:6000']\n[host.'http://127.0.0.1:5000']",
    )?;
    let image = world.pull_with("app:v1", user("hunter2"))??;
    assert_eq!(image.tags, ["docker.io/library/app:v1"]);
    let requests = asked.lock().unwrap();
    assert!(!requests.is_empty());
    for request in requests.iter() {
        assert!(!request.headers.contains_key("authorization"), "{request:?}");
        assert!(request.path.ends_with("?ns=docker.io"), "{}", request.path);
    }
    Ok(())
}

#[test]
fn a_redirect_to_storage_carries_no_credentials() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    world.registry.push_image("app", Some("v1"), "amd64", &[Layer::gzip("a", b"1")])?;
    let at_storage: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let log = at_storage.clone();
    serve(&world.netns, "127.0.0.1:6001", move |request| {
        log.lock().unwrap().push(request.clone());
        Answer::redirect(request, REGISTRY)
    })?;
    serve(&world.netns, "127.0.0.1:6000", |request| match request.headers.get("authorization") {
        Some(_) => Answer::redirect(request, "127.0.0.1:6001"),
        None => Answer::new(401, "").with("WWW-Authenticate", "Basic realm=x"),
    })?;
    world.pull_with("127.0.0.1:6000/app:v1", user("hunter2"))??;
    let requests = at_storage.lock().unwrap();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|request| !request.headers.contains_key("authorization")));
    Ok(())
}

#[test]
fn a_transfer_that_breaks_is_taken_up_where_it_broke() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    let content = noise(2_000_000);
    world.registry.push_image("app", Some("v1"), "amd64", &[Layer::zstd("a", &content)])?;
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    serve_broken(&world.netns, "127.0.0.1:6001", REGISTRY, 600_000, 4)?;
    serve(&world.netns, "127.0.0.1:6000", move |request: &Asked| {
        let is_layer = request.path.contains("blobs");
        log.lock().unwrap().extend(request.headers.get("range").cloned());
        Answer::redirect(request, if is_layer { "127.0.0.1:6001" } else { REGISTRY })
    })?;
    let image = world.pull("127.0.0.1:6000/app:v1")?;
    assert_eq!(world.read(&image, "a")?, content);
    let ranges = asked.lock().unwrap();
    assert!(ranges.len() >= 3, "{ranges:?}");
    assert!(ranges.iter().all(|range| range.starts_with("bytes=") && range.ends_with('-')));
    Ok(())
}

#[test]
fn a_registry_that_is_busy_for_a_moment_is_asked_again_and_one_that_stays_so_is_given_up() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    world.registry.push_image("app", Some("v1"), "amd64", &[Layer::gzip("a", b"1")])?;
    let count = Arc::new(Mutex::new(0));
    serve(&world.netns, "127.0.0.1:6000", move |request: &Asked| {
        let mut count = count.lock().unwrap();
        *count += 1;
        match *count % 3 {
            0 => Answer::redirect(request, REGISTRY),
            1 => Answer::new(503, "").with("Retry-After", "0"),
            _ => Answer::new(429, "").with("Retry-After", "0"),
        }
    })?;
    world.pull("127.0.0.1:6000/app:v1")?;
    serve(&world.netns, "127.0.0.1:6001", |_| Answer::new(500, "<html>").with("Retry-After", "0"))?;
    let (kind, text) = world.refusal("127.0.0.1:6001/app:v1", None)?;
    assert_eq!(kind, ErrorKind::Unavailable);
    let expected = "pulling 127.0.0.1:6001/app:v1: http://127.0.0.1:6001/v2/app/manifests/v1 answered with status 500";
    assert_eq!(text, expected);
    Ok(())
}

#[test]
fn two_pulls_of_one_image_fetch_its_layers_once() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    let layers = [Layer::zstd("a", &noise(3_000_000)), Layer::gzip("b", &noise(1_000_000))];
    world.registry.push_image("app", Some("v1"), "amd64", &layers)?;
    world.registry.push_image("app", Some("v2"), "amd64", &[layers[0].clone(), Layer::gzip("c", b"3")])?;
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    serve(&world.netns, "127.0.0.1:6000", move |request: &Asked| {
        log.lock().unwrap().push(request.path.clone());
        Answer::redirect(request, REGISTRY)
    })?;
    let names: Vec<ImageRef> = ["v1", "v2", "v1"]
        .map(|tag| format!("127.0.0.1:6000/app:{tag}").parse())
        .into_iter()
        .collect::<Result<_, _>>()?;
    let progress = PullProgress::default();
    let pulls = names.iter().map(|name| world.store.pull(name, None, &progress));
    for pulled in world.netns.block_on(futures::future::join_all(pulls))? {
        pulled?;
    }
    let asked = asked.lock().unwrap();
    for layer in &layers {
        let path = format!("/v2/app/blobs/{}", Digest::sha256_of(&layer.blob));
        assert_eq!(asked.iter().filter(|asked| **asked == path).count(), 1, "{path}");
    }
    Ok(())
}

#[test]
fn what_is_missing_forged_or_too_long_is_refused_and_leaves_nothing() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    let (kind, text) = world.refusal("127.0.0.1:5000/missing:v1", None)?;
    assert_eq!(kind, ErrorKind::NotFound, "{text}");
    let (kind, text) = world.refusal("127.0.0.1:9/app", None)?;
    assert!(kind == ErrorKind::Unavailable && text.contains("no answer from http://127.0.0.1:9"), "{text}");
    let layer = Layer::gzip("a", &noise(100_000));
    world.registry.push_image("app", Some("v1"), "amd64", std::slice::from_ref(&layer))?;
    let blob = Digest::sha256_of(&layer.blob).to_string();
    let (mut forged, longer) = (layer.blob.clone(), [layer.blob.as_slice(), b"x"].concat());
    forged[9] ^= 1;
    for (address, body) in [("127.0.0.1:6000", forged), ("127.0.0.1:6001", longer)] {
        let blob = blob.clone();
        serve(&world.netns, address, move |request: &Asked| match request.path.contains(&blob) {
            true => Answer::new(200, body.clone()),
            false => Answer::redirect(request, REGISTRY),
        })?;
    }
    let (kind, text) = world.refusal("127.0.0.1:6000/app:v1", None)?;
    assert!(kind == ErrorKind::BadImage && text.contains("should have digest"), "{text}");
    let (_, text) = world.refusal("127.0.0.1:6001/app:v1", None)?;
    assert!(text.contains("longer than the"), "{text}");
    serve(&world.netns, "127.0.0.1:6002", |_| Answer::new(200, vec![b' '; 5 << 20]))?;
    let (_, text) = world.refusal("127.0.0.1:6002/app:v1", None)?;
    assert!(text.contains("longer than 4194304 bytes"), "{text}");
    let list = world.store.list();
    assert!(list.is_empty(), "{list:?}");
    Ok(())
}

#[test]
fn a_pull_that_is_given_up_leaves_nothing_and_can_be_made_again() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let world = World::new()?;
    let layers = [Layer::zstd("a", &noise(3_000_000))];
    world.registry.push_image("app", Some("v1"), "amd64", &layers)?;
    // The layer never comes to its end.
    let blob = Digest::sha256_of(&layers[0].blob).to_string();
    let (stuck, waiting) = std::sync::mpsc::channel::<()>();
    let waiting = Mutex::new(waiting);
    serve(&world.netns, "127.0.0.1:6000", move |request: &Asked| {
        if request.path.contains(&blob) {
            // Ends with the test.
            _ = waiting.lock().unwrap().recv();
        }
        Answer::redirect(request, REGISTRY)
    })?;
    let name: ImageRef = "127.0.0.1:6000/app:v1".parse()?;
    let progress = PullProgress::default();
    world.netns.block_on(async {
        let mut pull = Box::pin(world.store.pull(&name, None, &progress));
        while progress.layers().is_empty() {
            tokio::select! {
                _ = &mut pull => anyhow::bail!("it ended"),
                () = tokio::task::yield_now() => {}
            }
        }
        Ok(())
    })??;
    drop(stuck);
    assert_eq!(world.read(&world.pull("127.0.0.1:5000/app:v1")?, "a")?, noise(3_000_000));
    Ok(())
}
