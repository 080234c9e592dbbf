//! The race for an open connection, on a paused clock and without links.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::super::{
    attempt::{Attempt, Ending, Judged, Road, Way},
    endpoints::{Connected, Trial},
    open::{Client, Launch, NotOpened, open},
    tcp::Tcp,
};
use crate::{
    clock::Clock,
    ledger::Ledger,
    model::{
        failover::Target,
        ids::{ClusterId, ServiceName, Timestamp},
        limits::HEDGE_AFTER,
        liveness::LinkState,
        open::{Origin, ResetReason, may_write_first_bytes},
        outlier::OutlierKey,
    },
    net::Stream,
};

/// A client that says nothing, or is gone.
#[derive(Debug)]
struct Silent {
    gone: bool,
}

impl AsyncRead for Silent {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.gone { Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())) } else { Poll::Pending }
    }
}

impl AsyncWrite for Silent {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Silent {
    fn reset_on_close(&self) -> io::Result<()> {
        Ok(())
    }
    fn rehome(self: Box<Self>) -> io::Result<Box<dyn Stream>> {
        Ok(self)
    }
    fn try_read_now(&self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        Err(io::ErrorKind::NotConnected.into())
    }
}

fn silent() -> Client {
    Client::new(Tcp::new(Box::new(Silent { gone: false })))
}

fn saying(words: &[u8]) -> Client {
    let mut client = silent();
    client.first.extend_from_slice(words);
    client
}

/// What a candidate does.
#[derive(Debug, Clone, Copy)]
enum Does {
    Connects {
        after: Duration,
    },
    Refuses,
    /// Its stream is lost after it was sent.
    Breaks,
    /// Nothing, and its lane becomes suspect after so long.
    Hangs {
        suspect_after: Duration,
    },
}

#[derive(Debug, Default)]
struct Suspicion(AtomicBool);

impl Road for Suspicion {
    fn health(&self) -> LinkState {
        if self.0.load(Ordering::Relaxed) { LinkState::Suspect } else { LinkState::Up }
    }
    fn pto(&self) -> Duration {
        Duration::from_millis(1)
    }
}

struct Script {
    clock: Clock,
    ledger: Ledger,
    idempotent: bool,
    candidates: VecDeque<(&'static str, Does)>,
    /// How many hedges are left.
    budget: usize,
    /// Somebody without a link is waited for until then.
    awaited: Option<Instant>,
    /// When he comes back.
    comes_back: Option<(Pin<Box<Sleep>>, &'static str)>,
    /// Who was tried with which bytes.
    tried: Vec<(&'static str, Vec<u8>)>,
}

impl Script {
    fn new(idempotent: bool, candidates: &[(&'static str, Does)]) -> Self {
        let clock = Clock::simulated(1, Timestamp(0));
        let candidates = candidates.iter().copied().collect();
        let ledger = Ledger::new(clock.clone());
        let (awaited, comes_back) = (None, None);
        Self { ledger, clock, idempotent, candidates, budget: 1, awaited, comes_back, tried: Vec::new() }
    }

    /// Somebody has lost his link, is waited for, and may come back before that is over.
    fn awaiting(mut self, patience: Duration, back: Option<(Duration, &'static str)>) -> Self {
        self.awaited = Some(self.clock.now() + patience);
        self.comes_back = back.map(|(after, name)| (Box::pin(tokio::time::sleep(after)), name));
        self
    }

    /// Runs it, and tells who won with how many bytes written, or why nobody did.
    async fn run(&mut self, mut client: Client) -> Result<(String, usize), NotOpened> {
        let clock = self.clock.clone();
        let opened = open(self, &mut client, &clock).await?;
        let Target::Peer(cluster) = opened.target else { panic!("all are peers") };
        Ok((cluster.to_string(), opened.written))
    }
}

impl Launch for Script {
    fn has_more(&self) -> bool {
        !self.candidates.is_empty()
    }

    fn awaits(&self) -> Option<Duration> {
        let left = |until: Instant| until.saturating_duration_since(self.clock.now());
        self.awaited.map(left).filter(|left| !left.is_zero())
    }

    fn may_hedge(&mut self) -> bool {
        let allowed = self.budget > 0;
        self.budget = self.budget.saturating_sub(1);
        allowed
    }

    fn refused(&mut self, _: &Target, _: Origin) {}

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((back, name)) = &mut self.comes_back else { return Poll::Pending };
        ready!(back.as_mut().poll(cx));
        self.candidates.push_back((*name, SOON));
        (self.comes_back, self.awaited) = (None, None);
        Poll::Ready(())
    }

    fn launch(&mut self, first: Bytes, _: usize, in_flight: usize) -> Option<Attempt> {
        let (name, does) = self.candidates.pop_front()?;
        let first = if may_write_first_bytes(self.idempotent, in_flight) { first } else { Bytes::new() };
        self.tried.push((name, first.to_vec()));
        let cluster = ClusterId::parse(name).expect("an id");
        let service = ServiceName::parse("default/web").expect("a name");
        let key = OutlierKey { cluster: cluster.clone(), service, port: 80 };
        let road = Arc::new(Suspicion::default());
        let address = (std::net::Ipv4Addr::LOCALHOST, 80).into();
        let trial = Trial::new(self.ledger.clone(), (key.service.clone(), 80, address));
        let ending = async move {
            match does {
                Does::Connects { after } => {
                    tokio::time::sleep(after).await;
                    let tcp = Tcp::new(Box::new(Silent { gone: false }));
                    Ending::Connected(Way::Local(Connected { tcp, address, trial }))
                }
                Does::Refuses => Ending::Refused {
                    origin: Origin::Refused,
                    code: "TMB-2307".to_owned(),
                    reason: "refused".to_owned(),
                },
                Does::Breaks => Ending::Broken,
                Does::Hangs { .. } => std::future::pending().await,
            }
        };
        let suspected = road.clone();
        let suspect = async move {
            let Does::Hangs { suspect_after } = does else { return std::future::pending().await };
            tokio::time::sleep(suspect_after).await;
            suspected.0.store(true, Ordering::Relaxed);
        };
        Some(Attempt {
            target: Target::Peer(cluster),
            judged: Judged::new(self.ledger.clone(), key),
            started: self.clock.now(),
            idempotent: self.idempotent,
            bytes: first.len(),
            road: Some(road),
            over: None,
            over_budget: false,
            suspect: Some(Box::pin(suspect)),
            ending: Box::pin(ending),
            sent: Arc::new(AtomicBool::new(true)),
        })
    }
}

const SOON: Does = Does::Connects { after: Duration::from_millis(20) };
const NEVER: Does = Does::Hangs { suspect_after: Duration::from_secs(3_600) };
const SUSPECT: Does = Does::Hangs { suspect_after: Duration::from_millis(100) };

#[tokio::test(start_paused = true)]
async fn a_refusal_sends_the_same_bytes_to_the_next() {
    let mut script = Script::new(false, &[("a", Does::Refuses), ("b", SOON), ("c", SOON)]);
    assert_eq!(script.run(saying(b"hi")).await, Ok(("b".to_owned(), 2)));
    assert_eq!(script.tried, [("a", b"hi".to_vec()), ("b", b"hi".to_vec())]);
}

#[tokio::test(start_paused = true)]
async fn silence_is_hedged_and_the_first_to_answer_wins() {
    let mut script = Script::new(false, &[("a", NEVER), ("b", SOON), ("c", SOON)]);
    let began = script.clock.now();
    assert_eq!(script.run(silent()).await, Ok(("b".to_owned(), 0)));
    assert!(script.clock.now() - began >= HEDGE_AFTER);
    assert_eq!(script.tried.len(), 2, "one hedge at a time");
}

#[tokio::test(start_paused = true)]
async fn silence_is_not_hedged_once_the_retry_budget_is_used_up_but_suspicion_goes_on() {
    let late = Does::Connects { after: HEDGE_AFTER * 3 };
    let mut script = Script::new(true, &[("a", late), ("b", SOON)]);
    script.budget = 0;
    assert_eq!(script.run(saying(b"get")).await, Ok(("a".to_owned(), 3)));
    assert_eq!(script.tried.len(), 1);
    let suspect = Does::Hangs { suspect_after: HEDGE_AFTER * 2 };
    let mut script = Script::new(true, &[("a", suspect), ("b", SOON)]);
    script.budget = 0;
    assert_eq!(script.run(saying(b"get")).await, Ok(("b".to_owned(), 3)));
}

#[tokio::test(start_paused = true)]
async fn a_late_first_candidate_may_still_win_against_its_hedge() {
    let late = Does::Connects { after: HEDGE_AFTER + Duration::from_millis(50) };
    let mut script = Script::new(false, &[("a", late), ("b", NEVER)]);
    assert_eq!(script.run(silent()).await, Ok(("a".to_owned(), 0)));
    assert_eq!(script.tried.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_were_sent_are_not_sent_twice() {
    let unanswered = Err(NotOpened::Reset(ResetReason::Unanswered, String::new()));
    for first in [SUSPECT, Does::Breaks] {
        let mut script = Script::new(false, &[("a", first), ("b", SOON)]);
        assert_eq!(script.run(saying(b"pay")).await, unanswered);
        assert_eq!(script.tried.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_idempotent_export_is_tried_elsewhere_with_the_same_bytes() {
    for first in [SUSPECT, Does::Breaks] {
        let mut script = Script::new(true, &[("a", first), ("b", SOON)]);
        assert_eq!(script.run(saying(b"get")).await, Ok(("b".to_owned(), 3)));
        assert_eq!(script.tried[1].1, b"get");
    }
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_left_the_last_word_is_kept() {
    let mut script = Script::new(false, &[("a", Does::Refuses), ("b", Does::Refuses)]);
    let last = NotOpened::Reset(ResetReason::Refused(Origin::Refused), "TMB-2307 refused".to_owned());
    assert_eq!(script.run(silent()).await, Err(last));
    let nobody = NotOpened::Reset(ResetReason::NoCandidate, String::new());
    assert_eq!(Script::new(false, &[]).run(silent()).await, Err(nobody));
    let mut script = Script::new(false, &[("a", NEVER)]);
    let late = NotOpened::Reset(ResetReason::Timeout, String::new());
    assert_eq!(script.run(silent()).await, Err(late));
}

const PATIENCE: Duration = Duration::from_secs(2);
const BACK: (Duration, &str) = (Duration::from_millis(400), "b");

#[tokio::test(start_paused = true)]
async fn whoever_lost_his_link_a_moment_ago_is_waited_for_when_nobody_else_is_left() {
    for idempotent in [true, false] {
        let mut script = Script::new(idempotent, &[]).awaiting(PATIENCE, Some(BACK));
        assert_eq!(script.run(saying(b"hi")).await, Ok(("b".to_owned(), 2)));
        let mut script = Script::new(idempotent, &[("a", SOON)]).awaiting(PATIENCE, Some(BACK));
        assert_eq!(script.run(saying(b"hi")).await, Ok(("a".to_owned(), 2)), "nobody waits who is served");
    }
    let nobody = NotOpened::Reset(ResetReason::NoCandidate, String::new());
    let mut script = Script::new(true, &[]).awaiting(PATIENCE, None);
    let began = script.clock.now();
    assert_eq!(script.run(saying(b"hi")).await, Err(nobody));
    assert_eq!(script.clock.now() - began, PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_with_its_link_waits_for_the_next_one_if_it_may_be_sent_again() {
    let mut script = Script::new(true, &[("a", Does::Breaks)]).awaiting(PATIENCE, Some(BACK));
    assert_eq!(script.run(saying(b"get")).await, Ok(("b".to_owned(), 3)));
    let unanswered = Err(NotOpened::Reset(ResetReason::Unanswered, String::new()));
    let mut script = Script::new(false, &[("a", Does::Breaks)]).awaiting(PATIENCE, Some(BACK));
    assert_eq!(script.run(saying(b"pay")).await, unanswered);
}

#[tokio::test(start_paused = true)]
async fn a_way_in_doubt_is_not_given_up_for_one_that_may_come_back() {
    let mut script = Script::new(true, &[("a", SUSPECT)]).awaiting(PATIENCE, None);
    let late = NotOpened::Reset(ResetReason::Timeout, String::new());
    assert_eq!(script.run(saying(b"get")).await, Err(late));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_ends_the_race() {
    let client = Client::new(Tcp::new(Box::new(Silent { gone: true })));
    let mut script = Script::new(false, &[("a", NEVER), ("b", SOON)]);
    assert_eq!(script.run(client).await, Err(NotOpened::ClientGone));
}
