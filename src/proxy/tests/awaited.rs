//! A cluster whose only link has just ended: what is new waits for the next link, as far as it may.

use super::{
    pair,
    world::{Cluster, accept, application, read, read_to_end, soon, write},
};
use crate::model::virtual_ip::BindingState;

/// Cuts the link between them, and waits until the near one knows.
async fn cut(east: &Cluster, west: &Cluster) {
    let mut changes = east.links.registry().changes();
    west.cut_links();
    soon(async {
        while east.links.registry().best(&west.id).is_some() {
            changes.changed().await.expect("it lives");
        }
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_begins_without_a_link_is_carried_over_the_next_one() {
    let (mut only, address) = application();
    let (mut east, mut west, export) = pair(&[address]).await;
    cut(&east, &west).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"hello").await;
    east.link(&mut west).await;
    let mut served = accept(&mut only).await;
    assert_eq!(read(&mut served, 5).await, b"hello");
    write(&mut served, b"well met").await;
    assert_eq!(read(&mut client, 8).await, b"well met");
    east.end().await;
    west.end().await;
}

#[tokio::test]
async fn what_was_not_answered_when_the_link_ended_is_asked_again_over_the_next_one() {
    for idempotent in [true, false] {
        let (mut only, address) = application();
        let (mut east, mut west, mut export) = pair(&[address]).await;
        export.idempotent = idempotent;
        west.offer(&export, &[&east]);
        let mut client = east.call(&export).await;
        write(&mut client, b"question").await;
        let mut served = accept(&mut only).await;
        assert_eq!(read(&mut served, 8).await, b"question");
        cut(&east, &west).await;
        east.link(&mut west).await;
        if idempotent {
            let mut again = accept(&mut only).await;
            assert_eq!(read(&mut again, 8).await, b"question");
            write(&mut again, b"answer").await;
            assert_eq!(read(&mut client, 6).await, b"answer");
        } else {
            read_to_end(&mut client).await.expect_err("nobody knows what became of it");
        }
        east.end().await;
        west.end().await;
    }
}

#[tokio::test]
async fn without_a_next_link_the_client_is_reset_and_nobody_listens_any_more() {
    let (_only, address) = application();
    let (east, west, export) = pair(&[address]).await;
    // Nobody dials what is nowhere.
    let (began, clock) = (crate::clock::Clock::system().now(), crate::clock::Clock::system());
    cut(&east, &west).await;
    let mut client = east.call(&export).await;
    write(&mut client, b"hello").await;
    read_to_end(&mut client).await.expect_err("nobody came");
    east.binding(&export, BindingState::NoCandidate).await;
    assert!(clock.now() - began >= crate::model::limits::LINK_RETURN_WAIT);
    east.end().await;
    west.end().await;
}
