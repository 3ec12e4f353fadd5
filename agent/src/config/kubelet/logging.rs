//! What the kubelet says of itself.

use super::checks::Checks;
use super::file::File;

/// `logging`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// `format`: lines of JSON, not of text.
    pub json: bool,
    /// `verbosity`, as klog counts.
    pub verbosity: u32,
    /// `vmodule`: modules with a verbosity of their own.
    pub modules: Vec<(String, u32)>,
}

pub(super) fn logging(file: &File, checks: &mut Checks) -> Logging {
    let logging = file.logging.clone().unwrap_or_default();
    let known = [("", false), ("text", false), ("json", true)];
    let mut number = |field: &str, value: Option<i64>| checks.number(field, value, (0, i64::from(i32::MAX)));
    let verbosity = number("logging.verbosity", logging.verbosity);
    let modules = logging.vmodule.into_iter().flatten();
    let modules = modules.map(|module| {
        let verbosity = number("logging.vmodule", module.verbosity);
        // klog's patterns name Go files; their names mean nothing here, modules' do.
        (module.file_pattern.unwrap_or_default().trim_end_matches(".go").to_owned(), verbosity)
    });
    let modules: Vec<(String, u32)> = modules.collect();
    for (name, _) in modules.iter().filter(|(name, _)| crate::logging::read(&format!("{name}=info")).is_err()) {
        checks.say(
            "logging.vmodule",
            format!("{name:?} is no module: use a name as in the log, such as pods or agent::pods"),
        );
    }
    Logging {
        json: checks.word("logging.format", logging.format.as_deref(), &known).unwrap_or(false),
        verbosity,
        modules,
    }
}
