//! Which of the gateways writes: the one that holds the Lease. The others know all it knows, and go on
//! serving while nobody writes.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::{
    Parts,
    world::{Said, Trouble, spoken},
};
use crate::{
    clock::Clock,
    model::limits::{LEASE_HELD, LEASE_LIFE, LEASE_RENEWAL, LEASE_TIMEOUT, SILENCE_FOR_LISTS},
};

/// What the Lease is called, in the gateways' namespace.
const NAME: &str = "tombolo-writer";

/// Begins to hold or to wait for the Lease; tells whether this gateway may write. Asking so often, it is also
/// the first to notice that the API server does not answer, and when it does again: then watches that may
/// hang on a connection nobody serves any more are to be begun anew, which `renew` says.
pub(super) fn start(
    client: &Client,
    parts: &Parts,
    say: mpsc::Sender<Said>,
    renew: watch::Sender<u64>,
) -> watch::Receiver<bool> {
    let (tell, leads) = watch::channel(false);
    let candidate = Candidate {
        leases: Api::namespaced(client.clone(), &parts.namespace),
        identity: parts.identity.clone(),
        clock: parts.clock.clone(),
        tell,
        say,
        renew,
        trouble: None,
        silent: None,
        seen: None,
        renewed: None,
    };
    let soft = parts.tasks.shutdown().soft();
    parts.tasks.spawn("kubernetes lease", async move {
        let mut candidate = candidate;
        let mut soft = pin!(soft);
        loop {
            tokio::select! {
                biased;
                () = &mut soft => break,
                () = candidate.step() => {}
            }
            tokio::select! {
                biased;
                () = &mut soft => break,
                () = sleep(LEASE_RENEWAL) => {}
            }
        }
        candidate.let_go().await;
    });
    leads
}

struct Candidate {
    leases: Api<Lease>,
    identity: String,
    clock: Clock,
    tell: watch::Sender<bool>,
    say: mpsc::Sender<Said>,
    renew: watch::Sender<u64>,
    /// Why it could not be asked for, as it was told last.
    trouble: Option<Trouble>,
    /// Since when the API server gives no answer at all.
    silent: Option<Instant>,
    /// The holder's last sign of life, and when this gateway saw it: clocks of others are not believed.
    seen: Option<(String, Instant)>,
    /// When this gateway last wrote itself in.
    renewed: Option<Instant>,
}

impl Candidate {
    async fn step(&mut self) {
        let late = || kube::Error::Service(format!("no answer within {LEASE_TIMEOUT:?}").into());
        let begun = self.clock.now();
        let asked = timeout(LEASE_TIMEOUT, self.try_hold()).await.unwrap_or_else(|_| Err(late()));
        self.note(begun, asked.as_ref().err()).await;
        let held = match asked {
            Ok(held) => held,
            Err(error) => {
                tracing::debug!(%error, "the Lease could not be asked for");
                // What is still ours by the clock is ours; after that another one may have it.
                self.renewed.is_some_and(|at| self.clock.now() < at + LEASE_HELD)
            }
        };
        if !held {
            self.renewed = None;
        }
        self.tell.send_if_modified(|leads| {
            let changed = *leads != held;
            if changed {
                tracing::info!(leads = held, "who writes to the API server has changed");
            }
            *leads = held;
            changed
        });
    }

    /// Tells what is new about the API server, which was asked at `begun`.
    async fn note(&mut self, begun: Instant, error: Option<&kube::Error>) {
        let trouble = error.map(|error| Trouble { reason: spoken(error), unknown: false });
        match error.filter(|error| !matches!(error, kube::Error::Api(_))) {
            Some(error) if self.silent.is_none() => {
                tracing::warn!(%error, "the API server does not answer");
                self.silent = Some(begun);
            }
            Some(_) => {}
            None => {
                if let Some(since) = self.silent.take() {
                    self.answers_again(self.clock.now().saturating_duration_since(since));
                }
            }
        }
        if trouble != self.trouble {
            self.trouble.clone_from(&trouble);
            // Nobody listens any more at the end.
            let _ = self.say.send(Said::Trouble("Leases", trouble)).await;
        }
    }

    /// One answer that is late is no reason to have an API server that is slow list everything once more.
    fn answers_again(&self, silence: Duration) {
        if silence < SILENCE_FOR_LISTS {
            return tracing::info!(?silence, "the API server answers again");
        }
        tracing::info!(?silence, "the API server answers again: everything is listed anew");
        self.renew.send_modify(|times| *times += 1);
    }

    async fn try_hold(&mut self) -> kube::Result<bool> {
        let now = self.clock.now();
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(0)) };
            return self.written(self.leases.create(&PostParams::default(), &lease).await, now);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let ours = holder == self.identity;
        if !ours && !holder.is_empty() {
            let sign = format!("{holder} {:?}", spec.renew_time);
            match &self.seen {
                Some((known, since)) if *known == sign => {
                    if now < *since + LEASE_LIFE {
                        return Ok(false);
                    }
                }
                _ => {
                    self.seen = Some((sign, now));
                    return Ok(false);
                }
            }
        }
        let transitions = spec.lease_transitions.unwrap_or(0) + i32::from(!ours);
        // The resource version goes with it: of two that try, one is refused.
        let lease = Lease { spec: Some(self.spec(transitions)), ..lease };
        self.written(self.leases.replace(NAME, &PostParams::default(), &lease).await, now)
    }

    fn written(&mut self, result: kube::Result<Lease>, now: Instant) -> kube::Result<bool> {
        match result {
            Ok(_) => {
                self.renewed = Some(now);
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let wall = i64::try_from(self.clock.wall().0).unwrap_or(i64::MAX);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LEASE_LIFE.as_secs()).ok(),
            renew_time: jiff::Timestamp::from_millisecond(wall).ok().map(MicroTime),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Lets another one write at once.
    async fn let_go(&mut self) {
        if self.renewed.is_none() {
            return;
        }
        if let Ok(Some(lease)) = self.leases.get_opt(NAME).await
            && lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.identity))
        {
            let spec = LeaseSpec { holder_identity: None, ..lease.spec.clone().unwrap_or_default() };
            // When it fails the Lease ends by itself.
            let lease = Lease { spec: Some(spec), ..lease };
            let _ = self.leases.replace(NAME, &PostParams::default(), &lease).await;
        }
    }
}
