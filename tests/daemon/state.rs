//! State folders that cannot be used: said why, and left as they are.

use std::{fs, path::Path};

use crate::gateway::{Cluster, Listens};

/// A cluster that has run, with a peer, and its peer.
fn with_peer(number: u8) -> (Cluster, Cluster) {
    let (east, west) = (Cluster::new("east", number), Cluster::new("west", number + 1));
    let (first, second) = (east.start(), west.start());
    east.join(&west.token()).well();
    first.stop();
    second.stop();
    (east, west)
}

/// The start fails as said, and changes nothing.
#[track_caller]
fn fails(cluster: &Cluster, more: &[&str], code: &str, cause: &str, fix: &str) {
    let before = cluster.contents();
    cluster.start_fails(&Listens::free(), more).refused(3, code, cause, fix);
    assert!(before == cluster.contents(), "the state folder changed");
}

fn flip_a_bit(path: &Path) -> Vec<u8> {
    let whole = fs::read(path).expect("a file");
    let mut bytes = whole.clone();
    let at = bytes.len() - 9;
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("written");
    whole
}

#[test]
fn a_damaged_folder_is_never_replaced_in_silence() {
    let (east, _west) = with_peer(155);
    for name in ["cluster.json", "identity/root-1.key", "identity/join.key"] {
        let path = east.state().join(name);
        let whole = flip_a_bit(&path);
        let previous = path.with_file_name(format!("{}.1", path.file_name().expect("a name").display()));
        let kept = fs::read(&previous).ok();
        let _ = fs::remove_file(&previous);
        fails(&east, &[], "TMB-1102", &format!("{name} is damaged"), "restore the file from a backup");
        fs::write(&path, whole).expect("written");
        if let Some(kept) = kept {
            fs::write(&previous, kept).expect("written");
        }
    }
    let path = east.state().join("identity/root-1.key");
    let key = fs::read(&path).expect("a key");
    fs::remove_file(&path).expect("removed");
    fails(&east, &[], "TMB-1111", "identity/root-1.key is missing", "restore the missing file");
    fs::write(&path, key).expect("written");
    let document = east.state().join("cluster.json");
    let kept = fs::read(&document).expect("a document");
    fs::remove_file(&document).expect("removed");
    fails(&east, &[], "TMB-1111", "has an identity but no cluster.json", "from a backup");
    fs::write(&document, kept).expect("written");
    // Whole again, it serves as before.
    let _gateway = east.start();
    assert_eq!(east.json("peers")["peers"][0]["cluster"], "west");
}

#[test]
fn a_folder_of_a_later_release_or_of_another_cluster_is_left_alone() {
    let (east, _west) = with_peer(157);
    let other = ["--config", &east.file("c.toml", "trust_domain = \"other.tombolo\"")];
    fails(&east, &other, "TMB-1104", "belongs to trust domain east.", "another `--state`");
    fs::write(east.state().join("version"), "2\n").expect("written");
    fails(&east, &[], "TMB-1103", "is of version 2", "newer release");
    fs::write(east.state().join("version"), "1\n").expect("written");
    let before = east.contents();
    let words = [
        "run",
        "--cluster",
        "north",
        "--listen",
        "127.0.0.1:0",
        "--dns",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
    ];
    east.call(&words, "").refused(
        3,
        "TMB-1104",
        "belongs to cluster east, and north was asked for",
        "the id",
    );
    assert!(before == east.contents());
}

#[test]
fn what_is_no_folder_or_not_ours_cannot_hold_state() {
    let cluster = Cluster::new("east", 159);
    let file = cluster.file("plain", "not a folder");
    let words =
        ["run", "--listen", "127.0.0.1:0", "--dns", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--state"];
    let told = |state: &str| cluster.call(&[words.as_slice(), &[state]].concat(), "");
    told(&file).refused(3, "TMB-1101", "a file is in its place", "`--state`");
    told(&format!("{file}/below")).refused(3, "TMB-1101", "a file is in its place", "`--state`");
    let long = format!("{}/{}", cluster.folder().display(), "x".repeat(80));
    told(&long).refused(3, "TMB-1110", "bytes too long", "shorter path");
    assert!(!Path::new(&long).exists());
    if nix::unistd::geteuid().is_root() {
        // Root reads everything; the user nobody does not.
        use std::os::unix::process::CommandExt as _;
        cluster.start().stop();
        let mut command = std::process::Command::new(cluster.binary_for_all());
        command.args(words).arg(cluster.state()).uid(65_534).gid(65_534).env_clear();
        let output = command.output().expect("it runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && err.starts_with("error TMB-1101"), "{err}");
        assert!(err.contains("Permission denied") && err.contains("to the user that runs"), "{err}");
    }
}

#[test]
fn a_second_gateway_on_a_folder_takes_a_place_of_its_own_and_leaves_the_first_in_peace() {
    let (east, west) = (Cluster::new("east", 161), Cluster::new("west", 162));
    let (first, _peer) = (east.start(), west.start());
    west.join(&east.token()).well();
    let id = |said: &str| said.split("gateway ").nth(1).expect("an id")[..11].to_owned();
    let second = east.start_another(163);
    assert_ne!(id(&first.said), id(&second.said));
    east.tombolo("status").refused(2, "TMB-1004", "2 gateways answer", "--socket");
    second.stop();
    assert_eq!(east.peers("active"), ["west"]);
    // Started anew, the cluster's only gateway is the one it was at first.
    let first_id = id(&first.said);
    first.kill();
    let again = east.start();
    assert_eq!(id(&again.said), first_id);
}

#[test]
fn a_damaged_peer_is_left_aside_and_the_others_are_served() {
    let (east, _west) = with_peer(195);
    let path = east.state().join("peers/west.json");
    let _ = fs::remove_file(path.with_file_name("west.json.1"));
    flip_a_bit(&path);
    let gateway = east.start();
    assert_eq!(east.json("peers")["peers"].as_array().expect("rows").len(), 0);
    assert!(gateway.log().contains("TMB-1102") && gateway.log().contains("west.json"), "{}", gateway.log());
    assert!(fs::exists(&path).expect("readable"), "the file is kept");
}

#[test]
fn a_file_that_was_read_from_its_previous_copy_is_whole_again() {
    let (east, _west) = with_peer(191);
    for name in ["peers/west.json", "cluster.json"] {
        let path = east.state().join(name);
        let whole = fs::read(&path).expect("a file");
        fs::write(path.with_file_name(format!("{}.1", path.file_name().expect("a name").display())), &whole)
            .expect("written");
        flip_a_bit(&path);
        let gateway = east.start();
        assert!(gateway.log().contains("TMB-1107"), "{}", gateway.log());
        assert!(fs::read(&path).expect("a file") == whole, "{name} was left damaged");
        gateway.stop();
    }
}
