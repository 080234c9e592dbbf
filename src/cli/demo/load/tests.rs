//! The account of requests, and requests to real listeners that misbehave.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    clock::Clock,
    net::{Os, TcpListen},
    supervise::{Shutdown, Tasks},
};

fn world() -> World {
    World { clock: Clock::system(), net: Arc::new(Os::default()), tasks: Tasks::new(Shutdown::new()) }
}

fn at(begun: Instant, ms: u64) -> Instant {
    begun + Duration::from_millis(ms)
}

fn outcome(begun: Instant, due: u64, ended: u64, attempts: u8, cluster: Option<&str>) -> Outcome {
    Outcome { due: at(begun, due), ended: at(begun, ended), attempts, cluster: cluster.map(str::to_owned) }
}

#[test]
fn the_gap_ends_with_the_first_complete_answer_of_the_next_cluster() {
    let begun = Clock::system().now();
    let fault = at(begun, 50);
    let mut account = Account::new(begun);
    account.enter(outcome(begun, 0, 1, 1, Some("eu-1")));
    account.enter(outcome(begun, 20, 21, 1, Some("eu-1")));
    account.enter(outcome(begun, 40, 55, 1, Some("eu-1")));
    assert_eq!(account.takeover(fault, "eu-2"), None, "nobody else has answered");
    account.enter(outcome(begun, 80, 83, 1, Some("eu-2")));
    assert_eq!(account.takeover(fault, "eu-2"), None, "the request due at 60 is still on its way");
    account.enter(outcome(begun, 60, 90, 2, Some("eu-2")));
    let takeover = account.takeover(fault, "eu-2").expect("settled");
    assert_eq!(takeover, Takeover { gap: Duration::from_millis(33), retried: 1, failed: 0 });
}

#[test]
fn requests_before_the_fault_or_after_the_takeover_are_not_its_own() {
    let begun = Clock::system().now();
    let mut account = Account::new(begun);
    account.enter(outcome(begun, 0, 1, 2, Some("eu-1")));
    account.enter(outcome(begun, 20, 30, 2, None));
    account.enter(outcome(begun, 40, 44, 1, Some("eu-2")));
    account.enter(outcome(begun, 60, 64, 2, None));
    let takeover = account.takeover(at(begun, 10), "eu-2").expect("settled");
    assert_eq!((takeover.retried, takeover.failed), (1, 1));
    assert_eq!(account.totals(), (4, 3, 2));
}

#[test]
fn a_rate_counts_complete_answers_of_the_last_second() {
    let begun = Clock::system().now();
    let mut account = Account::new(begun);
    for (ended, cluster) in [(100, Some("eu-1")), (600, Some("eu-1")), (700, Some("eu-2")), (800, None)] {
        account.enter(outcome(begun, 0, ended, 1, cluster));
    }
    assert_eq!(account.rate("eu-1", at(begun, 900)), 2);
    assert_eq!(account.rate("eu-1", at(begun, 1_200)), 1);
    assert_eq!(account.rate("eu-1", at(begun, 1_700)), 0);
}

/// Serves one connection for each text: reads a request, writes the text, closes.
async fn serve(mut listener: Box<dyn TcpListen>, answers: &[&str]) {
    for answer in answers {
        let (mut stream, _) = listener.accept().await.expect("connection");
        let mut request = [0; 512];
        let _ = stream.read(&mut request).await.expect("request");
        stream.write_all(answer.as_bytes()).await.expect("answer");
    }
}

async fn outcome_against(answers: &[&str]) -> Outcome {
    let world = world();
    let listener = world.net.tcp_listen(([127, 0, 0, 1], 0).into(), 1).expect("listen").remove(0);
    let target = listener.local_addr().expect("address");
    let due = world.clock.now();
    let (outcome, ()) = tokio::join!(send_one(world, target, due), serve(listener, answers));
    outcome
}

const WHOLE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\neu-2";
const CUT: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\neu";

#[tokio::test]
async fn an_answer_cut_in_the_middle_is_asked_for_once_more() {
    let outcome = outcome_against(&[CUT, WHOLE]).await;
    assert_eq!((outcome.attempts, outcome.cluster.as_deref()), (2, Some("eu-2")));
}

#[tokio::test]
async fn two_incomplete_answers_are_a_failure() {
    for second in [CUT, "", "HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n"] {
        let outcome = outcome_against(&["", second]).await;
        assert_eq!((outcome.attempts, outcome.cluster), (2, None), "{second:?}");
    }
}

#[tokio::test]
async fn a_complete_answer_is_asked_for_once() {
    let outcome = outcome_against(&[WHOLE]).await;
    assert_eq!((outcome.attempts, outcome.cluster.as_deref()), (1, Some("eu-2")));
}

#[tokio::test]
async fn the_clock_does_not_wait_for_answers() {
    let world = world();
    let mut listener = world.net.tcp_listen(([127, 0, 0, 1], 0).into(), 1).expect("listen").remove(0);
    let mut load = Load::start(&world, listener.local_addr().expect("address"));
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(listener.accept().await.expect("connection"));
    }
    assert!(load.outcomes.try_recv().is_err(), "none was answered");
    load.stop();
}

#[tokio::test]
async fn a_stopped_application_refuses_and_cuts() {
    let world = world();
    let app = super::super::app::App::start(&world, "eu-1", ([127, 0, 0, 1], 0).into()).expect("app");
    let ask = |world: World| send_one(world.clone(), app.address(), world.clock.now());
    assert_eq!(ask(world.clone()).await.cluster.as_deref(), Some("eu-1"));
    app.stop();
    // The listener is closed by the task that owns it, a moment later.
    let mut last = ask(world.clone()).await;
    while last.cluster.is_some() {
        last = ask(world.clone()).await;
    }
    assert_eq!(last.attempts, 2);
}
