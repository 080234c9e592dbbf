//! Endpoints that take a connection and say nothing: what was said to them goes to another one, of an export
//! that says so.

use super::{
    Cluster, pair,
    world::{accept, application, read, read_to_end, write},
};
use crate::{
    clock::Clock,
    model::{catalog::Export, limits::FIRST_WORD_TIMEOUT},
    net::{Stream, TcpListen},
};

/// An endpoint that is gone at once, with what it was told; the kernel resets what it had not read.
fn die(stream: Box<dyn Stream>) {
    stream.reset_on_close().expect("set");
    drop(stream);
}

async fn idempotent_pair(to: &[std::net::SocketAddr]) -> (Cluster, Cluster, Export) {
    let (east, west, mut export) = pair(to).await;
    export.idempotent = true;
    west.offer(&export, &[&east]);
    (east, west, export)
}

#[tokio::test]
async fn an_endpoint_that_dies_before_its_first_word_is_replaced_by_another_of_its_cluster() {
    let ((mut first, one), (mut second, two)) = (application(), application());
    let (east, west, export) = idempotent_pair(&[one, two]).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"question").await;
    let mut served = tokio::select! {
        biased;
        served = accept(&mut first) => served,
        served = accept(&mut second) => served,
    };
    assert_eq!(read(&mut served, 8).await, b"question");
    die(served);
    let mut served = tokio::select! {
        biased;
        served = accept(&mut first) => served,
        served = accept(&mut second) => served,
    };
    assert_eq!(read(&mut served, 8).await, b"question", "the same bytes");
    write(&mut served, b"answer").await;
    assert_eq!(read(&mut client, 6).await, b"answer");
    // It is carried as any other from here on.
    die(served);
    read_to_end(&mut client).await.expect_err("an answer was cut");
    assert_eq!((east.count("connected"), west.count("served")), (1, 1));
    east.end().await;
    west.end().await;
}

/// Which of two endpoints a client is served by, and its connection there.
async fn served_by(
    first: &mut Box<dyn TcpListen>,
    second: &mut Box<dyn TcpListen>,
) -> (bool, Box<dyn Stream>) {
    tokio::select! {
        biased;
        served = accept(first) => (true, served),
        served = accept(second) => (false, served),
    }
}

#[tokio::test]
async fn who_tries_again_after_a_cut_answer_meets_another_endpoint() {
    for (idempotent, near) in [(true, false), (false, false), (true, true), (false, true)] {
        let ((mut first, one), (mut second, two)) = (application(), application());
        let (east, west, mut export) = pair(&[one, two]).await;
        export.idempotent = idempotent;
        west.offer(&export, &[&east]);
        // The same of a client that is served by its own cluster.
        let caller = if near { &west } else { &east };
        for round in 0..8 {
            let mut client = caller.call(&export).await;
            write(&mut client, b"question").await;
            let (by_first, mut served) = served_by(&mut first, &mut second).await;
            assert_eq!(read(&mut served, 8).await, b"question");
            write(&mut served, b"half an ").await;
            assert_eq!(read(&mut client, 8).await, b"half an ");
            die(served);
            read_to_end(&mut client).await.expect_err("an answer was cut");
            let mut client = caller.call(&export).await;
            write(&mut client, b"again").await;
            let (again_by_first, mut served) = served_by(&mut first, &mut second).await;
            assert_eq!(read(&mut served, 5).await, b"again");
            assert_ne!(again_by_first, by_first, "round {round}, idempotent {idempotent}, near {near}");
            // Without a word it would be replaced.
            write(&mut served, b"whole").await;
            assert_eq!(read(&mut client, 5).await, b"whole");
        }
        east.end().await;
        west.end().await;
    }
}

#[tokio::test]
async fn when_all_local_endpoints_die_a_peer_is_told_the_same() {
    let ((mut far, far_address), (mut near, near_address)) = (application(), application());
    let (east, west, export) = idempotent_pair(&[far_address]).await;
    let mut own = export.clone();
    own.ports[0].to = vec![near_address];
    east.offer(&own, &[]);
    let mut client = east.call(&export).await;
    write(&mut client, b"question").await;
    let mut served = accept(&mut near).await;
    assert_eq!(read(&mut served, 8).await, b"question");
    die(served);
    let mut served = accept(&mut far).await;
    assert_eq!(read(&mut served, 8).await, b"question");
    write(&mut served, b"answer").await;
    assert_eq!(read(&mut client, 6).await, b"answer");
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn without_the_mark_nothing_is_told_twice() {
    let ((mut first, one), (mut second, two)) = (application(), application());
    let (east, west, export) = pair(&[one, two]).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"question").await;
    let mut served = tokio::select! {
        biased;
        served = accept(&mut first) => served,
        served = accept(&mut second) => served,
    };
    assert_eq!(read(&mut served, 8).await, b"question");
    die(served);
    read_to_end(&mut client).await.expect_err("nobody knows what became of it");
    let mut again = east.call(&export).await;
    write(&mut again, b"another").await;
    let mut served = tokio::select! {
        biased;
        served = accept(&mut first) => served,
        served = accept(&mut second) => served,
    };
    assert_eq!(read(&mut served, 7).await, b"another", "the first was told to nobody else");
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn beside_an_endpoint_that_stays_silent_another_is_asked_and_the_first_answer_counts() {
    let ((mut first, one), (mut second, two)) = (application(), application());
    let (east, west, export) = idempotent_pair(&[one, two]).await;
    let clock = Clock::system();
    let began = clock.now();
    let mut client = east.call(&export).await;
    write(&mut client, b"question").await;
    let (mut silent, first_was_silent) = tokio::select! {
        biased;
        served = accept(&mut first) => (served, true),
        served = accept(&mut second) => (served, false),
    };
    assert_eq!(read(&mut silent, 8).await, b"question");
    let mut served = if first_was_silent { accept(&mut second).await } else { accept(&mut first).await };
    assert_eq!(read(&mut served, 8).await, b"question");
    assert!(clock.now() - began >= FIRST_WORD_TIMEOUT);
    write(&mut served, b"answer").await;
    assert_eq!(read(&mut client, 6).await, b"answer");
    read_to_end(&mut silent).await.expect_err("nobody waits for it any more");
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn once_the_retry_budget_is_used_up_a_silent_endpoint_is_waited_for() {
    let ((mut first, one), (mut second, two)) = (application(), application());
    let (east, west, export) = idempotent_pair(&[one, two]).await;
    while west.ledger.may_retry(&export.name) {}
    let mut client = east.call(&export).await;
    write(&mut client, b"question").await;
    let (by_first, mut slow) = served_by(&mut first, &mut second).await;
    assert_eq!(read(&mut slow, 8).await, b"question");
    let other = if by_first { &mut second } else { &mut first };
    let asked = tokio::time::timeout(FIRST_WORD_TIMEOUT * 3 / 2, accept(other)).await;
    assert!(asked.is_err(), "as many would be asked twice as there are slow ones");
    write(&mut slow, b"answer").await;
    assert_eq!(read(&mut client, 6).await, b"answer");
    assert!(
        west.ledger.retries_refused()[0].1.times >= 2,
        "refused once while it was used up, and once here"
    );
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn who_says_more_than_is_kept_stays_where_he_is() {
    let (mut only, address) = application();
    let (east, west, export) = idempotent_pair(&[address]).await;
    let mut client = east.call(&export).await;
    let much = vec![5; 200 * 1024];
    let serve = async {
        let mut served = accept(&mut only).await;
        let got = read(&mut served, much.len()).await;
        write(&mut served, b"thanks").await;
        got
    };
    let ((), got) = tokio::join!(write(&mut client, &much), serve);
    assert!(got == much, "every byte, in order, once");
    assert_eq!(read(&mut client, 6).await, b"thanks");
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn a_client_that_half_closes_and_a_server_that_ends_without_a_word_end_in_peace() {
    use tokio::io::AsyncWriteExt as _;
    let (mut only, address) = application();
    let (east, west, export) = idempotent_pair(&[address]).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"goodbye").await;
    client.shutdown().await.expect("half-closed");
    let mut served = accept(&mut only).await;
    assert_eq!(read_to_end(&mut served).await.expect("a proper end"), b"goodbye");
    served.shutdown().await.expect("ended");
    assert_eq!(read_to_end(&mut client).await.expect("a proper end"), b"");
    east.end().await;
    west.end().await;
}
