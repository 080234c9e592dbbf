//! Judges live lanes again: at an interval, and at once when trust changes.
//!
//! QUIC checks certificates only in the handshake. A lane whose newest proven chain has run out, lost its root
//! or belongs to a cluster that is no peer any more is closed here, within a second of the change.

use tokio::time::sleep;

use super::{Links, codes::Close};
use crate::model::limits;

/// Sweeps for the life of the process.
pub(super) async fn run(links: Links) {
    loop {
        sleep(limits::TRUST_SWEEP_INTERVAL).await;
        now(&links);
    }
}

/// One sweep.
pub(super) fn now(links: &Links) {
    for lane in links.registry().all() {
        let domain = lane.identity().trust_domain();
        let verdict = links.0.trust.judge(&lane.chain(), lane.role(), Some(domain), links.0.clock.wall());
        let refused = match verdict {
            Ok(identity)
                if links.cluster_of(identity.trust_domain()).as_ref() == Some(&lane.key().cluster) =>
            {
                continue;
            }
            Ok(_) => "no longer a peer".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::info!(peer = %lane.key().cluster, reason = %refused, "link closed: its trust is gone");
        lane.close(Close::TrustRemoved);
    }
}
