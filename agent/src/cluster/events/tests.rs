use jiff::Timestamp;

use super::*;
use crate::names::{ObjectName, PodUid};

fn event(about: About, message: &str, count: u32) -> Event {
    let (first, last) = (Timestamp::from_second(60).unwrap(), Timestamp::from_second(120).unwrap());
    Event { about, kind: EventType::Warning, reason: "BackOff".into(), message: message.into(), count, first, last }
}

fn of_pod(message: &str, count: u32) -> Event {
    let about = About::Pod {
        name: ObjectName::new("shop", "web"),
        uid: PodUid::try_from("u-1".to_owned()).unwrap(),
        field: Some("spec.containers{main}".into()),
    };
    event(about, message, count)
}

#[test]
fn an_event_of_a_container_is_an_object_of_its_pod_s_namespace() {
    let mut object = object(&of_pod("again", 3), "n1").unwrap();
    let name = object["metadata"]["name"].take();
    assert!(name.as_str().unwrap().starts_with("web."), "{name}");
    let expected = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": null, "namespace": "shop"},
        "involvedObject": {"kind": "Pod", "apiVersion": "v1", "namespace": "shop", "name": "web", "uid": "u-1",
            "fieldPath": "spec.containers{main}"},
        "reason": "BackOff", "message": "again", "type": "Warning", "count": 3,
        "firstTimestamp": "1970-01-01T00:01:00Z", "lastTimestamp": "1970-01-01T00:02:00Z",
        "source": {"component": "kubelet", "host": "n1"}, "reportingComponent": "kubelet", "reportingInstance": "n1"});
    assert_eq!(object, expected);
}

#[test]
fn events_of_the_node_are_where_kubectl_looks_for_them_and_those_of_files_nowhere() {
    let object = object(&event(About::Node, "x", 1), "n1").unwrap();
    assert_eq!(object["metadata"]["namespace"], "default");
    assert_eq!(object["involvedObject"], json!({"kind": "Node", "apiVersion": "v1", "name": "n1", "uid": "n1"}));
    assert!(super::object(&event(About::Manifest { file: "x".into() }, "x", 1), "n1").is_none());
}

#[test]
fn what_waits_takes_newer_counts_is_bounded_and_is_given_up_after_a_while() {
    let (mut queue, now) = (Queue::default(), Instant::now());
    queue.push(of_pod("again", 1), now);
    queue.push(of_pod("again", 2), now + Duration::from_secs(60));
    assert_eq!(queue.waiting.len(), 1);
    let first = queue.next(now + Duration::from_secs(119)).unwrap();
    assert_eq!(first.event.count, 2);
    // It was tried in vain; meanwhile a newer count came, which waits instead.
    queue.push(of_pod("again", 3), now + Duration::from_secs(119));
    queue.put_back(first);
    assert_eq!(queue.waiting.iter().map(|one| one.event.count).collect::<Vec<_>>(), [3]);
    assert!(queue.next(now + Duration::from_secs(240)).is_none(), "given up");
    for n in 0..=WAITING {
        queue.push(of_pod(&n.to_string(), 1), now);
    }
    assert_eq!((queue.waiting.len(), queue.waiting[0].event.message.as_str()), (WAITING, "1"));
}

#[test]
fn what_is_there_is_remembered_up_to_a_bound() {
    let mut queue = Queue::default();
    for mark in 0..=REMEMBERED as u64 {
        queue.remember(mark, "x");
        queue.remember(mark, "y");
    }
    assert_eq!((queue.known.len(), queue.known.get(&0), queue.known[&1].as_str()), (REMEMBERED, None, "y"));
}
