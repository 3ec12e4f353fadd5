//! The kubelet's flags on the command line of the agent.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};

use crate::config::kubelet::{self, FLAGS, Loaded, SWITCHES_WITHOUT_MEANING, Setting, WITHOUT_MEANING};
use crate::logging;

/// `--config`, `--config-dir` and every flag of the kubelet that the agent has not under the same name.
#[derive(Clone, Debug, Default)]
pub(super) struct KubeletFlags {
    config: Option<PathBuf>,
    config_dir: Option<PathBuf>,
    settings: Vec<Setting>,
    /// Given, and without meaning here.
    ignored: Vec<&'static str>,
}

impl KubeletFlags {
    /// Reads what they name, and says what has no effect here.
    ///
    /// # Errors
    /// [`kubelet::BadConfiguration`].
    pub(super) fn load(&self) -> Result<kubelet::KubeletConfiguration, kubelet::BadConfiguration> {
        let Loaded { configuration, warnings } =
            kubelet::load(self.config.as_deref(), self.config_dir.as_deref(), &self.settings)?;
        follow(&configuration.logging);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        if !self.ignored.is_empty() {
            tracing::warn!("these flags of the kubelet mean nothing here: --{}", self.ignored.join(", --"));
        }
        Ok(configuration)
    }

    /// A configuration was named: what it does not say is meant to be the kubelet's default.
    pub(super) fn is_configured(&self) -> bool {
        self.config.is_some() || self.config_dir.is_some()
    }
}

/// Logs as it is asked for; `RUST_LOG` counts where nobody asks for a level.
fn follow(wanted: &kubelet::Logging) {
    logging::write_json(wanted.json);
    if wanted.verbosity > 0 || !wanted.modules.is_empty() {
        let level = logging::of_klog(wanted.verbosity, &wanted.modules);
        if let Err(error) = logging::set(&level) {
            tracing::warn!("{error}");
        }
    }
}

impl Args for KubeletFlags {
    fn augment_args(command: Command) -> Command {
        let file = Arg::new("config").long("config").value_name("FILE").value_parser(clap::value_parser!(PathBuf));
        let folder =
            Arg::new("config-dir").long("config-dir").value_name("DIR").value_parser(clap::value_parser!(PathBuf));
        let command = command
            .arg(file.help("The kubelet's configuration: KubeletConfiguration v1beta1. Flags win over it"))
            .arg(folder.help("A folder whose *.conf are laid over it, by name"));
        let known = FLAGS.iter().map(|flag| {
            let arg = if flag.is_switch { switch(flag.name) } else { valued(flag.name) };
            let arg = if flag.name == "v" { arg.short('v') } else { arg };
            if flag.help.is_empty() { arg.hide(true) } else { arg.help(flag.help) }
        });
        let other = WITHOUT_MEANING.iter().map(|name| valued(name).hide(true));
        let switches = SWITCHES_WITHOUT_MEANING.iter().map(|name| switch(name).hide(true));
        command.args(known).args(other).args(switches)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn valued(name: &'static str) -> Arg {
    Arg::new(name).long(name).value_name("VALUE").action(ArgAction::Append).allow_hyphen_values(true)
}

/// As in Go, a switch has its value behind an equals sign or not at all.
fn switch(name: &'static str) -> Arg {
    valued(name).num_args(0..=1).require_equals(true).default_missing_value("true").value_name("BOOL")
}

impl FromArgMatches for KubeletFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.config = matches.get_one("config").cloned();
        self.config_dir = matches.get_one("config-dir").cloned();
        for flag in FLAGS {
            let given: Vec<String> = matches.get_many(flag.name).into_iter().flatten().cloned().collect();
            if given.is_empty() {
                continue;
            }
            let setting = flag.setting(&given).map_err(|problem| {
                clap::Error::raw(ErrorKind::ValueValidation, format!("--{}: {problem}\n", flag.name))
            })?;
            self.settings.push(setting);
        }
        let ignored = WITHOUT_MEANING.iter().chain(SWITCHES_WITHOUT_MEANING);
        self.ignored = ignored.copied().filter(|name| matches.contains_id(name)).collect();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        flags: KubeletFlags,
    }

    fn parse(given: &str) -> Result<KubeletFlags, String> {
        let words = ["agent"].into_iter().chain(given.split_whitespace());
        Alone::try_parse_from(words).map(|alone| alone.flags).map_err(|error| error.to_string())
    }

    #[test]
    fn what_kubeadm_passes_is_taken() {
        let flags = parse(
            "--container-runtime-endpoint=unix:///run/containerd/containerd.sock --pod-infra-container-image=pause:3.9 \
             --network-plugin=cni --register-with-taints=a:NoSchedule --cgroup-driver systemd --rotate-certificates -v=2 \
             --eviction-hard=memory.available<1Gi --eviction-max-pod-grace-period -1 --feature-gates=A=true",
        )
        .unwrap();
        assert_eq!(flags.ignored, ["container-runtime-endpoint", "pod-infra-container-image", "network-plugin"]);
        let named: Vec<_> = flags.settings.iter().map(|setting| setting.flag).collect();
        assert_eq!(named.len(), 7, "{named:?}");
        assert!(flags.load().unwrap().rotate_certificates);
    }

    #[test]
    fn a_switch_may_be_turned_off_and_does_not_eat_the_next_word() {
        let flags = parse("--rotate-certificates=false --fail-swap-on --max-pods 5").unwrap();
        let config = flags.load().unwrap();
        assert!(!config.rotate_certificates && config.fail_swap_on && config.pods.max == 5);
        assert!(parse("--fail-swap-on false").is_err());
    }

    #[test]
    fn a_misspelt_flag_is_refused_with_the_one_that_was_meant() {
        let said = parse("--evicton-hard=a<b").unwrap_err();
        assert!(said.contains("--evicton-hard") && said.contains("'--eviction-hard'"), "{said}");
        let said = parse("--contaner-runtime-endpoint=x").unwrap_err();
        assert!(said.contains("'--container-runtime-endpoint'"), "{said}");
    }
}
