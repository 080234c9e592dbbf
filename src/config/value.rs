//! How durations and sizes are written in the config file and on the command line: `"5s"`, `"64MiB"`.
//!
//! Also the small serde adapters the sections use. No defaults and no ranges: those stand in `keys`.

use std::{fmt::Display, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Why a text is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// The text is not numbers with units.
    #[error("{0:?} is not a duration: write a number and a unit (ms, s, m, h, d), as in \"5s\" or \"1h30m\"")]
    Duration(String),
    /// The text is not a number with a unit of bytes.
    #[error("{0:?} is not a size: write a number and a unit (B, KB, MB, GB, KiB, MiB, GiB), as in \"64MiB\"")]
    Size(String),
}

/// Milliseconds of each unit of time, longest first.
const TIME_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
/// Bytes of each unit of size.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads `"5s"`, `"250ms"`, `"1h30m"`; `"0"` needs no unit.
///
/// # Errors
/// [`ValueError::Duration`] for a missing or unknown unit, a fraction, or more than a `u64` of milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, ValueError> {
    let wrong = || ValueError::Duration(text.chars().take(40).collect());
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0_u64);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, next) = after.split_at(letters);
        let (_, millis) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number.checked_mul(*millis).and_then(|part| total.checked_add(part)).ok_or_else(wrong)?;
        rest = next;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(total)) }
}

/// Writes a duration as [`parse_duration`] reads it, with the longest unit up to hours that is exact.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let exact = |unit: &&(&str, u64)| unit.0 != "d" && millis >= unit.1 && millis.is_multiple_of(unit.1);
    let (name, unit) = TIME_UNITS.iter().find(exact).unwrap_or(&("s", 1_000));
    format!("{}{name}", millis / unit)
}

/// Reads `"64MiB"`, `"1.25MB"`, `"512"` (bytes).
///
/// # Errors
/// [`ValueError::Size`] for an unknown unit, a part of a byte, or more than a `u64` of bytes.
pub fn parse_size(text: &str) -> Result<u64, ValueError> {
    let wrong = || ValueError::Size(text.chars().take(40).collect());
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, unit) = text.split_at(digits);
    let unit = if unit.is_empty() { "B" } else { unit };
    let (_, bytes) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    if part.is_empty() || part.len() > 9 {
        return Err(wrong());
    }
    let scale = 10_u64.pow(u32::try_from(part.len()).map_err(|_| wrong())?);
    let part: u64 = part.parse().map_err(|_| wrong())?;
    let part_bytes =
        part.checked_mul(*bytes).filter(|product| product.is_multiple_of(scale)).ok_or_else(wrong)?;
    whole.checked_mul(*bytes).and_then(|sum| sum.checked_add(part_bytes / scale)).ok_or_else(wrong)
}

/// Writes a size as [`parse_size`] reads it, with the largest unit that is exact.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let exact = |unit: &&(&str, u64)| bytes >= unit.1 && bytes.is_multiple_of(unit.1);
    let (name, unit) = SIZE_UNITS.iter().find(exact).unwrap_or(&("B", 1));
    format!("{}{name}", bytes / unit)
}

/// Serde adapter: a `Duration` as text.
pub(super) mod duration {
    use super::{Deserialize, Deserializer, Duration, Error, Serializer, format_duration, parse_duration};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Serde adapter: a number of bytes as text.
pub(super) mod size {
    use super::{Deserialize, Deserializer, Error, Serializer, format_size, parse_size};

    pub(crate) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format_size(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        parse_size(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// Serde adapter: anything that is its text, such as a network prefix.
pub(super) mod text {
    use super::{Deserialize, Deserializer, Display, Error, FromStr, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(from)?;
        text.parse().map_err(|error| D::Error::custom(format!("{text:?}: {error}")))
    }
}

/// Serde adapter: an identifier that may be left open, written as the empty text.
pub(super) mod blank {
    use super::{Deserialize, Deserializer, Display, Error, FromStr, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(Some).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_numbers_with_units() {
        assert_eq!(parse_duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(parse_duration("0"), Ok(Duration::ZERO));
        for bad in
            ["", "5", "s", "5 s", "-5s", "1.5s", "5x", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(parse_duration(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(format_duration(Duration::from_secs(86_400)), "24h");
        assert_eq!(format_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn sizes_are_numbers_with_units_and_whole_bytes() {
        assert_eq!(parse_size("64MiB"), Ok(64 << 20));
        assert_eq!(parse_size("1.25MB"), Ok(1_250_000));
        assert_eq!(parse_size("512"), Ok(512));
        for bad in ["", "MiB", "1.5B", "1.B", ".5KB", "1..2KB", "1e3", "64mib", "20000000000GiB", "0.3KiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?} was accepted");
        }
        assert_eq!(format_size(1_250_000), "1250KB");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(millis in 0..u64::MAX / 2, bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,40}") {
            let _ = parse_duration(&text);
            let _ = parse_size(&text);
        }
    }
}
