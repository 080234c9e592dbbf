//! Rust as text: comments and literals blanked out, the rest cut into words and signs.
//!
//! It knows no syntax beyond matching braces, which is enough for the rules.

use std::collections::BTreeSet;

/// A piece of code: a word, `::`, or one other character.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// Cuts blanked text into tokens.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while let Some(first) = text[at..].chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_word(first) {
            text[at..].find(|c| !is_word(c)).unwrap_or(text.len() - at)
        } else if text[at..].starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        if first == '\n' {
            line += 1;
        } else if !first.is_whitespace() {
            tokens.push(Token { text: &text[at..at + length], line });
        }
        at += length;
    }
    tokens
}

/// The braces of the block that the item at `at` has, if it is one with a block.
pub(crate) fn block(tokens: &[Token<'_>], at: usize) -> Option<(usize, usize)> {
    if !matches!(tokens[at].text, "fn" | "mod") {
        return None;
    }
    let (mut open, mut nested) = (at, 0);
    for (ahead, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "(" | "[" => nested += 1,
            ")" | "]" => nested -= 1,
            ";" | "," | "=" if nested == 0 && tokens[at].text == "mod" => return None,
            ";" if nested == 0 => return None,
            "{" if nested == 0 => {
                open = ahead;
                break;
            }
            _ if nested < 0 => return None,
            _ => {}
        }
    }
    let mut depth = 0;
    for (ahead, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 && ahead > open {
            return Some((open, ahead));
        }
    }
    None
}

/// Lines inside `mod tests { .. }`.
pub(crate) fn inline_test_lines(tokens: &[Token<'_>]) -> BTreeSet<usize> {
    let is_tests =
        |at: &usize| tokens[*at].text == "mod" && tokens.get(at + 1).is_some_and(|t| t.text == "tests");
    let blocks = (0..tokens.len()).filter(is_tests).filter_map(|at| block(tokens, at));
    blocks.flat_map(|(open, close)| tokens[open].line..=tokens[close].line).collect()
}

/// Whether the tokens of `words` stand at a place.
pub(crate) fn stands_at(tokens: &[Token<'_>], at: usize, words: &str) -> bool {
    if !tokens.get(at).is_some_and(|first| words.starts_with(first.text)) {
        return false;
    }
    let is_at =
        |(ahead, want): (usize, &Token<'_>)| tokens.get(at + ahead).is_some_and(|t| t.text == want.text);
    self::tokens(words).iter().enumerate().all(is_at)
}

/// The text with comments and literals turned into blanks; lines stay where they are.
pub(crate) fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    while at < chars.len() {
        let end = literal_end(&chars, at).unwrap_or(at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    out
}

/// Where the comment or literal that begins here ends.
fn literal_end(chars: &[char], at: usize) -> Option<usize> {
    let is = |place: usize, c: char| chars.get(place) == Some(&c);
    let until = |from: usize, stop: &dyn Fn(usize) -> bool| {
        (from..chars.len()).find(|p| stop(*p)).unwrap_or(chars.len())
    };
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if is(at + 1, '/') => Some(until(at, &|p| is(p, '\n'))),
        '/' if is(at + 1, '*') => {
            let mut depth = 0;
            let mut p = at;
            while p < chars.len() {
                if is(p, '/') && is(p + 1, '*') {
                    (depth, p) = (depth + 1, p + 2);
                } else if is(p, '*') && is(p + 1, '/') {
                    (depth, p) = (depth - 1, p + 2);
                } else {
                    p += 1;
                }
                if depth == 0 {
                    break;
                }
            }
            Some(p)
        }
        '"' => {
            let mut p = at + 1;
            while p < chars.len() && !is(p, '"') {
                p += if is(p, '\\') { 2 } else { 1 };
            }
            Some((p + 1).min(chars.len()))
        }
        'r' | 'b' | 'c' if !in_word => {
            let raw = until(at, &|p| !matches!(chars[p], 'r' | 'b' | 'c'));
            let quote = until(raw, &|p| !is(p, '#'));
            let hashes = quote - raw;
            if !is(quote, '"') || raw - at > 2 || !chars[at..raw].contains(&'r') {
                return None;
            }
            let closes = |p: usize| is(p, '"') && (1..=hashes).all(|h| is(p + h, '#'));
            Some((until(quote + 1, &closes) + hashes + 1).min(chars.len()))
        }
        '\'' if is(at + 1, '\\') => Some((until(at + 3, &|p| is(p, '\'')) + 1).min(chars.len())),
        '\'' if is(at + 2, '\'') => Some(at + 3),
        _ => None,
    }
}
