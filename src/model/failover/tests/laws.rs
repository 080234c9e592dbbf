//! The laws of every pick, in any world.

use proptest::prelude::*;

use super::*;

pub(in super::super) fn worlds() -> impl Strategy<Value = World> {
    let places = proptest::sample::select(vec!["eu/a", "eu/b", "us/x", ""]);
    let zones = proptest::collection::vec((places, 0u32..5, 0u32..5), 0..3);
    let kinds = (0u8..12, 0u8..8, 0u8..8, 0u64..300, 0u8..8);
    let clusters = proptest::collection::vec((zones, kinds), 0..9);
    (clusters, 0u8..3, 0u8..4, any::<u64>()).prop_map(|(clusters, affinity, named, draw)| {
        let name = |index: usize| if index == 0 { "east".to_owned() } else { format!("peer-{index}") };
        let mut world = World::of(&[]);
        for (index, (zones, (fresh, link, standing, rtt, back))) in clusters.into_iter().enumerate() {
            let mut view = cluster(&name(index), &zones);
            view.freshness = match fresh {
                0 => Freshness::Withdrawn,
                1 => Freshness::Stale,
                _ => Freshness::Fresh,
            };
            view.exposes_port = fresh != 2;
            let (cluster, now) = (view.cluster.clone(), world.now);
            let link = [LinkState::Down, LinkState::Suspect].get(usize::from(link)).copied();
            world.health.links.insert(cluster.clone(), link.unwrap_or(LinkState::Up));
            let until = now + HOUR;
            let standing =
                [Standing::Ejected { until }, Standing::Probation].get(usize::from(standing)).copied();
            world.health.standings.insert(cluster.clone(), standing.unwrap_or(Standing::Healthy));
            if back < 3 {
                let ago = Duration::from_millis(u64::from(back) * 1_700);
                world.health.returned.insert(cluster.clone(), now - ago);
            }
            if named & 1 == 1 && draw >> (index * 2) & 1 == 1 {
                world.policy.order.push(cluster.clone());
            }
            if named & 2 == 2 && draw >> (index * 3) & 3 > 1 {
                world.policy.weights.insert(cluster.clone(), (draw >> index & 7) as u32);
            }
            world.bands.insert(cluster, Band::of(Duration::from_millis(rtt)));
            world.import.clusters.push(view);
        }
        world.policy.affinity = [Affinity::Local, Affinity::Remote, Affinity::None][usize::from(affinity)];
        world
    })
}

proptest! {
    #[test]
    fn nothing_unfit_goes_before_anything_fit(world in worlds(), seed in any::<u64>()) {
        let plan = world.plan();
        let picked: Vec<_> = plan.pick(&NoLoads, &mut StdRng::seed_from_u64(seed)).collect();
        let verdicts: Vec<_> = picked.iter().map(|one| one.reason.fitness.verdict()).collect();
        prop_assert!(verdicts.is_sorted_by_key(|verdict| *verdict == Verdict::LastResort), "{verdicts:?}");
        prop_assert!(!verdicts.contains(&Verdict::Excluded));
        let badness: Vec<_> = picked.iter().map(|one| one.reason.fitness.badness()).collect();
        prop_assert!(badness.is_sorted(), "the less bad first: {badness:?}");
    }

    #[test]
    fn every_place_that_can_serve_is_offered_once_and_shares_are_whole(world in worlds(), seed in any::<u64>()) {
        let plan = world.plan();
        let picked: Vec<_> =
            plan.pick(&NoLoads, &mut StdRng::seed_from_u64(seed)).map(|one| name(&one)).collect();
        let offered: BTreeSet<String> = plan.table().iter()
            .filter(|row| row.verdict != Verdict::Excluded).map(|row| row.cluster.to_string()).collect();
        prop_assert_eq!(picked.len(), offered.len().min(8));
        prop_assert_eq!(picked.iter().collect::<BTreeSet<_>>().len(), picked.len());
        let shares: u32 = plan.table().iter().map(|row| u32::from(row.share_percent)).sum();
        prop_assert_eq!(shares, if offered.is_empty() { 0 } else { 100 });
        prop_assert_eq!(plan.is_empty(), offered.is_empty());
        let considered: BTreeSet<_> = plan.table().iter().map(|row| &row.cluster).collect();
        prop_assert_eq!(considered.len(), world.import.clusters.len(), "every cluster has its line");
    }

    #[test]
    fn bands_rank_inside_a_priority_and_never_across(world in worlds(), rtts in proptest::collection::vec(0u64..300, 9)) {
        let class = |place: Place| place.rank().0;
        let before = world.plan();
        let mut moved = world.clone();
        for (rtt, (_, band)) in rtts.iter().zip(&mut moved.bands) {
            *band = Band::of(Duration::from_millis(*rtt));
        }
        for plan in [&before, &moved.plan()] {
            let counted = plan.table().iter().filter(|row| row.priority.is_some());
            prop_assert!(counted.map(|row| class(row.reason.place)).is_sorted());
        }
        let classes = |plan: &Plan| -> BTreeMap<_, _> {
            let rows = plan.table().iter();
            rows.map(|row| ((row.cluster.clone(), class(row.reason.place)), row.verdict)).collect()
        };
        prop_assert_eq!(classes(&before), classes(&moved.plan()));
    }

    #[test]
    fn the_same_world_and_seed_make_the_same_choice(world in worlds(), seed in any::<u64>()) {
        prop_assert_eq!(world.order(seed), world.clone().turned().order(seed));
    }
}
