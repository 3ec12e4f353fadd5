//! A process that works on an image store is killed again and again: nothing that it was told is lost, and nothing is
//! left over.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use runtime::images::{Digest, ImageStore, RegistryConfig};
use serde_json::json;
use tempfile::TempDir;
use tests::pod_network::can_run;
use tests::registry::{Layer, noise};

const STORE: &str = "LONGSHORE_TEST_STORE";
const ROUNDS: usize = 30;
const TAGS: [&str; 2] = ["one:v1", "two:v1"];

/// A docker archive. Both images have their first layer in common.
fn archive(path: &Path, tag: &str) -> Result<()> {
    let layers = [Layer::plain("shared", &noise(400_000)), Layer::plain("own", tag.as_bytes())];
    let diff_ids: Vec<Digest> = layers.iter().map(|layer| Digest::sha256_of(&layer.tar)).collect();
    let config = json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}, "author": tag}).to_string();
    let manifest = json!([{"Config": "c", "RepoTags": [tag], "Layers": ["0", "1"]}]).to_string();
    let mut tar = tar::Builder::new(fs::File::create(path)?);
    let files = [
        ("c", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
        ("0", &layers[0].tar),
        ("1", &layers[1].tar),
    ];
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, content)?;
    }
    Ok(tar.finish()?)
}

fn archive_path(root: &Path, tag: &str) -> PathBuf {
    root.join(format!("{}.tar", &tag[..3]))
}

/// Says what it begins and what it has done, one line each, until it is killed.
#[tokio::test]
#[ignore = "the other half of the test below, which starts it"]
async fn works_on_a_store_until_it_is_killed() -> Result<()> {
    let root = PathBuf::from(std::env::var_os(STORE).context("started by the other half only")?);
    let say = |word: &str, what: &str| writeln!(std::io::stdout(), "\n@ {word} {what}");
    let store = ImageStore::open(&root.join("store"), RegistryConfig::default())?;
    loop {
        for tag in TAGS {
            say("makes", tag)?;
            let image = store.import(&archive_path(&root, tag), None).await?.remove(0);
            say("has", tag)?;
            say("makes", &tag[..3])?;
            let snapshot = store.prepare_snapshot(&tag[..3], &image).await?;
            fs::write(snapshot.root.join("written"), tag)?;
            say("has", &tag[..3])?;
        }
        for tag in TAGS {
            say("removes", &tag[..3])?;
            store.remove_snapshot(&tag[..3]).await?;
            say("removed", &tag[..3])?;
            say("removes", tag)?;
            store.remove(tag).await?;
            say("removed", tag)?;
        }
    }
}

/// What the killed process said last about each thing.
fn run_and_kill(root: &Path, lines: usize, then: Duration) -> Result<BTreeMap<String, String>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "--nocapture", "works_on_a_store_until_it_is_killed"])
        .env(STORE, root)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("its output")?).lines();
    let mut said = BTreeMap::new();
    let mut note = |line: String| {
        if let Some((word, what)) = line.strip_prefix("@ ").and_then(|line| line.split_once(' ')) {
            said.insert(what.to_owned(), word.to_owned());
        }
    };
    for line in output.by_ref().take(lines) {
        note(line?);
    }
    // Anywhere within whatever it does next.
    std::thread::sleep(then);
    child.kill()?;
    child.wait()?;
    output.map_while(Result::ok).for_each(note);
    Ok(said)
}

#[test]
fn a_store_whose_process_is_killed_keeps_its_word_and_nothing_else() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let folder = TempDir::new()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for tag in TAGS {
        archive(&archive_path(folder.path(), tag), tag)?;
    }
    let random = noise(ROUNDS * 2);
    for round in 0..ROUNDS {
        let (lines, then) = (usize::from(random[round * 2] % 40), u64::from(random[round * 2 + 1]) * 150);
        let said = run_and_kill(folder.path(), lines, Duration::from_micros(then))?;
        let store = ImageStore::open(&folder.path().join("store"), RegistryConfig::default())?;
        let checked = runtime.block_on(check(&store, folder.path(), &said));
        runtime.block_on(clear(&store))?;
        checked.with_context(|| format!("round {round}: killed {then} µs after line {lines}: {said:?}"))?;
        assert_eq!(
            left_after_deletions(folder.path()),
            [0; 4],
            "round {round}: layers, records, temporary things, snapshots"
        );
    }
    Ok(())
}

async fn check(store: &ImageStore, root: &Path, said: &BTreeMap<String, String>) -> Result<()> {
    ensure!(count(&root.join("store/images/tmp")) == 0, "something unfinished is left");
    for (what, word) in said {
        let here = if what.contains(':') { store.find(what).is_some() } else { store.snapshots().contains(what) };
        ensure!(word != "has" || here, "{what} is lost");
        ensure!(!(word == "removed" && here), "{what} is back");
    }
    for image in store.list() {
        let tag = image.tags.first().map_or("", |tag| tag.trim_start_matches("docker.io/library/"));
        let id = tag.get(..3).unwrap_or("none");
        let snapshot = store.prepare_snapshot(id, &image).await?;
        ensure!(fs::read(snapshot.root.join("shared"))? == noise(400_000), "a layer is not whole");
        if said.get(id).is_some_and(|word| word == "has") {
            ensure!(fs::read_to_string(snapshot.root.join("written"))? == tag, "what a container wrote is lost");
        }
    }
    Ok(())
}

async fn clear(store: &ImageStore) -> Result<()> {
    for id in store.snapshots() {
        store.remove_snapshot(&id).await?;
    }
    for image in store.list() {
        store.remove(&image.id.to_string()).await?;
    }
    Ok(())
}

/// What a container wrote is deleted after its removal was answered: it is waited for, for ten seconds at most.
fn left_after_deletions(root: &Path) -> [usize; 4] {
    let left =
        || ["images/layers", "images/records", "images/tmp", "snapshots"].map(|f| count(&root.join("store").join(f)));
    let end = Instant::now() + Duration::from_secs(10);
    while left() != [0; 4] && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    left()
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}
