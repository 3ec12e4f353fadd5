use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

/// A root with a link out of it in every way an image could have one, beside a directory that must stay empty.
fn check(path: &str, missing: Missing, lands_at: &str) {
    let place = tempfile::tempdir().expect("a directory");
    let (root, outside) = (place.path().join("root"), place.path().join("outside"));
    fs::create_dir_all(root.join("etc")).expect("a root");
    fs::create_dir(&outside).expect("a neighbour");
    symlink("/run", root.join("var-run")).expect("an absolute link");
    symlink("../../outside", root.join("up")).expect("a link that climbs");
    symlink(&outside, root.join("abs")).expect("a link to the neighbour's path");
    symlink("loop", root.join("loop")).expect("a link to itself");
    let inside = Inside::of(sys::open(&root, libc::O_PATH).expect("opening the root"));
    let made = inside.ensure(Path::new(path), missing).expect("making the path");
    let landed = fs::symlink_metadata(root.join(lands_at)).expect("it is where it should be");
    let opened = sys::fstat(made.as_fd()).expect("fstat");
    assert_eq!((landed.dev(), landed.ino()), (opened.st_dev, opened.st_ino));
    assert_eq!(landed.is_dir(), missing == Missing::Directory);
    assert_eq!(fs::read_dir(&outside).expect("the neighbour").count(), 0);
}

#[test]
fn missing_parents_are_made() {
    check("/a/b/./c", Missing::Directory, "a/b/c");
    check("/etc/hosts", Missing::File, "etc/hosts");
}

#[test]
fn a_dangling_absolute_link_is_followed_inside_the_root() {
    check("/var-run/secrets/token", Missing::File, "run/secrets/token");
}

#[test]
fn a_link_that_climbs_out_ends_at_the_root() {
    check("/up/x", Missing::Directory, "outside/x");
    check("/../../x", Missing::File, "x");
}

#[test]
fn the_path_of_a_neighbour_is_made_inside() {
    let place = tempfile::tempdir().expect("a directory");
    let name = place.path().file_name().expect("a name").to_owned();
    drop(place);
    let path = format!("/abs/{}", name.to_string_lossy());
    let root = tempfile::tempdir().expect("a root");
    symlink("/nowhere/near", root.path().join("abs")).expect("a link");
    let inside = Inside::of(sys::open(root.path(), libc::O_PATH).expect("opening the root"));
    inside.ensure(Path::new(&path), Missing::Directory).expect("making the path");
    assert!(root.path().join("nowhere/near").join(name).is_dir());
    assert!(!Path::new("/nowhere").exists());
}

#[test]
fn a_link_to_itself_is_an_error() {
    let root = tempfile::tempdir().expect("a root");
    symlink("loop", root.path().join("loop")).expect("a link");
    let inside = Inside::of(sys::open(root.path(), libc::O_PATH).expect("opening the root"));
    let error = inside.ensure(Path::new("/loop/x"), Missing::Directory).expect_err("it has no end");
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
}
