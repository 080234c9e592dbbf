//! Settings and addresses that cannot hold: said at once, and no trace of a first start left behind.

use crate::gateway::{Cluster, Listens};

#[track_caller]
fn refused(cluster: &Cluster, listens: &Listens, more: &[&str], told: [&str; 3]) {
    let [code, cause, fix] = told;
    let exit = if code == "TMB-1004" { 2 } else { 3 };
    cluster.start_fails(listens, more).refused(exit, code, cause, fix);
    assert!(!cluster.state().exists(), "a start that failed left a state folder");
}

#[test]
fn a_config_that_cannot_hold_stops_the_start() {
    let cluster = Cluster::new("east", 151);
    let file = |text: &str, told| {
        refused(&cluster, &Listens::free(), &["--config", &cluster.file("c.toml", text)], told);
    };
    file("clustr = \"x\"", ["TMB-1001", "\"clustr\" at the top level", "did you mean `cluster`"]);
    file("[listen]\nqiuc = \"x\"", ["TMB-1001", "\"qiuc\" in [listen], ", "did you mean `quic`"]);
    file("[names]\nttl = \"soon\"", ["TMB-1002", "ttl", "`tombolo config schema`"]);
    file("[listen]\nadmin = \"here\"", ["TMB-1002", "listen.admin", "`tombolo config schema`"]);
    file("default_grant = \"all\"", ["TMB-1002", "default_grant", "correct the value"]);
    file("auto_approve = [\"No_One\"]", ["TMB-1002", "auto_approve", "correct the value"]);
    file("[listen\n", ["TMB-1003", "line 1 is not TOML", "`tombolo config validate`"]);
    file(
        "[[export]]\nname = \"web\"\n[[export.port]]\nport = 80\nto = [\"127.0.0.1:1\"]\n\
         [[export]]\nname = \"web\"\n[[export.port]]\nport = 80\nto = [\"127.0.0.1:1\"]\n",
        ["TMB-1007", "default/web", "keep one"],
    );
    refused(
        &cluster,
        &Listens::free(),
        &["--config", "/nonexistent.toml"],
        ["TMB-1003", "/nonexistent.toml", "check the path"],
    );
    refused(&cluster, &Listens::free(), &["--export", "web"], ["TMB-1004", "has no '='", "web.shop="]);
    refused(&cluster, &Listens::free(), &["--locality", "a/b/c"], ["TMB-1004", "a/b/c", "--help"]);
}

#[test]
fn an_address_that_is_taken_or_not_ours_stops_the_start() {
    let (first, second) = (Cluster::new("east", 152), Cluster::new("west", 153));
    let gateway = first.start();
    let taken = gateway.listens.clone();
    let free = Listens::free();
    let in_use = |key: &'static str| ["TMB-1005", "Address already in use", key];
    refused(&second, &Listens { quic: taken.quic.clone(), ..free.clone() }, &[], in_use("listen.quic"));
    refused(&second, &Listens { dns: taken.dns.clone(), ..free.clone() }, &[], in_use("listen.dns"));
    refused(&second, &Listens { admin: taken.admin, ..free.clone() }, &[], in_use("listen.admin"));
    // Two listeners of the same gateway exclude each other as well.
    let same =
        Listens { admin: "127.0.0.1:39171".to_owned(), dns: "127.0.0.1:39171".to_owned(), ..free.clone() };
    refused(&second, &same, &[], in_use("listen.admin"));
    let foreign = Listens { quic: "192.0.2.99:0".to_owned(), ..free };
    refused(&second, &foreign, &[], ["TMB-1006", "192.0.2.99:0", "an address of this host"]);
}
