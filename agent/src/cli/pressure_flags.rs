//! The kubelet's flags about a node that runs short of something, for a node of its own.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, error::ErrorKind};

use crate::config::kubelet::{self, BadConfiguration, Eviction, FLAGS, Flag, Images, Setting};

/// The flags that there are here, and what each says where it is not given and the kubelet's own default would be wrong: on
/// a node of its own a pod that ends for want of disk is started nowhere else, an image that is removed may be had from
/// nowhere, and the disk is its owner's. Too little memory is no matter of taste: the kernel would choose a victim.
const NAMES: [(&str, Option<&str>); 9] = [
    ("eviction-hard", Some("memory.available<100Mi")),
    ("eviction-soft", None),
    ("eviction-soft-grace-period", None),
    ("eviction-minimum-reclaim", None),
    ("eviction-pressure-transition-period", None),
    ("eviction-max-pod-grace-period", None),
    ("image-gc-high-threshold", Some("100")),
    ("image-gc-low-threshold", None),
    ("minimum-image-ttl-duration", None),
];

/// What was given, and what is said where nothing was.
#[derive(Clone, Debug, Default)]
pub(super) struct PressureFlags {
    settings: Vec<Setting>,
}

impl PressureFlags {
    /// What they mean.
    ///
    /// # Errors
    /// [`BadConfiguration`].
    pub(super) fn load(&self) -> Result<(Eviction, Images), BadConfiguration> {
        let configuration = kubelet::load(None, None, &self.settings)?.configuration;
        Ok((configuration.eviction, configuration.images))
    }
}

fn flags() -> impl Iterator<Item = (&'static Flag, Option<&'static str>)> {
    let flag = |name: &str| FLAGS.iter().find(|flag| flag.name == name);
    NAMES.iter().filter_map(move |(name, default)| Some((flag(name)?, *default)))
}

impl Args for PressureFlags {
    fn augment_args(command: Command) -> Command {
        let arg = |(flag, default): (&'static Flag, Option<&'static str>)| {
            let arg = Arg::new(flag.name).long(flag.name).value_name("VALUE").help(flag.help);
            arg.action(ArgAction::Append).allow_hyphen_values(true).default_values(default)
        };
        command.args(flags().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for PressureFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (flag, _) in flags() {
            let given: Vec<String> = matches.get_many(flag.name).into_iter().flatten().cloned().collect();
            if given.is_empty() {
                continue;
            }
            let bad = |problem| clap::Error::raw(ErrorKind::ValueValidation, format!("--{}: {problem}\n", flag.name));
            self.settings.push(flag.setting(&given).map_err(bad)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::kubelet::Signal;
    use crate::resources::pressure::signals;

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        flags: PressureFlags,
    }

    fn parse(given: &str) -> Result<(Eviction, Images), String> {
        let words = ["run"].into_iter().chain(given.split_whitespace());
        let alone = Alone::try_parse_from(words).map_err(|error| error.to_string())?;
        alone.flags.load().map_err(|error| error.to_string())
    }

    #[test]
    fn every_flag_is_one_of_the_kubelets() {
        assert_eq!(flags().count(), NAMES.len());
        assert!(flags().all(|(flag, _)| !flag.help.is_empty()));
    }

    #[test]
    fn on_a_node_of_its_own_only_memory_is_watched_and_images_stay() {
        let (eviction, images) = parse("").unwrap();
        assert_eq!(signals(&eviction).into_iter().collect::<Vec<_>>(), [Signal::MemoryAvailable]);
        assert_eq!((images.high_percent, images.max_age), (100, None));
    }

    #[test]
    fn what_is_given_takes_the_place_of_the_default() {
        let (eviction, images) =
            parse("--eviction-hard=nodefs.available<5%,pid.available<100 --image-gc-high-threshold 90").unwrap();
        let named: Vec<_> = signals(&eviction).into_iter().map(Signal::name).collect();
        assert_eq!((named, images.high_percent), (vec!["nodefs.available", "pid.available"], 90));
        assert!(signals(&parse("--eviction-hard=memory.available<0%").unwrap().0).is_empty());
        assert!(parse("--eviction-hard=memory.free<1Gi").unwrap_err().contains("memory.free"));
        assert!(parse("--eviction-soft=memory.available<1Gi").unwrap_err().contains("evictionSoftGracePeriod"));
    }
}
