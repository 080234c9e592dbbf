//! The sums over requests. Pure. Each request is in exactly one of ok, retried, failed, unanswered;
//! `reset` and `late` are marks on top. Percentiles contain every request.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::quantity::Span;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fate {
    /// Answered at the first try.
    Ok,
    /// The first try failed, an immediate retry on a new connection was answered.
    Retried,
    /// Both tries failed.
    Failed,
    /// Neither answered nor refused before its deadline.
    Unanswered,
}

/// One request. Times are machine-wide monotonic nanoseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    /// When it was due; its latency counts from here.
    pub(crate) intended: u64,
    /// When its fate was known.
    pub(crate) done: u64,
    /// How it ended.
    pub(crate) fate: Fate,
    /// What was wrong with the first try, and with the second of one that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trouble: Option<String>,
    /// The cluster that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cluster: Option<String>,
    /// Bytes of the answer.
    #[serde(default)]
    pub(crate) bytes: u64,
}

impl Record {
    /// Whether it was answered at all.
    pub(crate) const fn answered(&self) -> bool {
        matches!(self.fate, Fate::Ok | Fate::Retried)
    }

    /// How long the client waited; the whole deadline when no answer came, however soon that was known.
    pub(crate) fn waited(&self, deadline: Span) -> u64 {
        let waited = self.done.saturating_sub(self.intended);
        if self.answered() { waited } else { waited.max(deadline.nanos()) }
    }
}

/// Latencies in milliseconds. A request without an answer counts as its whole deadline.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// Half are at most this.
    pub(crate) p50: f64,
    /// Nine of ten are.
    pub(crate) p90: f64,
    /// 99 of 100 are.
    pub(crate) p99: f64,
    /// 999 of 1,000 are.
    pub(crate) p999: f64,
    /// The longest.
    pub(crate) max: f64,
}

impl Latency {
    /// Of some waits in nanoseconds, by nearest rank.
    pub(crate) fn of(mut waits: Vec<u64>) -> Self {
        waits.sort_unstable();
        let at = |share: f64| {
            let rank = (waits.len() as f64 * share).ceil() as usize;
            waits.get(rank.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / 1e6)
        };
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }
}

/// The sums: `issued = ok + retried + failed + unanswered`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Account {
    /// Requests that were due.
    pub(crate) issued: u64,
    /// Answered at the first try.
    pub(crate) ok: u64,
    /// Answered at the second.
    pub(crate) retried: u64,
    /// Both tries failed.
    pub(crate) failed: u64,
    /// No answer before the deadline.
    pub(crate) unanswered: u64,
    /// Mark: the first try failed.
    pub(crate) reset: u64,
    /// Mark: answered, but late.
    pub(crate) late: u64,
    /// Answers by cluster.
    pub(crate) clusters: BTreeMap<String, u64>,
    /// First-try troubles by kind.
    pub(crate) troubles: BTreeMap<String, u64>,
    /// Of all requests.
    pub(crate) latency_ms: Latency,
    /// Bytes of answers.
    pub(crate) bytes: u64,
    /// From the first request due to the last fate known.
    pub(crate) span_ms: f64,
}

impl Account {
    /// The sums over some requests.
    pub(crate) fn of(records: &[Record], late: Span, deadline: Span) -> Self {
        let mut sums = Self { issued: records.len() as u64, ..Self::default() };
        for record in records {
            match record.fate {
                Fate::Ok => sums.ok += 1,
                Fate::Retried => sums.retried += 1,
                Fate::Failed => sums.failed += 1,
                Fate::Unanswered => sums.unanswered += 1,
            }
            if let Some(trouble) = &record.trouble {
                sums.reset += 1;
                *sums.troubles.entry(trouble.clone()).or_default() += 1;
            }
            if record.answered() && record.waited(deadline) > late.nanos() {
                sums.late += 1;
            }
            if let Some(cluster) = &record.cluster {
                *sums.clusters.entry(cluster.clone()).or_default() += 1;
            }
            sums.bytes += record.bytes;
        }
        sums.latency_ms = Latency::of(records.iter().map(|record| record.waited(deadline)).collect());
        let first = records.iter().map(|record| record.intended).min().unwrap_or(0);
        let last = records.iter().map(|record| record.done).max().unwrap_or(0);
        sums.span_ms = last.saturating_sub(first) as f64 / 1e6;
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fate: Fate, waited_ms: u64, trouble: Option<&str>) -> Record {
        let trouble = trouble.map(str::to_owned);
        Record { intended: 0, done: waited_ms * 1_000_000, fate, trouble, cluster: None, bytes: 0 }
    }

    #[test]
    fn every_request_is_in_exactly_one_sum_and_the_unanswered_are_in_the_percentiles() {
        let mut records: Vec<Record> = (0..97).map(|_| record(Fate::Ok, 10, None)).collect();
        records.push(record(Fate::Retried, 1_200, Some("closed")));
        records.push(record(Fate::Failed, 1, Some("refused")));
        records.push(record(Fate::Unanswered, 10_000, None));
        let sums = Account::of(&records, Span::from_millis(1_000), Span::from_millis(10_000));
        assert_eq!(sums.issued, sums.ok + sums.retried + sums.failed + sums.unanswered);
        assert_eq!((sums.ok, sums.retried, sums.failed, sums.unanswered), (97, 1, 1, 1));
        assert_eq!((sums.reset, sums.late), (2, 1));
        assert_eq!(sums.latency_ms.p50, 10.0);
        assert_eq!(sums.latency_ms.p99, 10_000.0, "a quick refusal is no quick answer");
    }
}
