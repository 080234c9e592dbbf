//! Active checks: how an endpoint of this cluster is asked whether it can serve, and when its answer counts.
//!
//! Pure; asking is `checks`'. What is seen of real connections is `outlier`'s matter, and neither changes the
//! other.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::limits::{CHECK_FALL, CHECK_RISE};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// Whether it takes a connection.
    Tcp,
    /// Whether it answers `GET PATH` with a status from 200 to 399.
    Http(String),
}

/// An active check of the endpoints of one port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// What is asked.
    pub ask: Ask,
    /// Pause between two checks.
    pub interval: Duration,
    /// Time for one.
    pub timeout: Duration,
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.ask {
            Ask::Tcp => f.write_str("tcp"),
            Ask::Http(path) => write!(f, "http GET {path}"),
        }
    }
}

/// What is thought of one endpoint by its checks.
///
/// It counts as ready until it was checked. The first check decides at once; later, two that fail in a row make
/// it unready, and two that succeed make it ready.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    ready: Option<bool>,
    against: u32,
}

impl Checked {
    /// Takes the result of one check; returns whether it is ready now, when that changed.
    pub fn observe(&mut self, succeeded: bool) -> Option<bool> {
        let Some(ready) = self.ready else {
            self.ready = Some(succeeded);
            return (!succeeded).then_some(false);
        };
        if ready == succeeded {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < if ready { CHECK_FALL } else { CHECK_RISE } {
            return None;
        }
        *self = Self { ready: Some(succeeded), against: 0 };
        Some(succeeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(results: &[bool]) -> Vec<(usize, bool)> {
        let mut checked = Checked::default();
        let change = |(at, result): (usize, &bool)| Some((at, checked.observe(*result)?));
        results.iter().enumerate().filter_map(change).collect()
    }

    #[test]
    fn the_first_check_decides_and_later_two_in_a_row_do() {
        assert_eq!(run(&[true, true]), []);
        assert_eq!(run(&[false, true, true]), [(0, false), (2, true)]);
        assert_eq!(run(&[true, false, true, false, false, true]), [(4, false)]);
        assert_eq!(run(&[true, false, false, true, false, true, true]), [(2, false), (6, true)]);
    }
}
