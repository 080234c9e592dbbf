//! The reference page of the command line, printed from the tree of verbs. What a verb does stands elsewhere.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory as _};

use super::args::Cli;

const HEAD: &str = "\
# Command line

Printed from the code by `TOMBOLO_BLESS=1 cargo test --test reference`; do not edit.

Results go to standard output; problems and logs go to standard error. A problem is two lines: a code with what
happened, and one thing to try ([errors.md](errors.md)).

| exit code | means |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | the command line is wrong |
| 3 | the state folder or the config is wrong |
| 4 | timeout |

";

/// The page, in Markdown.
#[must_use]
pub fn reference_page() -> String {
    let mut tree = Cli::command();
    tree.build();
    let mut page = HEAD.to_owned();
    page += "## Flags of every command\n\n";
    page += &flags(tree.get_arguments());
    for verb in tree.get_subcommands() {
        section(&mut page, verb);
    }
    page.trim_end().to_owned() + "\n"
}

fn section(page: &mut String, verb: &Command) {
    let name = verb.get_bin_name().unwrap_or_else(|| verb.get_name());
    let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
    // A string takes every write.
    let _ = write!(page, "\n## {name}\n\n{about}.\n");
    let below: Vec<&Command> = verb.get_subcommands().filter(|below| !below.is_hide_set()).collect();
    if below.is_empty() {
        let usage = verb.clone().render_usage().to_string();
        let _ = write!(page, "\n```\n{}\n```\n", usage.trim_start_matches("Usage: "));
        let own: Vec<&Arg> = verb.get_arguments().filter(|arg| !arg.is_global_set()).collect();
        let table = flags(own.into_iter());
        if !table.is_empty() {
            page.push('\n');
            *page += &table;
        }
    }
    for inner in below {
        section(page, inner);
    }
}

/// A table of what may be given; empty when there is nothing.
fn flags<'a>(args: impl Iterator<Item = &'a Arg>) -> String {
    let shown = args.filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"));
    let rows: String = shown.map(row).collect();
    if rows.is_empty() { rows } else { format!("| | |\n|---|---|\n{rows}") }
}

fn row(arg: &Arg) -> String {
    let values: Vec<String> =
        arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect();
    let value = if arg.get_action().takes_values() { values.join(" ") } else { String::new() };
    let short = arg.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
    let spoken = match arg.get_long() {
        Some(long) => format!("{short}--{long} {value}"),
        None => value,
    };
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let choices: Vec<String> =
        arg.get_possible_values().iter().map(|choice| format!("`{}`", choice.get_name())).collect();
    if !choices.is_empty() && arg.get_action().takes_values() {
        text += &format!(": {}", choices.join(", "));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() && arg.get_action().takes_values() {
        text += &format!(" [default: {}]", defaults.join(", "));
    }
    if let Some(variable) = arg.get_env() {
        text += &format!(" [variable: {}]", variable.to_string_lossy());
    }
    let cell = |text: &str| text.replace('|', "\\|");
    format!("| `{}` | {} |\n", cell(spoken.trim()), cell(&text))
}
