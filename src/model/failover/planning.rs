//! From an import, a place and the health of things to a plan: who is considered, in which priority, with
//! which share.
//!
//! The slow half of choosing; `pick` is the half that runs for each connection.

use std::{collections::BTreeMap, ops::Range, time::Instant};

use super::{
    super::{
        bands::Band,
        ids::{ClusterId, Locality},
        import::Freshness,
        liveness::LinkState,
        outlier::OutlierKey,
        outlier::Standing,
    },
    Affinity, ClusterView, FailoverPolicy, HealthView, ImportView, Where,
    arithmetic::{apportion, effective_weight, level_health, level_loads, panics, total_health},
    pick::Target,
    ramp,
    reason::{Fitness, Place, Reason, Verdict},
};

/// Where the connections of one import's port go until something changes.
#[derive(Debug, Clone)]
pub struct Plan {
    slots: Vec<Slot>,
    levels: Vec<Level>,
    last_resorts: Range<usize>,
    table: Vec<Considered>,
    refresh_at: Option<Instant>,
}

/// One candidate of a plan.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) target: Target,
    /// Which cluster it is, so that one with two slots is offered once.
    pub(super) place: usize,
    pub(super) priority: u8,
    pub(super) weight: u64,
    pub(super) reason: Reason,
}

/// One priority of a plan.
#[derive(Debug, Clone)]
pub(super) struct Level {
    /// Its slots that can serve.
    pub(super) fit: Range<usize>,
    /// Percent of the load that begins here.
    pub(super) load: u64,
    /// Whether load figures decide inside it; explicit weights are kept as they are.
    pub(super) by_load: bool,
}

/// One line of what `tombolo explain` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// The cluster. This one may have two lines: its endpoints of this zone, and its others.
    pub cluster: ClusterId,
    /// Its priority, from 0; none when it does not even count as capacity.
    pub priority: Option<u8>,
    /// Percent of the connections that begin there while load figures are equal.
    pub share_percent: u8,
    /// What became of it.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// Endpoints ready.
    pub ready: u64,
    /// Endpoints there are.
    pub total: u64,
    /// Whether its priority is in panic: it has too few endpoints, and so have all others together.
    pub panics: bool,
}

impl Plan {
    /// Everything that was considered, the best priority first, with its reason.
    #[must_use]
    pub fn table(&self) -> &[Considered] {
        &self.table
    }

    /// Whether there is no candidate at all: the import then stops listening (B9).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// When the plan is out of date by itself: an ejection ends, or a return goes a step further.
    #[must_use]
    pub fn refresh_at(&self) -> Option<Instant> {
        self.refresh_at
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub(super) fn levels(&self) -> &[Level] {
        &self.levels
    }

    pub(super) fn last_resorts(&self) -> Range<usize> {
        self.last_resorts.clone()
    }
}

/// A cluster, or this cluster's part in one zone, with all that decides about it.
struct Row<'a> {
    view: &'a ClusterView,
    place: usize,
    reason: Reason,
    ready: u64,
    total: u64,
    /// How much of its share it may have.
    percent: u64,
    priority: Option<u8>,
    share: u64,
    panics: bool,
}

impl Row<'_> {
    fn verdict(&self) -> Verdict {
        self.reason.fitness.verdict()
    }

    /// Whether its endpoints count in its priority, ready or not.
    fn counts(&self) -> bool {
        !matches!(self.reason.fitness, Fitness::WeightZero | Fitness::PortNotExposed | Fitness::Withdrawn)
    }

    /// In hundredths of endpoints.
    fn available(&self) -> u64 {
        if self.verdict() == Verdict::Offered { self.ready * self.percent } else { 0 }
    }

    /// In hundredths of endpoints.
    fn capacity(&self) -> u64 {
        self.total * 100
    }

    fn weight(&self) -> u64 {
        match self.reason.place {
            Place::Weighted { weight } => effective_weight(weight, self.available(), self.capacity()),
            _ => self.available(),
        }
        .max(1)
    }
}

/// What all rows are judged by.
struct Judge<'a, H: ?Sized> {
    import: &'a ImportView,
    me: &'a Where,
    policy: &'a FailoverPolicy,
    bands: &'a BTreeMap<ClusterId, Band>,
    health: &'a H,
    now: Instant,
}

/// Weighs one port of an import; pure, and deterministic in its arguments.
///
/// `bands` holds the peers whose round trip was measured; the others count as farthest.
pub fn plan<H: HealthView + ?Sized>(
    import: &ImportView,
    me: &Where,
    policy: &FailoverPolicy,
    bands: &BTreeMap<ClusterId, Band>,
    health: &H,
    now: Instant,
) -> Plan {
    let judge = Judge { import, me, policy, bands, health, now };
    let mut refresh_at: Option<Instant> = None;
    let mut rows = Vec::with_capacity(import.clusters.len() + 1);
    for (place, view) in import.clusters.iter().enumerate() {
        let (fitness, percent, changes_at) = judge.fitness(view);
        refresh_at = [refresh_at, changes_at].into_iter().flatten().min();
        for (why, ready, total) in judge.parts(view) {
            let none_ready = ready == 0 && !matches!(fitness.verdict(), Verdict::Excluded);
            let fitness = if none_ready { Fitness::NoneReady } else { fitness };
            let reason = Reason { place: why, fitness };
            let row =
                Row { view, place, reason, ready, total, percent, priority: None, share: 0, panics: false };
            rows.push(row);
        }
    }
    rows.sort_by_key(|row| (!row.counts(), row.reason.place.rank(), row.view.cluster.clone()));
    let mut plan = assemble(&mut rows, policy, &me.cluster);
    plan.refresh_at = refresh_at;
    plan
}

impl<H: HealthView + ?Sized> Judge<'_, H> {
    fn is_own(&self, view: &ClusterView) -> bool {
        view.cluster == self.me.cluster
    }

    /// Whether a cluster can serve, how much of its share it may have, and when that changes by itself.
    fn fitness(&self, view: &ClusterView) -> (Fitness, u64, Option<Instant>) {
        let excluded = |fitness| (fitness, 0, None);
        if !view.exposes_port {
            return excluded(Fitness::PortNotExposed);
        }
        if view.freshness == Freshness::Withdrawn {
            return excluded(Fitness::Withdrawn);
        }
        if self.policy.weights.get(&view.cluster) == Some(&0) {
            return excluded(Fitness::WeightZero);
        }
        let link = if self.is_own(view) { LinkState::Up } else { self.health.link(&view.cluster) };
        if link == LinkState::Down {
            return match self.health.awaited(&view.cluster, self.now) {
                Some(until) => (Fitness::Awaited { until }, 0, Some(until)),
                None => excluded(Fitness::LinkDown),
            };
        }
        let key = OutlierKey {
            cluster: view.cluster.clone(),
            service: self.import.service.clone(),
            port: self.import.port,
        };
        let standing = self.health.standing(&key, self.now);
        if let Standing::Ejected { until } = standing {
            return (Fitness::Ejected { until }, 0, Some(until));
        }
        if link == LinkState::Suspect {
            return (Fitness::Suspect, 0, None);
        }
        if !self.is_own(view) && self.health.drains(&view.cluster) {
            return (Fitness::Draining, 0, None);
        }
        if standing == Standing::Probation {
            return (Fitness::Probation, 100, None);
        }
        let back = ramp(self.health.returned(&key), self.policy.hold, self.now);
        match (back.percent, back.next) {
            (0, Some(until)) => (Fitness::Held { until }, 0, Some(until)),
            (percent, Some(next)) => (Fitness::Returning { percent }, u64::from(percent), Some(next)),
            (_, None) => (Fitness::Fit, 100, None),
        }
    }

    /// The parts a cluster is weighed in, with their ready and total counts.
    fn parts(&self, view: &ClusterView) -> Vec<(Place, u64, u64)> {
        let band = self.bands.get(&view.cluster).copied().unwrap_or(Band::FARTHEST);
        let stale = (view.freshness == Freshness::Stale).then_some(Place::Stale { band });
        let named = stale.or_else(|| self.named(view));
        let whole = |place| {
            let (ready, total) = sum(view, |_| true);
            vec![(place, ready, total)]
        };
        if let Some(place) = named {
            return whole(place);
        }
        match (self.policy.affinity, self.is_own(view)) {
            (Affinity::None, _) => whole(Place::AnyCluster),
            (Affinity::Remote, true) => whole(Place::OwnLast),
            (Affinity::Local, true) => self.own_parts(view),
            (Affinity::Local | Affinity::Remote, false) => whole(self.peer_place(view, band)),
        }
    }

    /// By its id, or in the order by its region; a region is not meant to take this cluster from its own place.
    fn named(&self, view: &ClusterView) -> Option<Place> {
        if let Some(weight) = self.policy.weights.get(&view.cluster) {
            return Some(Place::Weighted { weight: *weight });
        }
        let lies_in =
            |named: &ClusterId| view.zones.iter().any(|row| *row.locality.region == *named.as_str());
        let order = &self.policy.order;
        let by_id = order.iter().position(|named| *named == view.cluster);
        let by_region = || if self.is_own(view) { None } else { order.iter().position(lies_in) };
        let position = by_id.or_else(by_region)?;
        Some(Place::Ordered { position: u16::try_from(position).unwrap_or(u16::MAX) })
    }

    /// This cluster by zones, unless that would leave endpoints out: this gateway's zone is not known, an
    /// endpoint's is not, or none is in it (rule 16 of the federation note).
    fn own_parts(&self, view: &ClusterView) -> Vec<(Place, u64, u64)> {
        let here = |locality: &_| locality == &self.me.locality;
        let zoned = !self.me.locality.zone.is_empty()
            && view.zones.iter().all(|row| row.total == 0 || !row.locality.zone.is_empty());
        let (ready, total) = sum(view, here);
        if !zoned || total == 0 {
            let (ready, total) = sum(view, |_| true);
            return vec![(Place::SameCluster, ready, total)];
        }
        let mut parts = vec![(Place::SameZone, ready, total)];
        let (ready, total) = sum(view, |locality| !here(locality));
        if total > 0 {
            parts.push((Place::SameCluster, ready, total));
        }
        parts
    }

    /// A peer stands where its nearest ready endpoints are, or where its endpoints are when none is ready.
    fn peer_place(&self, view: &ClusterView, band: Band) -> Place {
        let mine = &self.me.locality;
        let any_ready = view.zones.iter().any(|row| row.ready > 0);
        let matches = |zone: bool| {
            let counted =
                view.zones.iter().filter(|row| if any_ready { row.ready > 0 } else { row.total > 0 });
            let near = |theirs: &Locality| {
                theirs.region == mine.region && (!zone || theirs.zone == mine.zone && !mine.zone.is_empty())
            };
            !mine.region.is_empty() && counted.into_iter().any(|row| near(&row.locality))
        };
        if matches(true) {
            Place::PeerInZone { band }
        } else if matches(false) {
            Place::SameRegion { band }
        } else if mine.region.is_empty() || view.zones.iter().all(|row| row.locality.region.is_empty()) {
            Place::Somewhere { band }
        } else {
            Place::OtherRegion { band }
        }
    }
}

fn sum(view: &ClusterView, counts: impl Fn(&Locality) -> bool) -> (u64, u64) {
    view.zones.iter().filter(|row| counts(&row.locality)).fold((0, 0), |(ready, total), row| {
        (ready + u64::from(row.ready), total + u64::from(row.total.max(row.ready)))
    })
}

/// Makes priorities of the sorted rows, gives them their loads and shares, and lays out the slots.
fn assemble(rows: &mut [Row<'_>], policy: &FailoverPolicy, own: &ClusterId) -> Plan {
    let counting = rows.iter().take_while(|row| row.counts()).count();
    let (counted, _) = rows.split_at_mut(counting);
    let groups: Vec<&mut [Row<'_>]> =
        counted.chunk_by_mut(|one, other| one.reason.place.rank() == other.reason.place.rank()).collect();
    let measure = |group: &[Row<'_>]| {
        let available = group.iter().map(Row::available).sum::<u64>();
        (available, group.iter().map(Row::capacity).sum::<u64>())
    };
    let measures: Vec<(u64, u64)> = groups.iter().map(|group| measure(group)).collect();
    let health: Vec<u64> =
        measures.iter().map(|(available, total)| level_health(*available, *total)).collect();
    let mut loads = level_loads(&health);
    if let (0, Some(first)) =
        (total_health(&health), measures.iter().position(|(available, _)| *available > 0))
    {
        // So few of so many are ready that it rounds to nothing, but they are all there is.
        loads[first] = 100;
    }
    let (mut slots, mut levels) = (Vec::new(), Vec::new());
    for (index, group) in groups.into_iter().enumerate() {
        let priority = u8::try_from(index).unwrap_or(u8::MAX);
        let (available, total) = measures[index];
        let panic = panics(available, total, total_health(&health), policy.panic_percent);
        let weight = |row: &Row<'_>| if row.verdict() == Verdict::Offered { row.weight() } else { 0 };
        let shares = apportion(&group.iter().map(weight).collect::<Vec<_>>(), loads[index]);
        let start = slots.len();
        for (row, share) in group.iter_mut().zip(shares) {
            (row.priority, row.share, row.panics) = (Some(priority), share, panic);
            if row.verdict() == Verdict::Offered {
                slots.push(slot(row, own));
            }
        }
        let by_load = !group.iter().any(|row| matches!(row.reason.place, Place::Weighted { .. }));
        levels.push(Level { fit: start..slots.len(), load: loads[index], by_load });
    }
    let last_resorts = lay_out_last_resorts(rows, policy, own, &mut slots);
    let table = rows.iter().map(|row| considered(row, policy)).collect();
    Plan { slots, levels, last_resorts, table, refresh_at: None }
}

/// Appends what may serve when nothing fit is left, the least bad first. When nothing is fit from the start,
/// the first of them is where connections begin.
fn lay_out_last_resorts(
    rows: &mut [Row<'_>],
    policy: &FailoverPolicy,
    own: &ClusterId,
    slots: &mut Vec<Slot>,
) -> Range<usize> {
    let start = slots.len();
    if policy.panic_percent > 0 {
        let mut unfit: Vec<&mut Row<'_>> =
            rows.iter_mut().filter(|row| row.verdict() == Verdict::LastResort).collect();
        unfit.sort_by_key(|row| (row.reason.fitness.badness(), row.priority));
        if let (0, Some(first)) = (start, unfit.first_mut()) {
            first.share = 100;
        }
        slots.extend(unfit.iter().map(|row| slot(row, own)));
    }
    start..slots.len()
}

fn slot(row: &Row<'_>, own: &ClusterId) -> Slot {
    let cluster = &row.view.cluster;
    Slot {
        target: if cluster == own { Target::Local } else { Target::Peer(cluster.clone()) },
        place: row.place,
        priority: row.priority.unwrap_or(u8::MAX),
        weight: row.weight(),
        reason: row.reason,
    }
}

fn considered(row: &Row<'_>, policy: &FailoverPolicy) -> Considered {
    let verdict = match row.verdict() {
        Verdict::LastResort if policy.panic_percent == 0 => Verdict::Excluded,
        verdict => verdict,
    };
    Considered {
        cluster: row.view.cluster.clone(),
        priority: row.priority,
        share_percent: u8::try_from(row.share).expect("a share is at most 100"),
        verdict,
        reason: row.reason,
        ready: row.ready,
        total: row.total,
        panics: row.panics,
    }
}
