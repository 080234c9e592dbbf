//! The house rules themselves, on samples that break them: a rule that catches nothing is no rule.

use super::{Rules, check_file, check_tree};

const PAGE: &str = "| 0 | `model` | x |\n| 1 | `net`, `files` | x |\n| 4 | `dns`, `proxy/` | x |\n\
                    | lines of a file, all told | 20 |\n| lines of unit tests | 5 |\n| lines of a function | 3 |";

fn broken(path: &str, text: &str) -> Vec<String> {
    check_file(path, text, &Rules::read(PAGE).expect("a page"))
}

fn broken_by(path: &str, code: &str, rule: &str) {
    let found = broken(path, &format!("//! Header.\n{code}\n"));
    assert!(found.len() == 1 && found[0].contains(rule), "{path}: {code}: {found:?}");
}

fn fine(path: &str, code: &str) {
    assert_eq!(broken(path, &format!("//! Header.\n{code}\n")), Vec::<String>::new(), "{path}: {code}");
}

#[test]
fn a_page_without_its_tables_is_refused() {
    assert!(Rules::read("# Architecture").is_none());
}

#[test]
fn an_upward_import_is_caught_however_it_is_written() {
    for code in [
        "use crate::dns::Server;",
        "use crate::{model::ids, dns};",
        "use crate::{\n    model::{a, b},\n    dns::{Server},\n};",
        "use super::dns;",
        "fn f() { crate::dns::serve(); }",
        "mod tests { use super::super::dns; }",
    ] {
        broken_by("src/net.rs", code, "(floor 4), above it");
    }
    broken_by("src/net/os.rs", "use super::super::dns;", "above it");
    broken_by("src/net/mod.rs", "use super::dns;", "above it");
}

#[test]
fn a_sibling_import_is_caught() {
    broken_by("src/proxy/copy.rs", "use crate::dns;", "its sibling");
    broken_by("src/proxy/copy.rs", "use crate::elsewhere;", "stands on no floor");
    broken_by("src/elsewhere.rs", "", "stands on no floor");
}

#[test]
fn imports_from_below_and_from_inside_are_fine() {
    fine("src/proxy/copy.rs", "use crate::{model::ids::{A, B}, net, proxy::x}; use super::dns;");
    fine("src/dns.rs", "// use crate::proxy;\nconst A: &str = \"crate::proxy\"; pub(crate) struct B;");
    fine("src/dns.rs", "const A: &str = r#\"\" crate::proxy\"#; mod tests { use super::proxy; }");
    fine("src/lib.rs", "pub mod dns; use crate::dns::Server;");
    fine("tests/sim.rs", "use crate::dns;");
}

#[test]
fn the_lowest_floor_stays_pure() {
    for code in [
        "pub async fn f() {}",
        "fn f() { let now = std::time::Instant::now(); }",
        "use std::collections::HashMap;",
        "use std::net::UdpSocket;",
        "fn f() { tracing::info!(); }",
        "use federation_proto::v1;",
    ] {
        let found = broken("src/model/a.rs", &format!("//! Header.\n{code}\n"));
        assert!(
            found.iter().all(|line| line.contains("floor 0 does not know")) && !found.is_empty(),
            "{found:?}"
        );
    }
    fine("src/model/a.rs", "use std::{net::SocketAddr, time::Instant}; // async\nfn f(now: Instant) {}");
    fine("src/model/a.rs", "mod tests { fn f() { Instant::now(); } }");
    fine("src/model/a/tests.rs", "fn f() { Instant::now(); }");
    fine("src/model/testing.rs", "fn f() { Instant::now(); }");
    broken_by("src/model/testing.rs", "fn f() { SystemTime::now(); }", "floor 0 does not know");
    fine("src/net.rs", "async fn f() {}");
}

#[test]
fn sizes_are_counted_without_comments_and_literals() {
    broken_by("src/net.rs", "fn f() {\n 1;\n 2;\n 3;\n 4\n}", "function f, 4 lines, at most 3");
    fine(
        "src/net.rs",
        "fn f() {\n 1;\n // {\n\n let a = ('{', '\\'', \"{\\\"\");\n 3\n}\nfn g<'a>(x: &'a u8) {\n1\n}",
    );
    broken_by("src/net.rs", "mod tests {\n\n\n\n\n}", "unit tests beside the code, 6 lines");
    broken_by("src/net.rs", &"\n".repeat(19), "21 lines, at most 20");
}

#[test]
fn headers_names_and_refused_words_are_checked() {
    assert!(broken("src/net.rs", "use std::fmt;\n")[0].contains("header"));
    broken_by("src/net.rs", "struct LinkManager;", "\"manager\" says nothing");
    broken_by("src/net.rs", "mod utils;", "\"utils\" says nothing");
    broken_by("src/net.rs", "fn f() { todo!() }", "`todo!` stands nowhere");
    broken_by("tests/a.rs", "#[ignore] fn f() {}", "stands nowhere");
    broken_by("src/net.rs", "fn f() { tokio::select! { x = y => {} } }", "without `biased;`");
    fine("src/net.rs", "fn f() { tokio::select! { biased; x = y => {} } }");
    let paths = ["src/link.rs", "src/link/a.rs", "src/net_util.rs"].map(str::to_owned).into();
    let found = check_tree(&paths);
    assert!(
        found.len() == 2 && found[0].contains("src/link/mod.rs") && found[1].contains("util"),
        "{found:?}"
    );
}
