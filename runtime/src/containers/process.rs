//! The process of the spec: command, environment, working directory, user, limits.

use std::path::PathBuf;

use cri_proto::v1;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Process, User};

use super::capabilities::{self, Granted};
use super::{HostFacts, Identity, ImageDefaults, SpecError, Warning};

/// Where programs are looked for when nobody says anything else.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that makes the process, decided elsewhere.
pub(super) struct Parts<'a> {
    pub(super) config: &'a v1::ContainerConfig,
    pub(super) image: &'a ImageDefaults,
    pub(super) identity: &'a Identity,
    pub(super) hostname: &'a str,
    pub(super) host: &'a HostFacts,
    pub(super) granted: Granted,
    pub(super) apparmor: Option<String>,
    pub(super) oom_score_adj: Option<i32>,
}

/// Every field of the process is set: `oci_spec` fills in a shell, a limit and capabilities otherwise.
pub(super) fn process(parts: &Parts<'_>) -> Result<Process, SpecError> {
    let no_new_privileges = security(parts.config).is_some_and(|security| security.no_new_privs);
    let mut process = Process::default();
    process
        .set_terminal(Some(parts.config.tty))
        .set_console_size(None)
        .set_user(user(parts.identity))
        .set_args(Some(args(parts.config, parts.image)?))
        .set_env(Some(env(parts.config, parts.image, parts.hostname)?))
        .set_cwd(cwd(parts.config, parts.image)?)
        .set_capabilities(Some(capabilities::oci(parts.granted)))
        .set_rlimits(Some(rlimits(parts.host)))
        .set_no_new_privileges(Some(no_new_privileges))
        .set_apparmor_profile(parts.apparmor.clone())
        .set_oom_score_adj(parts.oom_score_adj)
        .set_selinux_label(None);
    Ok(process)
}

fn security(config: &v1::ContainerConfig) -> Option<&v1::LinuxContainerSecurityContext> {
    config.linux.as_ref()?.security_context.as_ref()
}

fn user(identity: &Identity) -> User {
    let mut user = User::default();
    user.set_uid(identity.uid).set_gid(identity.gid).set_umask(None).set_username(None);
    user.set_additional_gids(Some(identity.groups.clone()));
    user
}

/// `command` replaces the image's entrypoint and its arguments, `args` replaces the image's arguments.
pub(super) fn args(config: &v1::ContainerConfig, image: &ImageDefaults) -> Result<Vec<String>, SpecError> {
    let command = if config.command.is_empty() { &image.entrypoint } else { &config.command };
    let image_args = if config.command.is_empty() { image.cmd.as_slice() } else { &[] };
    let args = if config.args.is_empty() { image_args } else { &config.args };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    match all.first() {
        None => {
            let image = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
            Err(SpecError::NoCommand { image })
        }
        Some(program) if program.is_empty() => {
            let image = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
            Err(SpecError::NoCommand { image })
        }
        Some(_) if all.iter().any(|arg| arg.contains('\0')) => Err(SpecError::NulByte("the command")),
        Some(_) => Ok(all),
    }
}

/// Defaults first, then the image's variables, then the container's; of one name the last counts.
pub(super) fn env(
    config: &v1::ContainerConfig,
    image: &ImageDefaults,
    hostname: &str,
) -> Result<Vec<String>, SpecError> {
    let mut env = vec![PATH.to_owned(), format!("HOSTNAME={hostname}")];
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    // An image's variable without `=` names one to take from the environment, of which there is none.
    image.env.iter().filter(|variable| variable.contains('=')).for_each(|variable| put(&mut env, variable.clone()));
    for variable in &config.envs {
        if variable.key.is_empty() || variable.key.contains('=') {
            return Err(SpecError::EnvName(variable.key.clone()));
        }
        // JSON has no other bytes; containerd and runc lose what is not UTF-8 in the same way.
        put(&mut env, format!("{}={}", variable.key, String::from_utf8_lossy(&variable.value)));
    }
    if env.iter().any(|variable| variable.contains('\0')) {
        return Err(SpecError::NulByte("the environment"));
    }
    Ok(env)
}

/// Pods with thousands of service variables exist; their names are unique already, so the list is short to search.
fn put(env: &mut Vec<String>, variable: String) {
    let name_length = variable.find('=').map_or(variable.len(), |at| at + 1);
    let known = env.iter().position(|have| have.get(..name_length) == Some(&variable[..name_length]));
    match known {
        Some(at) => env[at] = variable,
        None => env.push(variable),
    }
}

fn cwd(config: &v1::ContainerConfig, image: &ImageDefaults) -> Result<PathBuf, SpecError> {
    let chosen = [&config.working_dir, &image.working_dir].into_iter().find(|path| !path.is_empty());
    let cwd = chosen.map_or("/", String::as_str);
    match cwd {
        _ if cwd.contains('\0') => Err(SpecError::NulByte("the working directory")),
        _ if !cwd.starts_with('/') => Err(SpecError::RelativeWorkingDir(cwd.to_owned())),
        _ => Ok(PathBuf::from(cwd)),
    }
}

/// The kubelet sets none; what containers get is this program's own, so that a unit file's limits reach them
/// as they do with containerd. The numbers of open files alone is worth stating in the spec.
fn rlimits(host: &HostFacts) -> Vec<PosixRlimit> {
    let wanted = host.rlimits.iter().filter(|limit| limit.kind == PosixRlimitType::RlimitNofile);
    wanted
        .filter_map(|limit| {
            PosixRlimitBuilder::default().typ(limit.kind).soft(limit.soft).hard(limit.hard).build().ok()
        })
        .collect()
}

/// Without CAP_SYS_RESOURCE nobody can make a process less likely to be killed than itself.
///
/// # Errors
/// [`SpecError::OutOfRange`] outside -1000 to 1000.
pub(super) fn oom_score_adj(asked: i64, host: &HostFacts) -> Result<(i32, Option<Warning>), SpecError> {
    let out_of_range = || SpecError::OutOfRange { field: "oom_score_adj", value: asked };
    let asked = i32::try_from(asked).ok().filter(|value| (-1000..=1000).contains(value)).ok_or_else(out_of_range)?;
    if host.sys_resource || asked >= host.oom_score_adj {
        return Ok((asked, None));
    }
    let given = host.oom_score_adj;
    Ok((given, Some(Warning::OomScoreAdjRaised { asked, given })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn args_of(command: &[&str], args_: &[&str], entrypoint: &[&str], cmd: &[&str]) -> Result<String, SpecError> {
        let config = v1::ContainerConfig { command: strings(command), args: strings(args_), ..Default::default() };
        let image = ImageDefaults { entrypoint: strings(entrypoint), cmd: strings(cmd), ..ImageDefaults::default() };
        args(&config, &image).map(|args| args.join(" "))
    }

    #[test]
    fn a_command_silences_the_image_and_arguments_replace_its_arguments() {
        let image: (&[&str], &[&str]) = (&["entry"], &["cmd"]);
        assert_eq!(args_of(&[], &[], image.0, image.1).unwrap(), "entry cmd");
        assert_eq!(args_of(&[], &["a"], image.0, image.1).unwrap(), "entry a");
        assert_eq!(args_of(&["c"], &[], image.0, image.1).unwrap(), "c");
        assert_eq!(args_of(&["c"], &["a"], image.0, image.1).unwrap(), "c a");
        assert_eq!(args_of(&[], &[], &[], &["cmd"]).unwrap(), "cmd");
        assert!(matches!(args_of(&[], &[], &[], &[]), Err(SpecError::NoCommand { .. })));
    }

    #[test]
    fn of_one_variable_the_last_value_counts_in_the_first_place() {
        let image = ImageDefaults { env: strings(&["PATH=/bin", "A=image", "BARE"]), ..ImageDefaults::default() };
        let variable = |key: &str, value: &str| v1::KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() };
        let config = v1::ContainerConfig {
            envs: vec![variable("A", "1"), variable("AB", "x=y"), variable("A", "2")],
            tty: true,
            ..Default::default()
        };
        let env = env(&config, &image, "web").unwrap();
        assert_eq!(env, ["PATH=/bin", "HOSTNAME=web", "TERM=xterm", "A=2", "AB=x=y"]);
    }

    #[test]
    fn a_variable_that_no_process_can_be_given_is_refused() {
        let config = |key: &str, value: &str| v1::ContainerConfig {
            envs: vec![v1::KeyValue { key: key.to_owned(), value: value.as_bytes().to_vec() }],
            ..Default::default()
        };
        let image = ImageDefaults::default();
        assert_eq!(env(&config("A=B", ""), &image, ""), Err(SpecError::EnvName("A=B".to_owned())));
        assert_eq!(env(&config("A", "x\0y"), &image, ""), Err(SpecError::NulByte("the environment")));
    }

    #[test]
    fn a_score_below_our_own_needs_the_capability() {
        let host = |sys_resource| HostFacts { sys_resource, oom_score_adj: 0, ..HostFacts::default() };
        assert_eq!(oom_score_adj(-998, &host(true)).unwrap(), (-998, None));
        let warning = Warning::OomScoreAdjRaised { asked: -998, given: 0 };
        assert_eq!(oom_score_adj(-998, &host(false)).unwrap(), (0, Some(warning)));
        assert_eq!(oom_score_adj(1000, &host(false)).unwrap(), (1000, None));
        assert!(oom_score_adj(1001, &host(true)).is_err());
    }
}
