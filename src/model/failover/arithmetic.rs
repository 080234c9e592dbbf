//! Envoy's arithmetic of priorities: how load leaves a priority that lacks endpoints, in whole percents.
//!
//! Follows the formula of Envoy's documentation, not two rows of its panic page that contradict it. Where
//! whole percents leave a rest it goes to the largest fractions, as in the documentation's vectors (Envoy's
//! code gives it to the first). Knows nothing of clusters.

use super::super::limits::OVERPROVISION_PERCENT;

/// Health of a level: `min(100, 140 * available / total)`. An empty level has none.
#[must_use]
pub fn level_health(available: u64, total: u64) -> u64 {
    OVERPROVISION_PERCENT.saturating_mul(available).checked_div(total).unwrap_or(0).min(100)
}

/// Health of all levels together: `min(100, sum)`. Below 100 there are not enough endpoints for the load.
#[must_use]
pub fn total_health(levels: &[u64]) -> u64 {
    levels.iter().sum::<u64>().min(100)
}

/// Percent of the load each level takes, given their health in order. Sums to 100, or to 0 when no level has
/// any health.
#[must_use]
pub fn level_loads(levels: &[u64]) -> Vec<u64> {
    if total_health(levels) < 100 {
        return apportion(levels, 100);
    }
    let mut left = 100;
    let mut take = |health: &u64| {
        let load = left.min(*health);
        left -= load;
        load
    };
    levels.iter().map(&mut take).collect()
}

/// Whether a level panics: less than `threshold` percent of it is available, and all levels together have not
/// enough. 0 switches panic off.
#[must_use]
pub fn panics(available: u64, total: u64, total_health: u64, threshold: u8) -> bool {
    total_health < 100 && available.saturating_mul(100) < total.saturating_mul(u64::from(threshold))
}

/// The effective weight of a place with an explicit weight: `weight * min(100, 140 * available / total)`.
#[must_use]
pub fn effective_weight(weight: u32, available: u64, total: u64) -> u64 {
    u64::from(weight) * level_health(available, total)
}

/// Splits `whole` in proportion to `parts`, in integers that sum to it: the rest goes to the largest fractions,
/// the earlier first. All zero when all parts are.
#[must_use]
pub fn apportion(parts: &[u64], whole: u64) -> Vec<u64> {
    let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    if sum == 0 {
        return vec![0; parts.len()];
    }
    let exact = |part: u64| u128::from(part) * u128::from(whole);
    let small = |value: u128| u64::try_from(value).expect("no share exceeds the whole");
    let mut shares: Vec<u64> = parts.iter().map(|part| small(exact(*part) / sum)).collect();
    let rest = whole - shares.iter().sum::<u64>();
    let mut by_fraction: Vec<usize> = (0..parts.len()).collect();
    by_fraction.sort_by_key(|index| std::cmp::Reverse(exact(parts[*index]) % sum));
    for index in by_fraction.into_iter().take(usize::try_from(rest).expect("fewer than there are parts")) {
        shares[index] += 1;
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Loads of levels whose health is given in percent of their endpoints.
    fn loads(healthy: &[u64]) -> Vec<u64> {
        let levels: Vec<u64> = healthy.iter().map(|percent| level_health(*percent, 100)).collect();
        level_loads(&levels)
    }

    fn panicking(healthy: &[u64]) -> (u64, Vec<bool>) {
        let levels: Vec<u64> = healthy.iter().map(|percent| level_health(*percent, 100)).collect();
        let total = total_health(&levels);
        (total, healthy.iter().map(|percent| panics(*percent, 100, total, 50)).collect())
    }

    #[test]
    fn two_levels_with_a_whole_second_one() {
        for (first, expected) in
            [(100, [100, 0]), (72, [100, 0]), (71, [99, 1]), (50, [70, 30]), (25, [35, 65]), (0, [0, 100])]
        {
            assert_eq!(loads(&[first, 100]), expected, "{first} % healthy");
        }
    }

    #[test]
    fn several_lacking_levels_share_by_their_health() {
        assert_eq!(loads(&[25, 25]), [50, 50]);
        assert_eq!(loads(&[25, 25, 100]), [35, 35, 30]);
        assert_eq!(loads(&[25, 25, 20]), [36, 36, 28]);
    }

    #[test]
    fn panic_needs_too_few_endpoints_in_all_levels_together() {
        assert_eq!(panicking(&[25, 25]), (70, vec![true, true]));
        assert_eq!(panicking(&[5, 65]), (98, vec![true, false]));
        assert_eq!(loads(&[5, 65]), [7, 93]);
        assert_eq!(panicking(&[0, 100]), (100, vec![false, false]));
        assert!(!panics(0, 100, 0, 0), "0 switches it off");
        assert_eq!(loads(&[0, 0]), [0, 0]);
    }

    #[test]
    fn the_two_traps_of_the_panic_page_follow_the_formula() {
        assert_eq!(loads(&[50, 60]), [70, 30], "the page says 50/50");
        assert_eq!(loads(&[25, 100]), [35, 65], "the page says 25/75");
    }

    #[test]
    fn explicit_weights_follow_what_is_available() {
        for (percent, expected) in [(100, [33, 67]), (50, [26, 74]), (25, [15, 85]), (0, [0, 100])] {
            let weights = [effective_weight(1, percent, 100), effective_weight(2, 100, 100)];
            assert_eq!(apportion(&weights, 100), expected, "X {percent} % available");
        }
    }

    #[test]
    fn nothing_overflows() {
        assert_eq!(level_health(u64::MAX, u64::MAX), 1, "saturates, and does not wrap");
        assert_eq!(apportion(&[u64::MAX; 3], 100), [34, 33, 33]);
        assert_eq!(level_health(0, 0), 0);
    }

    proptest! {
        #[test]
        fn loads_sum_to_the_whole_and_never_exceed_a_levels_health(healthy in proptest::collection::vec(0u64..=100, 1..8)) {
            let levels: Vec<u64> = healthy.iter().map(|percent| level_health(*percent, 100)).collect();
            let (loads, total) = (level_loads(&levels), total_health(&levels));
            prop_assert_eq!(loads.iter().sum::<u64>(), if total == 0 { 0 } else { 100 });
            for (load, health) in loads.iter().zip(&levels) {
                prop_assert!(total < 100 || load <= health);
                prop_assert!(*health > 0 || *load == 0);
            }
        }

        #[test]
        fn a_level_gets_load_only_when_the_ones_before_lack_health(healthy in proptest::collection::vec(0u64..=100, 2..8)) {
            let levels: Vec<u64> = healthy.iter().map(|percent| level_health(*percent, 100)).collect();
            let loads = level_loads(&levels);
            for later in 1..levels.len() {
                if loads[later] > 0 {
                    prop_assert!(levels[..later].iter().sum::<u64>() < 100);
                }
            }
        }
    }
}
