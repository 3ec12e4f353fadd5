//! Layers as they should be, and layers that want out.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ::tar::{EntryType, Header};
use proptest::prelude::*;

use super::*;

/// A tar put together by hand: the `tar` crate's builder refuses what an attacker would write.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, name: &str, kind: EntryType, change: impl FnOnce(&mut Header), data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        let field = &mut header.as_gnu_mut().unwrap().name;
        let fits = name.len().min(field.len());
        field[..fits].copy_from_slice(&name.as_bytes()[..fits]);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.raw(name, EntryType::Regular, |_| (), data.as_bytes())
    }

    fn folder(self, name: &str) -> Self {
        self.raw(name, EntryType::Directory, |_| (), b"")
    }

    fn link(self, name: &str, kind: EntryType, target: &str) -> Self {
        let set = |header: &mut Header| {
            header.as_gnu_mut().unwrap().linkname[..target.len()].copy_from_slice(target.as_bytes());
        };
        self.raw(name, kind, set, b"")
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.link(name, EntryType::Symlink, target)
    }

    fn hard_link(self, name: &str, target: &str) -> Self {
        self.link(name, EntryType::Link, target)
    }

    fn device(self, name: &str, major: u32, minor: u32) -> Self {
        let set = |header: &mut Header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        };
        self.raw(name, EntryType::Char, set, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|length| rest + length.to_string().len() == *length).unwrap();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw("pax", EntryType::XHeader, |_| (), &data)
    }
}

/// A folder to unpack into, with a secret beside it that no layer may touch.
struct Sandbox(tempfile::TempDir);

impl Sandbox {
    fn new() -> Self {
        let sandbox = Self(tempfile::tempdir().unwrap());
        fs::create_dir(sandbox.0.path().join("root")).unwrap();
        fs::create_dir(sandbox.0.path().join("outside")).unwrap();
        fs::write(sandbox.0.path().join("outside/secret"), "untouched").unwrap();
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("root").join(name)
    }

    fn try_unpack(&self, tar: Tar) -> Result<Unpacked, UnpackError> {
        self.try_with(tar, LayerLimits::default())
    }

    fn try_with(&self, mut tar: Tar, limits: LayerLimits) -> Result<Unpacked, UnpackError> {
        tar.0.extend([0; 1024]);
        let root = tree::open_folder(&self.path("")).unwrap();
        let result = unpack(Cursor::new(tar.0), root, limits).map(|(unpacked, _)| unpacked);
        assert_eq!(fs::read_to_string(self.0.path().join("outside/secret")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(self.0.path().join("outside")).unwrap().count(), 1);
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 2);
        result
    }

    fn unpack(&self, tar: Tar) -> Unpacked {
        self.try_unpack(tar).unwrap()
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn meta(&self, name: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(name)).unwrap()
    }

    fn is_opaque(&self, name: &str) -> bool {
        xattr::get(self.path(name), "trusted.overlay.opaque").unwrap().as_deref() == Some(b"y")
    }

    fn is_whiteout(&self, name: &str) -> bool {
        self.meta(name).file_type().is_char_device() && self.meta(name).rdev() == 0
    }
}

fn refused(tar: Tar) -> String {
    match Sandbox::new().try_unpack(tar) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn files_keep_mode_owner_time_and_content() {
    let sandbox = Sandbox::new();
    let own = |header: &mut Header| {
        header.set_mode(0o4751);
        header.set_uid(1234);
        header.set_gid(70_000);
    };
    let unpacked = sandbox.unpack(
        Tar::default()
            .folder("./")
            .folder("bin/")
            .raw("bin/su", EntryType::Regular, own, b"content")
            .symlink("bin/link", "/usr/../anything")
            .raw("pipe", EntryType::Fifo, |_| (), b"")
            .device("null", 1, 3)
            .hard_link("bin/hard", "bin/su"),
    );
    let meta = sandbox.meta("bin/su");
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime()), (0o4751, 1234, 70_000, 1_000_000_000));
    assert_eq!(sandbox.read("bin/hard"), "content");
    assert_eq!(sandbox.meta("bin/hard").ino(), meta.ino());
    assert_eq!(fs::read_link(sandbox.path("bin/link")).unwrap(), Path::new("/usr/../anything"));
    assert!(sandbox.meta("pipe").file_type().is_fifo());
    assert_eq!(sandbox.meta("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(sandbox.meta("bin").mtime(), 1_000_000_000, "a folder's time is set after its files");
    assert!(unpacked.implied.is_empty());
    assert_eq!(unpacked.inodes, 5);
}

#[test]
fn names_that_climb_are_refused() {
    for name in ["../outside/secret", "a/../../outside/secret", "..", "/../x", "a/.."] {
        assert!(refused(Tar::default().folder("a/").file(name, "x")).contains("climbs"), "{name}");
    }
    let sandbox = Sandbox::new();
    sandbox.unpack(Tar::default().file("/etc/passwd", "inside"));
    assert_eq!(sandbox.read("etc/passwd"), "inside");
}

#[test]
fn writing_through_a_link_stays_inside_the_layer() {
    let sandbox = Sandbox::new();
    let outside = sandbox.0.path().join("outside");
    // To the layer, `/` is its own root: the absolute path does not exist there.
    let through = Tar::default().symlink("door", outside.to_str().unwrap()).file("door/secret", "stolen");
    assert!(matches!(sandbox.try_unpack(through), Err(UnpackError::Refused { .. })));
    let sandbox = Sandbox::new();
    let through = Tar::default().symlink("door", "../../outside").folder("outside/").file("door/secret", "inside");
    sandbox.unpack(through);
    assert_eq!(sandbox.read("outside/secret"), "inside");
    let sandbox = Sandbox::new();
    sandbox.unpack(Tar::default().folder("usr/lib").symlink("lib", "usr/lib").file("lib/a.so", "code"));
    assert_eq!(sandbox.read("usr/lib/a.so"), "code");
}

#[test]
fn a_file_replaces_a_link_of_its_name_and_is_not_written_through_it() {
    let sandbox = Sandbox::new();
    let secret = sandbox.0.path().join("outside/secret");
    sandbox.unpack(Tar::default().symlink("a", secret.to_str().unwrap()).file("a", "new"));
    assert_eq!(sandbox.read("a"), "new");
    assert!(sandbox.meta("a").is_file());
}

#[test]
fn hard_links_reach_only_files_of_their_layer() {
    let sandbox = Sandbox::new();
    let secret = sandbox.0.path().join("outside/secret");
    for target in ["../outside/secret", secret.to_str().unwrap(), "missing", "dir", "/", "wh/.wh.x"] {
        let tar = Tar::default().folder("dir").hard_link("a", target);
        assert!(refused(tar).contains("refused"), "{target}");
    }
    let door = Tar::default().symlink("door", "../outside").hard_link("a", "door/secret");
    assert!(matches!(sandbox.try_unpack(door), Err(UnpackError::Refused { .. })));
    // A hard link to a symlink is a second name of the link, never of what it leads to.
    let sandbox = Sandbox::new();
    sandbox.unpack(Tar::default().symlink("s", "../outside/secret").hard_link("h", "s").file("h", "new"));
    assert_eq!(sandbox.read("h"), "new");
}

#[test]
fn whiteouts_become_overlayfs_marks() {
    let sandbox = Sandbox::new();
    let own = |header: &mut Header| header.set_mode(0o700);
    sandbox.unpack(
        Tar::default()
            .file("etc/.wh.passwd", "")
            .file("var/.wh..wh..opq", "")
            .file("var/new", "x")
            .file(".wh..wh.plnk", "")
            .raw("etc/", EntryType::Directory, own, b""),
    );
    assert!(sandbox.is_whiteout("etc/passwd"));
    assert!(sandbox.is_opaque("var"));
    assert_eq!(sandbox.read("var/new"), "x");
    assert!(!sandbox.path(".wh..wh.plnk").exists());
    assert_eq!(sandbox.meta("etc").mode() & 0o7777, 0o700);
}

#[test]
fn a_name_that_is_hidden_and_made_again_hides_only_what_is_below() {
    let sandbox = Sandbox::new();
    sandbox.unpack(
        Tar::default()
            .file(".wh.a", "")
            .file("a/inside", "1")
            .folder("b")
            .file("b/inside", "2")
            .file(".wh.b", "")
            .file("c", "3")
            .file(".wh.c", "")
            .file(".wh.d", "")
            .folder("d"),
    );
    assert!(sandbox.is_opaque("a") && sandbox.is_opaque("b") && sandbox.is_opaque("d"));
    assert_eq!([sandbox.read("a/inside"), sandbox.read("b/inside"), sandbox.read("c")], ["1", "2", "3"]);
}

#[test]
fn later_entries_replace_earlier_ones_of_any_kind() {
    let sandbox = Sandbox::new();
    sandbox.unpack(
        Tar::default()
            .file("a/b/c", "deep")
            .file("a/b/d", "deep")
            .file("a", "file now")
            .file("x", "file")
            .folder("x")
            .file("x/y", "in folder")
            .file("x/y", "again"),
    );
    assert_eq!((sandbox.read("a"), sandbox.read("x/y")), ("file now".into(), "again".into()));
}

#[test]
fn what_means_nothing_in_a_layer_is_refused() {
    assert!(refused(Tar::default().device("a", 0, 0)).contains("overlayfs' own mark"));
    assert!(refused(Tar::default().file("a", "x").file("a/b", "y")).contains("below something that is no folder"));
    assert!(refused(Tar::default().raw("a", EntryType::new(b'Z'), |_| (), b"")).contains("unknown"));
    assert!(
        refused(Tar::default().raw("a", EntryType::Regular, |h| h.set_uid(u64::from(u32::MAX)), b"")).contains("owner")
    );
    assert!(refused(Tar::default().raw(".", EntryType::Regular, |_| (), b"x")).contains("root is not a folder"));
    let mut damaged = Tar::default().file("a", "x");
    damaged.0[0] ^= 1;
    assert!(refused(damaged).contains("checksum"));
}

#[test]
fn a_layer_cannot_carry_attributes_that_steer_overlayfs() {
    let sandbox = Sandbox::new();
    let capability = [1u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let records: [(&str, &[u8]); 4] = [
        ("SCHILY.xattr.trusted.overlay.redirect", b"/outside"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.capability", &capability),
        ("SCHILY.xattr.user.note", b"kept"),
    ];
    sandbox.unpack(Tar::default().pax(&records).file("a", "x").pax(&records[..2]).folder("d"));
    let mut names: Vec<_> = xattr::list(sandbox.path("a")).unwrap().collect();
    names.sort();
    assert_eq!(names, ["security.capability", "user.note"]);
    assert_eq!(xattr::get(sandbox.path("a"), "security.capability").unwrap().unwrap(), capability);
    assert_eq!(xattr::list(sandbox.path("d")).unwrap().count(), 0);
}

#[test]
fn long_names_come_in_gnu_and_pax_form() {
    let sandbox = Sandbox::new();
    let long = format!("{}/{}", "a".repeat(150), "b".repeat(150));
    let other = format!("{}/{}", "a".repeat(150), "c".repeat(150));
    sandbox.unpack(
        Tar::default()
            .raw("././@LongLink", EntryType::GNULongName, |_| (), format!("{long}\0").as_bytes())
            .file("cut", "gnu")
            .pax(&[("path", other.as_bytes()), ("mtime", b"5.25"), ("uid", b"3000000")])
            .file("cut", "pax")
            .raw("././@LongLink", EntryType::GNULongLink, |_| (), format!("{long}\0").as_bytes())
            .hard_link("h", ""),
    );
    assert_eq!(
        (sandbox.read(&long), sandbox.read(&other), sandbox.read("h")),
        ("gnu".into(), "pax".into(), "gnu".into())
    );
    let meta = sandbox.meta(&other);
    assert_eq!((meta.mtime(), meta.mtime_nsec(), meta.uid()), (5, 250_000_000, 3_000_000));
}

#[test]
fn sparse_files_come_in_all_four_forms() {
    let sandbox = Sandbox::new();
    let gnu = |header: &mut Header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 20);
        for (at, (offset, length)) in [(4096u64, 3u64), (1 << 20, 0)].into_iter().enumerate() {
            gnu.sparse[at].offset.copy_from_slice(format!("{offset:011o}\0").as_bytes());
            gnu.sparse[at].numbytes.copy_from_slice(format!("{length:011o}\0").as_bytes());
        }
    };
    let mut in_data = b"2\n4096\n3\n1048576\n0\n".to_vec();
    in_data.resize(512, 0);
    in_data.extend(b"abc");
    sandbox.unpack(
        Tar::default()
            .raw("old", EntryType::GNUSparse, gnu, b"abc")
            .pax(&[("GNU.sparse.size", b"1048576"), ("GNU.sparse.offset", b"4096"), ("GNU.sparse.numbytes", b"3")])
            .file("pax00", "abc")
            .pax(&[("GNU.sparse.name", b"pax01"), ("GNU.sparse.size", b"1048576"), ("GNU.sparse.map", b"4096,3")])
            .file("stand-in", "abc")
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"pax10"),
                ("GNU.sparse.realsize", b"1048576"),
            ])
            .raw("stand-in", EntryType::Regular, |_| (), &in_data),
    );
    for name in ["old", "pax00", "pax01", "pax10"] {
        let content = fs::read(sandbox.path(name)).unwrap();
        assert_eq!((content.len(), &content[4096..4099]), (1 << 20, &b"abc"[..]), "{name}");
        assert!(content.iter().filter(|b| **b != 0).count() == 3, "{name}");
        assert!(sandbox.meta(name).blocks() * 512 < 1 << 16, "{name} has no hole");
    }
}

#[test]
fn counts_and_sizes_are_bounded() {
    let with = |tar, entries, bytes| match Sandbox::new().try_with(tar, LayerLimits { entries, bytes }) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    let many = |count| (0..count).fold(Tar::default(), |tar, n| tar.file(&format!("f{n}"), ""));
    assert_eq!(with(many(10), 10, 1 << 20), "accepted");
    assert!(with(many(11), 10, 1 << 20).contains("more than 10 entries"));
    let huge = |header: &mut Header| header.set_size(1 << 40);
    assert!(
        with(Tar::default().raw("a", EntryType::Regular, huge, b""), 10, 1 << 20).contains("more than 1048576 bytes")
    );
    assert!(
        with(Tar::default().raw("a", EntryType::GNULongName, huge, b""), 10, 1 << 50).contains("name or PAX header")
    );
    assert!(
        with(Tar::default().pax(&[("size", b"99999999999999")]).file("a", ""), 10, 1 << 20)
            .contains("bytes in one file")
    );
    let hole = Tar::default().pax(&[("GNU.sparse.size", b"99999999999999"), ("GNU.sparse.map", b"0,1")]).file("a", "x");
    assert!(with(hole, 10, 1 << 20).contains("bytes in one file"));
    assert!(with(many(2000), 1 << 20, 1 << 19).contains("more than 524288 bytes"));
    assert!(refused(Tar::default().pax(&[("path", "x/".repeat(2100).as_bytes())]).file("a", "")).contains("4096"));
}

#[test]
fn a_tar_that_breaks_off_is_refused() {
    for cut in [100, 512 + 3, 512 + 512 + 100] {
        let mut tar = Tar::default().file("a", "content").file("b", "x").0;
        tar.truncate(cut);
        let sandbox = Sandbox::new();
        let root = tree::open_folder(&sandbox.path("")).unwrap();
        assert!(unpack(Cursor::new(tar), root, LayerLimits::default()).is_err(), "{cut}");
    }
}

#[test]
fn folders_that_only_follow_from_names_are_noted() {
    let sandbox = Sandbox::new();
    let unpacked = sandbox.unpack(Tar::default().file("a/b/c", "x").folder("a").file("d/.wh..wh..opq", ""));
    let implied: Vec<&str> = unpacked.implied.iter().map(String::as_str).collect();
    assert_eq!(implied, ["", "a/b", "d"]);
    assert_eq!(sandbox.meta("a/b").permissions().mode() & 0o7777, 0o755);
}

#[test]
fn removal_is_not_stopped_by_depth_nor_led_out_by_links() {
    let sandbox = Sandbox::new();
    let outside = sandbox.0.path().join("outside");
    let mut here = tree::open_folder(&sandbox.path("")).unwrap();
    for _ in 0..450 {
        rustix::fs::mkdirat(&here, "deeper-than-any-path", Mode::from_raw_mode(0o755)).unwrap();
        rustix::fs::symlinkat(&outside, &here, "door").unwrap();
        here = tree::open_plain(&here, b"deeper-than-any-path", OFlags::DIRECTORY | OFlags::RDONLY).unwrap();
    }
    tree::remove_path(&sandbox.0.path().join("root")).unwrap();
    assert!(!sandbox.0.path().join("root").exists());
    assert!(outside.join("secret").exists());
    tree::remove_path(&sandbox.0.path().join("root")).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn no_bytes_lead_out_or_panic(
        steps in proptest::collection::vec((0usize..7, 0usize..9, 0usize..9), 1..12),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        const NAMES: [&str; 9] = ["a", "b", "a/b", "b/a", "../outside/secret", ".wh.a", "a/.wh..wh..opq", "/outside/secret", "../../outside"];
        let mut tar = Tar::default();
        for (kind, name, target) in steps {
            tar = match kind {
                0 => tar.file(NAMES[name], "data"),
                1 => tar.folder(NAMES[name]),
                2 => tar.symlink(NAMES[name], NAMES[target]),
                3 => tar.hard_link(NAMES[name], NAMES[target]),
                4 => tar.pax(&[("path", NAMES[name].as_bytes()), ("linkpath", NAMES[target].as_bytes())]),
                5 => tar.raw(NAMES[name], EntryType::Fifo, |_| (), b""),
                _ => tar.raw("l", EntryType::GNULongName, |_| (), NAMES[target].as_bytes()),
            };
        }
        for (index, byte) in flips {
            let at = index.index(tar.0.len());
            tar.0[at] ^= byte;
        }
        let limits = LayerLimits { entries: 1000, bytes: 1 << 20 };
        let _ = Sandbox::new().try_with(tar, limits);
    }
}
