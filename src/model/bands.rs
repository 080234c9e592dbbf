//! Bands of round-trip time: how near a peer is, coarse enough to hold still.
//!
//! A band only ranks clusters of equal priority (`failover`). It says nothing about health.

use std::{
    fmt,
    time::{Duration, Instant},
};

use super::limits::{BAND_EDGES, BAND_HOLD, BAND_HYSTERESIS_PERCENT};

/// How near a peer is; a smaller band is nearer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Band(u8);

impl Band {
    /// The nearest band, that of this cluster itself.
    pub const NEAREST: Self = Self(0);
    /// The band beyond all edges, and that of a peer whose distance was never measured.
    pub const FARTHEST: Self = Self(BAND_EDGES.len() as u8);

    /// The band a round trip lies in, its upper edge included.
    #[must_use]
    pub fn of(rtt: Duration) -> Self {
        let index = BAND_EDGES.iter().position(|edge| rtt <= *edge).unwrap_or(BAND_EDGES.len());
        Self(u8::try_from(index).expect("there are fewer than 256 edges"))
    }

    /// Its longest round trip; none for the farthest band.
    #[must_use]
    pub fn upper(self) -> Option<Duration> {
        BAND_EDGES.get(usize::from(self.0)).copied()
    }

    /// The round trip it begins beyond.
    #[must_use]
    pub fn lower(self) -> Duration {
        usize::from(self.0)
            .checked_sub(1)
            .and_then(|below| BAND_EDGES.get(below))
            .copied()
            .unwrap_or_default()
    }
}

impl fmt::Display for Band {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.upper() {
            Some(edge) => write!(f, "within {} ms", edge.as_millis()),
            None => write!(f, "beyond {} ms", self.lower().as_millis()),
        }
    }
}

/// A link went from one band to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BandChange {
    /// Where it was; none at its first measurement.
    pub from: Option<Band>,
    /// Where it is now.
    pub to: Band,
}

/// The band of one link over time, with hysteresis.
///
/// The band changes when every round trip of 10 s lay more than 20 % beyond the same edge of it. It then moves
/// to the band of the mildest of them, so one spike never carries it further than the rest.
#[derive(Debug, Clone, Default)]
pub struct Bands {
    current: Option<Band>,
    beyond: Option<Beyond>,
}

/// An excursion out of the current band.
#[derive(Debug, Clone, Copy)]
struct Beyond {
    since: Instant,
    above: bool,
    mildest: Duration,
}

impl Bands {
    /// A link without any measurement.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The band now; none before the first measurement.
    #[must_use]
    pub fn band(&self) -> Option<Band> {
        self.current
    }

    /// Takes one smoothed round trip (the link's srtt). The first one sets the band at once.
    pub fn observe(&mut self, rtt: Duration, now: Instant) -> Option<BandChange> {
        let Some(current) = self.current else {
            return Some(self.move_to(Band::of(rtt)));
        };
        let hysteresis = f64::from(BAND_HYSTERESIS_PERCENT) / 100.0;
        let above = current.upper().is_some_and(|edge| rtt > edge.mul_f64(1.0 + hysteresis));
        let below = rtt < current.lower().mul_f64(1.0 - hysteresis);
        if !above && !below {
            self.beyond = None;
            return None;
        }
        let beyond = match self.beyond {
            Some(earlier) if earlier.above == above => Beyond {
                mildest: if above { earlier.mildest.min(rtt) } else { earlier.mildest.max(rtt) },
                ..earlier
            },
            _ => Beyond { since: now, above, mildest: rtt },
        };
        self.beyond = Some(beyond);
        if now.saturating_duration_since(beyond.since) < BAND_HOLD {
            return None;
        }
        Some(self.move_to(Band::of(beyond.mildest)))
    }

    fn move_to(&mut self, to: Band) -> BandChange {
        self.beyond = None;
        BandChange { from: self.current.replace(to), to }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Feeds one round trip a second and returns the changes with their second.
    fn run(bands: &mut Bands, rtts: impl IntoIterator<Item = u64>) -> Vec<(u64, Band)> {
        let start = crate::model::testing::instant();
        (0u64..)
            .zip(rtts)
            .filter_map(|(second, rtt)| {
                let change = bands.observe(ms(rtt), start + Duration::from_secs(second))?;
                Some((second, change.to))
            })
            .collect()
    }

    #[test]
    fn edges_belong_to_the_nearer_band() {
        let bands: Vec<u8> = [0, 5, 6, 15, 40, 100, 250, 251].map(|rtt| Band::of(ms(rtt)).0).to_vec();
        assert_eq!(bands, [0, 0, 1, 1, 2, 3, 4, 5]);
        assert_eq!(Band::of(ms(12)).to_string(), "within 15 ms");
        assert_eq!(Band::FARTHEST.to_string(), "beyond 250 ms");
    }

    #[test]
    fn the_first_round_trip_sets_the_band() {
        let mut bands = Bands::new();
        let change = bands.observe(ms(30), crate::model::testing::instant());
        assert_eq!(change, Some(BandChange { from: None, to: Band::of(ms(30)) }));
    }

    #[test]
    fn a_lasting_change_is_taken_after_ten_seconds() {
        let mut bands = Bands::new();
        let changes = run(&mut bands, [30; 5].into_iter().chain([60; 20]));
        assert_eq!(changes, [(0, Band::of(ms(30))), (15, Band::of(ms(60)))]);
    }

    #[test]
    fn within_the_hysteresis_nothing_moves() {
        let mut bands = Bands::new();
        assert_eq!(run(&mut bands, [40].into_iter().chain([48; 60])).len(), 1);
        assert_eq!(run(&mut Bands::new(), [41].into_iter().chain([32; 60])).len(), 1);
    }

    #[test]
    fn one_good_round_trip_starts_the_ten_seconds_anew() {
        let mut bands = Bands::new();
        let flapping = (0..120).map(|second| if second % 9 == 8 { 35 } else { 60 });
        assert_eq!(run(&mut bands, [30].into_iter().chain(flapping)).len(), 1);
    }

    #[test]
    fn a_spike_does_not_carry_the_band_further_than_the_rest() {
        let mut bands = Bands::new();
        let changes = run(&mut bands, [30].into_iter().chain([60; 10]).chain([900; 1]));
        assert_eq!(changes, [(0, Band::of(ms(30))), (11, Band::of(ms(60)))]);
    }

    proptest! {
        #[test]
        fn there_is_at_most_one_change_in_ten_seconds(rtts in proptest::collection::vec(1u64..400, 1..200)) {
            let changes = run(&mut Bands::new(), rtts);
            for pair in changes.windows(2).skip(1) {
                prop_assert!(pair[1].0 - pair[0].0 >= 10);
            }
        }

        #[test]
        fn a_steady_link_ends_in_its_own_band_or_within_the_hysteresis_of_it(from in 1u64..400, to in 1u64..400) {
            let mut bands = Bands::new();
            run(&mut bands, [from].into_iter().chain([to; 30]));
            let band = bands.band().expect("measured");
            let near = band == Band::of(ms(to))
                || band.upper().is_none_or(|edge| ms(to) <= edge.mul_f64(1.2)) && ms(to) >= band.lower().mul_f64(0.8);
            prop_assert!(near, "{to} ms ended {band}");
        }
    }
}
