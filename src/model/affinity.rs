//! Which of several places a client is kept with: rendezvous hashing.
//!
//! Each place is ranked by a hash of the client and the place, and the highest is taken. So a place that goes moves
//! its own clients and nobody else, one that comes takes its share from all alike, and whoever asks finds the same.
//! What a client is known by, and whether it is kept at all, is not decided here.

/// How a place ranks for a client; the higher the better. No proof against somebody who chooses the names.
#[must_use]
pub fn rank(client: &[u8], place: &[u8]) -> u64 {
    // FNV-1a, then the mixer of SplitMix64: FNV alone leaves the high bits of short texts alike.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in client.iter().chain(&[0xff]).chain(place) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The same for a place with a weight: the lower the better, and shares are by weight (weighted rendezvous).
#[must_use]
pub fn weighted(client: &[u8], place: &[u8], weight: u64) -> f64 {
    // From the 53 bits that a float holds, and never zero.
    let drawn = ((rank(client, place) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -drawn.ln() / weight as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn first(client: u32, places: &[(u8, u64)]) -> u8 {
        let score = |(place, weight): &(u8, u64)| weighted(&client.to_le_bytes(), &[*place], *weight);
        let best = places.iter().min_by(|a, b| score(a).total_cmp(&score(b)));
        best.expect("there are places").0
    }

    #[test]
    fn shares_are_by_weight() {
        let places = [(0, 1), (1, 2), (2, 5)];
        let mut counted: BTreeMap<u8, u32> = BTreeMap::new();
        (0..8_000).for_each(|client| *counted.entry(first(client, &places)).or_default() += 1);
        for (place, weight) in places {
            let (seen, wanted) = (i64::from(counted[&place]), i64::try_from(weight).expect("small") * 1_000);
            assert!((seen - wanted).abs() < 150, "{place}: {seen} of {wanted}");
        }
    }

    proptest! {
        #[test]
        fn only_the_clients_of_a_place_that_goes_are_moved(
            client in any::<u32>(),
            weights in proptest::collection::vec(1_u64..100, 2..8),
            gone in any::<prop::sample::Index>(),
        ) {
            let places: Vec<(u8, u64)> = (0..).zip(weights).collect();
            let gone = places[gone.index(places.len())].0;
            let left: Vec<_> = places.iter().copied().filter(|(place, _)| *place != gone).collect();
            let before = first(client, &places);
            if before != gone {
                prop_assert_eq!(first(client, &left), before);
            }
        }

        #[test]
        fn a_place_that_grows_only_gains(client in any::<u32>(), weight in 1_u64..100, more in 1_u64..100) {
            let before = first(client, &[(0, weight), (1, 50)]);
            let after = first(client, &[(0, weight + more), (1, 50)]);
            prop_assert!(before == after || after == 0);
        }
    }
}
