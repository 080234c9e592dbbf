//! The page `docs/reference/errors.md`, printed from the table so that the two cannot differ.

use std::fmt::Write;

use super::ALL;

/// The ranges of the table with their headings, in order.
pub(super) const RANGES: &[(u16, &str)] = &[
    (1000, "Use and configuration"),
    (1100, "State folder"),
    (1200, "Tokens and joining"),
    (1300, "Identity and trust"),
    (2000, "Links"),
    (2100, "Catalogs"),
    (2200, "Names and virtual IPs"),
    (2300, "Proxied connections"),
    (2400, "Authorization"),
    (3000, "Kubernetes"),
    (4000, "Limits"),
];

/// The whole page as Markdown.
#[must_use]
pub fn reference_page() -> String {
    let mut page = String::from(
        "# Codes\n\n\
         Every problem Tombolo tells a person has a code, a cause and one thing to try. A shipped code never\n\
         changes its meaning. `tombolo explain TMB-1201` prints one of these.\n\n\
         <!-- Printed from src/model/code; TOMBOLO_BLESS=1 cargo test --test reference writes it anew. -->\n",
    );
    for (start, heading) in RANGES {
        let _ = write!(page, "\n## {heading}\n");
        let in_range = |number: u16| number / 100 == start / 100;
        for info in ALL.iter().filter(|info| in_range(info.code.number())) {
            let _ =
                write!(page, "\n### {}: {}\n\n{}\n\nTry: {}.\n", info.code, info.title, info.cause, info.fix);
        }
    }
    page
}
