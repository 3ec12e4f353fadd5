//! Who a container runs as: an image's `USER` resolved by the image's own `/etc/passwd` and `/etc/group`.
//!
//! The rules are those of runc and containerd: a number needs no entry, its group is then 0; a name needs one; a name
//! that is all digits may be either, and the entry of that name wins.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{FileType, OFlags};

use super::layers::tree;

/// The greatest id that is taken; runc and containerd stop here too, other tools read greater ones as negative.
pub const MAX_ID: u32 = i32::MAX as u32;
// An image's files are foreign bytes: real ones have some dozen lines (CVE-2026-47262).
const MAX_FILE: u64 = 1 << 20;
const MAX_LINE: usize = 64 << 10;

/// What the container and its image ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserSpec {
    /// `""` (root), `name`, `uid`, `name:group`, `uid:gid` or a mix: the image's `USER`, or what the pod puts in its place.
    pub user: String,
    /// The pod's `runAsGroup`: wins over a group in `user` and over the user's own.
    pub group: Option<u32>,
    /// Further groups: the pod's `supplementalGroups` and `fsGroup`.
    pub extra: Vec<u32>,
}

/// Whether the image's `/etc/group` adds groups: CRI's `SupplementalGroupsPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupsPolicy {
    /// Groups that list the user as a member are added.
    #[default]
    Merge,
    /// Only what the pod says.
    Strict,
}

/// Numbers for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first, the rest rising. Without the primary one among them a process could get
    /// past a file mode that denies its group (CVE-2022-36109).
    pub groups: Vec<u32>,
}

/// Why a user cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no such user in the image.
    #[error("the image's /etc/passwd has no user {0:?}")]
    NoUser(String),
    /// There is no such group in the image.
    #[error("the image's /etc/group has no group {0:?}")]
    NoGroup(String),
    /// A number that is no id.
    #[error("{0:?} is out of range for a user or group: 0 to {MAX_ID} are possible")]
    OutOfRange(String),
    /// More colons than one, or nothing where a group should be.
    #[error("{0:?} is not a user: user, uid, user:group or uid:gid are wanted")]
    Malformed(String),
    /// A file that is far larger than any real one, or is none.
    #[error("the image's /{file} is refused: {why}")]
    Refused {
        /// `etc/passwd` or `etc/group`.
        file: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A file could not be read.
    #[error("reading the image's /{file}")]
    Read {
        /// `etc/passwd` or `etc/group`.
        file: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Resolves `spec` by the files below `root`, a mounted snapshot. Links in the image are followed within it only.
pub fn resolve(root: &Path, spec: &UserSpec, policy: GroupsPolicy) -> Result<Identity, UserError> {
    let passwd = read_file(root, "etc/passwd")?;
    let group = read_file(root, "etc/group")?;
    decide(&passwd, &group, spec, policy)
}

/// [`resolve`] with the two files' text.
fn decide(passwd: &str, group: &str, spec: &UserSpec, policy: GroupsPolicy) -> Result<Identity, UserError> {
    let (user, wanted_group) = split(&spec.user)?;
    let found = find_user(passwd, user)?;
    let gid = match (spec.group, wanted_group) {
        (Some(gid), _) => in_range(gid)?,
        (None, Some(name)) => find_group(group, name)?,
        (None, None) => found.gid,
    };
    let mut rest: BTreeSet<u32> = spec.extra.iter().map(|gid| in_range(*gid)).collect::<Result<_, _>>()?;
    if let (GroupsPolicy::Merge, Some(name)) = (policy, &found.name) {
        rest.extend(groups_of(group, name)?);
    }
    rest.remove(&gid);
    Ok(Identity { uid: found.uid, gid, groups: std::iter::once(gid).chain(rest).collect() })
}

fn split(text: &str) -> Result<(&str, Option<&str>), UserError> {
    let malformed = || UserError::Malformed(text.to_owned());
    match text.split_once(':') {
        None => Ok((text, None)),
        Some((_, group)) if group.contains(':') => Err(malformed()),
        // Docker writes `1000:` for some images and means no group.
        Some((user, "")) => Ok((user, None)),
        Some((user, group)) => Ok((user, Some(group))),
    }
}

struct FoundUser {
    uid: u32,
    gid: u32,
    name: Option<String>,
}

fn find_user(passwd: &str, wanted: &str) -> Result<FoundUser, UserError> {
    let wanted = if wanted.is_empty() { "0" } else { wanted };
    let uid = number(wanted)?;
    let entry = |fields: &[&str]| -> Result<FoundUser, UserError> {
        let id = |text: &str| number(text)?.ok_or_else(|| UserError::OutOfRange(text.to_owned()));
        Ok(FoundUser { uid: id(fields[2])?, gid: id(fields[3])?, name: Some(fields[0].to_owned()) })
    };
    let lines: Vec<Vec<&str>> = entries(passwd, "etc/passwd", 4)?;
    if let Some(fields) = lines.iter().find(|fields| fields[0] == wanted) {
        return entry(fields);
    }
    let Some(uid) = uid else { return Err(UserError::NoUser(wanted.to_owned())) };
    match lines.iter().find(|fields| fields[2].parse() == Ok(uid)) {
        Some(fields) => entry(fields),
        None => Ok(FoundUser { uid, gid: 0, name: None }),
    }
}

fn find_group(group: &str, wanted: &str) -> Result<u32, UserError> {
    let gid = number(wanted)?;
    match entries(group, "etc/group", 3)?.iter().find(|fields| fields[0] == wanted) {
        Some(fields) => number(fields[2])?.ok_or_else(|| UserError::OutOfRange(fields[2].to_owned())),
        None => gid.ok_or_else(|| UserError::NoGroup(wanted.to_owned())),
    }
}

/// Groups that list `name`; those with a number out of range are left out, the user did not ask for them.
fn groups_of(group: &str, name: &str) -> Result<Vec<u32>, UserError> {
    let lists_user = |fields: &&Vec<&str>| fields.get(3).is_some_and(|members| members.split(',').any(|m| m == name));
    let entries = entries(group, "etc/group", 3)?;
    Ok(entries.iter().filter(lists_user).filter_map(|fields| number(fields[2]).ok().flatten()).collect())
}

/// The lines of a file with at least `fields` fields; others, comments and NIS marks, are passed over.
fn entries<'a>(text: &'a str, file: &'static str, fields: usize) -> Result<Vec<Vec<&'a str>>, UserError> {
    if text.lines().any(|line| line.len() > MAX_LINE) {
        return Err(UserError::Refused { file, why: "it has a line of more than 64 KiB" });
    }
    let parsed = text.lines().map(|line| line.trim().split(':').collect::<Vec<_>>());
    Ok(parsed.filter(|line| line.len() >= fields && !line[0].is_empty() && !line[0].starts_with('#')).collect())
}

/// `None` when it is no number at all; never wrapped (CVE-2024-40635).
fn number(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let out = || UserError::OutOfRange(text.to_owned());
    text.parse::<u32>().map_err(|_| out()).and_then(in_range).map(Some)
}

fn in_range(id: u32) -> Result<u32, UserError> {
    if id <= MAX_ID { Ok(id) } else { Err(UserError::OutOfRange(id.to_string())) }
}

/// A missing file is an empty one: images without any need none for numbers.
fn read_file(root: &Path, file: &'static str) -> Result<String, UserError> {
    match open_regular(root, file) {
        Ok(Some(opened)) => {
            let mut bytes = Vec::new();
            let read = opened.take(MAX_FILE + 1).read_to_end(&mut bytes);
            read.map_err(|source| UserError::Read { file, source })?;
            if bytes.len() as u64 > MAX_FILE {
                return Err(UserError::Refused { file, why: "it is larger than 1 MiB" });
            }
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        Ok(None) => Err(UserError::Refused { file, why: "it is no regular file" }),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        Err(source) => Err(UserError::Read { file, source }),
    }
}

/// The kind is looked at before the file is opened: opening a device or a pipe of an image may do anything, or hang.
fn open_regular(root: &Path, file: &str) -> io::Result<Option<File>> {
    let root = tree::open_folder(root)?;
    let handle = tree::open_in_root(root, file.as_bytes(), OFlags::PATH)?;
    let stat = rustix::fs::fstat(&handle)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    File::open(format!("/proc/self/fd/{}", handle.as_raw_fd())).map(Some)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# comment\nweb:x:33:34::/:/bin/false\n1000:x:7:8::/:\nbig:x:4294967297:0::/:\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\ndisk:x:6:web,other\naudio:x:29:other,web\nbad:x:4294967296:web\n";

    fn check(user: &str, group: Option<u32>, extra: &[u32], policy: GroupsPolicy, expected: Expect) {
        let spec = UserSpec { user: user.into(), group, extra: extra.to_vec() };
        let shown = match decide(PASSWD, GROUP, &spec, policy) {
            Ok(id) => format!("{}:{} {:?}", id.uid, id.gid, id.groups),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn a_user_is_a_name_or_a_number_with_or_without_a_group() {
        use GroupsPolicy::Merge;
        check("", None, &[], Merge, expect!["0:0 [0]"]);
        check("web", None, &[], Merge, expect!["33:34 [34, 6, 29]"]);
        check("33", None, &[], Merge, expect!["33:34 [34, 6, 29]"]);
        check("web:disk", None, &[], Merge, expect!["33:6 [6, 29]"]);
        check("web:77", None, &[], Merge, expect!["33:77 [77, 6, 29]"]);
        check("web", Some(5), &[90, 6], Merge, expect!["33:5 [5, 6, 29, 90]"]);
        check("4242", None, &[1], Merge, expect!["4242:0 [0, 1]"]);
        check("4242:", None, &[], Merge, expect!["4242:0 [0]"]);
        check("1000", None, &[], Merge, expect!["7:8 [8]"]);
    }

    #[test]
    fn strict_takes_no_groups_from_the_image() {
        check("web", None, &[90], GroupsPolicy::Strict, expect!["33:34 [34, 90]"]);
    }

    #[test]
    fn what_is_not_there_or_out_of_range_is_refused() {
        use GroupsPolicy::Merge;
        check("nobody", None, &[], Merge, expect![[r#"the image's /etc/passwd has no user "nobody""#]]);
        check("web:nobody", None, &[], Merge, expect![[r#"the image's /etc/group has no group "nobody""#]]);
        check(
            "4294967296",
            None,
            &[],
            Merge,
            expect![[r#""4294967296" is out of range for a user or group: 0 to 2147483647 are possible"#]],
        );
        check(
            "2147483648",
            None,
            &[],
            Merge,
            expect![[r#""2147483648" is out of range for a user or group: 0 to 2147483647 are possible"#]],
        );
        check(
            "-1",
            None,
            &[],
            Merge,
            expect![[r#""-1" is out of range for a user or group: 0 to 2147483647 are possible"#]],
        );
        check(
            "0:99999999999999999999",
            None,
            &[],
            Merge,
            expect![[r#""99999999999999999999" is out of range for a user or group: 0 to 2147483647 are possible"#]],
        );
        check(
            "big",
            None,
            &[],
            Merge,
            expect![[r#""4294967297" is out of range for a user or group: 0 to 2147483647 are possible"#]],
        );
        check(
            "web",
            Some(u32::MAX),
            &[],
            Merge,
            expect![[r#""4294967295" is out of range for a user or group: 0 to 2147483647 are possible"#]],
        );
        check(
            "web",
            None,
            &[u32::MAX],
            Merge,
            expect![[r#""4294967295" is out of range for a user or group: 0 to 2147483647 are possible"#]],
        );
        check(
            "a:b:c",
            None,
            &[],
            Merge,
            expect![[r#""a:b:c" is not a user: user, uid, user:group or uid:gid are wanted"#]],
        );
    }

    fn resolve_in(root: &Path, user: &str) -> Result<Identity, UserError> {
        resolve(root, &UserSpec { user: user.into(), ..UserSpec::default() }, GroupsPolicy::Merge)
    }

    #[test]
    fn links_are_followed_within_the_image_only() {
        let tmp = tempfile::tempdir().unwrap();
        let root = tmp.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("usr")).unwrap();
        std::fs::write(tmp.path().join("outside"), "evil:x:0:0::/:\n").unwrap();
        symlink("../../outside", root.join("etc/passwd")).unwrap();
        assert!(matches!(resolve_in(&root, "evil"), Err(UserError::NoUser(_))));
        std::fs::remove_file(root.join("etc/passwd")).unwrap();
        std::fs::write(root.join("usr/passwd"), "inside:x:5:5::/:\n").unwrap();
        symlink("/usr/passwd", root.join("etc/passwd")).unwrap();
        assert_eq!(resolve_in(&root, "inside").unwrap().uid, 5);
    }

    #[test]
    fn files_that_are_none_or_too_large_are_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let passwd = tmp.path().join("etc/passwd");
        std::fs::create_dir(tmp.path().join("etc")).unwrap();
        assert_eq!(resolve_in(tmp.path(), "12").unwrap().uid, 12);
        nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        assert!(matches!(resolve_in(tmp.path(), "12"), Err(UserError::Refused { .. })));
        std::fs::remove_file(&passwd).unwrap();
        std::fs::write(&passwd, "a:x:1:1::/:\n".repeat(100_000)).unwrap();
        assert!(matches!(resolve_in(tmp.path(), "12"), Err(UserError::Refused { why: "it is larger than 1 MiB", .. })));
        std::fs::write(&passwd, "a".repeat(MAX_LINE + 1)).unwrap();
        assert!(matches!(resolve_in(tmp.path(), "12"), Err(UserError::Refused { .. })));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_gives_an_id_that_is_none(passwd in "[a-c0-9:,\n-]{0,60}", group in "[a-c0-9:,\n-]{0,60}", user in "[a-c0-9:+-]{0,12}") {
            let spec = UserSpec { user, ..UserSpec::default() };
            if let Ok(id) = decide(&passwd, &group, &spec, GroupsPolicy::Merge) {
                prop_assert!(id.uid <= MAX_ID && id.gid <= MAX_ID && id.groups[0] == id.gid);
                prop_assert!(id.groups.iter().all(|gid| *gid <= MAX_ID));
            }
        }
    }
}
