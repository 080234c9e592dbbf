//! `tombolo resolve`: the records of an answer, and why it is this one.

use crate::{
    admin::api::Resolution,
    cli::output::{Style, Tone},
};

/// The whole page.
pub(crate) fn resolution(resolution: &Resolution, style: Style) -> String {
    let tone = if resolution.rcode == "NOERROR" { Tone::Good } else { Tone::Bad };
    let mut text = format!("{}   {}\n", resolution.name, style.paint(tone, &resolution.rcode));
    for answer in &resolution.answers {
        text += &format!("  {answer}\n");
    }
    text + &format!("why  {}\n", resolution.why)
}
