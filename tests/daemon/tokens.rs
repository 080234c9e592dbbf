//! Tokens that do not serve: each refused with its code, and nothing changed on either side.

use std::time::Duration;

use tombolo::files::{Folder, Persist as _};

use crate::gateway::{Cluster, Listens};

/// An issuer and a joiner that runs, with different ids.
fn pair(first: u8) -> (Cluster, Cluster) {
    (Cluster::new("east", first), Cluster::new("west", first + 1))
}

/// The join fails as said, and neither side has anything it had not before.
#[track_caller]
fn fails(joiner: &Cluster, issuer: &Cluster, token: &str, code: &str, cause: &str, fix: &str) {
    let before = (joiner.settled(), issuer.settled(), joiner.json("peers"));
    let exit = if code == "TMB-1214" { 2 } else { 1 };
    joiner.join(token).refused(exit, code, cause, fix);
    assert!(joiner.changed_since(&before.0).is_empty(), "joiner: {:?}", joiner.changed_since(&before.0));
    assert!(issuer.changed_since(&before.1).is_empty(), "issuer: {:?}", issuer.changed_since(&before.1));
    assert_eq!(before.2["peers"], joiner.json("peers")["peers"]);
}

#[test]
fn what_is_no_whole_token_is_not_sent_anywhere() {
    let (east, west) = pair(131);
    let (_first, _second) = (east.start(), west.start());
    let token = east.token();
    let cut = &token[..token.len() - 7];
    fails(&west, &east, cut, "TMB-1202", "a part is missing", "copy the whole line");
    let flipped = if token.as_bytes()[40] == b'A' { "B" } else { "A" };
    let flipped = format!("{}{flipped}{}", &token[..40], &token[41..]);
    fails(&west, &east, &flipped, "TMB-1202", "damaged", "tombolo join -");
    let foreign = token.replacen("tmb1_", "tok1_", 1);
    fails(&west, &east, &foreign, "TMB-1214", "begin with tmb1_", "`tombolo token create`");
    fails(&west, &east, "", "TMB-1214", "no token in standard input", "paste the line");
    fails(&east, &west, &token, "TMB-1209", "made by this cluster", "on the other cluster");
    // After all of that it is still good.
    assert!(west.join(&token).well().contains("joined east"));
}

#[test]
fn a_token_serves_one_cluster_and_its_redeemer_again() {
    let (east, west) = pair(133);
    let thief = Cluster::new("north", 135);
    let (_first, _second, _third) = (east.start(), west.start(), thief.start());
    let token = east.token();
    west.join(&token).well();
    west.join(&token).well();
    fails(&thief, &east, &token, "TMB-1203", "already redeemed by \"west\"", "`tombolo token list`");
    assert_eq!(east.peers("active"), ["west"]);
}

#[test]
fn two_clusters_of_one_id_cannot_meet() {
    let (east, west) = pair(136);
    let (other_west, other_east) = (Cluster::new("west", 138), Cluster::new("east", 139));
    let _running = [&east, &west, &other_west, &other_east].map(Cluster::start);
    west.join(&east.token()).well();
    let token = east.token();
    fails(&other_west, &east, &token, "TMB-1208", "cluster id west belongs to trust domain", "--cluster ID");
    fails(&other_east, &east, &token, "TMB-1208", "cluster id east belongs to", "another id");
}

/// The issuer's clock decides. Its record is made old while it is stopped, as if the time had passed.
#[test]
fn an_expired_token_is_refused_by_its_issuer() {
    let (east, west) = pair(141);
    let (first, _second) = (east.start(), west.start());
    let token = east.token();
    let listens = first.stop();
    let folder = Folder::open(east.state()).expect("the folder");
    let file = format!("tokens/{}", folder.list("tokens").expect("files")[0]);
    let record = folder.load(&file).expect("whole").expect("there").bytes;
    let mut record: serde_json::Value = serde_json::from_slice(&record).expect("a record");
    let hour = u64::try_from(Duration::from_secs(3_600).as_millis()).expect("fits");
    for field in ["created", "expires"] {
        record[field] = (record[field].as_u64().expect("a time") - hour).into();
    }
    folder.commit(&file, record.to_string().as_bytes()).expect("kept");
    let _first = east.start_at(&listens, &[]);
    fails(&west, &east, &token, "TMB-1201", "expired", "`tombolo token create`");
}

#[test]
fn a_revoked_token_is_refused() {
    let (east, west) = pair(143);
    let (_first, _second) = (east.start(), west.start());
    let made = east.json("token create --allow-private");
    east.tombolo(&format!("token revoke {}", made["id"].as_str().expect("an id"))).well();
    let token = made["token"].as_str().expect("a token");
    fails(&west, &east, token, "TMB-1204", "revoked", "`tombolo token create`");
    east.tombolo("token revoke nope").refused(1, "TMB-1224", "no token nope", "`tombolo token list`");
}

#[test]
fn nobody_at_the_address_and_somebody_else_at_it_are_told_apart() {
    let (east, west) = pair(145);
    let (first, _second) = (east.start(), west.start());
    let token = east.token();
    let listens = first.kill();
    fails(
        &west,
        &east,
        &token,
        "TMB-1205",
        &format!("{}: no answer over UDP", listens.quic),
        "UDP reaches it",
    );
    // Another cluster takes the address over: it does not hold the key that the token pins.
    let other = Cluster::new("other", 147);
    let _other = other.start_at(&Listens { quic: listens.quic.clone(), ..Listens::free() }, &[]);
    fails(
        &west,
        &other,
        &token,
        "TMB-1206",
        &format!("{} does not hold the key", listens.quic),
        "make a new token",
    );
}

#[test]
fn a_token_for_another_cluster_is_refused_to_this_one() {
    let (east, west) = pair(148);
    let (_first, _second) = (east.start(), west.start());
    let made = east.json("token create --allow-private --for north");
    let token = made["token"].as_str().expect("a token");
    fails(&west, &east, token, "TMB-1211", "north", "`tombolo token create`");
    east.tombolo("token create --allow-private --ttl 10s").refused(
        2,
        "TMB-1223",
        "not 10 s",
        "between 1m and 24h",
    );
    east.tombolo("token create").refused(1, "TMB-1210", "reaches 127.0.0.1", "--allow-private");
}
