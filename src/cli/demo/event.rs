//! What happens in the demo, as `-o json` prints it: one object a line, each with `event` and `t_ms`.

use serde::Serialize;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum Event {
    /// A cluster has every other cluster as an active peer.
    Joined {
        /// Which one.
        cluster: String,
        /// The others.
        peers: Vec<String>,
    },
    /// The name was looked up.
    Resolved {
        /// The name.
        name: String,
        /// Its virtual IP.
        address: String,
        /// The port bound there.
        port: u16,
    },
    /// A request ended.
    RequestSample {
        /// When it was due, in milliseconds since the demo began.
        start_ms: f64,
        /// From then to its end.
        latency_ms: f64,
        /// Connections it took.
        attempts: u8,
        /// Who answered; none when nobody did.
        cluster: Option<String>,
    },
    /// Something was broken on purpose.
    Fault {
        /// What: `application stopped` or `gateway killed`.
        what: &'static str,
        /// Whose.
        cluster: &'static str,
    },
    /// Another cluster took over.
    Failover {
        /// Who answered before the fault.
        from: &'static str,
        /// Who answers now.
        to: &'static str,
        /// From the fault to the first complete answer of `to`, as the client saw it.
        gap_ms: f64,
        /// Requests of that time that took a second connection.
        retried: usize,
        /// Requests of that time without a complete answer.
        failed: usize,
    },
    /// The end.
    Summary {
        /// Clusters that joined.
        joined: usize,
        /// Requests in all.
        requests: usize,
        /// Requests that took a second connection.
        retried: usize,
        /// Requests without a complete answer.
        failed: usize,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    t_ms: f64,
    #[serde(flatten)]
    rest: &'a Event,
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Self::Joined { .. } => "joined",
            Self::Resolved { .. } => "resolved",
            Self::RequestSample { .. } => "request_sample",
            Self::Fault { .. } => "fault",
            Self::Failover { .. } => "failover",
            Self::Summary { .. } => "summary",
        }
    }

    /// Its line.
    pub(super) fn to_json(&self, t_ms: f64) -> String {
        let line = Line { event: self.name(), t_ms, rest: self };
        serde_json::to_string(&line).expect("an event is plain data")
    }
}

/// Milliseconds with three digits after the point.
pub(super) fn millis(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_event_and_time() {
        let failover = Event::Failover { from: "eu-1", to: "eu-2", gap_ms: 41.5, retried: 1, failed: 0 };
        insta::assert_snapshot!(failover.to_json(4012.25), @r#"{"event":"failover","t_ms":4012.25,"from":"eu-1","to":"eu-2","gap_ms":41.5,"retried":1,"failed":0}"#);
        let summary = Event::Summary { joined: 3, requests: 350, retried: 2, failed: 0 };
        insta::assert_snapshot!(summary.to_json(9000.0), @r#"{"event":"summary","t_ms":9000.0,"joined":3,"requests":350,"retried":2,"failed":0}"#);
    }
}
