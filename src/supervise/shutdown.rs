//! The two signals that end a daemon: soft (drain) and hard (stop), each with its reason.
//!
//! It tells, it does not enforce: whoever runs something waits for the signal, and [`super::Tasks`] cuts
//! off what does not listen.

use std::{fmt, future::Future};

use tokio::sync::watch;

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Soft,
    Hard,
}

#[derive(Debug, Clone)]
struct Signal {
    phase: Phase,
    reason: String,
}

/// Both ends of the two signals. Cloning is cheap; every clone can wait and can trigger.
#[derive(Clone)]
pub struct Shutdown(watch::Sender<Signal>);

impl Shutdown {
    /// Nothing asked for yet.
    #[must_use]
    pub fn new() -> Self {
        Self(watch::Sender::new(Signal { phase: Phase::Running, reason: String::new() }))
    }

    /// Soft: take no new work, finish what runs. The first reason stays.
    pub fn drain(&self, reason: impl Into<String>) {
        self.raise(Phase::Soft, reason.into());
    }

    /// Hard: end now. Implies soft. The first reason stays.
    pub fn stop(&self, reason: impl Into<String>) {
        self.raise(Phase::Hard, reason.into());
    }

    /// Done when draining or stopping was asked for, at once when it already was.
    pub fn soft(&self) -> impl Future<Output = ()> + Send + use<> {
        self.reached(Phase::Soft)
    }

    /// Done when stopping was asked for, at once when it already was.
    pub fn hard(&self) -> impl Future<Output = ()> + Send + use<> {
        self.reached(Phase::Hard)
    }

    /// Runs a task that has nothing to finish: it is dropped at the hard signal.
    pub fn cut<F: Future + Send>(&self, task: F) -> impl Future<Output = ()> + Send + use<F> {
        let hard = self.hard();
        async move {
            tokio::select! {
                biased;
                () = hard => {}
                _ = task => {}
            }
        }
    }

    /// Whether draining or stopping was asked for.
    #[must_use]
    pub fn is_soft(&self) -> bool {
        self.0.borrow().phase >= Phase::Soft
    }

    /// Whether stopping was asked for.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        self.0.borrow().phase >= Phase::Hard
    }

    /// Why: the reason of the furthest signal so far.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let signal = self.0.borrow();
        (signal.phase > Phase::Running).then(|| signal.reason.clone())
    }

    fn raise(&self, phase: Phase, reason: String) {
        self.0.send_if_modified(|signal| {
            let further = signal.phase < phase;
            if further {
                *signal = Signal { phase, reason };
            }
            further
        });
    }

    fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + use<> {
        let sender = self.0.clone();
        async move {
            // The sender lives in this very future, so the channel cannot close under the wait.
            let _ = sender.subscribe().wait_for(|signal| signal.phase >= phase).await;
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Shutdown").field(&self.0.borrow().phase).finish()
    }
}
