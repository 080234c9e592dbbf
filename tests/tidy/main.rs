//! The house rules that no lint knows: floors, purity of the lowest one, headers, sizes, names.
//!
//! The floors and sizes are read from the tables of `docs/architecture.md`, so the page is the check. The
//! sources are read as text (comments and literals blanked out), not as syntax: good enough to refuse what
//! is meant, and in need of nothing but std. The rules are themselves tested on broken ones in `samples`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

mod samples;
mod text;

use text::{Token, blank, block, inline_test_lines, stands_at};

/// Folders whose sources are read, from the root of the repository.
const FOLDERS: &[&str] = &["src", "tests", "federation-proto/src", "benches", "testbed"];
/// Words that are too vague to name a file, a module or a type.
const NAMES_REFUSED: &[&str] = &[
    "node",
    "upstream",
    "downstream",
    "remote",
    "manager",
    "handler",
    "util",
    "utils",
    "helper",
    "helpers",
    "common",
];
/// What the floor of plain data and rules does not know: waiting, the outside world, chance, hash order.
const IMPURE: &[&str] = &[
    "async",
    "await",
    "tokio",
    "quinn",
    "tracing",
    "spawn",
    "HashMap",
    "HashSet",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "rand::rng",
    "std::fs",
    "std::env",
    "std::thread",
    "println",
    "eprintln",
    "federation_proto",
];
/// The one file of floor 0 that reads the clock: where its tests begin to count.
const FIRST_MOMENT: &str = "src/model/testing.rs";
/// What stands nowhere.
const REFUSED: &[&str] = &["unbounded_channel", "todo!", "unimplemented!", "#[ignore"];

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).expect("the page of floors");
    let rules = Rules::read(&page).expect("the page holds both tables");
    let mut paths = BTreeSet::new();
    FOLDERS.iter().for_each(|folder| collect(root, folder, &mut paths));
    assert!(paths.len() > 10, "the sources were not found");
    let mut wrong = check_tree(&paths);
    for path in &paths {
        let text = fs::read_to_string(root.join(path)).expect("a listed file");
        wrong.extend(check_file(path, &text, &rules));
    }
    assert!(wrong.is_empty(), "{} rules broken:\n{}", wrong.len(), wrong.join("\n"));
}

fn collect(root: &Path, folder: &str, paths: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return };
    for entry in entries {
        let entry = entry.expect("a folder's entry");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(root, &path, paths);
        } else if path.ends_with(".rs") {
            paths.insert(path);
        }
    }
}

/// The tables of `docs/architecture.md`.
struct Rules {
    floors: BTreeMap<String, u32>,
    file_lines: usize,
    unit_test_lines: usize,
    function_lines: usize,
}

impl Rules {
    fn read(page: &str) -> Option<Self> {
        let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
        let rows: Vec<Vec<String>> = page.lines().filter(|line| line.starts_with('|')).map(cells).collect();
        let mut floors = BTreeMap::new();
        for row in &rows {
            if let Some(floor) = row.get(1).and_then(|cell| cell.parse().ok()) {
                let modules = row.get(2)?.split('`').skip(1).step_by(2);
                floors.extend(modules.map(|module| (module.trim_end_matches('/').to_owned(), floor)));
            }
        }
        let size = |subject: &str| {
            let row = rows.iter().find(|row| row.get(1).is_some_and(|cell| cell.starts_with(subject)))?;
            row.get(2)?.parse().ok()
        };
        Some(Self {
            floors: (floors.len() > 3).then_some(floors)?,
            file_lines: size("lines of a file")?,
            unit_test_lines: size("lines of unit tests")?,
            function_lines: size("lines of a function")?,
        })
    }
}

/// Rules about which files there are.
fn check_tree(paths: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in paths {
        let folder = path.trim_end_matches(".rs");
        if paths.iter().any(|other| other.starts_with(&format!("{folder}/"))) {
            wrong.push(format!("{path}: a module with parts is {folder}/mod.rs, not a file beside a folder"));
        }
        for name in folder.split('/') {
            wrong.extend(refused_word(name).map(|word| format!("{path}: {word:?} says nothing as a name")));
        }
    }
    wrong
}

/// Every rule that one file can break on its own.
fn check_file(path: &str, text: &str, rules: &Rules) -> Vec<String> {
    let source = Source::new(path, text);
    let mut wrong = Vec::new();
    if !text.starts_with("//! ") {
        wrong.push(format!("{path}: begins without a `//!` header"));
    }
    let lines = text.lines().count();
    if lines > rules.file_lines {
        wrong.push(format!("{path}: {lines} lines, at most {}", rules.file_lines));
    }
    source.check_blocks(rules, &mut wrong);
    source.check_words(rules, &mut wrong);
    source.check_imports(rules, &mut wrong);
    wrong
}

/// A file as tokens, without comments and literals.
struct Source<'a> {
    path: &'a str,
    blanked: String,
}

impl<'a> Source<'a> {
    fn new(path: &'a str, text: &str) -> Self {
        Self { path, blanked: blank(text) }
    }

    /// The modules this file is: `src/link/mod.rs` is `["link"]`. None outside `src`, and for the roots.
    fn modules(&self) -> Option<Vec<&str>> {
        let inside = self.path.strip_prefix("src/")?.trim_end_matches(".rs");
        let modules: Vec<&str> = inside.trim_end_matches("/mod").split('/').collect();
        (!matches!(modules[..], ["lib" | "main"])).then_some(modules)
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// Sizes of functions and of unit tests.
    fn check_blocks(&self, rules: &Rules, wrong: &mut Vec<String>) {
        let tokens = text::tokens(&self.blanked);
        let mut excess = |what: String, open: usize, most: usize, count: usize| {
            if count > most {
                wrong.push(format!(
                    "{}:{}: {what}, {count} lines, at most {most}",
                    self.path, tokens[open].line
                ));
            }
        };
        for at in 0..tokens.len().saturating_sub(1) {
            let name = tokens[at + 1].text;
            let Some((open, close)) = block(&tokens, at) else { continue };
            if tokens[at].text == "fn" && name != "(" {
                let (first, last) = (tokens[open].line, tokens[close].line);
                let code: BTreeSet<usize> = tokens[open..close]
                    .iter()
                    .map(|token| token.line)
                    .filter(|l| (first + 1..last).contains(l))
                    .collect();
                excess(format!("function {name}"), open, rules.function_lines, code.len());
            }
            if tokens[at].text == "mod" && name.starts_with("test") {
                let count = tokens[close].line - tokens[open].line + 1;
                excess("unit tests beside the code".to_owned(), open, rules.unit_test_lines, count);
            }
        }
    }

    /// Words that stand nowhere, those that the lowest floor does not know, and vague names.
    fn check_words(&self, rules: &Rules, wrong: &mut Vec<String>) {
        let tokens = text::tokens(&self.blanked);
        let floor = self.modules().and_then(|modules| rules.floors.get(modules[0]));
        let inline_tests = inline_test_lines(&tokens);
        for (at, token) in tokens.iter().enumerate() {
            let place = format!("{}:{}", self.path, token.line);
            let here =
                |words: &'static [&'static str]| words.iter().find(|words| stands_at(&tokens, at, words));
            if let Some(word) = here(REFUSED) {
                wrong.push(format!("{place}: `{word}` stands nowhere"));
            }
            if floor == Some(&0)
                && !self.is_test()
                && !inline_tests.contains(&token.line)
                && let Some(word) = here(IMPURE)
                && (self.path, *word) != (FIRST_MOMENT, "Instant::now")
            {
                wrong.push(format!("{place}: floor 0 does not know `{word}`"));
            }
            if stands_at(&tokens, at, "select!")
                && tokens.get(at + 3).is_none_or(|next| next.text != "biased")
            {
                wrong.push(format!("{place}: a select! without `biased;` is not repeatable"));
            }
            if matches!(token.text, "struct" | "enum" | "trait" | "mod" | "type") {
                let name = tokens.get(at + 1).map_or("", |next| next.text);
                wrong.extend(
                    refused_word(name).map(|word| format!("{place}: {word:?} says nothing in {name}")),
                );
            }
        }
    }

    /// No import from the same floor or a higher one.
    fn check_imports(&self, rules: &Rules, wrong: &mut Vec<String>) {
        let Some(modules) = self.modules() else { return };
        let own = modules[0];
        let Some(floor) = rules.floors.get(own) else {
            wrong.push(format!("{}: module {own} stands on no floor of docs/architecture.md", self.path));
            return;
        };
        for (name, line) in imports(&text::tokens(&self.blanked), modules.len()) {
            let place = format!("{}:{line}: {own} (floor {floor}) imports {name}", self.path);
            match rules.floors.get(&name) {
                _ if name == own => {}
                None => wrong.push(format!("{place}, which stands on no floor")),
                Some(other) if other == floor => wrong.push(format!("{place}, its sibling")),
                Some(other) if other > floor => wrong.push(format!("{place} (floor {other}), above it")),
                Some(_) => {}
            }
        }
    }
}

/// Top-level modules that are named, with their lines: through `crate::`, or through as many `super::` as
/// lead out of a file `depth` modules deep.
fn imports(tokens: &[Token<'_>], depth: usize) -> Vec<(String, usize)> {
    let (mut found, mut braces, mut inline) = (Vec::new(), 0, Vec::new());
    for (at, token) in tokens.iter().enumerate() {
        match token.text {
            "{" => {
                braces += 1;
                if at >= 2 && tokens[at - 2].text == "mod" {
                    inline.push(braces);
                }
            }
            "}" => {
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
                braces -= 1;
            }
            "crate" | "super" if at == 0 || tokens[at - 1].text != "::" => {
                let mut left = if token.text == "crate" { 0 } else { depth + inline.len() - 1 };
                let mut next = at + 1;
                while stands_at(tokens, next, "::super") {
                    left = left.saturating_sub(1);
                    next += 2;
                }
                if left == 0 && tokens.get(next).is_some_and(|token| token.text == "::") {
                    found.extend(first_names(tokens, next + 1));
                }
            }
            _ => {}
        }
    }
    found
}

/// The name at a place in a path, or the first name of each branch of a `{..}` there.
fn first_names(tokens: &[Token<'_>], at: usize) -> Vec<(String, usize)> {
    let Some(first) = tokens.get(at) else { return Vec::new() };
    if first.text != "{" {
        return vec![(first.text.to_owned(), first.line)];
    }
    let (mut names, mut depth, mut expected) = (Vec::new(), 0, false);
    for token in &tokens[at..] {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            name if expected && depth == 1 => names.push((name.to_owned(), token.line)),
            _ => {}
        }
        if depth == 0 {
            break;
        }
        expected = depth == 1 && matches!(token.text, "{" | ",");
    }
    names.retain(|(name, _)| name != "self");
    names
}

/// The vague word in a name, in whichever case it is written.
fn refused_word(name: &str) -> Option<&'static str> {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_uppercase() {
            words.push('_');
        }
        words.extend(c.to_lowercase());
    }
    let refused = |word: &str| NAMES_REFUSED.iter().find(|refused| **refused == word).copied();
    words.split(['_', '-']).find_map(refused)
}
