use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = CString> {
    vec(1u8.., 0..20).prop_map(|bytes| CString::new(bytes).unwrap_or_default())
}

fn path() -> impl Strategy<Value = PathBuf> {
    "/[a-z/. é]{0,30}".prop_map(PathBuf::from)
}

fn mount() -> impl Strategy<Value = Mount> {
    (text(), path(), text(), any::<u64>(), text(), any::<u64>(), any::<bool>()).prop_map(
        |(source, target, fstype, flags, data, propagation, recursive_readonly)| Mount {
            source,
            target,
            fstype,
            flags,
            data,
            propagation,
            recursive_readonly,
        },
    )
}

fn device() -> impl Strategy<Value = Device> {
    (path(), any::<[u32; 5]>()).prop_map(|(path, [mode, major, minor, uid, gid])| Device {
        path,
        mode,
        major,
        minor,
        uid,
        gid,
    })
}

fn root() -> impl Strategy<Value = Root> {
    let paths = || vec(path(), 0..4);
    (
        path(),
        any::<bool>(),
        any::<u64>(),
        vec(mount(), 0..4),
        vec(device(), 0..4),
        vec((text(), path()), 0..4),
        paths(),
        paths(),
    )
        .prop_map(|(path, readonly, propagation, mounts, devices, links, masked, readonly_paths)| Root {
            path,
            readonly,
            propagation,
            mounts,
            devices,
            links,
            masked,
            readonly_paths,
        })
}

fn who() -> impl Strategy<Value = (User, Capabilities)> {
    (any::<[u32; 2]>(), vec(any::<u32>(), 0..4), any::<Option<u32>>(), any::<[u64; 5]>()).prop_map(
        |([uid, gid], groups, umask, [bounding, effective, permitted, inheritable, ambient])| {
            (User { uid, gid, groups, umask }, Capabilities { bounding, effective, permitted, inheritable, ambient })
        },
    )
}

fn launch() -> impl Strategy<Value = Launch> {
    let where_to = (
        vec(path(), 0..4),
        any::<Option<i32>>(),
        vec((any::<u64>(), path()).prop_map(|(kind, path)| JoinNamespace { kind, path }), 0..4),
        (
            any::<u64>(),
            option::of((path(), any::<u32>(), any::<u32>()).prop_map(|(path, uid, gid)| UserNamespace {
                path,
                uid,
                gid,
            })),
        ),
        option::of(root()),
        option::of(text()),
        vec((path(), vec(any::<u8>(), 0..9)), 0..3),
    );
    let confined = (
        vec(any::<(u32, u64, u64)>(), 0..4),
        who(),
        any::<bool>(),
        vec(any::<u8>(), 0..99),
        any::<u32>(),
        option::of(text()),
    );
    let what = (text(), vec(text(), 0..4), vec(text(), 0..4), any::<Option<(u16, u16)>>());
    (where_to, confined, what).prop_map(|(a, b, c)| Launch {
        cgroups: a.0,
        oom_score_adj: a.1,
        join: a.2,
        create: a.3.0,
        users: a.3.1,
        root: a.4,
        hostname: a.5,
        sysctls: a.6,
        rlimits: b.0,
        user: b.1.0,
        capabilities: b.1.1,
        no_new_privileges: b.2,
        seccomp: b.3,
        seccomp_flags: b.4,
        apparmor: b.5,
        cwd: c.0,
        args: c.1,
        env: c.2,
        terminal: c.3,
    })
}

proptest! {
    #[test]
    fn a_launch_comes_back_as_it_was_written(launch in launch()) {
        prop_assert_eq!(Launch::decode(&launch.encode()), Ok(launch));
    }

    #[test]
    fn a_launch_cut_short_is_an_error(launch in launch(), keep in any::<proptest::sample::Index>()) {
        let bytes = launch.encode();
        prop_assert!(Launch::decode(&bytes[..keep.index(bytes.len())]).is_err());
    }

    #[test]
    fn foreign_bytes_are_an_error_and_never_a_panic(mut bytes in vec(any::<u8>(), 0..600), at in any::<u8>()) {
        let _ = Launch::decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = codec::VERSION;
        }
        let _ = Launch::decode(&bytes);
        let mut damaged = Launch::default().encode();
        let at = usize::from(at) % damaged.len();
        damaged[at] ^= 0x41;
        let _ = Launch::decode(&damaged);
    }
}

#[test]
fn another_version_is_refused_by_its_number() {
    let mut bytes = Launch::default().encode();
    bytes[0] = 77;
    assert_eq!(Launch::decode(&bytes), Err(DecodeError::Version(77)));
}

#[test]
fn bytes_after_the_last_field_are_refused() {
    let mut bytes = Launch::default().encode();
    bytes.push(0);
    assert_eq!(Launch::decode(&bytes), Err(DecodeError::Trailing(1)));
}

#[test]
fn a_launch_above_the_limit_is_refused_unread() {
    let bytes = vec![codec::VERSION; LARGEST_LAUNCH + 1];
    assert_eq!(Launch::decode(&bytes), Err(DecodeError::TooLarge(LARGEST_LAUNCH + 1)));
}
