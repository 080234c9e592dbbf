//! Why a cluster stands where it stands, typed, and in words for `tombolo explain`.

use std::{fmt, time::Instant};

use super::super::bands::Band;

/// Why a cluster has its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// This cluster's endpoints in this zone.
    SameZone,
    /// This cluster's endpoints elsewhere, or wherever when zones are not known.
    SameCluster,
    /// It has an explicit weight.
    Weighted {
        /// Its share against the others' weights.
        weight: u32,
    },
    /// It stands in the explicit order.
    Ordered {
        /// From 0.
        position: u16,
    },
    /// There is no preference among clusters.
    AnyCluster,
    /// A peer with ready endpoints in this zone.
    PeerInZone {
        /// How near.
        band: Band,
    },
    /// A peer with ready endpoints in this region.
    SameRegion {
        /// How near.
        band: Band,
    },
    /// A peer elsewhere.
    OtherRegion {
        /// How near.
        band: Band,
    },
    /// A peer, where it or this gateway does not say where it runs; it ranks with those elsewhere.
    Somewhere {
        /// How near.
        band: Band,
    },
    /// This cluster, where peers are preferred.
    OwnLast,
    /// Its catalog is stale.
    Stale {
        /// How near.
        band: Band,
    },
}

impl Place {
    /// Places of equal rank share a priority; the smaller rank comes first. The band is the second part, so
    /// it can never override the first.
    pub(super) fn rank(self) -> (u32, Band) {
        match self {
            Self::SameZone => (0, Band::NEAREST),
            Self::SameCluster => (1, Band::NEAREST),
            Self::Weighted { .. } => (2, Band::NEAREST),
            Self::Ordered { position } => (3 + u32::from(position), Band::NEAREST),
            Self::AnyCluster => (100_000, Band::NEAREST),
            Self::PeerInZone { band } => (100_001, band),
            Self::SameRegion { band } => (100_002, band),
            Self::OtherRegion { band } | Self::Somewhere { band } => (100_003, band),
            Self::OwnLast => (100_004, Band::NEAREST),
            Self::Stale { band } => (100_005, band),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameZone => f.write_str("this cluster, same zone"),
            Self::SameCluster => f.write_str("this cluster"),
            Self::Weighted { weight } => write!(f, "weight {weight}"),
            Self::Ordered { position } => write!(f, "number {} in the order", u32::from(*position) + 1),
            Self::AnyCluster => f.write_str("no preference"),
            Self::PeerInZone { band } => write!(f, "same zone, {band}"),
            Self::SameRegion { band } => write!(f, "same region, {band}"),
            Self::OtherRegion { band } => write!(f, "other region, {band}"),
            Self::Somewhere { band } => write!(f, "region not known, {band}"),
            Self::OwnLast => f.write_str("this cluster comes last"),
            Self::Stale { band } => write!(f, "its catalog is stale, {band}"),
        }
    }
}

/// Whether a cluster can serve now. In the order of the last resort: the later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fitness {
    /// Nothing speaks against it.
    Fit,
    /// It came back lately and has this much of its share.
    Returning {
        /// Of its share.
        percent: u8,
    },
    /// Its last ejection has ended: ask `outlier` for admission before opening, one request decides.
    Probation,
    /// It came back a moment ago and is held back.
    Held {
        /// When its share begins to grow.
        until: Instant,
    },
    /// Its link is suspect.
    Suspect,
    /// It kept failing.
    Ejected {
        /// When its probation begins.
        until: Instant,
    },
    /// Its gateways drain: they refuse what is new, or soon will.
    Draining,
    /// Its last link was lost a moment ago, as when its only gateway is restarted: it may be back at once.
    Awaited {
        /// When it is given up.
        until: Instant,
    },
    /// Its link is down.
    LinkDown,
    /// It has no ready endpoint.
    NoneReady,
    /// Its weight is 0.
    WeightZero,
    /// It does not expose the port.
    PortNotExposed,
    /// Its catalog has been withdrawn for age.
    Withdrawn,
}

impl Fitness {
    /// What follows from it.
    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::Fit | Self::Returning { .. } | Self::Probation => Verdict::Offered,
            Self::Held { .. }
            | Self::Suspect
            | Self::Ejected { .. }
            | Self::Draining
            | Self::Awaited { .. } => Verdict::LastResort,
            _ => Verdict::Excluded,
        }
    }

    /// The order of the last resort.
    pub(super) fn badness(self) -> u8 {
        match self {
            Self::Fit | Self::Returning { .. } | Self::Probation => 0,
            Self::Held { .. } => 1,
            Self::Suspect => 2,
            Self::Ejected { .. } => 3,
            Self::Draining => 4,
            Self::Awaited { .. } => 5,
            _ => 6,
        }
    }
}

impl fmt::Display for Fitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fit => "fit",
            Self::Returning { percent } => return write!(f, "came back, {percent} % of its share so far"),
            Self::Probation => "on probation, one request decides",
            Self::Held { .. } => "came back a moment ago, held back",
            Self::Suspect => "its link is suspect",
            Self::Ejected { .. } => "ejected, it kept failing",
            Self::Draining => "its gateways drain",
            Self::Awaited { .. } => "its link was lost a moment ago, waited for",
            Self::LinkDown => "its link is down",
            Self::NoneReady => "no endpoint is ready",
            Self::WeightZero => "its weight is 0",
            Self::PortNotExposed => "it does not expose this port",
            Self::Withdrawn => "its catalog was withdrawn for age",
        })
    }
}

/// What became of a cluster that was considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is a candidate.
    Offered,
    /// It is a candidate when no other is.
    LastResort,
    /// It is no candidate.
    Excluded,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offered => "offered",
            Self::LastResort => "last resort",
            Self::Excluded => "excluded",
        })
    }
}

/// Why a cluster is a candidate, or is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reason {
    /// Why it has its priority.
    pub place: Place,
    /// Whether it can serve now.
    pub fitness: Fitness,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fitness.verdict() {
            Verdict::Offered if self.fitness == Fitness::Fit => write!(f, "{}", self.place),
            _ => write!(f, "{}; {}", self.place, self.fitness),
        }
    }
}
