//! What happened in a run: our own events in order, for comparing two runs and for people.
//!
//! Packets are not events: their number and sizes depend on TLS's true randomness. When something happened is
//! part of an event.

use std::{cell::RefCell, collections::BTreeSet, fmt, fmt::Write as _, rc::Rc, time::Duration};

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Simulated time.
    at: Duration,
    /// The host it happened on.
    who: String,
    /// The host it was about, if there is one.
    whom: Option<String>,
    what: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whom = self.whom.as_ref().map(|whom| format!(" -> {whom}")).unwrap_or_default();
        write!(f, "{:>9.3} s  {}{whom}: {}", self.at.as_secs_f64(), self.who, self.what)
    }
}

/// The events of one run; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(Rc<RefCell<Vec<Entry>>>);

impl Trace {
    /// Something happened on `who`.
    pub(crate) fn note(&self, at: Duration, who: &str, what: impl Into<String>) {
        self.push(Entry { at, who: who.to_owned(), whom: None, what: what.into() });
    }

    /// Something happened on `who` that concerns `whom`.
    pub(crate) fn tell(&self, at: Duration, who: &str, whom: &str, what: impl Into<String>) {
        self.push(Entry { at, who: who.to_owned(), whom: Some(whom.to_owned()), what: what.into() });
    }

    fn push(&self, entry: Entry) {
        self.0.borrow_mut().push(entry);
    }

    /// All of it, in order.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.borrow().clone()
    }
}

/// Where two traces first differ.
pub(crate) fn difference(first: &[Entry], second: &[Entry]) -> Option<String> {
    let show = |entry: Option<&Entry>| entry.map_or_else(|| "nothing more".to_owned(), ToString::to_string);
    let longest = first.len().max(second.len());
    (0..longest)
        .find(|&i| first.get(i) != second.get(i))
        .map(|i| format!("event {i} differs: {:?} and then {:?}", show(first.get(i)), show(second.get(i))))
}

/// The run as a mermaid sequence diagram.
pub(crate) fn diagram(seed: u64, wrong: &str, entries: &[Entry]) -> String {
    let plain = |text: &str| text.replace([';', '#', '\n'], " ");
    let mut page = format!("# Seed {seed}\n\n{wrong}\n\n```mermaid\nsequenceDiagram\n");
    let hosts: BTreeSet<&str> = entries
        .iter()
        .flat_map(|entry| [Some(entry.who.as_str()), entry.whom.as_deref()])
        .flatten()
        .collect();
    for host in hosts {
        let _ = writeln!(page, "    participant {host}");
    }
    for Entry { at, who, whom, what } in entries {
        let (at, what) = (at.as_secs_f64(), plain(what));
        let _ = match whom {
            Some(whom) => writeln!(page, "    {who}->>{whom}: {at:.3} s {what}"),
            None => writeln!(page, "    note over {who}: {at:.3} s {what}"),
        };
    }
    page.push_str("```\n");
    page
}
