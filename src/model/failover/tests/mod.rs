//! The order of places, and how explicit wishes compose with failover.

mod laws;

pub(super) use laws::worlds;

use std::collections::BTreeSet;

use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::model::{bands::Band, bands::Bands, ids::ClusterId, testing::instant};

const HOUR: Duration = Duration::from_secs(3_600);

/// Health as a test says it; whatever is not named is well.
#[derive(Debug, Clone, Default)]
struct Health {
    links: BTreeMap<ClusterId, LinkState>,
    awaited: BTreeMap<ClusterId, Instant>,
    standings: BTreeMap<ClusterId, Standing>,
    returned: BTreeMap<ClusterId, Instant>,
}

impl HealthView for Health {
    fn link(&self, cluster: &ClusterId) -> LinkState {
        self.links.get(cluster).copied().unwrap_or(LinkState::Up)
    }
    fn awaited(&self, cluster: &ClusterId, now: Instant) -> Option<Instant> {
        self.awaited.get(cluster).copied().filter(|until| now < *until)
    }
    fn standing(&self, key: &OutlierKey, _: Instant) -> Standing {
        self.standings.get(&key.cluster).copied().unwrap_or(Standing::Healthy)
    }
    fn returned(&self, key: &OutlierKey) -> Option<Instant> {
        self.returned.get(&key.cluster).copied()
    }
}

/// A gateway of `east` in eu/a and what it knows; the steps of a test change it.
#[derive(Debug, Clone)]
pub(super) struct World {
    import: ImportView,
    me: Where,
    policy: FailoverPolicy,
    bands: BTreeMap<ClusterId, Band>,
    health: Health,
    now: Instant,
}

fn id(name: &str) -> ClusterId {
    ClusterId::parse(name).unwrap()
}

fn zone(place: &str, ready: u32, total: u32) -> ZoneReady {
    ZoneReady { locality: Locality::parse(place).unwrap(), ready, total }
}

pub(super) fn cluster(name: &str, zones: &[(&str, u32, u32)]) -> ClusterView {
    ClusterView {
        cluster: id(name),
        zones: zones.iter().map(|(place, ready, total)| zone(place, *ready, *total)).collect(),
        freshness: Freshness::Fresh,
        exposes_port: true,
    }
}

impl World {
    pub(super) fn of(clusters: &[ClusterView]) -> Self {
        let import = ImportView {
            service: ServiceName::parse("shop/web").unwrap(),
            port: 80,
            clusters: clusters.to_vec(),
        };
        let me = Where { cluster: id("east"), locality: Locality::parse("eu/a").unwrap() };
        let (policy, bands, health) = (FailoverPolicy::default(), BTreeMap::new(), Health::default());
        Self { import, me, policy, bands, health, now: instant() }
    }

    /// This cluster in two zones, one peer in this zone, one in the region, two elsewhere.
    fn wide() -> Self {
        let mut world = Self::of(&[
            cluster("far", &[("us/x", 2, 2)]),
            cluster("near", &[("us/y", 2, 2)]),
            cluster("region", &[("eu/c", 2, 2)]),
            cluster("zone", &[("eu/a", 2, 2)]),
            cluster("east", &[("eu/a", 2, 2), ("eu/b", 2, 2)]),
        ]);
        world.band("far", 120).band("near", 80).band("region", 10).band("zone", 10);
        world
    }

    fn band(&mut self, name: &str, ms: u64) -> &mut Self {
        self.bands.insert(id(name), Band::of(Duration::from_millis(ms)));
        self
    }

    pub(super) fn link(&mut self, name: &str, state: LinkState) -> &mut Self {
        self.health.links.insert(id(name), state);
        self
    }

    fn view(&mut self, name: &str) -> &mut ClusterView {
        self.import.clusters.iter_mut().find(|view| view.cluster.as_str() == name).unwrap()
    }

    fn ready(&mut self, name: &str, ready: u32) -> &mut Self {
        self.view(name).zones.iter_mut().for_each(|row| row.ready = ready);
        self
    }

    /// The same, told in another order.
    pub(super) fn turned(mut self) -> Self {
        self.import.clusters.reverse();
        self
    }

    pub(super) fn plan(&self) -> Plan {
        plan(&self.import, &self.me, &self.policy, &self.bands, &self.health, self.now)
    }

    /// The candidates of one pick, by name.
    fn order(&self, seed: u64) -> Vec<String> {
        self.plan()
            .pick(&NoLoads, &mut StdRng::seed_from_u64(seed))
            .map(|candidate| name(&candidate))
            .collect()
    }

    /// Priorities, shares and reasons, one line each.
    fn lines(&self) -> Vec<String> {
        let line = |row: &Considered| {
            let priority = row.priority.map_or_else(|| "-".to_owned(), |priority| priority.to_string());
            format!("{priority} {} {} % {}", row.cluster, row.share_percent, row.reason)
        };
        self.plan().table().iter().map(line).collect()
    }

    fn shares(&self) -> Vec<(String, u8)> {
        self.plan().table().iter().map(|row| (row.cluster.to_string(), row.share_percent)).collect()
    }
}

fn name(candidate: &Candidate<'_>) -> String {
    match candidate.target {
        Target::Local => "east".to_owned(),
        Target::Peer(cluster) => cluster.to_string(),
    }
}

#[test]
fn the_default_order_is_zone_cluster_then_peers_by_zone_region_and_band() {
    let world = World::wide();
    assert_eq!(
        world.lines(),
        [
            "0 east 100 % this cluster, same zone",
            "1 east 0 % this cluster",
            "2 zone 0 % same zone, within 15 ms",
            "3 region 0 % same region, within 15 ms",
            "4 near 0 % other region, within 100 ms",
            "5 far 0 % other region, within 250 ms",
        ]
    );
    assert_eq!(world.order(1), ["east", "zone", "region", "near", "far"]);
}

#[test]
fn load_leaves_this_cluster_by_the_arithmetic() {
    let mut world = World::of(&[cluster("east", &[("eu/a", 1, 2)]), cluster("west", &[("eu/b", 4, 4)])]);
    let share = |ready, total| {
        let mut world = world.clone();
        world.view("east").zones = vec![zone("eu/a", ready, total)];
        world.shares()[0].1
    };
    assert_eq!(
        [(72, 100), (71, 100), (1, 2), (1, 4), (0, 4)].map(|(r, t)| share(r, t)),
        [100, 99, 70, 35, 0]
    );
    world.ready("east", 0);
    assert_eq!(world.order(1), ["west"]);
    assert_eq!(world.lines()[0], "0 east 0 % this cluster, same zone; no endpoint is ready");
}

#[test]
fn endpoints_without_a_zone_are_never_left_out() {
    let mut world = World::wide();
    world.view("east").zones.push(zone("", 1, 1));
    assert_eq!(world.lines()[0], "0 east 100 % this cluster");
    let mut world = World::wide();
    world.me.locality = Locality::default();
    assert_eq!(world.lines()[0], "0 east 100 % this cluster");
    assert_eq!(
        world.lines()[1],
        "1 region 0 % region not known, within 15 ms",
        "an unknown place has no neighbours"
    );
    let mut world = World::wide();
    world.me.locality = Locality::parse("eu/z").unwrap();
    assert_eq!(world.lines()[0], "0 east 100 % this cluster");
}

#[test]
fn affinity_remote_puts_this_cluster_last_and_none_ranks_nobody() {
    let mut world = World::wide();
    world.policy.affinity = Affinity::Remote;
    assert_eq!(world.order(1), ["zone", "region", "near", "far", "east"]);
    world.policy.affinity = Affinity::None;
    assert!(world.plan().table().iter().all(|row| row.priority == Some(0)));
    let shares: Vec<u8> = world.shares().iter().map(|share| share.1).collect();
    assert_eq!(shares, [33, 17, 17, 17, 16], "east has 4 endpoints of 12");
}

#[test]
fn an_explicit_order_stands_before_the_rest_and_composes_with_failover() {
    let mut world = World::wide();
    world.policy.order = vec![id("far"), id("region")];
    assert_eq!(world.order(1), ["east", "far", "region", "zone", "near"]);
    world.policy.order.insert(0, id("zone"));
    world.policy.order.push(id("east"));
    assert_eq!(world.order(1), ["zone", "far", "region", "east", "near"]);
    world.link("zone", LinkState::Down);
    assert_eq!(world.order(1), ["far", "region", "east", "near"]);
}

#[test]
fn a_region_in_the_order_stands_for_its_clusters_and_never_for_this_one() {
    let mut world = World::wide();
    world.policy.order = vec![id("near"), id("us"), id("eu")];
    let places: Vec<_> = world.shares().into_iter().map(|(name, _)| name).collect();
    assert_eq!(places, ["east", "east", "near", "far", "region", "zone"]);
}

#[test]
fn explicit_weights_share_and_fail_over_among_what_is_available() {
    let mut world = World::of(&[
        cluster("east", &[("eu/a", 3, 3)]),
        cluster("x", &[("eu/b", 4, 4)]),
        cluster("y", &[("eu/c", 4, 4)]),
        cluster("z", &[("us/d", 4, 4)]),
    ]);
    world.policy.weights = BTreeMap::from([(id("x"), 1), (id("y"), 2), (id("east"), 0)]);
    let named = |world: &World, name: &str| {
        world.shares().into_iter().find(|share| share.0 == name).map(|share| share.1).unwrap()
    };
    let four = |world: &World| ["x", "y", "z", "east"].map(|name| named(world, name));
    assert_eq!(four(&world), [33, 67, 0, 0]);
    world.ready("x", 2);
    assert_eq!(four(&world), [26, 74, 0, 0]);
    world.link("x", LinkState::Suspect);
    assert_eq!(four(&world), [0, 70, 30, 0], "half of the priority's capacity is gone: 30 % spill over");
    world.link("y", LinkState::Down);
    assert_eq!(four(&world), [0, 0, 100, 0]);
    assert_eq!(world.order(1), ["z", "x"], "weight 0 and a dead link are never offered");
}

#[test]
fn explicit_weights_are_not_bent_by_load() {
    struct XIsBusy;
    impl Loads for XIsBusy {
        fn cost(&self, target: &Target) -> u64 {
            if *target == Target::Peer(id("x")) { 1_000 } else { 1 }
        }
    }
    let mut world = World::of(&[cluster("x", &[("eu/b", 4, 4)]), cluster("y", &[("eu/c", 4, 4)])]);
    let first_is_x = |world: &World| {
        let (plan, mut rng) = (world.plan(), StdRng::seed_from_u64(5));
        (0..10_000).filter(|_| name(&plan.pick(&XIsBusy, &mut rng).next().unwrap()) == "x").count()
    };
    let by_load = first_is_x(&world);
    assert!((2_300..2_700).contains(&by_load), "two choices leave the busy one a quarter: {by_load}");
    world.policy.weights = BTreeMap::from([(id("x"), 1), (id("y"), 1)]);
    let by_weight = first_is_x(&world);
    assert!((4_800..5_200).contains(&by_weight), "{by_weight}");
}

#[test]
fn a_stale_catalog_comes_last_and_a_withdrawn_one_never() {
    let mut world = World::wide();
    world.view("zone").freshness = Freshness::Stale;
    world.view("region").freshness = Freshness::Withdrawn;
    world.view("near").exposes_port = false;
    assert_eq!(world.order(1), ["east", "far", "zone"]);
    let lines = world.lines();
    assert!(lines.contains(&"3 zone 0 % its catalog is stale, within 15 ms".to_owned()), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("- region") && line.contains("withdrawn")));
    assert!(lines.iter().any(|line| line.starts_with("- near") && line.contains("expose")));
}

#[test]
fn the_only_cluster_is_offered_although_it_is_suspect_and_says_so() {
    let mut world = World::of(&[cluster("west", &[("eu/b", 4, 4)])]);
    world.link("west", LinkState::Suspect);
    let plan = world.plan();
    let last = plan.pick(&NoLoads, &mut StdRng::seed_from_u64(1)).next().unwrap();
    assert_eq!(last.reason.fitness, Fitness::Suspect);
    assert!(last.reason.to_string().ends_with("; its link is suspect"));
    assert_eq!((plan.table()[0].share_percent, plan.table()[0].panics), (100, true));
    world.policy.panic_percent = 0;
    assert!(world.plan().is_empty(), "without panic it fails at once");
    world.policy.panic_percent = 50;
    world.link("west", LinkState::Down);
    assert!(world.plan().is_empty(), "a link that is down serves nobody");
}

#[test]
fn a_cluster_that_lost_its_link_a_moment_ago_is_the_last_resort_until_it_is_given_up() {
    let mut world = World::wide();
    let until = world.now + Duration::from_secs(2);
    world.link("east", LinkState::Down);
    world.link("zone", LinkState::Down);
    world.health.awaited.insert(id("zone"), until);
    world.link("far", LinkState::Suspect);
    let order = world.order(1);
    assert_eq!(order.last().map(String::as_str), Some("zone"), "{order:?}");
    assert_eq!(world.plan().refresh_at(), Some(until));
    world.now = until;
    assert!(!world.order(1).contains(&"zone".to_owned()), "given up");
    let mut world = World::of(&[cluster("west", &[("eu/b", 4, 4)])]);
    world.link("west", LinkState::Down);
    world.health.awaited.insert(id("west"), until);
    assert!(!world.plan().is_empty(), "its listeners stay for as long");
}

#[test]
fn an_ejected_cluster_is_the_last_resort_of_all_and_names_the_time_of_its_probation() {
    let mut world = World::wide();
    let until = world.now + HOUR;
    world.health.standings.insert(id("east"), Standing::Ejected { until });
    world.link("zone", LinkState::Suspect);
    assert_eq!(world.order(1), ["region", "near", "far", "zone", "east"]);
    assert_eq!(world.plan().refresh_at(), Some(until));
    world.health.standings.insert(id("east"), Standing::Probation);
    let plan = world.plan();
    let first = plan.pick(&NoLoads, &mut StdRng::seed_from_u64(1)).next().unwrap();
    assert!(first.on_probation() && *first.target == Target::Local);
}

#[test]
fn a_cluster_that_came_back_is_held_then_ramped_then_whole() {
    let mut world = World::wide();
    let back = world.now;
    world.health.returned.insert(id("east"), back);
    let first = |world: &mut World, ms| {
        world.now = back + Duration::from_millis(ms);
        let own = world.shares().into_iter().filter(|share| share.0 == "east");
        own.map(|share| u32::from(share.1)).sum::<u32>()
    };
    let shares = [0, 2_499, 2_500, 3_200, 4_000, 4_500, 5_000].map(|ms| first(&mut world, ms));
    assert_eq!(shares, [0, 0, 56, 100, 100, 100, 100], "28 and 28: the arithmetic counts both zones");
    first(&mut world, 1_000);
    assert_eq!(world.plan().refresh_at(), Some(back + Duration::from_millis(2_500)));
    assert_eq!(world.order(1).last().map(String::as_str), Some("east"), "held, it is still a last resort");
}

#[test]
fn a_held_cluster_serves_at_once_when_no_other_can() {
    let mut world = World::of(&[cluster("east", &[("eu/a", 1, 1)]), cluster("west", &[("eu/b", 0, 1)])]);
    world.health.returned.insert(id("east"), world.now);
    assert_eq!(world.order(1), ["east"]);
}

#[test]
fn one_ready_of_a_thousand_still_serves() {
    let world = World::of(&[cluster("east", &[("eu/a", 1, 1_000)])]);
    assert_eq!((world.order(1), world.shares()), (vec!["east".to_owned()], vec![("east".to_owned(), 100)]));
}

#[test]
fn two_peers_whose_round_trips_cross_do_not_swing_the_traffic() {
    let mut world = World::of(&[cluster("x", &[("us/b", 4, 4)]), cluster("y", &[("us/c", 4, 4)])]);
    let (mut x, mut y) = (Bands::new(), Bands::new());
    let (mut leaders, start) = (Vec::new(), world.now);
    for tick in 0..3_000u32 {
        // Around the 40 ms edge, in antiphase, each crossing the other every second.
        let swing = 6.0 * (f64::from(tick) / 10.0 * std::f64::consts::PI).sin();
        let now = start + Duration::from_millis(100) * tick;
        x.observe(Duration::from_secs_f64((40.0 + swing) / 1_000.0), now);
        y.observe(Duration::from_secs_f64((40.0 - swing) / 1_000.0), now);
        world.bands = BTreeMap::from([(id("x"), x.band().unwrap()), (id("y"), y.band().unwrap())]);
        leaders.push(world.shares());
    }
    leaders.dedup();
    assert_eq!(leaders.len(), 1, "{leaders:?}");
}

#[test]
fn picks_follow_the_shares_within_a_percent_over_a_hundred_thousand_draws() {
    let mut world = World::of(&[
        cluster("east", &[("eu/a", 3, 6)]),
        cluster("x", &[("eu/b", 1, 1)]),
        cluster("y", &[("eu/c", 2, 2)]),
        cluster("z", &[("eu/d", 5, 5)]),
    ]);
    world.band("x", 10).band("y", 10).band("z", 10);
    let draws_follow = |world: &World, exact: &[(&str, f64)]| {
        let (plan, mut rng) = (world.plan(), StdRng::seed_from_u64(11));
        let mut drawn = BTreeMap::<String, u32>::new();
        for _ in 0..100_000 {
            *drawn.entry(name(&plan.pick(&NoLoads, &mut rng).next().unwrap())).or_default() += 1;
        }
        for (name, percent) in exact {
            let got = f64::from(drawn[*name]) / 1_000.0;
            assert!((got - percent).abs() < 1.0, "{name}: {got} % instead of {percent} %");
        }
    };
    draws_follow(&world, &[("east", 70.0), ("x", 30.0 / 8.0), ("y", 60.0 / 8.0), ("z", 150.0 / 8.0)]);
    world.policy.weights = BTreeMap::from([(id("x"), 1), (id("y"), 2), (id("z"), 5), (id("east"), 0)]);
    draws_follow(&world, &[("x", 12.5), ("y", 25.0), ("z", 62.5)]);
}

#[test]
fn a_cluster_that_flaps_faster_than_the_hold_gets_nothing_back_and_nothing_swings() {
    let mut world = World::of(&[cluster("east", &[("eu/a", 2, 2)]), cluster("west", &[("eu/b", 2, 2)])]);
    let (mut returns, mut leaders, start) = (Returns::new(), Vec::new(), world.now);
    // Two seconds there and two away for a minute, then there for good.
    for tick in 0..700u32 {
        world.now = start + Duration::from_millis(100) * tick;
        let able = tick >= 600 || tick / 20 % 2 == 0;
        world.ready("east", if able { 2 } else { 0 });
        returns.observe(&id("east"), able, world.now);
        world.health.returned =
            returns.returned(&id("east")).map(|at| (id("east"), at)).into_iter().collect();
        leaders.push(world.order(u64::from(tick)).remove(0));
    }
    assert!(leaders[..20].iter().all(|leader| leader == "east"));
    assert!(
        leaders[20..625].iter().all(|leader| leader == "west"),
        "away once, it is not back before it stays"
    );
    assert!(leaders[650..].iter().all(|leader| leader == "east"), "and then wholly, after the hold");
}
