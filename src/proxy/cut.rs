//! Cuts what is open, at once and for good.
//!
//! Like a cancellation token without children. Whoever carries bytes looks at it each time it is woken, so that is
//! one load of a flag, where a token takes a lock that all connections share.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::sync::{Notify, futures::Notified};

/// Shared by whoever cuts and whoever is cut; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Cut(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is: AtomicBool,
    told: Notify,
}

/// Somebody who waits for it.
struct Waiting<'a, 'b> {
    cut: &'a Cut,
    told: Pin<&'b mut Notified<'a>>,
    /// Who is told.
    waker: Option<Waker>,
}

impl Cut {
    /// Cuts.
    pub(super) fn cut(&self) {
        self.0.is.store(true, Ordering::Release);
        self.0.told.notify_waiters();
    }

    /// Whether it was.
    pub(super) fn is_cut(&self) -> bool {
        self.0.is.load(Ordering::Acquire)
    }

    /// Done when it was cut.
    pub(super) async fn wait(&self) {
        let told = pin!(self.0.told.notified());
        let mut waiting = Waiting { cut: self, told, waker: None };
        poll_fn(|cx| waiting.poll(cx)).await;
    }

    /// Runs `work` to its end, or until it is cut: none. It is pinned elsewhere, so that it is there once.
    pub(super) async fn unless<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        let told = pin!(self.0.told.notified());
        let mut waiting = Waiting { cut: self, told, waker: None };
        poll_fn(|cx| {
            if self.is_cut() {
                return Poll::Ready(None);
            }
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            waiting.poll(cx).map(|()| None)
        })
        .await
    }
}

impl Waiting<'_, '_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Once it is known who is told, nothing is left to do but to look.
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            if self.told.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.waker = Some(cx.waker().clone());
        }
        if self.cut.is_cut() { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use tokio_util::task::TaskTracker;

    use super::*;

    #[tokio::test]
    async fn what_waits_is_cut_and_what_comes_later_is_too() {
        let cut = Cut::default();
        let tasks = TaskTracker::new();
        let waits = tasks.spawn({
            let cut = cut.clone();
            async move { cut.unless(pin!(pending::<()>())).await }
        });
        let told = tasks.spawn({
            let cut = cut.clone();
            async move { cut.wait().await }
        });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished() && !told.is_finished());
        cut.cut();
        assert_eq!(waits.await.expect("no panic"), None);
        told.await.expect("no panic");
        assert!(cut.is_cut());
        assert_eq!(cut.unless(pin!(ready(1))).await, None);
        cut.wait().await;
    }

    #[tokio::test]
    async fn what_ends_first_is_not_cut() {
        assert_eq!(Cut::default().unless(pin!(ready(1))).await, Some(1));
    }

    #[tokio::test]
    async fn whoever_is_polled_by_another_task_is_still_told() {
        let cut = Cut::default();
        let mut waits = {
            let cut = cut.clone();
            Box::pin(async move { cut.wait().await })
        };
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(waits.as_mut().poll(&mut nobody).is_pending());
        let told = TaskTracker::new().spawn(waits);
        tokio::task::yield_now().await;
        cut.cut();
        told.await.expect("told");
    }
}
