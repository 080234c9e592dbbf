//! Assertions over results: `gap_p99<1s`, `failed==0`. Parsing and holding; the figures come from elsewhere.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::quantity::Span;

/// Figures whose unit is milliseconds; each has `_p50`, `_p99` and `_max`.
const SPANS: [&str; 9] = [
    "gap",
    "wait",
    "first_ok",
    "last_of_first",
    "detected_near",
    "detected_far",
    "resumed",
    "stream_end",
    "tail",
];
/// Figures that are counts, summed over the repetitions.
const COUNTS: [&str; 18] = [
    "issued",
    "ok",
    "retried",
    "failed",
    "unanswered",
    "reset",
    "late",
    "streams_kept",
    "streams_reset",
    "streams_closed",
    "streams_hung",
    "downloads_whole",
    "downloads_broken",
    "suspects",
    "downs",
    "opens_unanswered",
    "delivered",
    "delivered_twice",
];

/// One assertion.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Assertion {
    figure: String,
    compare: &'static str,
    limit: f64,
    text: String,
}

impl FromStr for Assertion {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let compare = ["<=", ">=", "==", "<", ">"].into_iter().find(|sign| text.contains(sign));
        let compare =
            compare.ok_or_else(|| format!("`{text}` compares nothing: write gap_p99<1s or failed==0"))?;
        let (figure, limit) = text.split_once(compare).unwrap_or((text, ""));
        let (figure, limit) = (figure.trim(), limit.trim());
        let known = figures();
        if !known.iter().any(|name| name == figure) {
            return Err(format!("`{figure}` is no figure; there are {}", known.join(", ")));
        }
        let limit = if COUNTS.contains(&figure) {
            limit.parse::<u64>().map_err(|_| format!("`{limit}` is not a count"))? as f64
        } else {
            limit.parse::<Span>()?.nanos() as f64 / 1e6
        };
        Ok(Self { figure: figure.to_owned(), compare, limit, text: text.trim().to_owned() })
    }
}

/// All names of figures.
fn figures() -> Vec<String> {
    let spans = SPANS.iter().flat_map(|span| ["p50", "p99", "max"].map(|part| format!("{span}_{part}")));
    spans.chain(COUNTS.iter().map(|count| (*count).to_owned())).collect()
}

impl Assertion {
    /// Several, split at white space.
    pub(crate) fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        text.split_whitespace().map(str::parse).collect()
    }

    /// Whether it holds; a figure that was never measured does not hold.
    pub(crate) fn holds(&self, figures: &BTreeMap<String, f64>) -> bool {
        let Some(&value) = figures.get(&self.figure) else { return false };
        match self.compare {
            "<" => value < self.limit,
            "<=" => value <= self.limit,
            ">" => value > self.limit,
            ">=" => value >= self.limit,
            _ => (value - self.limit).abs() < f64::EPSILON,
        }
    }
}

impl fmt::Display for Assertion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Assertion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Assertion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assertion_holds_by_its_sign_and_never_for_what_was_not_measured() {
        let all = Assertion::parse_all("gap_p99<1s failed==0 ok>=10").unwrap();
        let mut figures = BTreeMap::from([("gap_p99".to_owned(), 999.0), ("failed".to_owned(), 0.0)]);
        assert!(all[0].holds(&figures) && all[1].holds(&figures) && !all[2].holds(&figures));
        figures.insert("gap_p99".to_owned(), 1_000.0);
        assert!(!all[0].holds(&figures));
        assert!("gap_p99<1".parse::<Assertion>().unwrap_err().contains("span"));
    }
}
