//! Pages under `docs/reference` that are printed from the code: a page that differs fails, with its diff.
//!
//! `TOMBOLO_BLESS=1 cargo test --test reference` writes them anew.

use std::path::Path;

#[test]
fn the_page_of_codes_is_what_the_table_prints() {
    same_page("docs/reference/errors.md", &tombolo::model::code::reference_page());
}

#[test]
fn the_page_of_metrics_lists_every_family() {
    let page = tombolo::metrics::reference_page();
    for family in tombolo::metrics::FAMILIES {
        assert!(page.contains(&format!("`{}`", family.full_name())), "{}", family.name);
    }
    same_page("docs/reference/metrics.md", &page);
}

#[test]
fn the_page_of_the_command_line_is_what_the_verbs_say() {
    same_page("docs/reference/cli.md", &tombolo::cli::reference_page());
}

#[test]
fn the_page_of_the_config_file_is_what_the_table_of_keys_says() {
    let page = tombolo::config::reference_page();
    assert!(!page.contains("null"), "a default that is not there is left out");
    same_page("docs/reference/config.md", &page);
}

#[test]
fn the_definitions_of_custom_resources_are_what_their_types_say() {
    for (name, text) in tombolo::kubernetes::resources::definition_files() {
        same_page(&format!("deploy/crds/tombolo.dev/{name}"), &text);
    }
}

#[expect(clippy::disallowed_methods, reason = "writes a page of the source tree, only when asked to")]
fn same_page(name: &str, wanted: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    if std::env::var_os("TOMBOLO_BLESS").is_some() {
        std::fs::write(&path, wanted).expect("the page can be written");
        return;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "{name} differs from what the code prints:\n{}\nwrite it anew: TOMBOLO_BLESS=1 cargo test --test reference",
        difference(&found, wanted)
    );
}

/// The first differing lines, with their numbers; enough to see what happened.
fn difference(found: &str, wanted: &str) -> String {
    const SHOWN_LINES_MAX: usize = 20;
    let (mut have, mut want) = (found.lines(), wanted.lines());
    let mut shown = Vec::new();
    for number in 1.. {
        let (left, right) = match (have.next(), want.next()) {
            (None, None) => break,
            pair => (pair.0.unwrap_or("(end)"), pair.1.unwrap_or("(end)")),
        };
        if left != right {
            shown.push(format!("line {number}\n  - {left}\n  + {right}"));
        }
        if shown.len() == SHOWN_LINES_MAX {
            break;
        }
    }
    shown.join("\n")
}

#[test]
fn a_difference_names_the_line_and_both_sides() {
    assert_eq!(difference("a\nb\n", "a\nc\n"), "line 2\n  - b\n  + c");
    assert_eq!(difference("a\n", "a\nb\n"), "line 2\n  - (end)\n  + b");
}
