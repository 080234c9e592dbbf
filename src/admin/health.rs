//! The TCP address: is it alive, is it ready, its figures. Nothing else, and nothing that changes anything.

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};

use super::{Parts, refusal::no_such_path, status};

/// What `/metrics` is (OpenMetrics 1.0, section "Content type").
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything the TCP address serves.
pub(super) fn router(parts: Arc<Parts>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_path)
        .with_state(parts)
}

/// 200, or 503 with one line for each part that is waited for.
async fn ready(State(parts): State<Arc<Parts>>) -> (StatusCode, String) {
    let pending = parts.readiness.pending();
    if pending.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let lines: String = pending.iter().map(|part| format!("waits for {part}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, lines)
}

async fn metrics(State(parts): State<Arc<Parts>>) -> impl IntoResponse {
    let text = parts.metrics.encode_with(|scrape| status::scrape(&parts, scrape));
    ([(header::CONTENT_TYPE, OPEN_METRICS)], text)
}
