//! `tombolo config`: what a config file says, checked and shown without a running gateway.

use std::path::Path;

use super::{args::ConfigVerb, output, render::count};
use crate::{
    config::{Config, FileText, Overrides},
    model::code::{Code, Problem},
};

/// Checks, describes or shows.
pub(super) fn run(verb: &ConfigVerb) -> Result<(), Problem> {
    match verb {
        ConfigVerb::Validate { file } => {
            let config = read(Some(file))?;
            let exports = count(config.exports.len(), "export");
            output::line(&format!("{} is valid: {exports}", file.display()));
        }
        ConfigVerb::Schema => output::line(Config::schema_json().trim_end()),
        ConfigVerb::Show { file } => output::line(read(file.as_deref())?.show().trim_end()),
    }
    Ok(())
}

/// A file as `tombolo run` would read it, with the environment over it.
pub(super) fn read(file: Option<&Path>) -> Result<Config, Problem> {
    load(file, &Overrides::default())
}

/// The same, with flags over both.
pub(super) fn load(file: Option<&Path>, flags: &Overrides) -> Result<Config, Problem> {
    let text = match file {
        Some(path) => {
            let unreadable =
                |error| Problem::new(Code::CONFIG_UNREADABLE, format!("{}: {error}", path.display()));
            Some((path.display().to_string(), std::fs::read_to_string(path).map_err(unreadable)?))
        }
        None => None,
    };
    let file = text.as_ref().map(|(path, text)| FileText { path, text });
    Config::load(file, std::env::vars(), flags)
}
