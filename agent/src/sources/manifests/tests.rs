use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use super::*;

const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: NAME}\nspec: {containers: [{name: c, image: 'a:1'}]}\n";

fn pod(name: &str) -> String {
    POD.replace("NAME", name)
}

struct Fixture {
    dir: tempfile::TempDir,
    seen: watch::Receiver<Arc<Desired>>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), ManifestsError>>,
}

impl Fixture {
    fn open(prepare: impl FnOnce(&Path), root: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (manifests, seen) =
            Manifests::open(Places { paths: vec![dir.path().join(root)], ..Places::default() }, "n1").unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(manifests.run(stop.clone()));
        Self { dir, seen, stop, task }
    }

    /// Waits, for at most the second that the issue allows, until the names of the pods are these.
    async fn becomes(&mut self, want: &str) {
        let wanted = |desired: &Arc<Desired>| names(desired) == want;
        let waited = tokio::time::timeout(Duration::from_secs(1), self.seen.wait_for(wanted)).await.is_ok();
        assert!(waited, "wanted {want:?}, have {:?}", names(&self.seen.borrow()));
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn names(desired: &Desired) -> String {
    let mut names: Vec<_> = desired.pods.values().filter_map(|pod| pod.metadata.name.clone()).collect();
    names.sort();
    names.extend(desired.problems.iter().map(|_| "!".to_owned()));
    names.join(" ")
}

#[tokio::test]
async fn changes_of_files_are_followed_within_a_second() {
    let mut fixture = Fixture::open(|dir| fs::write(dir.join("a.yaml"), pod("a")).unwrap(), "");
    let dir = fixture.dir.path().to_owned();
    assert_eq!(names(&fixture.seen.borrow()), "a", "the first value is whole");

    fs::write(dir.join("b.yaml"), pod("b")).unwrap();
    fixture.becomes("a b").await;
    fs::write(dir.join("README.md"), "words").unwrap();
    fs::write(dir.join("b.yaml"), pod("b2") + "---\n" + &pod("b3")).unwrap();
    fixture.becomes("a b2 b3").await;
    fs::write(dir.join("b.yaml"), "nonsense").unwrap();
    fixture.becomes("a b2 b3 !").await;
    fs::remove_file(dir.join("a.yaml")).unwrap();
    fixture.becomes("b2 b3 !").await;
    fs::write(dir.join(".b.tmp"), pod("c")).unwrap();
    fs::rename(dir.join(".b.tmp"), dir.join("b.yaml")).unwrap();
    fixture.becomes("c").await;
    fixture.end().await;
}

#[tokio::test]
async fn a_file_that_is_replaced_never_looks_gone() {
    let mut fixture = Fixture::open(|dir| fs::write(dir.join("a.yaml"), pod("a")).unwrap(), "a.yaml");
    let dir = fixture.dir.path().to_owned();
    // What editors do that keep a backup: move away, write anew.
    fs::rename(dir.join("a.yaml"), dir.join("a.yaml~")).unwrap();
    fs::write(dir.join("a.yaml"), pod("a") + "---\n" + &pod("b")).unwrap();
    let next = tokio::time::timeout(Duration::from_secs(1), fixture.seen.changed()).await;
    next.unwrap().unwrap();
    assert_eq!(names(&fixture.seen.borrow()), "a b");
    fixture.end().await;
}

#[tokio::test]
async fn a_mounted_config_map_that_swaps_its_data_is_followed() {
    let mut fixture = Fixture::open(
        |dir| {
            fs::create_dir_all(dir.join("m/..one")).unwrap();
            fs::write(dir.join("m/..one/a.yaml"), pod("one")).unwrap();
            symlink("..one", dir.join("m/..data")).unwrap();
            symlink("..data/a.yaml", dir.join("m/a.yaml")).unwrap();
        },
        "m",
    );
    let dir = fixture.dir.path().join("m");
    assert_eq!(names(&fixture.seen.borrow()), "one");
    fs::create_dir(dir.join("..two")).unwrap();
    fs::write(dir.join("..two/a.yaml"), pod("two")).unwrap();
    symlink("..two", dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    fixture.becomes("two").await;
    fixture.end().await;
}

#[tokio::test]
async fn a_link_to_a_file_elsewhere_is_followed() {
    let mut fixture = Fixture::open(
        |dir| {
            fs::create_dir_all(dir.join("m")).unwrap();
            fs::create_dir_all(dir.join("other")).unwrap();
            fs::write(dir.join("other/real"), pod("one")).unwrap();
            symlink("../other/real", dir.join("m/a.yaml")).unwrap();
        },
        "m",
    );
    assert_eq!(names(&fixture.seen.borrow()), "one");
    fs::write(fixture.dir.path().join("other/real"), pod("two")).unwrap();
    fixture.becomes("two").await;
    fixture.end().await;
}

#[tokio::test]
async fn one_file_under_two_paths_is_followed_under_both() {
    let mut fixture = Fixture::open(
        |dir| {
            fs::create_dir(dir.join("m")).unwrap();
            fs::write(dir.join("m/a.yaml"), pod("one")).unwrap();
            symlink("m", dir.join("n")).unwrap();
            symlink("n/a.yaml", dir.join("b.yaml")).unwrap();
        },
        "",
    );
    assert_eq!(names(&fixture.seen.borrow()), "one");
    fs::write(fixture.dir.path().join("m/a.yaml"), pod("two")).unwrap();
    fixture.becomes("two").await;
    fixture.end().await;
}

#[tokio::test]
async fn a_folder_that_goes_and_comes_back_is_followed() {
    let mut fixture = Fixture::open(
        |dir| {
            fs::create_dir(dir.join("m")).unwrap();
            fs::write(dir.join("m/a.yaml"), pod("one")).unwrap();
        },
        "m",
    );
    let dir = fixture.dir.path().to_owned();
    fs::rename(dir.join("m"), dir.join("away")).unwrap();
    fixture.becomes("!").await;
    fs::rename(dir.join("away"), dir.join("m")).unwrap();
    fixture.becomes("one").await;
    fs::write(dir.join("m/b.yaml"), pod("two")).unwrap();
    fixture.becomes("one two").await;
    fixture.end().await;
}

#[test]
fn a_path_that_does_not_exist_is_an_error() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _guard = runtime.enter();
    let error =
        Manifests::open(Places { paths: vec![PathBuf::from("/nowhere/at/all.yaml")], ..Places::default() }, "n1")
            .err()
            .unwrap();
    assert_eq!(error.to_string(), "looking for manifests in /nowhere/at/all.yaml");
}

#[tokio::test]
async fn standard_input_is_one_more_file_that_stays() {
    let text = b"apiVersion: v1\nkind: Pod\nmetadata: {name: said}\nspec: {containers: [{name: c, image: 'x:1'}]}\n";
    let places = Places { input: Some(text.to_vec()), ..Places::default() };
    let (_manifests, seen) = Manifests::open(places, "n1").unwrap();
    let desired = seen.borrow().clone();
    assert_eq!((desired.pods.len(), desired.problems.len()), (1, 0));
}
