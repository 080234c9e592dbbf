//! How results and problems reach the terminal: the form that was asked for, and colour only where it shows.
//!
//! Nothing here knows what is printed.

use std::io::{IsTerminal as _, Write as _};

use serde_json::Value;

use super::args::{Output, SharedArgs};
use crate::{
    admin::api::{Refusal, schema},
    model::code::{Code, Problem},
};

/// Whether to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Style {
    /// ANSI colours may be used.
    pub(crate) colour: bool,
}

/// A few colours, by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// The terminal's own.
    Plain,
    /// As it should be.
    Good,
    /// On its way, or to be looked at.
    Fair,
    /// Wrong.
    Bad,
}

impl Style {
    /// `text` in a colour. Each tone adds the same number of bytes, so that columns stay aligned.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let colour = match tone {
            Tone::Plain => 39,
            Tone::Good => 32,
            Tone::Fair => 33,
            Tone::Bad => 31,
        };
        if self.colour { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Where a command's words go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    form: Output,
    style: Style,
}

impl Printer {
    /// As the flags and the environment say.
    pub(crate) fn new(shared: &SharedArgs) -> Self {
        let refused = shared.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = !refused && std::io::stdout().is_terminal();
        Self { form: shared.output, style: Style { colour } }
    }

    /// The form that was asked for.
    pub(crate) fn form(self) -> Output {
        self.form
    }

    /// Whether to colour.
    pub(crate) fn style(self) -> Style {
        self.style
    }

    /// Prints a body of the API: unchanged, as YAML, or as `table` makes of it.
    pub(crate) fn body(
        self,
        body: &str,
        table: impl FnOnce(Style) -> Result<String, Problem>,
    ) -> Result<(), Problem> {
        match self.form {
            Output::Json => line(body.trim_end()),
            Output::Yaml => line(yaml(&serde_json::from_str(body).map_err(not_understood)?)?.trim_end()),
            Output::Table => line(table(self.style)?.trim_end()),
        }
        Ok(())
    }

    /// Tells what went wrong, on standard error.
    pub(crate) fn problem(self, problem: &Problem) {
        let text = match self.form {
            Output::Json => json_refusal(problem),
            Output::Table | Output::Yaml => problem_text(problem),
        };
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// `error TMB-1203: what happened`, and what to try.
pub(crate) fn problem_text(problem: &Problem) -> String {
    format!("error {}: {}\n  try: {}", problem.code, problem.message, problem.fix)
}

fn json_refusal(problem: &Problem) -> String {
    let refusal = Refusal { schema: schema("error"), error: problem.clone() };
    serde_json::to_string(&refusal).expect("a refusal is plain data")
}

fn yaml(value: &Value) -> Result<String, Problem> {
    serde_saphyr::to_string(value).map_err(|error| {
        Problem::new(Code::REQUEST_INVALID, format!("the answer cannot be written as YAML: {error}"))
    })
}

/// The answer is not what this release expects.
pub(crate) fn not_understood(error: serde_json::Error) -> Problem {
    Problem::new(
        Code::REQUEST_INVALID,
        format!("the gateway's answer is not what this release expects: {error}"),
    )
}

/// Writes a line to standard output. A reader that has gone (`| head`) is no problem of ours.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// Writes a warning to standard error.
pub(crate) fn warning(problem: &Problem) {
    let _ = writeln!(std::io::stderr(), "! {}: {}\n  try: {}", problem.code, problem.message, problem.fix);
}
