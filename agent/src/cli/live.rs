//! What `longshore run` shows: on a terminal a table that stays at the bottom while events pass above it; elsewhere
//! plain lines, one for each event and each pod that changed.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use super::exec::terminal_size;
use super::render;
use crate::events::{Event, Recorder};
use crate::names::PodUid;
use crate::view::{PodView, PodViews, Row};

/// Changes that come together are drawn together; nobody reads faster.
const FRAME: Duration = Duration::from_millis(40);

/// Lines below the table: Services, endpoints counted.
pub(super) type ServiceLines = Box<dyn Fn() -> Vec<String> + Send>;

/// Shows pods and events until the views end.
pub(super) async fn show(mut views: PodViews, recorder: Recorder, services: ServiceLines) {
    let mut events = recorder.listen();
    let mut output = Output::of_this_process();
    // What happened before we listened: problems with manifests, adopted pods.
    let mut pending = recorder.recent();
    let mut due = Some(Instant::now());
    loop {
        tokio::select! {
            changed = views.changed() => {
                if changed.is_err() {
                    break;
                }
                due.get_or_insert_with(|| Instant::now() + FRAME);
            }
            event = events.recv() => match event {
                Ok(event) => {
                    pending.push(event);
                    due.get_or_insert_with(|| Instant::now() + FRAME);
                }
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => break,
            },
            () = wait_for(due) => {
                due = None;
                let now = Timestamp::now();
                let snapshot = views.borrow_and_update().clone();
                output.draw(&std::mem::take(&mut pending), &snapshot, &services(), now);
            }
        }
    }
    output.draw(&pending, &views.borrow().clone(), &services(), Timestamp::now());
}

async fn wait_for(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

enum Output {
    Terminal(Screen),
    Plain { told: BTreeMap<PodUid, String> },
}

impl Output {
    fn of_this_process() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if std::io::stdout().is_terminal() && !dumb {
            Self::Terminal(Screen::default())
        } else {
            Self::Plain { told: BTreeMap::new() }
        }
    }

    fn draw(&mut self, events: &[Event], pods: &BTreeMap<PodUid, PodView>, services: &[String], now: Timestamp) {
        let text = match self {
            Self::Terminal(screen) => {
                let colours = std::env::var_os("NO_COLOR").is_none();
                let above: Vec<_> = events.iter().map(|event| render::event(event, colours)).collect();
                let mut table = render::live_pods(pods.values(), now);
                if colours {
                    table = table.iter().map(|line| render::coloured(line)).collect();
                }
                if services.len() > 1 {
                    table.push(String::new());
                    table.extend_from_slice(services);
                }
                screen.frame(&above, &table, terminal_size().unwrap_or((80, 24)))
            }
            Self::Plain { told } => plain(events, pods, told, now),
        };
        let mut stdout = std::io::stdout().lock();
        // A closed pipe is no reason to stop pods.
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
}

/// One line for each event and each pod whose row is another than the one told last.
fn plain(
    events: &[Event],
    pods: &BTreeMap<PodUid, PodView>,
    told: &mut BTreeMap<PodUid, String>,
    now: Timestamp,
) -> String {
    let mut lines: Vec<_> = events.iter().map(|event| render::event(event, false)).collect();
    told.retain(|uid, _| pods.contains_key(uid));
    for (uid, view) in pods {
        let row = Row::of(&view.pod, &view.status, view.stopping);
        let address = row.address.as_deref().unwrap_or("-");
        let mut line = format!("{}  {}  {}  restarts {}  {address}", row.name, row.ready, row.status, row.restarts);
        if let Some(took) = view.started_in {
            line.push_str(&format!("  started in {} ms", took.as_millis()));
        }
        if told.get(uid) != Some(&line) {
            lines.push(format!("{}  Pod      {line}", now.strftime("%H:%M:%S")));
            told.insert(uid.clone(), line);
        }
    }
    lines.iter().fold(String::new(), |text, line| text + line + "\n")
}

/// Remembers how many lines are to be drawn over.
#[derive(Default)]
struct Screen {
    drawn: usize,
}

impl Screen {
    /// The text that puts `above` where it scrolls away and `table` below it.
    fn frame(&mut self, above: &[String], table: &[String], (width, height): (u16, u16)) -> String {
        let mut text = String::new();
        if self.drawn > 0 {
            text.push_str(&format!("\x1b[{}A", self.drawn));
        }
        text.push_str("\r\x1b[J");
        for line in above {
            text.push_str(line);
            text.push_str("\r\n");
        }
        // A table that is higher than the terminal could not be drawn over.
        let room = usize::from(height).saturating_sub(3).max(1);
        let shown = table.len().min(room);
        text.push_str("\r\n");
        for line in &table[..shown] {
            text.push_str(&cut(line, width.into()));
            text.push_str("\r\n");
        }
        let more = table.len() - shown;
        if more > 0 {
            text.push_str(&format!("… and {more} more: longshore ps\r\n"));
        }
        self.drawn = 1 + shown + usize::from(more > 0);
        text
    }
}

/// The line as far as the terminal is wide; colour codes take no room.
pub(super) fn cut(line: &str, width: usize) -> String {
    let (mut text, mut taken, mut code) = (String::new(), 0, false);
    for c in line.chars() {
        match c {
            '\x1b' => code = true,
            'm' if code => code = false,
            _ if code => {}
            _ => {
                taken += 1;
                if taken > width {
                    continue;
                }
                text.push(c);
                continue;
            }
        }
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_frame_is_drawn_over_the_one_before() {
        let mut screen = Screen::default();
        assert_eq!(screen.frame(&[], &lines(&["POD", "a"]), (80, 24)), "\r\x1b[J\r\nPOD\r\na\r\n");
        let second = screen.frame(&lines(&["an event"]), &lines(&["POD"]), (80, 24));
        assert_eq!(second, "\x1b[3A\r\x1b[Jan event\r\n\r\nPOD\r\n");
    }

    #[test]
    fn a_table_never_grows_past_the_terminal() {
        let mut screen = Screen::default();
        let frame = screen.frame(&[], &lines(&["1", "2", "3", "4", "5", "6"]), (80, 7));
        assert_eq!(frame, "\r\x1b[J\r\n1\r\n2\r\n3\r\n4\r\n… and 2 more: longshore ps\r\n");
        assert_eq!(screen.drawn, 6);
    }

    #[test]
    fn colour_codes_take_no_room() {
        assert_eq!(cut("ab\x1b[31mcd\x1b[0mef", 3), "ab\x1b[31mc\x1b[0m");
    }
}
