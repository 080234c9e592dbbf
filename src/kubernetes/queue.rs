//! Names whose objects have to be looked at: each stands in it once, in the order they came, and nobody looks at
//! one name twice at a time. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Instant,
};

use crate::model::{backoff::Backoff, ids::ServiceName};

/// A name is at one place of it only, so it is never longer than there are names.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: VecDeque<ServiceName>,
    waiting: BTreeSet<ServiceName>,
    /// Being looked at, and whether something changed meanwhile.
    busy: BTreeMap<ServiceName, bool>,
    /// To be looked at later, even when nothing changes.
    later: BTreeMap<ServiceName, Instant>,
    /// The same by time.
    due: BTreeSet<(Instant, ServiceName)>,
    /// Those that failed last.
    failed: BTreeMap<ServiceName, Backoff>,
}

impl Queue {
    /// Something of a name has changed.
    pub(super) fn push(&mut self, name: ServiceName) {
        if let Some(changed) = self.busy.get_mut(&name) {
            *changed = true;
        } else if self.waiting.insert(name.clone()) {
            if let Some(at) = self.later.remove(&name) {
                self.due.remove(&(at, name.clone()));
            }
            self.order.push_back(name);
        }
    }

    /// The next name; it is busy until `done`.
    pub(super) fn next(&mut self, now: Instant) -> Option<ServiceName> {
        while let Some((_, name)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.push(name.clone());
        }
        let name = self.order.pop_front()?;
        self.waiting.remove(&name);
        self.busy.insert(name.clone(), false);
        Some(name)
    }

    /// A name was looked at, and has to be again at that moment at the latest.
    pub(super) fn done(&mut self, name: ServiceName, again: Option<Instant>) {
        self.failed.remove(&name);
        self.end(name, again);
    }

    /// A name could not be written; `next` chooses when to try again.
    pub(super) fn failed(&mut self, name: ServiceName, next: impl FnOnce(&mut Backoff) -> Instant) {
        let at = next(self.failed.entry(name.clone()).or_default());
        self.end(name, Some(at));
    }

    fn end(&mut self, name: ServiceName, again: Option<Instant>) {
        if self.busy.remove(&name) == Some(true) {
            self.push(name);
        } else if let Some(at) = again {
            self.due.insert((at, name.clone()));
            self.later.insert(name, at);
        }
    }

    /// When a name is due that nothing calls for.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    fn name(text: &str) -> ServiceName {
        ServiceName::parse(text).expect("a name")
    }

    #[test]
    fn a_name_is_looked_at_once_and_again_when_it_changed_meanwhile() {
        let (mut queue, now) = (Queue::default(), Clock::system().now());
        for text in ["shop/b", "shop/a", "shop/b"] {
            queue.push(name(text));
        }
        assert_eq!(queue.next(now), Some(name("shop/b")), "in the order they came");
        queue.push(name("shop/b"));
        queue.push(name("shop/b"));
        assert_eq!(queue.next(now), Some(name("shop/a")));
        assert_eq!(queue.next(now), None, "it is being looked at");
        queue.done(name("shop/b"), None);
        assert_eq!(queue.next(now), Some(name("shop/b")));
        queue.done(name("shop/b"), None);
        queue.done(name("shop/a"), None);
        assert_eq!((queue.next(now), queue.next_due()), (None, None));
    }

    #[test]
    fn a_name_that_failed_waits_unless_something_changes() {
        let (mut queue, now) = (Queue::default(), Clock::system().now());
        let later = now + Duration::from_secs(2);
        queue.push(name("shop/a"));
        assert!(queue.next(now).is_some());
        queue.failed(name("shop/a"), |_| later);
        assert_eq!((queue.next(now), queue.next_due()), (None, Some(later)));
        queue.push(name("shop/a"));
        assert!(queue.next(now).is_some());
        queue.failed(name("shop/a"), |_| later);
        assert_eq!(queue.next(later), Some(name("shop/a")));
        queue.done(name("shop/a"), None);
        assert!(queue.failed.is_empty() && queue.next_due().is_none());
    }
}
