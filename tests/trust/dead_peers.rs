//! The verbs of a peer whose gateway does not run: said by one operator alone, and true once the peer is back.
//! Removal by force is V2, in [`verbs`](crate::verbs).

use std::time::{Duration, Instant};

use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::{
    gateway::{Cluster, Listens, until, until_active},
    names::{code, dig, place},
    verbs::{exports, joined, name, state_of, until_it_says},
};

#[test]
fn a_dead_peer_is_paused_at_once_and_stays_paused_when_it_is_back() {
    let (east, west, first, second) = joined((140, 141), &exports());
    until("a name", || place(first.dns(), &name(0), 8080));
    let listens = second.kill();
    let begun = Instant::now();
    east.tombolo("peer pause west").well();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(code(&dig(first.dns(), &name(0), RecordType::A)), ResponseCode::NXDomain);
    assert_eq!(state_of(&east, "west"), "paused");
    let config = west.folder().join("c.toml").display().to_string();
    let _second = west.start_at(&listens, &["--config", &config]);
    until_it_says(&west, "east", "paused", "paused by the peer");
    assert_eq!(code(&dig(first.dns(), &name(0), RecordType::A)), ResponseCode::NXDomain);
    east.tombolo("peer resume west").well();
    until("its names are back", || place(first.dns(), &name(0), 8080));
    until_active(&west, &["east"]);
}

#[test]
fn a_pause_of_a_dead_peer_may_end_before_it_is_back() {
    let (east, _west, first, second) = joined((142, 143), &exports());
    until("a name", || place(first.dns(), &name(0), 8080));
    second.kill();
    east.tombolo("peer pause west").well();
    east.tombolo("peer resume west").well();
    // The last catalog is served, as it was before the pause: a dead peer takes no names away.
    until("its names are back", || place(first.dns(), &name(0), 8080));
    assert_ne!(state_of(&east, "west"), "paused");
}

#[test]
fn a_dead_peer_that_waits_for_approval_is_a_member_once_it_is_back() {
    let (east, west) = (Cluster::new("east", 144), Cluster::new("west", 145));
    let first = east.start();
    let config = west.file("c.toml", &exports());
    let second = west.start_at(&Listens::free(), &["--config", &config]);
    let token = east.json("token create --allow-private --require-approval");
    let token = token["token"].as_str().expect("a token").to_owned();
    west.join(&token).refused(1, "TMB-1217", "has to approve", "peer approve west");
    let listens = second.kill();
    east.tombolo("peer approve west").well();
    assert_ne!(state_of(&east, "west"), "pending");
    let _second = west.start_at(&listens, &["--config", &config]);
    until_active(&east, &["west"]);
    until_active(&west, &["east"]);
    until("its names are there", || place(first.dns(), &name(0), 8080));
}

#[test]
fn a_dead_peer_is_verified_by_what_is_known_of_it_and_revoked_without_it() {
    let (east, west, first, second) = joined((146, 148), &exports());
    let fingerprints =
        || east.tombolo("peer verify west").well().lines().take(2).collect::<Vec<_>>().join(" ");
    let alive = fingerprints();
    let listens = second.kill();
    assert_eq!(fingerprints(), alive);
    until("a name", || place(first.dns(), &name(0), 8080));
    east.tombolo("peer revoke west").well();
    assert_eq!(code(&dig(first.dns(), &name(0), RecordType::A)), ResponseCode::NXDomain);
    let config = west.folder().join("c.toml").display().to_string();
    let _second = west.start_at(&listens, &["--config", &config]);
    until("it dials in vain", || {
        let shown = west.json("peers east")["peers"][0].clone();
        shown["dial_failure"].as_str().map(|_| ())
    });
    assert_eq!(state_of(&east, "west"), "revoked");
}
