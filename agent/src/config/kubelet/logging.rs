//! What the kubelet says of itself, and where traces go.

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

/// `tracing`: where traces go, by OTLP over gRPC without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    /// `endpoint`, as `host:port`.
    pub endpoint: String,
    /// `samplingRatePerMillion`: so many of a million traces that begin here.
    pub per_million: u32,
}

/// Where a collector of OpenTelemetry listens on its own machine.
const COLLECTOR: &str = "localhost:4317";
const MOST: (i64, i64) = (0, 1_000_000);

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

pub(super) fn tracing(file: &File, checks: &mut Checks) -> Option<Tracing> {
    let tracing = file.tracing.clone()?;
    let endpoint = tracing.endpoint.filter(|endpoint| !endpoint.is_empty()).unwrap_or_else(|| COLLECTOR.to_owned());
    if endpoint.parse::<hyper::http::uri::Authority>().is_err() {
        checks.say("tracing.endpoint", format!("{endpoint:?} is not of the form host:port"));
    }
    let rate = tracing.sampling_rate.map(i64::from);
    Some(Tracing { endpoint, per_million: checks.number("tracing.samplingRatePerMillion", rate, MOST) })
}
