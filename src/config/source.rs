//! The config file's text with its places: finds unknown keys, and says on which line a value stands.
//!
//! It knows names and lines, not types; what a value must be is serde's matter in `load`.

use std::{collections::BTreeMap, ops::Range};

use toml::de::{DeTable, DeValue};

use super::keys::{self, Form};
use crate::model::code::{Code, Problem};

/// Keys this alike are offered as what was meant (Jaro-Winkler).
const ALIKE_MIN: f64 = 0.75;

/// A parsed file: which value stands where.
pub(super) struct Source<'a> {
    path: &'a str,
    /// Where each line but the first begins.
    lines: Vec<usize>,
    /// Byte ranges of the values by path: `"listen.quic"`, `"export.0.port.1.to"`.
    values: BTreeMap<String, Range<usize>>,
}

impl<'a> Source<'a> {
    /// Parses the text and refuses keys that do not exist.
    pub(super) fn parse(path: &'a str, text: &'a str) -> Result<Self, Problem> {
        let lines = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        let mut source = Self { path, lines, values: BTreeMap::new() };
        let table = DeTable::parse(text).map_err(|error| {
            let place = error.span().map_or_else(|| path.to_owned(), |span| source.line(span.start));
            let what = error.message().lines().next().unwrap_or_default();
            Problem::new(Code::CONFIG_UNREADABLE, format!("{place} is not TOML: {what}"))
        })?;
        source.walk("", "", table.get_ref())?;
        Ok(source)
    }

    /// `"tombolo.toml line 12"`.
    pub(super) fn line(&self, at: usize) -> String {
        format!("{} line {}", self.path, self.lines.partition_point(|begin| *begin <= at) + 1)
    }

    /// The line of a value, when the file has it.
    pub(super) fn line_of(&self, path: &str) -> Option<String> {
        self.values.get(path).map(|span| self.line(span.start))
    }

    /// The innermost key whose value holds a byte range.
    pub(super) fn path_at(&self, span: &Range<usize>) -> Option<&str> {
        let holds =
            |(_, value): &(&String, &Range<usize>)| value.start <= span.start && span.end <= value.end;
        let innermost = self.values.iter().filter(holds).min_by_key(|(_, value)| value.len());
        innermost.map(|(path, _)| path.as_str())
    }

    /// `section` is the table's name without the counts that `path` has.
    fn walk(&mut self, section: &str, path: &str, table: &DeTable<'_>) -> Result<(), Problem> {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let here = keys::join(path, name);
            self.values.insert(here.clone(), value.span());
            if let Some(known) = keys::of_section(section).find(|known| known.name == name) {
                let inner = value.get_ref().as_table();
                if let (Form::Empty, Some(inner)) = (known.form, inner)
                    && let Some((extra, _)) = inner.iter().next()
                {
                    return Err(self.unknown(
                        &keys::join(section, name),
                        extra.get_ref(),
                        extra.span().start,
                    ));
                }
            } else if keys::sections_below(section).any(|below| below == name) {
                self.walk_section(&keys::join(section, name), &here, value.get_ref())?;
            } else {
                return Err(self.unknown(section, name, key.span().start));
            }
        }
        Ok(())
    }

    fn walk_section(&mut self, section: &str, path: &str, value: &DeValue<'_>) -> Result<(), Problem> {
        match value {
            DeValue::Table(table) => self.walk(section, path, table),
            DeValue::Array(items) => {
                for (count, item) in items.iter().enumerate() {
                    let here = format!("{path}.{count}");
                    self.values.insert(here.clone(), item.span());
                    if let Some(table) = item.get_ref().as_table() {
                        self.walk(section, &here, table)?;
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn unknown(&self, section: &str, name: &str, at: usize) -> Problem {
        unknown_key(section, name, &self.line(at))
    }
}

/// The problem of a key that does not exist, with the one that was probably meant.
pub(super) fn unknown_key(section: &str, name: &str, place: &str) -> Problem {
    let inside = match section {
        "" => "at the top level".to_owned(),
        repeated if keys::REPEATED.contains(&repeated) => format!("in [[{repeated}]]"),
        once => format!("in [{once}]"),
    };
    let problem = Problem::new(Code::CONFIG_KEY_UNKNOWN, format!("unknown key {name:?} {inside}, {place}"));
    let here = || keys::of_section(section).map(|key| key.name).chain(keys::sections_below(section));
    if let Some(meant) = most_alike(name, here()) {
        return problem.with_fix(format!("did you mean `{meant}`?"));
    }
    if let Some(key) = keys::KEYS.iter().find(|key| key.name == name) {
        let home =
            if key.section.is_empty() { "the top level".to_owned() } else { format!("[{}]", key.section) };
        return problem.with_fix(format!("move it: `{name}` belongs to {home}"));
    }
    let known: Vec<&str> = here().collect();
    if known.is_empty() {
        return problem.with_fix("remove it: the table has no keys in this release");
    }
    problem.with_fix(format!("remove it, or use one of: {}", known.join(", ")))
}

fn most_alike<'k>(name: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let name = name.to_lowercase().replace('-', "_");
    let scored = known.map(|key| (strsim::jaro_winkler(&name, key), key));
    let best = scored.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 >= ALIKE_MIN).then_some(best.1)
}
