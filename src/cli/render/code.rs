//! `tombolo explain CODE`: what the table of codes says.

use crate::{
    cli::output::{Style, Tone},
    model::code::CodeInfo,
};

/// The whole page.
pub(crate) fn code(info: &CodeInfo, style: Style) -> String {
    let code = style.paint(Tone::Fair, &info.code.to_string());
    format!("{code} {}\n\n{}\n\n  try: {}\n", info.title, info.cause, info.fix)
}
