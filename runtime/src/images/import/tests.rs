use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use serde_json::json;

use super::*;
use crate::images::{ErrorKind, RegistryConfig};

fn store(root: &Path) -> ImageStore {
    let platform = Platform { os: "linux".into(), architecture: "amd64".into(), variant: String::new() };
    ImageStore::open(root, RegistryConfig { platform, ..RegistryConfig::default() }).unwrap()
}

/// A tar with one file.
fn layer(name: &str, content: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(architecture: &str, layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256_of(layer)).collect();
    let config = json!({"os": "linux", "architecture": architecture, "config": {"Cmd": ["sh"], "User": "web"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    config.to_string().into_bytes()
}

struct Layout(tempfile::TempDir);

impl Layout {
    fn new() -> Self {
        let layout = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(layout.0.path().join("blobs/sha256")).unwrap();
        fs::write(layout.0.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        layout
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn blob(&self, bytes: &[u8]) -> serde_json::Value {
        let digest = Digest::sha256_of(bytes);
        fs::write(self.path().join(blob_path(&digest)), bytes).unwrap();
        json!({"digest": digest, "size": bytes.len()})
    }

    fn manifest(&self, architecture: &str, layers: &[&[u8]]) -> serde_json::Value {
        let config = self.blob(&config(architecture, layers));
        let layers: Vec<_> = layers.iter().map(|layer| self.blob(&gzip(layer))).collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.blob(manifest.to_string().as_bytes())
    }

    fn index(&self, manifests: &[serde_json::Value]) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }

    /// The layout as an archive.
    fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_dir_all("./", self.path()).unwrap();
        tar.into_inner().unwrap()
    }
}

fn named(mut manifest: serde_json::Value, annotation: &str, name: &str) -> serde_json::Value {
    manifest["annotations"] = json!({annotation: name});
    manifest
}

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// Mounts the image, reads one file, and takes it down again.
async fn read_from(store: &ImageStore, image: &Image, file: &str) -> String {
    let snapshot = store.prepare_snapshot("reader", image).await.unwrap();
    let content = fs::read_to_string(snapshot.root.join(file));
    store.remove_snapshot("reader").await.unwrap();
    content.unwrap()
}

#[tokio::test]
async fn an_oci_layout_is_imported_as_folder_and_as_archive_plain_and_compressed() {
    let layout = Layout::new();
    let (lower, upper) = (layer("a", "low"), layer("b", "high"));
    let manifest = layout.manifest("amd64", &[&lower, &upper]);
    layout.index(&[named(manifest, REF_NAME, "docker.io/library/app:v1")]);
    let tmp = tempfile::tempdir().unwrap();
    let files = [
        ("plain.tar", layout.tar()),
        ("gzip.tgz", gzip(&layout.tar())),
        ("zstd", zstd::encode_all(&*layout.tar(), 1).unwrap()),
    ];
    let mut paths = vec![layout.path().to_owned()];
    for (name, bytes) in files {
        paths.push(tmp.path().join(name));
        fs::write(tmp.path().join(name), bytes).unwrap();
    }
    for (number, path) in paths.iter().enumerate() {
        let store = store(&tmp.path().join(format!("store{number}")));
        let images = store.import(path, None).await.unwrap();
        assert_eq!(images.len(), 1, "{path:?}");
        assert_eq!(images[0].tags, ["docker.io/library/app:v1"]);
        assert!(images[0].digests[0].starts_with("docker.io/library/app@sha256:"));
        assert_eq!(images[0].config.user, "web");
        assert_eq!(store.find("app:v1").as_ref(), Some(&images[0]));
        assert_eq!(store.find(&images[0].digests[0]).as_ref(), Some(&images[0]));
        assert_eq!(store.find(images[0].id.0.hex()).as_ref(), Some(&images[0]));
        assert_eq!(read_from(&store, &images[0], "a").await + &read_from(&store, &images[0], "b").await, "lowhigh");
    }
}

#[tokio::test]
async fn of_several_platforms_this_machines_is_taken() {
    let layout = Layout::new();
    let platform = |mut manifest: serde_json::Value, architecture: &str| {
        manifest["platform"] = json!({"os": "linux", "architecture": architecture});
        manifest
    };
    let (arm, amd) = (layer("a", "arm"), layer("a", "amd"));
    let manifests =
        [platform(layout.manifest("arm64", &[&arm]), "arm64"), platform(layout.manifest("amd64", &[&amd]), "amd64")];
    let index = layout.blob(json!({"schemaVersion": 2, "manifests": manifests}).to_string().as_bytes());
    layout.index(&[named(index, REF_NAME, "v2")]);
    let tmp = tempfile::tempdir().unwrap();
    let store = store(tmp.path());
    let images = store.import(layout.path(), Some(&"app".parse().unwrap())).await.unwrap();
    assert_eq!(images[0].tags, ["docker.io/library/app:latest"]);
    assert_eq!(read_from(&store, &images[0], "a").await, "amd");
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused() {
    let layout = Layout::new();
    layout.index(&[layout.manifest("s390x", &[&layer("a", "x")])]);
    let tmp = tempfile::tempdir().unwrap();
    let error = store(tmp.path()).import(layout.path(), None).await.unwrap_err();
    assert!(error.to_string().ends_with("is built for linux/s390x; this machine is linux/amd64"), "{error}");
    assert_eq!(error.kind(), ErrorKind::BadImage);
}

#[tokio::test]
async fn docker_archives_are_imported_with_their_tags_and_linked_layers() {
    let (lower, upper) = (layer("a", "low"), layer("b", "high"));
    let config = config("amd64", &[&lower, &upper]);
    let config_name = format!("{}.json", Digest::sha256_of(&config).hex());
    let manifest = json!([{"Config": config_name, "RepoTags": ["app:v1", "quay.io/x/app:v2"],
        "Layers": ["one/layer.tar", "two/layer.tar"]}]);
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    put("three/layer.tar", &lower);
    put("two/layer.tar", &upper);
    put(&config_name, &config);
    put("manifest.json", manifest.to_string().as_bytes());
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Symlink);
    link.set_size(0);
    tar.append_link(&mut link, "one/layer.tar", "../three/layer.tar").unwrap();
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("saved"), tar.into_inner().unwrap()).unwrap();
    let store = store(&tmp.path().join("store"));
    let images = store.import(&tmp.path().join("saved"), None).await.unwrap();
    assert_eq!(images[0].tags, ["docker.io/library/app:v1", "quay.io/x/app:v2"]);
    assert_eq!(images[0].id.0, Digest::sha256_of(&config));
    assert_eq!(read_from(&store, &images[0], "a").await, "low");
}

#[tokio::test]
async fn a_folder_becomes_an_image_with_owners_modes_links_and_no_second_copy() {
    let tmp = tempfile::tempdir().unwrap();
    let root = tmp.path().join("rootfs");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::write(root.join("bin/busybox"), "program").unwrap();
    fs::hard_link(root.join("bin/busybox"), root.join("bin/ls")).unwrap();
    symlink("busybox", root.join("bin/sh")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o4755)).unwrap();
    std::os::unix::fs::chown(root.join("bin"), Some(12), Some(34)).unwrap();
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    fs::create_dir(root.join("d".repeat(120))).unwrap();
    fs::write(root.join(&long), "long").unwrap();
    xattr::set(root.join(&long), "user.note", b"kept").unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o700)).unwrap();
    let store = store(&tmp.path().join("store"));
    let name: ImageRef = "busybox".parse().unwrap();
    let image = store.import(&root, Some(&name)).await.unwrap().remove(0);
    assert_eq!(store.import(&root, Some(&name)).await.unwrap(), std::slice::from_ref(&image));
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    let snapshot = store.prepare_snapshot("c", &image).await.unwrap();
    let meta = |name: &str| fs::symlink_metadata(snapshot.root.join(name)).unwrap();
    let seen = (
        meta("bin/busybox").mode() & 0o7777,
        meta("bin/busybox").ino() == meta("bin/ls").ino(),
        fs::read_link(snapshot.root.join("bin/sh")).unwrap(),
        (meta("bin").uid(), meta("bin").gid()),
        fs::read_to_string(snapshot.root.join(&long)).unwrap(),
        xattr::get(snapshot.root.join(&long), "user.note").unwrap(),
        meta("").mode() & 0o7777,
    );
    store.remove_snapshot("c").await.unwrap();
    assert_eq!(seen, (0o4755, true, "busybox".into(), (12, 34), "long".into(), Some(b"kept".to_vec()), 0o755));
}

async fn refusal(path: &Path, name: Option<&str>) -> String {
    let tmp = tempfile::tempdir().unwrap();
    let name = name.map(|name| name.parse().unwrap());
    let error = store(tmp.path()).import(path, name.as_ref()).await.unwrap_err();
    assert!(fs::read_dir(tmp.path().join("images/layers")).unwrap().next().is_none(), "a layer was left");
    assert!(fs::read_dir(tmp.path().join("images/tmp")).unwrap().next().is_none(), "something was left in tmp");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text.replace(&path.display().to_string(), "PATH")
}

#[tokio::test]
async fn what_is_no_image_is_refused_with_the_reason() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("x");
    assert_eq!(refusal(&path, None).await, "importing PATH: reading PATH: No such file or directory (os error 2)");
    fs::write(&path, "hello").unwrap();
    let not_tar = "importing PATH: it is neither a folder nor a tar archive, plain or compressed with gzip or zstd";
    assert!(refusal(&path, None).await.starts_with(not_tar));
    fs::write(&path, layer("a", "b")).unwrap();
    assert!(refusal(&path, None).await.starts_with("importing PATH: it is no image"));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(refusal(&path, Some("a")).await, "importing PATH: the folder is empty");
    assert_eq!(refusal(&path, None).await, "importing PATH: a root file system folder needs a name for its image");
}

#[tokio::test]
async fn a_forged_blob_is_refused_and_leaves_nothing() {
    let layout = Layout::new();
    let layers = layer("a", "b");
    layout.index(&[layout.manifest("amd64", &[&layers])]);
    let blob = layout.path().join(blob_path(&Digest::sha256_of(&gzip(&layers))));
    // A valid layer, but another one; once of the promised length, which only the digest tells apart.
    fs::write(&blob, gzip(&layer("a", "c"))).unwrap();
    assert!(refusal(layout.path(), None).await.contains("should have"));
    let mut forged = gzip(&layers);
    // The operating system's byte in gzip's header changes nothing in the content.
    forged[9] ^= 1;
    fs::write(&blob, forged).unwrap();
    assert!(refusal(layout.path(), None).await.contains("should have digest"));
    fs::write(&blob, [gzip(&layers), b"x".to_vec()].concat()).unwrap();
    let longer = refusal(layout.path(), None).await;
    assert!(longer.contains("bytes, but has") || longer.contains("reading the layer's data"), "{longer}");
    fs::write(&blob, &gzip(&layers)[..40]).unwrap();
    assert!(refusal(layout.path(), None).await.contains("reading the layer's data"));
    fs::remove_file(&blob).unwrap();
    assert!(refusal(layout.path(), None).await.ends_with("is missing"));
}

#[tokio::test]
async fn a_layer_of_another_size_than_promised_is_refused_though_its_digest_is_right() {
    let layout = Layout::new();
    let layers = layer("a", "b");
    let config = layout.blob(&config("amd64", &[&layers]));
    for off in [-1, 1] {
        let mut blob = layout.blob(&gzip(&layers));
        blob["size"] = (blob["size"].as_i64().unwrap() + off).into();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": [blob]});
        layout.index(&[layout.blob(manifest.to_string().as_bytes())]);
        let refused = refusal(layout.path(), None).await;
        assert!(refused.contains("bytes, but has") || refused.contains("reading the layer's data"), "{refused}");
    }
}

#[tokio::test]
async fn a_layout_cannot_reach_files_outside_it() {
    let layout = Layout::new();
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), layer("a", "b")).unwrap();
    layout.index(&[layout.manifest("amd64", &[&layer("a", "b")])]);
    let blob = layout.path().join(blob_path(&Digest::sha256_of(&gzip(&layer("a", "b")))));
    fs::remove_file(&blob).unwrap();
    symlink(secret.path(), &blob).unwrap();
    assert!(refusal(layout.path(), None).await.ends_with("is missing"));
}
