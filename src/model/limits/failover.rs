//! Caps and times of failover: when a link is no longer trusted, where connections go, when an endpoint is left out.
//!
//! The other caps are in the module around it, which has these too.

use std::time::Duration;

// --- link clock (design section 6) ---

/// Pause between probes while streams are open.
pub const PROBE_INTERVAL_ACTIVE: Duration = Duration::from_millis(200);
/// Pause between probes while the lane is idle.
pub const PROBE_INTERVAL_IDLE: Duration = Duration::from_secs(10);
/// No proof of a round trip for this long, or for 3 PTO, makes a lane suspect.
pub const SUSPECT_AFTER: Duration = Duration::from_millis(600);
/// PTOs without proof until suspect.
pub const SUSPECT_PTOS: u32 = 3;
/// No proof for this long, or for 10 PTO, makes a lane down.
pub const DOWN_AFTER: Duration = Duration::from_secs(3);
/// PTOs without proof until down.
pub const DOWN_PTOS: u32 = 10;
/// Refused by its host and silent for this long, or for a PTO, a lane is suspect.
pub const REFUSED_SUSPECT_AFTER: Duration = Duration::from_millis(50);
/// Refused where the peer listens and silent for this long, or for 2 PTO, a lane is down: no process is there.
pub const REFUSED_DOWN_AFTER: Duration = Duration::from_millis(200);
/// PTOs refused and silent until down.
pub const REFUSED_DOWN_PTOS: u32 = 2;
/// Pause between probes of a lane that was refused.
pub const PROBE_INTERVAL_REFUSED: Duration = Duration::from_millis(50);
/// Errors of datagrams sent before that are taken from a socket at once.
pub const ERRORS_TAKEN_MAX: usize = 64;
/// Room for what the system says of one of them.
pub const ERROR_CONTROL_BYTES: usize = 512;
/// Good probes until a suspect lane is up again.
pub const UP_AFTER_PROBES: u32 = 3;
/// Unanswered probes remembered per lane; the oldest one counts.
pub const PROBES_UNANSWERED_MAX: usize = 64;
/// Room beyond the congestion window that each probe of a lane in doubt brings: one packet.
pub const PROBE_ROOM_BYTES: u64 = 1_500;
/// And of all of them together.
pub const PROBE_ROOM_BYTES_MAX: u64 = 64 * PROBE_ROOM_BYTES;
/// A wake-up that is less late than this is on time.
pub const LATE_MIN: Duration = Duration::from_millis(20);
/// A wake-up this late means that this process stood still, and nothing is held against the peer.
pub const STALL_MIN: Duration = SUSPECT_AFTER;

// --- choosing a place (design section 6) ---

/// Upper edges of the bands of round-trip time.
pub const BAND_EDGES: [Duration; 5] = [
    Duration::from_millis(5),
    Duration::from_millis(15),
    Duration::from_millis(40),
    Duration::from_millis(100),
    Duration::from_millis(250),
];
/// A link changes its band after so long beyond the hysteresis.
pub const BAND_HOLD: Duration = Duration::from_secs(10);
/// How far beyond its band's edge a round trip must lie to count.
pub const BAND_HYSTERESIS_PERCENT: u32 = 20;
/// A priority counts as whole while this much of its load still has a place (Envoy's 1.4).
pub const OVERPROVISION_PERCENT: u64 = 140;
/// Share of usable endpoints below which a priority is in panic.
pub const PANIC_PERCENT: u8 = 50;
/// A place that came back has its whole share again after this.
pub const FAILBACK_HOLD: Duration = Duration::from_secs(5);
/// Steps in which the second half of the fail-back hold gives a place its share.
pub const FAILBACK_STEPS: u32 = 4;

// --- ejection ---

/// Connects refused or timed out in a row that eject an endpoint.
pub const EJECT_AFTER_CONNECT_FAILURES: u32 = 3;
/// Failures of the application in a row that eject an endpoint (Envoy).
pub const EJECT_AFTER_APP_FAILURES: u32 = 5;
/// An endpoint that reset a connection is tried after others for this long.
pub const AVOIDED_AFTER_CUT: Duration = Duration::from_secs(1);
/// The first ejection; each further one is twice as long.
pub const EJECTION_MIN: Duration = Duration::from_secs(1);
/// The longest ejection.
pub const EJECTION_MAX: Duration = Duration::from_secs(30);
/// An ejection is shortened by up to this, so that many do not end at once.
pub const EJECTION_JITTER_PERCENT: u32 = 20;
/// Healthy for this long, an endpoint is forgiven one ejection.
pub const EJECTION_FORGIVEN_AFTER: Duration = Duration::from_secs(10);
/// An endpoint on probation waits this long for its probe's outcome before another may go.
pub const PROBATION_PROBE_MAX: Duration = Duration::from_secs(10);
/// Endpoints whose failures are remembered.
pub const OUTLIERS_MAX: usize = 16_384;

// --- active checks ---

/// Pause between two checks of an endpoint unless told otherwise.
pub const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Time for one check unless told otherwise.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Checks that fail in a row until an endpoint is not ready.
pub const CHECK_FALL: u32 = 2;
/// Checks that succeed in a row until it is ready again.
pub const CHECK_RISE: u32 = 2;
/// Endpoints that are checked; further ones count as ready.
pub const CHECKS_MAX: usize = 10_000;
/// Results waiting to be taken.
pub const CHECKS_QUEUE_MAX: usize = 256;
/// Bytes of an HTTP answer that hold its status: `HTTP/1.1 200`.
pub const CHECK_STATUS_BYTES: usize = 12;
/// Bytes of the path that is asked for.
pub const CHECK_PATH_BYTES_MAX: usize = 1_024;
