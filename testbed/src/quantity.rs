//! Spans of time, shares and rates as people write them: `20ms`, `1.5%`, `200mbit`. Not a unit library.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A span of time, written `500us`, `20ms`, `1.5s`, `2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Span(pub(crate) Duration);

/// A share from 0 to 1, written `1%` or `0.01`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default)]
pub(crate) struct Share(pub(crate) f64);

/// Bits per second, written `10mbit`, `256kbit`, `1gbit` or a bare number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Rate(pub(crate) u64);

impl Span {
    /// In whole milliseconds.
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// In nanoseconds; a span beyond 584 years is cut to that.
    pub(crate) fn nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let value: f64 = text[..end].parse().ok()?;
    Some((value, text[end..].trim()))
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a span of time: write 500us, 20ms, 1.5s or 2m");
        let (value, unit) = split(text).ok_or_else(wrong)?;
        let scale = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "" if value == 0.0 => 1.0,
            _ => return Err(wrong()),
        };
        Duration::try_from_secs_f64(value * scale).map(Self).map_err(|_| wrong())
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a share: write 1% or 0.01, at most 100%");
        let (value, unit) = split(text).ok_or_else(wrong)?;
        let value = match unit {
            "%" => value / 100.0,
            "" => value,
            _ => return Err(wrong()),
        };
        if (0.0..=1.0).contains(&value) { Ok(Self(value)) } else { Err(wrong()) }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a rate: write 256kbit, 10mbit or 1gbit");
        let (value, unit) = split(text).ok_or_else(wrong)?;
        let scale = match unit {
            "" | "bit" => 1.0,
            "kbit" => 1e3,
            "mbit" => 1e6,
            "gbit" => 1e9,
            _ => return Err(wrong()),
        };
        let bits = value * scale;
        if (1.0..=1e12).contains(&bits) { Ok(Self(bits as u64)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        if micros >= 1_000_000 && micros.is_multiple_of(1_000_000) {
            write!(f, "{}s", micros / 1_000_000)
        } else if micros.is_multiple_of(1_000) {
            write!(f, "{}ms", micros / 1_000)
        } else {
            write!(f, "{micros}us")
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1_000_000) {
            write!(f, "{}mbit", self.0 / 1_000_000)
        } else {
            write!(f, "{}bit", self.0)
        }
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    )*};
}
as_text!(Span, Share, Rate);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_back_what_they_print() {
        for text in ["500us", "20ms", "3s", "1500ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("2m".parse::<Span>().unwrap(), Span::from_millis(120_000));
        assert_eq!("1%".parse::<Share>().unwrap(), Share(0.01));
        assert_eq!("200mbit".parse::<Rate>().unwrap(), Rate(200_000_000));
        assert_eq!(Rate(200_000_000).to_string(), "200mbit");
    }

    #[test]
    fn a_wrong_quantity_says_how_to_write_it() {
        assert!("20".parse::<Span>().unwrap_err().contains("20ms"));
        assert!("120%".parse::<Share>().unwrap_err().contains("at most 100%"));
        assert!("fast".parse::<Rate>().unwrap_err().contains("10mbit"));
    }
}
