//! A real registry (Debian's `docker-registry`) for one test, content for it, and small servers that do what a real one
//! cannot be made to: redirect, fail for a while, break off.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use runtime::images::Digest;
use serde_json::{Value, json};

use crate::pod_network::Netns;

/// Whether a registry can be started. At a desk without the package it says so; in CI that is a failure.
///
/// # Panics
/// In CI without the package.
#[must_use]
pub fn can_run() -> bool {
    let installed = ["docker-registry", "htpasswd"].iter().all(|program| {
        Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    assert!(installed || std::env::var_os("CI").is_none(), "docker-registry and apache2-utils are needed");
    if !installed {
        _ = writeln!(std::io::stderr(), "skipped: docker-registry and apache2-utils are not installed");
    }
    installed && crate::pod_network::can_run()
}

/// A running registry; it ends when this is dropped, and with the test's process.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    netns: Netns,
    address: String,
}

impl Registry {
    /// Starts one in `netns` at `address` with its data below `storage`. `extra` is put into its configuration: `http`
    /// settings such as `tls`, and `auth`.
    ///
    /// # Errors
    /// It cannot be started, or ends at once.
    pub fn start(netns: &Netns, address: &str, storage: &Path, extra: &Value) -> Result<Self> {
        let mut http = json!({"addr": address});
        if let (Some(http), Some(tls)) = (http.as_object_mut(), extra.get("tls")) {
            http.insert("tls".into(), tls.clone());
        }
        let mut config = json!({"version": "0.1", "log": {"level": "info"}, "http": http,
            "storage": {"filesystem": {"rootdirectory": storage}}});
        if let Some(auth) = extra.get("auth") {
            config["auth"] = auth.clone();
        }
        // JSON is YAML.
        let file = storage.join(format!("{}.yml", address.replace(':', "-")));
        std::fs::create_dir_all(storage)?;
        std::fs::write(&file, config.to_string())?;
        // Not by `Netns::run`: the signal comes when the thread that started it ends, and that one does at once.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", netns.path()));
        command.args(["setpriv", "--pdeathsig", "KILL", "docker-registry", "serve"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().context("starting docker-registry")?;
        let mut registry = Self { child, netns: netns.clone(), address: address.to_owned() };
        registry.wait_until_it_listens()?;
        Ok(registry)
    }

    fn wait_until_it_listens(&mut self) -> Result<()> {
        let log = self.child.stderr.take().context("its log")?;
        let mut lines = BufReader::new(log).lines();
        let mut seen = String::new();
        for line in lines.by_ref() {
            let line = line?;
            if line.contains("listening on") {
                // Read on, or it stands still when the pipe is full.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(());
            }
            seen += &(line + "\n");
        }
        bail!("docker-registry ended: {seen}")
    }

    /// Uploads a blob; the registry must speak plain HTTP and ask for nothing.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn push_blob(&self, repository: &str, bytes: &[u8]) -> Result<Value> {
        let digest = Digest::sha256_of(bytes);
        let started = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"")?;
        let location = started.header("location").context("no place to upload to")?;
        let path = location.split_once("://").map_or(location, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
        let done = self.ask("PUT", &format!("{path}&digest={digest}"), "application/octet-stream", bytes)?;
        ensure!(done.status == 201, "uploading a blob: {}", done.status);
        Ok(json!({"digest": digest, "size": bytes.len()}))
    }

    /// Uploads a manifest or index under a tag or its digest.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn push_manifest(&self, repository: &str, tag: Option<&str>, manifest: &Value) -> Result<Value> {
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::sha256_of(&bytes);
        let kind = manifest["mediaType"].as_str().context("a manifest without media type")?;
        let path = format!("/v2/{repository}/manifests/{}", tag.unwrap_or(digest.as_str()));
        let answer = self.ask("PUT", &path, kind, &bytes)?;
        ensure!(
            answer.status == 201,
            "uploading a manifest: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        Ok(json!({"mediaType": kind, "digest": digest, "size": bytes.len()}))
    }

    /// Uploads an image of these layers (plain tars, stored as they are packed) for `architecture`.
    ///
    /// # Errors
    /// The registry refuses it.
    pub fn push_image(
        &self,
        repository: &str,
        tag: Option<&str>,
        architecture: &str,
        layers: &[Layer],
    ) -> Result<Value> {
        let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256_of(&layer.tar)).collect();
        let config = json!({"os": "linux", "architecture": architecture, "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let mut config = self.push_blob(repository, config.to_string().as_bytes())?;
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let mut blobs = Vec::new();
        for layer in layers {
            let mut blob = self.push_blob(repository, &layer.blob)?;
            blob["mediaType"] = layer.media_type.into();
            blobs.push(blob);
        }
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": blobs});
        self.push_manifest(repository, tag, &manifest)
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<Answer> {
        self.netns.run(|| ask(&self.address, method, path, &[("Content-Type", kind)], body))?
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A layer as it is and as it is transferred.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The uncompressed tar.
    pub tar: Vec<u8>,
    /// What a registry holds.
    pub blob: Vec<u8>,
    /// What it is said to be.
    pub media_type: &'static str,
}

impl Layer {
    /// One file, not compressed.
    #[must_use]
    pub fn plain(name: &str, content: &[u8]) -> Self {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).expect("writing to memory");
        let tar = tar.into_inner().expect("writing to memory");
        Self { blob: tar.clone(), tar, media_type: "application/vnd.oci.image.layer.v1.tar" }
    }

    /// One file, with gzip.
    #[must_use]
    pub fn gzip(name: &str, content: &[u8]) -> Self {
        let plain = Self::plain(name, content);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&plain.tar).expect("writing to memory");
        let blob = encoder.finish().expect("writing to memory");
        Self { blob, media_type: "application/vnd.oci.image.layer.v1.tar+gzip", ..plain }
    }

    /// One file, with zstd.
    #[must_use]
    pub fn zstd(name: &str, content: &[u8]) -> Self {
        let plain = Self::plain(name, content);
        let blob = zstd::encode_all(plain.tar.as_slice(), 3).expect("writing to memory");
        Self { blob, media_type: "application/vnd.oci.image.layer.v1.tar+zstd", ..plain }
    }
}

/// Bytes that no compression makes smaller, the same every time.
#[must_use]
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// What was asked of a small server.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Such as `GET`.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

/// What it or a registry answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A status with a body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// On to the same path of another server.
    #[must_use]
    pub fn redirect(asked: &Asked, server: &str) -> Self {
        Self::new(307, "").with("Location", &format!("http://{server}{}", asked.path))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Answers every request at `address` with `handler` until the process ends.
///
/// # Errors
/// The address is taken.
pub fn serve(netns: &Netns, address: &str, handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Result<()> {
    let listener = netns.run(|| TcpListener::bind(address))??;
    let handler = Arc::new(handler);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let handler = handler.clone();
            std::thread::spawn(move || answer_one(stream, handler.as_ref()));
        }
    });
    Ok(())
}

fn answer_one(stream: TcpStream, handler: &dyn Fn(&Asked) -> Answer) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (first, headers) = head(&mut reader).ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let asked = Asked { method, path, headers, body: String::from_utf8_lossy(&body).into_owned() };
    let answer = handler(&asked);
    let mut head =
        format!("HTTP/1.1 {} X\r\nConnection: close\r\nContent-Length: {}\r\n", answer.status, answer.body.len());
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let mut stream = stream;
    stream.write_all((head + "\r\n").as_bytes()).ok()?;
    stream.write_all(&answer.body).ok()
}

/// A connection to `target` that breaks after `bytes` of its answers, as often as `cuts` says.
///
/// # Errors
/// The address is taken.
pub fn serve_broken(netns: &Netns, address: &str, target: &str, bytes: u64, cuts: usize) -> Result<()> {
    let (listener, netns, target) = (netns.run(|| TcpListener::bind(address))??, netns.clone(), target.to_owned());
    std::thread::spawn(move || {
        for (number, client) in listener.incoming().flatten().enumerate() {
            let Ok(Ok(server)) = netns.run(|| TcpStream::connect(&target)) else { return };
            let limit = if number < cuts { bytes } else { u64::MAX };
            std::thread::spawn(move || relay(client, server, limit));
        }
    });
    Ok(())
}

fn relay(client: TcpStream, server: TcpStream, limit: u64) -> Option<()> {
    let (mut from_client, mut to_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    std::thread::spawn(move || {
        _ = std::io::copy(&mut from_client, &mut to_server);
        _ = to_server.shutdown(Shutdown::Write);
    });
    _ = std::io::copy(&mut (&server).take(limit), &mut &client);
    _ = client.shutdown(Shutdown::Both);
    server.shutdown(Shutdown::Both).ok()
}

fn head(reader: &mut impl BufRead) -> Result<(String, BTreeMap<String, String>)> {
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Ok((first.trim_end().to_owned(), headers))
}

fn ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all((request + "\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut reader = BufReader::new(stream);
    let (first, headers) = head(&mut reader)?;
    let status = first.split(' ').nth(1).context("no status")?.parse()?;
    let mut answer = Answer { status, headers: headers.into_iter().collect(), body: Vec::new() };
    reader.read_to_end(&mut answer.body)?;
    Ok(answer)
}
