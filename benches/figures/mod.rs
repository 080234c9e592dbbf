//! Samples and what is said of them: median, 99th percentile, spread. It measures nothing itself.

use std::time::Duration;

use serde_json::{Value, json};

/// Durations of one thing done many times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl FromIterator<Duration> for Samples {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        let mut sorted: Vec<Duration> = samples.into_iter().collect();
        sorted.sort_unstable();
        Self(sorted)
    }
}

impl Samples {
    /// The smallest sample that at least `percent` of all do not exceed; zero without samples.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or_default()
    }

    /// As JSON.
    pub(crate) fn json(&self, unit: Unit) -> Value {
        let [p50, p99, max] = [50, 99, 100].map(|percent| unit.of(self.percentile(percent)));
        json!({ "samples": self.0.len(), "unit": unit.name, "p50": p50, "p99": p99, "max": max })
    }
}

/// In what a figure is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unit {
    /// Its symbol.
    pub(crate) name: &'static str,
    /// How many make a second.
    pub(crate) in_a_second: f64,
}

impl Unit {
    /// So many of them, to three decimals.
    pub(crate) fn of(self, duration: Duration) -> f64 {
        (duration.as_secs_f64() * self.in_a_second * 1e3).round() / 1e3
    }
}

/// One line a figure, for people: nested objects become dotted names.
pub(crate) fn lines(name: &str, value: &Value) -> Vec<String> {
    let Value::Object(fields) = value else { return vec![format!("{name:<40} {value}")] };
    let inner = |(key, value): (&String, &Value)| {
        let dot = if name.is_empty() { "" } else { "." };
        lines(&format!("{name}{dot}{key}"), value)
    };
    fields.iter().flat_map(inner).collect()
}
