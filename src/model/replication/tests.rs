//! Exporter and importer against each other over a stream that is ordered until it is cut: the laws that
//! hold under every interleaving. Single rules are tested beside their modules.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;
use crate::model::{
    catalog::{Port, Protocol, Row, Traffic, ZoneReady},
    ids::{Epoch, ExportId, Locality, Seq, ServiceName, Timestamp},
    limits,
};

pub(super) fn start() -> Instant {
    crate::model::testing::instant()
}

pub(super) fn name(number: usize) -> ServiceName {
    ServiceName::parse(&format!("shop/service-{number:05}")).expect("valid")
}

/// A row of service `number` whose content is `content`.
pub(super) fn row(number: usize, content: u32) -> Row {
    Row {
        name: name(number),
        seq: 0,
        export_id: ExportId([number as u8; 16]),
        ports: vec![Port {
            name: "http".into(),
            number: 80,
            protocol: Protocol::Tcp,
            app_protocol: "http".into(),
        }],
        zones: vec![ZoneReady {
            locality: Locality::parse("eu/eu-1a").expect("valid"),
            ready: content,
            total: content,
        }],
        labels: BTreeMap::from([("tier".to_owned(), "web".to_owned())]),
        annotations: BTreeMap::new(),
        created: Timestamp(1),
        headless: false,
        idempotent: true,
        session_affinity: None,
        traffic: Traffic::default(),
        endpoints: Vec::new(),
    }
}

/// A row that every importer refuses, and every exporter sends.
pub(super) fn crowded_row(number: usize) -> Row {
    let port = row(number, 0).ports[0].clone();
    Row { ports: vec![port; limits::PORTS_PER_SERVICE_MAX + 1], ..row(number, 0) }
}

pub(super) fn epoch(number: u8) -> Epoch {
    Epoch([number; 16])
}

/// What an importing gateway keeps on disk.
type Saved = (Option<(Epoch, Seq)>, BTreeMap<ServiceName, Arc<Row>>);

/// Both sides, the stream between them, and the importing side's `State`.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) log: CatalogLog,
    pub(super) exporter: Exporter,
    pub(super) importer: Importer,
    pub(super) rows: BTreeMap<ServiceName, Arc<Row>>,
    pub(super) to_importer: VecDeque<ExporterMessage>,
    pub(super) to_exporter: VecDeque<ImporterMessage>,
    pub(super) unconfirmed: VecDeque<Ticket>,
    pub(super) sent: Vec<ExporterMessage>,
    saved: Saved,
    epochs: u8,
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(Quotas::default())
    }

    pub(super) fn with(quotas: Quotas) -> Self {
        let now = start();
        let mut pair = Self {
            now,
            log: CatalogLog::new(epoch(1)),
            exporter: Exporter::new(0, now),
            importer: Importer::new(0, quotas, None, [], now),
            rows: BTreeMap::new(),
            to_importer: VecDeque::new(),
            to_exporter: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            sent: Vec::new(),
            saved: (None, BTreeMap::new()),
            epochs: 1,
        };
        pair.cut();
        pair
    }

    /// The stream breaks, what was on it is lost, a new one begins.
    pub(super) fn cut(&mut self) {
        self.to_importer.clear();
        self.to_exporter.clear();
        self.exporter.open(self.now);
        self.to_exporter.push_back(self.importer.subscribe());
    }

    fn save(&mut self) {
        // Tickets are confirmed in order, so what is applied and unconfirmed is ahead of the position.
        self.saved = (self.importer.position(), self.rows.clone());
    }

    fn crash_importer(&mut self) {
        let (position, rows) = self.saved.clone();
        self.importer =
            Importer::new(0, Quotas::default(), position, rows.values().map(AsRef::as_ref), self.now);
        self.rows = rows;
        self.unconfirmed.clear();
        self.cut();
    }

    fn crash_exporter(&mut self) {
        self.epochs += 1;
        let rows: Vec<Row> = self.log.rows().values().map(|listed| listed.row.as_ref().clone()).collect();
        self.log = CatalogLog::new(epoch(self.epochs));
        assert!(self.log.replace_all(rows).is_empty());
        self.exporter = Exporter::new(0, self.now);
        self.cut();
    }

    /// The exporter puts everything on the stream that it may.
    pub(super) fn send(&mut self) {
        let messages = self.exporter.poll(&self.log, self.now);
        self.sent.extend(messages.iter().cloned());
        self.to_importer.extend(messages);
        assert!(self.exporter.progress(&self.log).in_flight <= limits::BATCHES_IN_FLIGHT_MAX);
    }

    /// One message arrives at the importer.
    pub(super) fn deliver(&mut self) {
        let Some(message) = self.to_importer.pop_front() else { return };
        let ends = matches!(message, ExporterMessage::SnapshotEnd { .. });
        let actions = self.importer.on_message(message, self.now).expect("an honest exporter");
        let sweeps = actions.iter().any(|action| matches!(action, Action::Sweep { .. }));
        assert!(ends || !sweeps, "deleted before the snapshot's end");
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Apply { ticket, changes } => {
                    for change in changes {
                        match change {
                            RowChange::Row(row) => drop(self.rows.insert(row.name.clone(), row)),
                            RowChange::Tombstone { name, .. } => drop(self.rows.remove(&name)),
                            RowChange::Unreadable { .. } => panic!("told to apply what cannot be read"),
                        }
                    }
                    self.unconfirmed.push_back(ticket);
                }
                Action::Sweep { ticket, names } => {
                    for name in names {
                        self.rows.remove(&name);
                    }
                    self.unconfirmed.push_back(ticket);
                }
                Action::Send(message) => self.to_exporter.push_back(message),
                Action::Synced => {}
            }
        }
    }

    /// The importing side confirms its oldest action.
    pub(super) fn confirm(&mut self) {
        if let Some(ticket) = self.unconfirmed.pop_front() {
            let actions = self.importer.applied(ticket, self.now);
            self.act(actions);
        }
    }

    /// One message arrives at the exporter.
    pub(super) fn answer(&mut self) {
        if let Some(message) = self.to_exporter.pop_front() {
            self.exporter.on_message(&self.log, message, self.now).expect("an honest importer");
        }
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        let actions = self.importer.poll(self.now);
        self.act(actions);
    }

    /// Everything that is on its way arrives; time passes only for what waits for it.
    pub(super) fn settle(&mut self) {
        loop {
            self.send();
            if !self.to_importer.is_empty() {
                self.deliver();
            } else if !self.unconfirmed.is_empty() {
                self.confirm();
            } else if !self.to_exporter.is_empty() {
                self.answer();
            } else if let Some(at) = self.importer.next_wake() {
                self.advance(at.saturating_duration_since(self.now));
            } else {
                return;
            }
        }
    }

    /// Long enough for digests to be compared twice.
    pub(super) fn settle_for_long(&mut self) {
        for _ in 0..3 {
            self.settle();
            self.advance(limits::DIGEST_INTERVAL);
        }
        self.settle();
    }

    pub(super) fn put(&mut self, number: usize, content: u32) -> Option<Seq> {
        self.log.replace(&name(number), Some(row(number, content))).expect("small")
    }

    pub(super) fn withdraw(&mut self, number: usize) -> Option<Seq> {
        self.log.replace(&name(number), None).expect("small")
    }

    /// Rows sent under one name since the beginning, tombstones included.
    pub(super) fn times_sent(&self, number: usize) -> usize {
        let rows = self.sent.iter().filter_map(|message| match message {
            ExporterMessage::Batch { rows, .. } => Some(rows),
            _ => None,
        });
        rows.flatten().filter(|change| *change.name() == name(number)).count()
    }

    /// Whether the importing side has exactly the rows of the log that it does not refuse.
    pub(super) fn converged(&self) -> bool {
        let crowded = |row: &Row| row.ports.len() > limits::PORTS_PER_SERVICE_MAX;
        let wanted = self.log.rows().values().map(|listed| &listed.row).filter(|row| !crowded(row));
        let refused = |row: &Row| self.log.rows().get(&row.name).is_some_and(|listed| crowded(&listed.row));
        self.rows.values().filter(|row| !refused(row)).eq(wanted)
    }
}

/// Something that happens.
#[derive(Debug, Clone)]
enum Step {
    Put(usize, u32),
    PutRefused(usize),
    Withdraw(usize),
    Send,
    Deliver,
    Confirm,
    Answer,
    Advance(u64),
    Save,
    Cut,
    CrashImporter,
    CrashExporter,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..12usize, 0..3u32).prop_map(|(number, content)| Step::Put(number, content)),
        1 => (0..12usize).prop_map(Step::PutRefused),
        4 => (0..12usize).prop_map(Step::Withdraw),
        6 => Just(Step::Send),
        10 => Just(Step::Deliver),
        8 => Just(Step::Confirm),
        8 => Just(Step::Answer),
        2 => (0..70u64).prop_map(Step::Advance),
        2 => Just(Step::Save),
        1 => Just(Step::Cut),
        1 => Just(Step::CrashImporter),
        1 => Just(Step::CrashExporter),
    ];
    prop::collection::vec(step, 0..200)
}

fn take(pair: &mut Pair, step: Step) {
    match step {
        Step::Put(number, content) => drop(pair.put(number, content)),
        Step::PutRefused(number) => {
            pair.log.replace(&name(number), Some(crowded_row(number))).expect("small");
        }
        Step::Withdraw(number) => drop(pair.withdraw(number)),
        Step::Send => pair.send(),
        Step::Deliver => pair.deliver(),
        Step::Confirm => pair.confirm(),
        Step::Answer => pair.answer(),
        Step::Advance(seconds) => pair.advance(Duration::from_secs(seconds)),
        Step::Save => pair.save(),
        Step::Cut => pair.cut(),
        Step::CrashImporter => pair.crash_importer(),
        Step::CrashExporter => pair.crash_exporter(),
    }
}

proptest! {
    #[test]
    fn a_replica_converges_under_every_interleaving_of_changes_cuts_and_crashes(steps in steps()) {
        let mut pair = Pair::new();
        for step in steps {
            take(&mut pair, step);
        }
        pair.settle_for_long();
        prop_assert!(pair.converged(), "{:?} is not {:?}", pair.rows, pair.log);
        prop_assert!(pair.exporter.has_acked(pair.log.head()));
        prop_assert!(pair.importer.progress().synced);
        prop_assert_eq!(pair.importer.position(), Some((pair.log.epoch(), pair.log.head())));
    }

    #[test]
    fn no_digest_ever_differs_while_no_memory_and_no_refusal_is_lost(steps in steps()) {
        let mut pair = Pair::new();
        for step in steps {
            // A refusal that a cut swallows is found by the digest: that is what it is for.
            if !matches!(step, Step::CrashImporter | Step::CrashExporter | Step::PutRefused(_)) {
                take(&mut pair, step);
            }
        }
        pair.settle_for_long();
        prop_assert!(pair.converged());
        prop_assert_eq!(pair.importer.progress().digest_mismatches, 0);
    }

    #[test]
    fn a_snapshot_cut_in_the_middle_changes_no_live_row_but_by_upserts(
        before in prop::collection::btree_set(0..2_000usize, 0..100),
        after in prop::collection::btree_set(0..2_000usize, 600..1_200),
        deliveries in 0..4usize,
    ) {
        let mut pair = Pair::new();
        for number in &before {
            pair.put(*number, 1);
        }
        pair.settle();
        pair.log = CatalogLog::new(epoch(2));
        pair.log.replace_all(after.iter().map(|number| row(*number, 2)));
        pair.exporter = Exporter::new(0, pair.now);
        pair.cut();
        pair.answer();
        pair.send();
        for _ in 0..deliveries {
            if !matches!(pair.to_importer.front(), Some(ExporterMessage::SnapshotEnd { .. })) {
                pair.deliver();
            }
        }
        for number in &before {
            let is = pair.rows.get(&name(*number)).expect("a live row went away");
            prop_assert!(is.zones[0].ready == 1 || after.contains(number));
        }
        pair.cut();
        pair.settle();
        prop_assert!(pair.converged());
    }
}

#[test]
fn ten_thousand_rows_cross_in_one_snapshot_and_then_one_change_is_one_row() {
    let mut pair = Pair::new();
    pair.log.replace_all((0..limits::SERVICES_PER_PEER_MAX).map(|number| row(number, 1)));
    pair.settle();
    assert!(pair.converged() && pair.importer.progress().synced);
    pair.sent.clear();
    pair.put(5_000, 2);
    pair.settle();
    assert!(pair.converged());
    assert!(matches!(pair.sent.as_slice(), [ExporterMessage::Batch { rows, .. }] if rows.len() == 1));
}

#[test]
fn moving_to_another_gateway_of_the_peer_changes_no_row_that_is_the_same_there() {
    let mut pair = Pair::new();
    for number in 0..50 {
        pair.put(number, 1);
    }
    pair.settle();
    let before: Vec<ServiceName> = pair.rows.keys().cloned().collect();
    pair.crash_exporter();
    while !pair.to_importer.is_empty()
        || !pair.to_exporter.is_empty()
        || pair.exporter.next_wake(&pair.log).is_none()
    {
        pair.answer();
        pair.send();
        pair.deliver();
        pair.confirm();
        assert!(pair.rows.keys().eq(before.iter()), "a name flapped");
    }
    assert!(pair.converged());
}
