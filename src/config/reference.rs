//! The reference page of the config file, printed from the table of keys and the defaults of their types.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    Config,
    keys::{Form, Key, RELOADED, REPEATED, SECTIONS, is_repeated, of_section},
    value::{format_duration, format_size},
};

const HEAD: &str = "\
# The config file

Printed from the code by `TOMBOLO_BLESS=1 cargo test --test reference`; do not edit.

TOML. Every key has a default, so the file may be empty. An unknown key is an error. A variable overrides the
file, and a flag overrides both. SIGHUP reads the file anew; an invalid file keeps the old settings.
`tombolo config validate FILE` checks a file, `tombolo config show` prints what would hold, `tombolo config schema`
prints a JSON Schema. Durations are written `250ms`, `5s`, `15m`, `24h`; sizes `64KiB`, `1GiB`.

";

/// The page, in Markdown.
#[must_use]
pub fn reference_page() -> String {
    let defaults = serde_json::to_value(Config::default()).expect("a config is plain data");
    let mut page = HEAD.to_owned();
    let sections: Vec<String> = RELOADED.iter().map(|name| format!("`{name}`")).collect();
    page += &format!("Taken over on SIGHUP: {}. All others wait for a restart.\n", sections.join(", "));
    for section in SECTIONS {
        let repeated = is_repeated(section);
        let title = match *section {
            "" => "Keys before the first section".to_owned(),
            name if REPEATED.contains(&name) => format!("`[[{name}]]`"),
            name => format!("`[{name}]`"),
        };
        // A string takes every write.
        let _ = write!(page, "\n## {title}\n\n");
        page += if repeated {
            "May stand many times.\n\n| key | form | what |\n|---|---|---|\n"
        } else {
            "| key | form | default | variable | what |\n|---|---|---|---|---|\n"
        };
        let values =
            if section.is_empty() { &defaults } else { defaults.get(section).unwrap_or(&Value::Null) };
        for key in of_section(section) {
            page += &row(key, (!repeated).then(|| values.get(key.name)));
        }
    }
    page
}

fn row(key: &Key, default: Option<Option<&Value>>) -> String {
    let (name, form, doc) = (key.name, form(key.form), key.doc);
    match default {
        None => format!("| `{name}` | {form} | {doc} |\n"),
        Some(value) => {
            let value = value.map_or_else(String::new, |value| format!("`{value}`"));
            let variable = key.variable().map(|name| format!("`{name}`")).unwrap_or_default();
            format!("| `{name}` | {form} | {value} | {variable} | {doc} |\n")
        }
    }
}

fn form(form: Form) -> String {
    let time = |seconds| format_duration(std::time::Duration::from_secs(seconds));
    match form {
        Form::Text => "text".to_owned(),
        Form::Choice(choices) => {
            choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ")
        }
        Form::Flag => "true or false".to_owned(),
        Form::Count(least, most) => format!("{least} to {most}"),
        Form::Time(0, most) => format!("duration, to {}", time(most)),
        Form::Time(least, most) => format!("duration, {} to {}", time(least), time(most)),
        Form::Size(least, most) => format!("size, {} to {}", format_size(least), format_size(most)),
        Form::List => "list of texts".to_owned(),
        Form::Map => "table".to_owned(),
        Form::Empty => "empty table".to_owned(),
    }
}
