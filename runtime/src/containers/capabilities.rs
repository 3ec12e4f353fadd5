//! Capability names, the default set, and what a container's lists make of it.

use cri_proto::v1;
use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use super::{SpecError, Warning};

/// Kernel names without `CAP_`, in the kernel's order: the index is the capability's number (capability.h).
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless it says otherwise: the fourteen that containerd and Docker give.
pub const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The bit of a capability; the name with or without `CAP_`, in any case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == bare).map(|number| 1 << number)
}

/// Names with `CAP_` of the bits that are set.
pub fn names(mask: u64) -> Vec<String> {
    let set = NAMES.iter().enumerate().filter(|(number, _)| mask & (1 << number) != 0);
    set.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// The default set as bits.
pub fn default_mask() -> u64 {
    DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |mask, bit| mask | bit)
}

/// A container's capabilities, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Granted {
    /// Bounding, permitted and effective.
    pub set: u64,
    /// Kept by an exec of any file.
    pub ambient: u64,
}

/// What the lists of a container come to; `available` is what we can give at all.
///
/// `ALL` in `add` is everything, in `drop` leaves what `add` names. Something in both lists is dropped, also `ALL`.
///
/// # Errors
/// [`SpecError::UnknownCapability`], [`SpecError::AmbientCapability`].
pub fn granted(
    lists: Option<&v1::Capability>,
    privileged: bool,
    available: u64,
) -> Result<(Granted, Option<Warning>), SpecError> {
    let empty = v1::Capability::default();
    let lists = lists.unwrap_or(&empty);
    let everything = (1 << NAMES.len()) - 1;
    let asked = if privileged { everything } else { asked(lists)? };
    // "Everything" means everything there is; only what was asked for by name is worth a word.
    let named = if privileged { 0 } else { mask(&lists.add_capabilities)? };
    let missing = names(named & asked & !available);
    let warning = (!missing.is_empty()).then_some(Warning::CapabilitiesMissing(missing));
    let set = asked & available;
    let ambient = mask(&lists.add_ambient_capabilities)?;
    if let Some(name) = names(ambient & !asked).first() {
        return Err(SpecError::AmbientCapability(name.clone()));
    }
    Ok((Granted { set, ambient: ambient & set }, warning))
}

fn asked(lists: &v1::Capability) -> Result<u64, SpecError> {
    let all = |list: &[String]| list.iter().any(|name| name.eq_ignore_ascii_case("ALL"));
    let (add, drop) = (mask(&lists.add_capabilities)?, mask(&lists.drop_capabilities)?);
    let base = match (all(&lists.add_capabilities), all(&lists.drop_capabilities)) {
        (_, true) => 0,
        (true, false) => (1 << NAMES.len()) - 1,
        (false, false) => default_mask(),
    };
    Ok((base | add) & !drop)
}

/// The bits of the names in a list, `ALL` apart.
fn mask(list: &[String]) -> Result<u64, SpecError> {
    let named = list.iter().filter(|name| !name.eq_ignore_ascii_case("ALL"));
    named
        .map(|name| bit(name).ok_or_else(|| SpecError::UnknownCapability(name.clone())))
        .try_fold(0, |sum, bit| Ok(sum | bit?))
}

/// The five sets for an OCI spec. Nothing is inheritable: a capable file would hand it to any user otherwise
/// (CVE-2022-24769); ambient ones must be, or the kernel refuses them.
pub(super) fn oci(granted: Granted) -> LinuxCapabilities {
    let set = |mask: u64| Some(names(mask).iter().filter_map(|name| of_name(name)).collect::<Capabilities>());
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(set(granted.set))
        .set_effective(set(granted.set))
        .set_permitted(set(granted.set))
        .set_inheritable(set(granted.ambient))
        .set_ambient(set(granted.ambient));
    capabilities
}

/// The bits of one set of an OCI spec.
pub(super) fn of_oci(set: Option<&Capabilities>) -> u64 {
    set.into_iter().flatten().filter_map(|capability| bit(&capability.to_string())).fold(0, |mask, bit| mask | bit)
}

fn of_name(name: &str) -> Option<Capability> {
    name.strip_prefix("CAP_")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(add: &[&str], drop: &[&str], ambient: &[&str], expected: Expect) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let lists = v1::Capability {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            add_ambient_capabilities: owned(ambient),
        };
        let available = !bit("SYS_RESOURCE").unwrap();
        let text = match granted(Some(&lists), false, available) {
            Err(error) => format!("refused: {error}"),
            Ok((granted, warning)) => {
                let warning = warning.map(|warning| format!("\nwarning: {warning}")).unwrap_or_default();
                let ambient = names(granted.ambient);
                let count = names(granted.set).len();
                let set = if count > 16 { format!("{count} capabilities") } else { names(granted.set).join(" ") };
                format!("{set}\nambient: {}{warning}", ambient.join(" "))
            }
        };
        expected.assert_eq(&text.replace("CAP_", ""));
    }

    #[test]
    fn fourteen_are_the_default() {
        check(
            &[],
            &[],
            &[],
            expect![[r#"
                CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP
                ambient: "#]],
        );
    }

    #[test]
    fn all_is_dropped_before_the_named_ones_are_added() {
        check(
            &["NET_ADMIN", "cap_sys_time"],
            &["ALL"],
            &[],
            expect![[r#"
            NET_ADMIN SYS_TIME
            ambient: "#]],
        );
    }

    #[test]
    fn all_is_added_before_the_named_ones_are_dropped() {
        check(
            &["all"],
            &["CAP_SYS_ADMIN"],
            &[],
            expect![[r#"
            39 capabilities
            ambient: "#]],
        );
    }

    #[test]
    fn all_in_both_lists_is_nothing() {
        check(
            &["ALL"],
            &["ALL"],
            &[],
            expect![[r#"

            ambient: "#]],
        );
    }

    #[test]
    fn what_this_machine_lacks_is_left_out_with_a_word() {
        check(
            &["SYS_RESOURCE"],
            &["ALL"],
            &[],
            expect![[r#"

            ambient: 
            warning: capabilities left out because this machine lacks them: SYS_RESOURCE"#]],
        );
    }

    #[test]
    fn ambient_ones_must_be_among_the_others() {
        check(
            &["NET_ADMIN"],
            &["ALL"],
            &["NET_ADMIN"],
            expect![[r#"
            NET_ADMIN
            ambient: NET_ADMIN"#]],
        );
        check(
            &[],
            &["ALL"],
            &["CAP_NET_ADMIN"],
            expect![[r#"refused: ambient capability "NET_ADMIN" is not among the container's capabilities"#]],
        );
    }

    #[test]
    fn a_name_nobody_knows_is_refused() {
        check(&["SYS_EVERYTHING"], &[], &[], expect![[r#"refused: unknown capability "SYS_EVERYTHING""#]]);
    }

    #[test]
    fn every_bit_survives_the_oci_form_and_nothing_is_inheritable() {
        let all = (1 << NAMES.len()) - 1;
        let oci = oci(Granted { set: all, ambient: 0 });
        assert_eq!(of_oci(oci.bounding().as_ref()), all);
        assert_eq!(of_oci(oci.inheritable().as_ref()), 0);
    }
}
