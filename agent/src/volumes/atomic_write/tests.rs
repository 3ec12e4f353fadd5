use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use proptest::prelude::*;

use super::super::payload::File;
use super::*;

fn payload(files: &[(&str, &str)]) -> Payload {
    files
        .iter()
        .map(|(path, text)| ((*path).to_owned(), File { mode: 0o644, owner: None, bytes: text.as_bytes().to_vec() }))
        .collect()
}

fn put(dir: &Path, files: &[(&str, &str)]) {
    write(dir, &payload(files), &BTreeSet::new(), None).unwrap();
}

/// What a container sees: every file that can be reached without a name that begins with `..`.
fn seen(dir: &Path) -> BTreeMap<String, String> {
    fn walk(dir: &Path, prefix: &str, all: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if name.starts_with("..") {
                continue;
            }
            let path = format!("{prefix}{name}");
            if entry.path().is_dir() {
                walk(&entry.path(), &format!("{path}/"), all);
            } else {
                all.insert(path, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(dir, "", &mut all);
    all
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_layout_is_the_one_that_everybody_knows() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &[("a", "1"), ("d/e/f", "2")]);
    let names = names(dir.path());
    assert_eq!(names.len(), 4, "{names:?}");
    assert_eq!(&names[1..], ["..data", "a", "d"]);
    assert!(names[0].starts_with("..20") && names[0].len() == "..2006_01_02_15_04_05.0123456789".len(), "{}", names[0]);
    assert_eq!(fs::read_link(dir.path().join("..data")).unwrap(), Path::new(&names[0]));
    assert_eq!(fs::read_link(dir.path().join("d")).unwrap(), Path::new("..data/d"));
}

#[test]
fn modes_are_exact_and_a_group_gets_in() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = payload(&[("a", "1"), ("d/b", "2")]);
    files.get_mut("a").unwrap().mode = 0o400;
    write(dir.path(), &files, &BTreeSet::new(), Some(4_711)).unwrap();
    let stat = |path: &str| {
        let found = fs::metadata(dir.path().join(path)).unwrap();
        (found.mode() & 0o7777, found.gid())
    };
    assert_eq!(stat("a"), (0o440, 4_711));
    assert_eq!(stat("d/b"), (0o644, 4_711));
    assert_eq!(stat("d"), (0o2755, 4_711));
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &[("a", "1")]);
    let before = fs::read_link(dir.path().join("..data")).unwrap();
    fs::remove_file(dir.path().join("a")).unwrap();
    let mut files = payload(&[("a", "1")]);
    files.get_mut("a").unwrap().mode = 0o600;
    write(dir.path(), &files, &BTreeSet::new(), None).unwrap();
    assert_eq!(fs::read_link(dir.path().join("..data")).unwrap(), before, "modes alone do not count");
    assert_eq!(seen(dir.path())["a"], "1", "a link that is missing comes back");
    put(dir.path(), &[("a", "2")]);
    assert_ne!(fs::read_link(dir.path().join("..data")).unwrap(), before);
}

#[test]
fn paths_that_would_leave_the_volume_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for path in ["", "/a", "../a", "a/../b", "..a", "a/./b", "a\0b", &"a".repeat(256), &"a/".repeat(65)] {
        let result = write(dir.path(), &payload(&[(path, "x")]), &BTreeSet::new(), None);
        assert!(matches!(result, Err(SetUpError::Path { .. })), "{path:?}");
    }
    assert_eq!(names(dir.path()), Vec::<String>::new());
}

#[test]
fn links_that_somebody_put_there_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept"), "x").unwrap();
    symlink(outside.path(), dir.path().join("..2020_01_01")).unwrap();
    symlink("..2020_01_01", dir.path().join("..data")).unwrap();
    symlink(outside.path(), dir.path().join("a")).unwrap();
    put(dir.path(), &[("a/b", "1")]);
    assert_eq!(names(outside.path()), ["kept"]);
    assert_eq!(seen(dir.path()), BTreeMap::from([("a/b".to_owned(), "1".to_owned())]));
    // The volume itself must not be a link either.
    let link = outside.path().join("link");
    symlink(dir.path(), &link).unwrap();
    assert!(write(&link, &payload(&[("a", "1")]), &BTreeSet::new(), None).is_err());
}

#[test]
fn mounts_on_top_find_their_directories() {
    let dir = tempfile::tempdir().unwrap();
    let points = BTreeSet::from(["run/x".to_owned(), "d/sub".to_owned(), "a".to_owned()]);
    write(dir.path(), &payload(&[("a", "1"), ("d/f", "2")]), &points, None).unwrap();
    assert!(dir.path().join("run/x").is_dir());
    assert!(dir.path().join("d/sub").is_dir());
    assert_eq!(seen(dir.path()).len(), 2);
    put(dir.path(), &[("z", "1")]);
    assert!(dir.path().join("run/x").is_dir(), "what is mounted there is still mounted there");
}

#[test]
fn a_reader_that_goes_through_the_link_never_sees_a_mix() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), &[("a", "0"), ("b", "0")]);
    let path = dir.path().to_owned();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) || looks == 0 {
                let set = rustix::fs::open(path.join(DATA), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty());
                // Between reading the link and opening what it names, a set may go; it never changes.
                let Ok(set) = set else { continue };
                let (Ok(Some(a)), Ok(Some(b))) = (read_some(&set, "a"), read_some(&set, "b")) else { continue };
                assert_eq!(a, b);
                looks += 1;
            }
        });
        for n in 1..200 {
            let text = n.to_string();
            put(&path, &[("a", &text), ("b", &text)]);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        reader.join().unwrap();
    });
}

fn read_some(dir: &OwnedFd, path: &str) -> Result<Option<Vec<u8>>, Errno> {
    let length = rustix::fs::statat(dir, path, AtFlags::empty())?.st_size;
    read(dir, path, usize::try_from(length).unwrap())
}

fn some_payload() -> impl Strategy<Value = BTreeMap<String, String>> {
    // Directories and files have different names, as the API's validation would have it.
    let path = prop::collection::vec("[d-f]", 0..3).prop_flat_map(|dirs| {
        "[a-c]".prop_map(move |file| dirs.iter().cloned().chain([file]).collect::<Vec<_>>().join("/"))
    });
    prop::collection::btree_map(path, "[xy]{0,3}", 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_sequence_ends_in_exactly_the_last_payload(all in prop::collection::vec((some_payload(), any::<bool>()), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        for (files, cut_off) in &all {
            if *cut_off {
                // What a write that was killed leaves behind.
                let root = open_dir(dir.path()).unwrap();
                fill(&root, &payload(&[("junk", "x")]), &[]).unwrap();
                let _ = symlink("..2000", dir.path().join("..data_tmp"));
            }
            let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            put(dir.path(), &files);
            let want: BTreeMap<_, _> = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
            prop_assert_eq!(seen(dir.path()), want);
            let hidden = names(dir.path()).into_iter().filter(|name| name.starts_with("..")).count();
            prop_assert_eq!(hidden, 2, "one set and the link to it");
        }
        let mode = fs::metadata(dir.path().join("..data/.")).unwrap().permissions().mode();
        prop_assert_eq!(mode & 0o7777, 0o755);
    }
}
