//! Renews this gateway's SVID at two thirds of its life, for as long as the process runs.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};

use super::home::Home;
use crate::{
    clock::Clock,
    identity::{CurrentSvid, Identity},
    model::{code::Code, limits},
    supervise::Tasks,
};

/// What renewing needs.
pub(super) struct Renewal {
    pub(super) home: Arc<Home>,
    pub(super) life: Duration,
    pub(super) identity: Arc<Identity>,
    pub(super) svid: Arc<CurrentSvid>,
    pub(super) renewed: watch::Sender<u64>,
    pub(super) clock: Clock,
    pub(super) tasks: Tasks,
}

impl Renewal {
    /// Renews for as long as the process runs.
    pub(super) async fn run(self) {
        let stop = self.tasks.shutdown().hard();
        tokio::pin!(stop);
        let mut roots = self.identity.changes();
        loop {
            // The wall clock may be set while we wait, so it is asked often.
            let due = self.svid.get().renew_at().since(self.clock.wall());
            let pause = due.clamp(limits::SVID_RENEWAL_RETRY, limits::SVID_RENEWAL_CHECK);
            tokio::select! {
                biased;
                () = &mut stop => return,
                _ = roots.changed() => {}
                () = sleep(pause) => {}
            }
            let (svid, now) = (self.svid.get(), self.clock.wall());
            // Another root may issue now: every gateway changes over at once.
            if now >= svid.renew_at() || !self.identity.issued(&svid, now) {
                self.renew().await;
            }
        }
    }

    async fn renew(&self) {
        let (home, identity, life, clock) =
            (self.home.clone(), self.identity.clone(), self.life, self.clock.clone());
        let issued = self.tasks.blocking(move || home.issue_svid(&identity, life, &clock)).await;
        match issued {
            Ok(svid) => {
                tracing::info!(expires_unix_ms = svid.not_after().0, "SVID renewed");
                self.svid.replace(svid);
                self.renewed.send_modify(|renewals| *renewals += 1);
            }
            Err(problem) => {
                let left = self.svid.get().not_after().since(self.clock.wall());
                tracing::error!(
                    code = %Code::SVID_RENEWAL_FAILING,
                    error = %problem,
                    left_s = left.as_secs(),
                    "the SVID could not be renewed"
                );
            }
        }
    }
}
