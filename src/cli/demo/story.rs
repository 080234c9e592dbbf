//! The two faults, one after the other, with steady requests all the while.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    World,
    cast::{Cast, PLACES},
    event::{Event, millis},
    failed,
    load::{Account, Load, Outcome},
    view::View,
};
use crate::model::code::Problem;

/// Time in which nothing happens, before, between and after the faults.
const STEADY: Duration = Duration::from_secs(2);
/// Time for another cluster to take over.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for the last requests to end.
const LAST_REQUESTS_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two redraws.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);

/// The play.
pub(super) struct Story<'a> {
    cast: &'a mut Cast,
    world: &'a World,
    view: &'a mut View,
    load: Load,
    account: Account,
}

impl<'a> Story<'a> {
    /// Starts the requests to `target`.
    pub(super) fn new(cast: &'a mut Cast, world: &'a World, view: &'a mut View, target: SocketAddr) -> Self {
        view.note("50 requests a second from eu-1, each on a connection of its own");
        let load = Load::start(world, target);
        let account = Account::new(load.begun);
        Self { cast, world, view, load, account }
    }

    /// Plays it to the end.
    pub(super) async fn play(mut self) -> Result<(), Problem> {
        let played = self.faults().await;
        self.load.stop();
        let last = self.world.clock.now() + LAST_REQUESTS_TIMEOUT;
        while let Ok(Some(outcome)) = tokio::time::timeout_at(last.into(), self.load.outcomes.recv()).await {
            self.enter(outcome);
        }
        let (requests, retried, failures) = self.account.totals();
        self.view.event(&Event::Summary { joined: PLACES.len(), requests, retried, failed: failures });
        played?;
        match failures {
            0 => Ok(()),
            _ => Err(failed(format!("{failures} of {requests} requests had no complete answer"))),
        }
    }

    async fn faults(&mut self) -> Result<(), Problem> {
        let [first, second, third] = PLACES.map(|(cluster, _)| cluster);
        self.steady().await;
        self.view.event(&Event::Fault { what: "application stopped", cluster: first });
        let fault = self.world.clock.now();
        self.cast.stop_app(0);
        self.takeover(fault, first, second).await?;
        self.steady().await;
        self.view.event(&Event::Fault { what: "gateway killed", cluster: second });
        let fault = self.world.clock.now();
        self.cast.kill_gateway(1);
        self.takeover(fault, second, third).await?;
        self.steady().await;
        Ok(())
    }

    async fn steady(&mut self) {
        let until = self.world.clock.now() + STEADY;
        while self.world.clock.now() < until {
            self.next(until, None).await;
        }
    }

    /// Waits until `to` has answered and all that was on its way has ended.
    async fn takeover(
        &mut self,
        fault: Instant,
        from: &'static str,
        to: &'static str,
    ) -> Result<(), Problem> {
        let until = fault + TAKEOVER_TIMEOUT;
        while self.world.clock.now() < until {
            if let Some(takeover) = self.account.takeover(fault, to) {
                self.view.event(&Event::Failover {
                    from,
                    to,
                    gap_ms: millis(takeover.gap),
                    retried: takeover.retried,
                    failed: takeover.failed,
                });
                return Ok(());
            }
            let open = self.account.first_answer(to, fault).is_none();
            self.next(until, open.then_some((fault, to))).await;
        }
        let seconds = TAKEOVER_TIMEOUT.as_secs();
        Err(failed(format!("{to} did not take over from {from} within {seconds} s")))
    }

    /// Takes the next outcome, and redraws from time to time. `gap` is the one that is open.
    async fn next(&mut self, until: Instant, gap: Option<(Instant, &str)>) {
        let redraw = self.view.redraw_due(self.world.clock.now(), REDRAW_INTERVAL);
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(redraw.into()) => {
                self.view.draw(&self.account, self.world.clock.now(), gap);
            }
            () = tokio::time::sleep_until(until.into()) => {}
            Some(outcome) = self.load.outcomes.recv() => self.enter(outcome),
        }
    }

    fn enter(&mut self, outcome: Outcome) {
        self.view.sample(&outcome);
        self.account.enter(outcome);
    }
}
