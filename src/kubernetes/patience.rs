//! How long the API server asks everybody to wait (`Retry-After` of a 429 or 503). Requests are not repeated
//! here: whoever made one asks again when that is over, and tells people meanwhile.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{Response, StatusCode, header::RETRY_AFTER};
use tower_layer::Layer;
use tower_service::Service;

use crate::{clock::Clock, model::limits, net::BoxFuture};

/// What the API server asked for last; cheap to clone, and shared by all clones.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    clock: Clock,
    until: Arc<Mutex<Option<Instant>>>,
}

impl Patience {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, until: Arc::default() }
    }

    /// What is left of the pause; zero when none was asked for.
    pub(super) fn left(&self) -> Duration {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(self.clock.now()))
    }

    fn note<B>(&self, response: &Response<B>) {
        if !matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(seconds) = asked {
            let pause = Duration::from_secs(seconds).min(limits::API_RETRY_AFTER_MAX);
            let at = self.clock.now() + pause;
            let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
            *until = Some(until.map_or(at, |known| known.max(at)));
        }
    }
}

impl<S> Layer<S> for Patience {
    type Service = Heeding<S>;

    fn layer(&self, inner: S) -> Heeding<S> {
        Heeding { inner, patience: self.clone() }
    }
}

/// A way to the API server that notes what it asks for.
#[derive(Debug, Clone)]
pub(super) struct Heeding<S> {
    inner: S,
    patience: Patience,
}

impl<S, R, B> Service<R> for Heeding<S>
where
    S: Service<R, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (answer, patience) = (self.inner.call(request), self.patience.clone());
        Box::pin(async move {
            let answer = answer.await;
            if let Ok(response) = &answer {
                patience.note(response);
            }
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, after: Option<&str>) -> Response<()> {
        let response = Response::builder().status(status);
        let response =
            after.into_iter().fold(response, |response, after| response.header("Retry-After", after));
        response.body(()).expect("a response")
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_pause_that_was_asked_for_holds_and_ends() {
        let patience = Patience::new(Clock::system());
        for (status, after) in [(200, Some("9")), (429, None), (429, Some("soon"))] {
            patience.note(&answer(status, after));
            assert_eq!(patience.left(), Duration::ZERO);
        }
        patience.note(&answer(429, Some("7")));
        patience.note(&answer(503, Some("2")));
        assert_eq!(patience.left(), Duration::from_secs(7));
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(patience.left(), Duration::ZERO);
        patience.note(&answer(429, Some("999999")));
        assert_eq!(patience.left(), limits::API_RETRY_AFTER_MAX);
    }
}
