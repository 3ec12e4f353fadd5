//! What the agent says of itself on standard error: how much of which module, as text or as JSON. Both can be changed while
//! it runs: `longshore log-level`, the kubelet's `PUT /debug/flags/v`.
//!
//! ```text
//! -v, --vmodule, logging.* --> levels::of_klog --\
//! longshore log-level WORDS --> levels::read -----+--> directives --> set
//! RUST_LOG ---------------------------------------/
//! ```
//!
//! A process has one log: this is the one state of the agent that is reached from everywhere.

mod json;
mod levels;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

pub use levels::{BadLevel, of_klog, read};

/// What is said where nobody has asked for more.
pub const QUIET: &str = "warn";

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
static LEVEL: Mutex<String> = Mutex::new(String::new());
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Begins to log; `RUST_LOG` says how much, until somebody says otherwise. Only `main` calls this.
pub fn begin() {
    let asked = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|words| EnvFilter::try_new(words).is_ok());
    let level = asked.unwrap_or_else(|| QUIET.to_owned());
    let (filter, handle) = reload::Layer::new(EnvFilter::new(&level));
    let lines = tracing_subscriber::fmt::layer().event_format(Lines::default()).with_writer(std::io::stderr);
    tracing_subscriber::registry().with(filter).with(lines).init();
    remember(level);
    // A second beginning would have panicked in `init`.
    let _ = FILTER.set(handle);
}

/// How much is said from now on; `directives` are what [`read`] and [`of_klog`] make.
///
/// # Errors
/// Where there is no log, or the directives cannot be used; nothing has changed then.
pub fn set(directives: &str) -> Result<(), BadLevel> {
    let filter = EnvFilter::try_new(directives).map_err(|_| BadLevel::new(directives))?;
    let handle = FILTER.get().ok_or(BadLevel::NoLog)?;
    handle.reload(filter).map_err(|_| BadLevel::NoLog)?;
    remember(directives.to_owned());
    Ok(())
}

/// How much is said now.
pub fn level() -> String {
    LEVEL.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn remember(level: String) {
    *LEVEL.lock().unwrap_or_else(PoisonError::into_inner) = level;
}

/// Lines of JSON from now on, or of text.
pub fn write_json(json: bool) {
    IS_JSON.store(json, Ordering::Relaxed);
}

/// Both forms of a line.
#[derive(Default)]
struct Lines(Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        match IS_JSON.load(Ordering::Relaxed) {
            true => json::line(writer, event, jiff::Timestamp::now()),
            false => self.0.format_event(context, writer, event),
        }
    }
}
