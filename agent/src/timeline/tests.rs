use jiff::Timestamp;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn shown(timeline: &Timeline) -> Vec<String> {
    let one = |entry: &Entry| {
        let outcome = match &entry.outcome {
            None => "open".to_owned(),
            Some(Outcome::Done) => "done".to_owned(),
            Some(Outcome::CutOff) => "cut off".to_owned(),
            Some(Outcome::Failed { reason, .. }) => reason.clone(),
        };
        let of = entry.of.as_deref().unwrap_or("-");
        format!(
            "{:?} {of} {}..{} x{} {outcome}",
            entry.work,
            entry.first.as_second(),
            entry.began.as_second(),
            entry.times
        )
    };
    timeline.entries.iter().map(one).collect()
}

#[test]
fn the_same_failure_in_a_row_is_counted_and_a_success_is_not() {
    let mut timeline = Timeline::new(at(0), false);
    for second in [1, 11, 31] {
        timeline.begin("image".into(), Work::Image, Some("a".into()), at(second));
        timeline.end("image", Outcome::failed("ErrImagePull", "denied"), at(second + 1));
        // Another step between two tries is no reason to tell them apart.
        timeline.begin("refresh".into(), Work::Refresh, None, at(second + 2));
        timeline.end("refresh", Outcome::Done, at(second + 2));
    }
    timeline.begin("image".into(), Work::Image, Some("a".into()), at(71));
    timeline.end("image", Outcome::Done, at(72));
    let lines = shown(&timeline);
    assert!(lines.contains(&"Image a 1..31 x3 ErrImagePull".to_owned()), "{lines:?}");
    assert!(lines.contains(&"Image a 71..71 x1 done".to_owned()), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("Refresh")).count(), 3);
}

#[test]
fn a_step_that_is_replaced_was_cut_off() {
    let mut timeline = Timeline::new(at(0), false);
    timeline.begin("kill".into(), Work::Stop, Some("a".into()), at(1));
    timeline.begin("kill".into(), Work::Stop, Some("a".into()), at(3));
    timeline.end("other", Outcome::Done, at(4));
    assert_eq!(shown(&timeline), ["Stop a 1..1 x1 cut off", "Stop a 3..3 x1 open"]);
}

#[test]
fn the_start_and_the_newest_steps_stay() {
    let mut timeline = Timeline::new(at(0), false);
    for n in 0..1_000 {
        timeline.begin("start".into(), Work::Container, Some(format!("c{n}")), at(n));
        timeline.end("start", Outcome::Done, at(n));
    }
    assert_eq!(timeline.entries.len(), FIRST + LAST);
    let names: Vec<_> = timeline.entries.iter().filter_map(|entry| entry.of.clone()).collect();
    assert_eq!((names[0].as_str(), names[FIRST - 1].as_str(), names[FIRST].as_str()), ("c0", "c15", "c976"));
    assert_eq!(timeline.forgotten, 960);
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let Outcome::Failed { message, .. } = Outcome::failed("X", "é".repeat(2_000)) else { panic!("no failure") };
    assert!(message.len() <= LONGEST + '…'.len_utf8() && message.ends_with("é…"));
}

#[test]
fn another_run_of_the_agent_goes_on_with_what_the_last_one_tried() {
    let mut timeline = Timeline::new(at(0), false);
    timeline.begin("sandbox".into(), Work::Sandbox, None, at(1));
    timeline.end("sandbox", Outcome::Done, at(2));
    timeline.begin("start".into(), Work::Container, Some("c".into()), at(3));
    let written = serde_json::to_string(&timeline.past()).unwrap();
    let mut next = Timeline::adopt(serde_json::from_str(&written).unwrap(), at(9));
    assert!(next.adopted && next.since == at(0));
    next.begin("start".into(), Work::Container, Some("c".into()), at(10));
    assert_eq!(shown(&next), ["Sandbox - 1..1 x1 done", "Container c 3..3 x1 cut off", "Container c 10..10 x1 open"]);
    assert_eq!(Timeline::adopt(Past::default(), at(9)), Timeline::new(at(9), true), "an older version's file");
}
