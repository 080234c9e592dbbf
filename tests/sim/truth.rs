//! What is true in the simulated world, kept apart from what gateways believe: who exports what, and when.
//!
//! Rules that hold at every moment are judged here, while things happen; those that hold after healing are
//! [`super::checkers`]'.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use tombolo::model::ids::ServiceName;

/// A stream that was on its way when an export ended may still be served.
const LAST_STREAMS: Duration = Duration::from_millis(100);

/// Each time something was so: from, until.
type Times = Vec<(Duration, Option<Duration>)>;

#[derive(Debug, Default)]
struct Inner {
    /// When a cluster exported a service.
    exports: BTreeMap<(String, ServiceName), Times>,
    wrong: Vec<String>,
}

/// Shared by all hosts of one run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Truth(Rc<RefCell<Inner>>);

impl Truth {
    /// A cluster is about to export a service.
    pub(crate) fn exported(&self, cluster: &str, name: &ServiceName, at: Duration) {
        let key = (cluster.to_owned(), name.clone());
        self.0.borrow_mut().exports.entry(key).or_default().push((at, None));
    }

    /// A cluster has stopped to export a service.
    pub(crate) fn unexported(&self, cluster: &str, name: &ServiceName, at: Duration) {
        let mut inner = self.0.borrow_mut();
        let times = inner.exports.get_mut(&(cluster.to_owned(), name.clone()));
        if let Some(last) = times.and_then(|times| times.last_mut()) {
            last.1 = Some(at);
        }
    }

    /// The services a cluster exports now.
    pub(crate) fn exports_of(&self, cluster: &str) -> BTreeSet<ServiceName> {
        let inner = self.0.borrow();
        let current = inner.exports.iter().filter(|((of, _), times)| of == cluster && is_open(times));
        current.map(|((_, name), _)| name.clone()).collect()
    }

    /// The clusters that export a service now.
    pub(crate) fn exporters(&self, name: &ServiceName) -> BTreeSet<String> {
        let inner = self.0.borrow();
        let current = inner.exports.iter().filter(|((_, of), times)| of == name && is_open(times));
        current.map(|((cluster, _), _)| cluster.clone()).collect()
    }

    /// Every service that anybody ever exported.
    pub(crate) fn names(&self) -> BTreeSet<ServiceName> {
        self.0.borrow().exports.keys().map(|(_, name)| name.clone()).collect()
    }

    /// Whoever answers must have exported the service while it was asked for.
    pub(crate) fn judge_answer(
        &self,
        asker: &str,
        name: &ServiceName,
        cluster: &str,
        began: Duration,
        ended: Duration,
    ) {
        let exported = |times: &Times| {
            let overlaps = |&(from, until): &(Duration, Option<Duration>)| {
                from <= ended && until.is_none_or(|until| until + LAST_STREAMS >= began)
            };
            times.iter().any(overlaps)
        };
        let key = (cluster.to_owned(), name.clone());
        if !self.0.borrow().exports.get(&key).is_some_and(exported) {
            self.accuse(format!("{asker} had an answer of {cluster} for {name}, which it did not export"));
        }
    }

    /// Something happened that must not.
    pub(crate) fn accuse(&self, wrong: String) {
        self.0.borrow_mut().wrong.push(wrong);
    }

    /// The first thing that happened and must not.
    pub(crate) fn wrong(&self) -> Option<String> {
        self.0.borrow().wrong.first().cloned()
    }
}

fn is_open(times: &[(Duration, Option<Duration>)]) -> bool {
    times.last().is_some_and(|(_, until)| until.is_none())
}
