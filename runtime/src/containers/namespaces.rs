//! Which namespaces a container has of its own, and which it joins.

use std::path::PathBuf;

use cri_proto::v1;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType as Kind};

use super::{SandboxFacts, SpecError};
use crate::cgroups::Version;

/// The namespaces of the spec. One that is missing is the node's.
///
/// # Errors
/// [`SpecError`]: a user namespace that the sandbox does not have, an unknown mode, or one to join that is not there.
pub(super) fn namespaces(
    options: Option<&v1::NamespaceOption>,
    privileged: bool,
    sandbox: &SandboxFacts,
    version: Version,
) -> Result<Vec<LinuxNamespace>, SpecError> {
    let default = v1::NamespaceOption::default();
    let options = options.unwrap_or(&default);
    let own = &sandbox.namespaces;
    refuse_user_namespace(options, own.user.is_some())?;
    let mut all = vec![namespace(Kind::Mount, None)];
    all.extend(own.user.as_ref().map(|user| namespace(Kind::User, Some(user.path.clone()))));
    if shared("network", options.network)? {
        all.push(namespace(Kind::Network, Some(joined(&own.network, "network")?)));
    }
    // On the node's network the hostname is the node's too: the sandbox has no UTS namespace then.
    all.extend(own.uts.clone().map(|path| namespace(Kind::Uts, Some(path))));
    if shared("ipc", options.ipc)? {
        all.push(namespace(Kind::Ipc, Some(joined(&own.ipc, "ipc")?)));
    }
    all.extend(pid(options, sandbox)?);
    if has_cgroup_namespace(privileged, version) {
        all.push(namespace(Kind::Cgroup, None));
    }
    Ok(all)
}

/// On v2 a container sees its own group as the root; on v1 it is shown binds of its groups instead.
pub(super) fn has_cgroup_namespace(privileged: bool, version: Version) -> bool {
    version == Version::V2 && !privileged
}

/// A container cannot have ids of its own in a sandbox that has the node's.
fn refuse_user_namespace(options: &v1::NamespaceOption, sandbox_has_one: bool) -> Result<(), SpecError> {
    let asks = options.userns_options.as_ref().is_some_and(|user| user.mode != v1::NamespaceMode::Node as i32);
    if asks && !sandbox_has_one { Err(SpecError::UserNamespace { what: "the pod".to_owned() }) } else { Ok(()) }
}

/// POD (the default) shares the sandbox's, NODE the node's; the other two make no sense for these kinds.
fn shared(field: &'static str, mode: i32) -> Result<bool, SpecError> {
    match v1::NamespaceMode::try_from(mode) {
        Ok(v1::NamespaceMode::Pod) => Ok(true),
        Ok(v1::NamespaceMode::Node) => Ok(false),
        _ => Err(SpecError::UnknownValue { field, value: mode }),
    }
}

fn pid(options: &v1::NamespaceOption, sandbox: &SandboxFacts) -> Result<Option<LinuxNamespace>, SpecError> {
    let unknown = SpecError::UnknownValue { field: "pid", value: options.pid };
    let path = match v1::NamespaceMode::try_from(options.pid).map_err(|_| unknown)? {
        v1::NamespaceMode::Node => return Ok(None),
        v1::NamespaceMode::Container => None,
        v1::NamespaceMode::Pod => Some(joined(&sandbox.namespaces.pid, "pid")?),
        v1::NamespaceMode::Target => {
            let pid = sandbox.target_pid.ok_or(SpecError::NoNamespace("target container's pid"))?;
            Some(PathBuf::from(format!("/proc/{pid}/ns/pid")))
        }
    };
    Ok(Some(namespace(Kind::Pid, path)))
}

fn joined(path: &Option<PathBuf>, kind: &'static str) -> Result<PathBuf, SpecError> {
    path.clone().ok_or(SpecError::NoNamespace(kind))
}

fn namespace(kind: Kind, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}
