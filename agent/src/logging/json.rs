//! A line of JSON, with the names that Kubernetes' own components use (`component-base/logs/json`).

use std::error::Error;
use std::fmt;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;

use crate::errors::chain;

/// Writes one event.
pub(super) fn line(mut writer: Writer<'_>, event: &Event<'_>, now: Timestamp) -> fmt::Result {
    let metadata = event.metadata();
    let mut line = Map::new();
    line.insert("ts".into(), json!(now.as_microsecond() as f64 / 1e3));
    line.insert("level".into(), metadata.level().as_str().to_lowercase().into());
    if let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
        line.insert("caller".into(), format!("{file}:{number}").into());
    }
    line.insert("logger".into(), metadata.target().into());
    if let Some(verbosity) = verbosity(*metadata.level()) {
        line.insert("v".into(), verbosity.into());
    }
    event.record(&mut Fields(&mut line));
    writeln!(writer, "{}", Value::Object(line))
}

/// klog's number of a level; errors and warnings have none.
fn verbosity(level: Level) -> Option<u32> {
    match level {
        Level::ERROR | Level::WARN => None,
        Level::INFO => Some(0),
        Level::DEBUG => Some(4),
        Level::TRACE => Some(6),
    }
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = match field.name() {
            "message" => "msg",
            "error" => "err",
            name => name.strip_prefix("r#").unwrap_or(name),
        };
        self.0.insert(name.to_owned(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.put(field, chain(value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    /// Keeps lines.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<String>>);

    impl<S: tracing::Subscriber> Layer<S> for Kept {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let now = Timestamp::from_millisecond(1_500).unwrap();
            line(Writer::new(&mut *self.0.lock().unwrap()), event, now).unwrap();
        }
    }

    #[test]
    fn a_line_has_the_names_that_kubernetes_uses() {
        let kept = Kept::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(kept.clone()), || {
            tracing::warn!(pod = "web", tries = 3, error = %"no \"way\"", "it did\nnot work");
            tracing::debug!(kind = ?Some(1), "so");
        });
        let text = kept.0.lock().unwrap().clone();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [first, second] = &lines[..] else { panic!("{text}") };
        assert_eq!(
            (&first["ts"], &first["level"], &first["msg"]),
            (&json!(1_500.0), &json!("warn"), &json!("it did\nnot work"))
        );
        assert_eq!((&first["pod"], &first["tries"], &first["err"]), (&json!("web"), &json!(3), &json!("no \"way\"")));
        assert!(first["caller"].as_str().unwrap().contains("json.rs:") && first.get("v").is_none(), "{first}");
        assert_eq!(
            (&second["v"], &second["kind"], &second["logger"]),
            (&json!(4), &json!("Some(1)"), &json!(module_path!()))
        );
    }
}
