//! Services whose rules the kernel refuses: set aside so that the others are programmed, and tried again now and then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use netfilter::{Model, ServicePort, ServicePortName};
use tokio::time::Instant;

/// After the first refusal; doubled each time.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(300);

/// Service ports that were refused, as they were then.
#[derive(Debug, Default)]
pub(super) struct Isolated(BTreeMap<ServicePortName, Refused>);

#[derive(Debug)]
struct Refused {
    service: Arc<ServicePort>,
    delay: Duration,
    until: Instant,
}

impl Isolated {
    /// The model without what is set aside. What has changed since, or has waited long enough, is tried again.
    pub(super) fn without(&mut self, model: &Arc<Model>, now: Instant) -> Arc<Model> {
        self.0.retain(|name, refused| model.services().get(name).is_some_and(|service| *service == refused.service));
        let mut rest = model.clone();
        for (name, _) in self.0.iter().filter(|(_, refused)| refused.until > now) {
            Arc::make_mut(&mut rest).remove(name);
        }
        rest
    }

    /// Sets a service port aside. False if there is none of that name, so that leaving it out will not help.
    pub(super) fn put(&mut self, name: &ServicePortName, model: &Model, now: Instant) -> bool {
        let Some(service) = model.services().get(name).cloned() else { return false };
        let delay = self.0.get(name).map_or(FIRST, |refused| (refused.delay * 2).min(LONGEST));
        self.0.insert(name.clone(), Refused { service, delay, until: now + delay });
        true
    }

    /// When the next one is to be tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.values().map(|refused| refused.until).min()
    }

    /// The kernel took everything that was handed to it: what was tried again is well.
    pub(super) fn taken(&mut self, now: Instant) {
        self.0.retain(|_, refused| refused.until > now);
    }
}

#[cfg(test)]
mod tests {
    use netfilter::{Family, Protocol};

    use super::*;

    fn model(ports: &[(&str, u16)]) -> Arc<Model> {
        let mut model = Model::new(Family::V4);
        for (name, port) in ports {
            let service = ServicePort::new(Protocol::Tcp, "10.0.0.1".parse().unwrap(), (*port).try_into().unwrap());
            model.insert(ServicePortName::new("demo", name, "").unwrap(), service);
        }
        Arc::new(model)
    }

    fn names(model: &Model) -> String {
        model.services().keys().map(|name| name.service()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_refused_is_tried_again_later_and_when_it_changes() {
        let (mut isolated, start, all) = (Isolated::default(), Instant::now(), model(&[("a", 1), ("b", 2)]));
        let bad = ServicePortName::new("demo", "a", "").unwrap();
        assert!(isolated.put(&bad, &all, start));
        assert_eq!(names(&isolated.without(&all, start)), "b");
        assert_eq!(isolated.due(), Some(start + FIRST));
        assert_eq!(names(&isolated.without(&all, start + FIRST)), "a b");
        assert!(isolated.put(&bad, &all, start + FIRST));
        assert_eq!(names(&isolated.without(&all, start + FIRST * 2)), "b", "twice as long");
        assert_eq!(names(&isolated.without(&model(&[("a", 7), ("b", 2)]), start + FIRST * 2)), "a b", "it changed");
        assert_eq!(isolated.due(), None);
        assert!(!isolated.put(&bad, &model(&[("b", 2)]), start), "it is not to blame any more");
    }

    #[test]
    fn what_is_taken_in_the_end_is_forgotten() {
        let (mut isolated, start, all) = (Isolated::default(), Instant::now(), model(&[("a", 1)]));
        isolated.put(&ServicePortName::new("demo", "a", "").unwrap(), &all, start);
        isolated.taken(start);
        assert!(isolated.due().is_some(), "it was not handed over yet");
        isolated.taken(start + FIRST);
        assert_eq!(isolated.due(), None);
    }
}
