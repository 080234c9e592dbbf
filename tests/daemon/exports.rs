//! One name declared in two places, and settings read anew while running.

use nix::sys::signal::Signal;

use crate::gateway::{Cluster, Gateway, Listens, until};

fn web(port: u16) -> String {
    format!("[[export]]\nname = \"web\"\n[[export.port]]\nport = 80\nto = [\"127.0.0.1:{port}\"]\n")
}

/// The log since `from` holds all of `words`.
fn until_logged(gateway: &Gateway, from: usize, words: &[&str]) {
    until(&format!("the log says {words:?}"), || {
        let log = gateway.log();
        words.iter().all(|word| log[from..].contains(word)).then_some(())
    });
}

#[test]
fn a_name_of_the_file_is_not_exported_again_by_command() {
    let east = Cluster::new("east", 171);
    let config = east.file("c.toml", &web(9));
    let _gateway = east.start_at(&Listens::free(), &["--config", &config]);
    let before = east.settled();
    east.tombolo("export web=127.0.0.1:10").refused(
        3,
        "TMB-1007",
        "default/web",
        "change it where it stands",
    );
    east.tombolo("unexport web").refused(1, "TMB-1012", "an [[export]] table of the config file", "SIGHUP");
    assert!(east.changed_since(&before).is_empty(), "{:?}", east.changed_since(&before));
    assert_eq!(east.json("services")["services"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_name_of_the_state_stops_a_file_that_adds_it() {
    let east = Cluster::new("east", 172);
    let gateway = east.start();
    east.tombolo("export web=127.0.0.1:10").well();
    gateway.stop();
    let before = east.contents();
    let config = east.file("c.toml", &web(9));
    let told = east.start_fails(&Listens::free(), &["--config", &config]);
    told.refused(3, "TMB-1007", "c.toml line 1", "`tombolo unexport web.default`");
    assert!(told.err.contains("the state folder (`tombolo export`)"), "{told:?}");
    assert!(before == east.contents());
    let _gateway = east.start();
    assert_eq!(east.json("services")["services"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_reload_takes_a_good_file_and_keeps_the_old_settings_for_a_bad_one() {
    let east = Cluster::new("east", 173);
    let config = east.file("c.toml", "");
    let gateway = east.start_at(&Listens::free(), &["--config", &config]);
    let exported = || east.json("status")["exported"].as_u64();
    let reload = |text: &str, words: &[&str]| {
        east.file("c.toml", text);
        let from = gateway.log().len();
        gateway.signal(Signal::SIGHUP);
        until_logged(&gateway, from, words);
    };
    reload(&web(9), &["config read anew"]);
    assert_eq!(exported(), Some(1));
    reload("exprot = 1", &["TMB-1013", "did you mean", "c.toml line 1"]);
    assert_eq!(exported(), Some(1));
    reload(&format!("trust_domain = \"north.tombolo\"\n{}", web(9)), &["TMB-1010", "trust_domain"]);
    reload("", &["config read anew"]);
    assert_eq!(exported(), Some(0));
    east.tombolo("export web=127.0.0.1:10").well();
    reload(&web(9), &["TMB-1013", "default/web"]);
    assert_eq!(exported(), Some(1));
}
