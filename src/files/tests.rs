//! What is promised of state: the same semantics on disk and in memory, and no damage taken for data.
#![expect(clippy::disallowed_methods, reason = "damages files on purpose")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// A state folder inside a temporary one, and its path.
fn fresh() -> (TempDir, PathBuf, Folder) {
    let outer = tempfile::tempdir().expect("folder");
    let root = outer.path().join("state");
    let folder = Folder::open(&root).expect("opened");
    (outer, root, folder)
}

fn bytes(persist: &dyn Persist, path: &str) -> Option<Vec<u8>> {
    persist.load(path).expect("readable").map(|loaded| loaded.bytes)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").permissions().mode() & 0o777
}

/// What every implementation promises.
fn check_laws(persist: &dyn Persist) {
    assert_eq!(persist.load("peers/west.json").expect("readable"), None);
    assert_eq!(persist.list("peers").expect("readable"), Vec::<String>::new());
    let first = persist.commit("peers/west.json", b"one").expect("written");
    let loaded = persist.load("peers/west.json").expect("readable").expect("there");
    assert_eq!(loaded, Loaded { bytes: b"one".to_vec(), digest: first, recovered_from_backup: false });
    assert_eq!(first, Digest::of(b"one"));

    let lost = persist.cas("peers/west.json", None, b"two").expect("judged");
    assert_eq!(lost, Swap::Lost(Some(first)));
    let won = persist.cas("peers/west.json", Some(first), b"two").expect("judged");
    assert_eq!(won, Swap::Done(Digest::of(b"two")));
    let late = persist.cas("peers/west.json", Some(first), b"three").expect("judged");
    assert_eq!(late, Swap::Lost(Some(Digest::of(b"two"))));
    assert_eq!(bytes(persist, "peers/west.json"), Some(b"two".to_vec()));
    let gone = persist.cas("peers/none.json", Some(first), b"x").expect("judged");
    assert_eq!(gone, Swap::Lost(None));
    let made = persist.cas("peers/east.json", None, b"").expect("judged");
    assert_eq!(made, Swap::Done(Digest::of(b"")));
    assert_eq!(bytes(persist, "peers/east.json"), Some(Vec::new()), "empty is not absent");

    persist.commit("cluster.json", b"c").expect("written");
    persist.commit("gateways/g1/catalog/west.snap", b"s").expect("written");
    assert_eq!(persist.list("peers").expect("readable"), ["east.json", "west.json"]);
    assert_eq!(persist.list("").expect("readable"), ["cluster.json"]);
    assert_eq!(persist.list("gateways").expect("readable"), Vec::<String>::new(), "folders are no files");

    assert!(persist.remove("peers/west.json").expect("removed"));
    assert!(!persist.remove("peers/west.json").expect("removed"));
    assert!(!persist.remove("nowhere/x").expect("removed"));
    assert_eq!(bytes(persist, "peers/west.json"), None, "no predecessor comes back");
    assert_eq!(persist.list("peers").expect("readable"), ["east.json"]);

    let paths = ["", "/", "a/", "/a", "a//b", "../a", "a/..", ".", ".hidden", "a\0", "a\\b"];
    let reserved = ["a.1", "a.tmp", "version", "lock", "peers/cas.lock", "peers/lock"];
    for bad in paths.into_iter().chain(reserved) {
        let refused = |outcome: Result<(), PersistError>| {
            assert!(matches!(outcome, Err(PersistError::BadPath { .. })), "{bad:?}: {outcome:?}");
        };
        refused(persist.load(bad).map(drop));
        refused(persist.commit(bad, b"").map(drop));
        refused(persist.cas(bad, None, b"").map(|_| ()));
        refused(persist.remove(bad).map(drop));
    }
    assert!(matches!(persist.list("../x"), Err(PersistError::BadPath { .. })));
}

#[test]
fn disk_and_memory_keep_the_same_promises() {
    check_laws(&fresh().2);
    check_laws(&Memory::new());
}

#[test]
fn memory_outlives_the_daemon_that_wrote_it() {
    let disk = Memory::new();
    let daemon = disk.clone();
    daemon.commit("cluster.json", b"x").expect("written");
    drop(daemon);
    assert_eq!(bytes(&disk.clone(), "cluster.json"), Some(b"x".to_vec()));
}

#[test]
fn a_reopened_folder_has_what_was_committed_and_is_private() {
    let (_outer, root, folder) = fresh();
    folder.commit("identity/join.key", b"secret").expect("written");
    folder.commit("identity/join.key", b"secret 2").expect("written");
    let _lock = folder.lock("").expect("free");
    let again = Folder::open(&root).expect("opened");
    assert_eq!(bytes(&again, "identity/join.key"), Some(b"secret 2".to_vec()));
    assert_eq!(fs::read_to_string(root.join("version")).expect("there"), "1\n");
    for name in ["", "identity"] {
        assert_eq!(mode(&root.join(name)), 0o700, "{name:?}");
    }
    for name in ["version", "lock", "identity/join.key", "identity/join.key.1", "identity/cas.lock"] {
        assert_eq!(mode(&root.join(name)), 0o600, "{name:?}");
    }
}

#[test]
fn only_a_folder_of_ours_is_closed_to_others() {
    let outer = tempfile::tempdir().expect("folder");
    let open = |name: &str| {
        let path = outer.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("changed");
        Folder::open(&path).expect("opened");
        mode(&path)
    };
    fs::create_dir_all(outer.path().join("foreign/files")).expect("made");
    assert_eq!(open("foreign"), 0o755);
    fs::create_dir(outer.path().join("ours")).expect("made");
    assert_eq!(open("ours"), 0o700, "empty");
    assert_eq!(open("ours"), 0o700, "marked by its version");
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let (_outer, root, folder) = fresh();
    folder.commit("cluster.json", b"x").expect("written");
    fs::write(root.join("version"), "2\n").expect("written");
    match Folder::open(&root) {
        Err(PersistError::Newer { found: 2, supported: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read_to_string(root.join("version")).expect("there"), "2\n");
    for nonsense in ["", "one", "0", "-1", "1.5", "\u{1}"] {
        fs::write(root.join("version"), nonsense).expect("written");
        let outcome = Folder::open(&root);
        assert!(matches!(outcome, Err(PersistError::Corrupt { .. })), "{nonsense:?}: {outcome:?}");
    }
}

#[test]
fn a_second_lock_is_refused_and_names_the_holder() {
    let (_outer, root, folder) = fresh();
    let held = folder.lock("gateways/g1").expect("free");
    let other = Folder::open(&root).expect("opened");
    match other.lock("gateways/g1") {
        Err(PersistError::Locked { holder, path }) => {
            assert_eq!(holder, Some(std::process::id()));
            assert_eq!(path, root.join("gateways/g1"));
        }
        outcome => panic!("{outcome:?}"),
    }
    let _beside = other.lock("gateways/g2").expect("another folder");
    drop(held);
    let _taken = other.lock("gateways/g1").expect("free again");
}

#[test]
fn a_half_written_temporary_file_is_ignored_and_overwritten() {
    let (_outer, root, folder) = fresh();
    fs::write(root.join("cluster.json.tmp"), "tombolo1 half").expect("written");
    assert_eq!(bytes(&folder, "cluster.json"), None);
    assert!(folder.list("").expect("readable").is_empty());
    folder.commit("cluster.json", b"a").expect("written");
    fs::write(root.join("cluster.json.tmp"), "tombolo1 half").expect("written");
    fs::write(root.join("cluster.json.1.tmp"), "tombolo1 half").expect("written");
    assert_eq!(bytes(&folder, "cluster.json"), Some(b"a".to_vec()));
    folder.commit("cluster.json", b"b").expect("written");
    assert_eq!(bytes(&folder, "cluster.json"), Some(b"b".to_vec()));
    assert_eq!(folder.list("").expect("readable"), ["cluster.json"]);
}

#[test]
fn a_wrong_checksum_falls_back_to_the_previous_copy_and_says_so() {
    let (_outer, root, folder) = fresh();
    let old = folder.commit("cluster.json", b"old").expect("written");
    folder.commit("cluster.json", b"new").expect("written");
    fs::write(root.join("cluster.json"), "tombolo1 edited by hand").expect("written");
    let loaded = folder.load("cluster.json").expect("readable").expect("there");
    assert_eq!(loaded, Loaded { bytes: b"old".to_vec(), digest: old, recovered_from_backup: true });
    let warning = PersistError::warning("cluster.json", &loaded).expect("a warning").to_string();
    assert!(warning.contains("previous copy is used"), "{warning}");

    // The damaged file is replaced without pushing the whole predecessor out.
    let swapped = folder.cas("cluster.json", Some(old), b"newer").expect("judged");
    assert_eq!(swapped, Swap::Done(Digest::of(b"newer")));
    fs::remove_file(root.join("cluster.json")).expect("removed");
    let loaded = folder.load("cluster.json").expect("readable").expect("its predecessor");
    assert_eq!((loaded.bytes.as_slice(), loaded.recovered_from_backup), (&b"old"[..], true));
    assert_eq!(folder.list("").expect("readable"), ["cluster.json"]);
}

#[test]
fn two_damaged_copies_are_an_error_and_never_empty() {
    let (_outer, root, folder) = fresh();
    let damaged = |outcome: Result<Option<Loaded>, PersistError>| match outcome {
        Err(PersistError::Corrupt { recovered: false, path }) => assert_eq!(path, root.join("peers/w")),
        other => panic!("{other:?}"),
    };
    folder.commit("peers/w", b"old").expect("written");
    fs::write(root.join("peers/w"), "").expect("written");
    damaged(folder.load("peers/w"));
    fs::write(root.join("peers/w.1"), "tombolo1").expect("written");
    damaged(folder.load("peers/w"));
    assert!(folder.cas("peers/w", None, b"x").is_err(), "damage is not absence");
    fs::remove_file(root.join("peers/w")).expect("removed");
    damaged(folder.load("peers/w"));
    folder.commit("peers/w", b"restored").expect("written");
    assert_eq!(bytes(&folder, "peers/w"), Some(b"restored".to_vec()));
}

#[test]
fn what_cannot_be_read_is_not_absent() {
    let (_outer, root, folder) = fresh();
    fs::create_dir(root.join("cluster.json")).expect("made");
    let outcome = folder.load("cluster.json");
    assert!(matches!(outcome, Err(PersistError::NotReadable { .. })), "{outcome:?}");
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let (_outer, root, folder) = fresh();
    folder.commit("f", b"the previous copy").expect("written");
    folder.commit("f", b"some state\nwith lines").expect("written");
    let whole = fs::read(root.join("f")).expect("there");
    let flips = (0..whole.len() * 8).map(|bit| {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    });
    let cuts = (0..whole.len()).map(|len| whole[..len].to_vec());
    let longer = [[whole.as_slice(), b"\0"].concat(), [b"\n", whole.as_slice()].concat()];
    let previous = fs::read(root.join("f.1")).expect("there");
    // A new file each time: truncating one makes some file systems wait for the disk.
    let put = |name: &str, bytes: &[u8]| {
        fs::remove_file(root.join(name)).expect("removed");
        fs::write(root.join(name), bytes).expect("written");
    };
    for damaged in flips.chain(cuts).chain(longer) {
        put("f", &damaged);
        let loaded = folder.load("f").expect("the previous copy is whole").expect("there");
        assert!(loaded.recovered_from_backup, "{:?}", String::from_utf8_lossy(&damaged));
        assert_eq!(loaded.bytes, b"the previous copy");
        put("f.1", &damaged);
        assert!(matches!(folder.load("f"), Err(PersistError::Corrupt { .. })));
        put("f.1", &previous);
    }
}

proptest! {
    #[test]
    fn any_body_survives_its_frame_and_any_bytes_are_judged(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let digest = Digest::of(&body);
        let file = [frame::header(digest, &body).as_bytes(), &body].concat();
        prop_assert_eq!(frame::decode(file), Some((body.clone(), digest)));
        prop_assert_eq!(frame::decode(body), None);
    }
}

#[test]
fn concurrent_swaps_lose_no_change() {
    let (_outer, root, _) = fresh();
    let add_one = || {
        // Its own handle, as another process would have.
        let folder = Folder::open(&root).expect("opened");
        loop {
            let seen = folder.load("count").expect("readable");
            let count = seen.as_ref().map_or(0, |loaded| loaded.bytes.len());
            let outcome = folder.cas("count", seen.map(|loaded| loaded.digest), &vec![b'x'; count + 1]);
            if matches!(outcome.expect("judged"), Swap::Done(_)) {
                break;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..10).for_each(|_| add_one()));
        }
    });
    assert_eq!(bytes(&Folder::open(&root).expect("opened"), "count"), Some(vec![b'x'; 40]));
}
