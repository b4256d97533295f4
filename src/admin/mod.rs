//! Admin HTTP: metrics, status, readiness, and what the command line asks of a running server.
//!
//! | request | answer |
//! |---|---|
//! | `GET /metrics` | Prometheus text |
//! | `GET /status` | [`status::Status`] |
//! | `GET /ready` | 200, or 503 with the reasons |
//! | `GET /sinks`, `/cursors`, `/log/segments`, `/log/records?from=&limit=` | rows |
//! | `POST /sinks/{sink}/pause`, `/resume` | [`status::Done`] |
//! | `POST /sinks/{sink}/reset` with `"earliest"`, `"latest"` or `{"record": N}` | [`status::Done`] |
//! | `GET /sinks/{sink}/dead`, `/dead/{id}` | dead letters |
//! | `POST /sinks/{sink}/dead/replay`, `/dead/drop` with a list of numbers | [`status::Done`] |
//! | `GET /clients`, `/sessions?away=`, `/subscriptions?client=&filter=&topic=`, `/retained?filter=`, each `&after=&limit=` | [`rows::Page`] |
//! | `GET /clients/{client}`, `/sessions/{client}`, `/retained/{topic}` | one of them |
//! | `POST /clients/{client}/kick`, `/sessions/{client}/drop`, `/retained/clear` with `{"topic": …}` | [`status::Done`] |
//! | `POST /publish` with a [`rows::PublishRequest`] | [`rows::PublishedRow`] |
//!
//! Faults answer as `{"error": "…"}`, those of a path or a query that is none too.

use std::future::Future;
use std::sync::Arc;

use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::config::Secret;

pub mod client;
pub mod control;
pub mod operate;
pub mod rows;
pub mod status;

use control::{Control, ControlError};
use status::ResetTo;

/// Longest text of a fault that the framework finds.
const FAULT_BYTES_MAX: usize = 64 * 1024;

/// What the handlers share.
#[derive(Clone)]
struct Shared {
    control: Arc<dyn Control>,
    metrics: PrometheusHandle,
    token: Option<Secret>,
}

/// Serves until `stop` resolves.
///
/// # Errors
/// Where the listener fails.
pub async fn serve(
    listener: TcpListener,
    control: Arc<dyn Control>,
    metrics: PrometheusHandle,
    token: Option<Secret>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(control, metrics, token)).with_graceful_shutdown(stop).await
}

fn router(control: Arc<dyn Control>, metrics: PrometheusHandle, token: Option<Secret>) -> Router {
    let shared = Shared { control, metrics, token };
    Router::new()
        .route("/metrics", get(|State(s): State<Shared>| async move { s.metrics.render() }))
        .route("/status", get(|State(s): State<Shared>| asked(s, |control| Ok(control.status()))))
        .route("/ready", get(ready))
        .route("/sinks", get(|State(s): State<Shared>| asked(s, |control| Ok(control.sinks()))))
        .route("/sinks/{sink}/pause", post(pause))
        .route("/sinks/{sink}/resume", post(resume))
        .route("/sinks/{sink}/reset", post(reset))
        .route("/sinks/{sink}/dead", get(dead_letters))
        .route("/sinks/{sink}/dead/{id}", get(dead_letter))
        .route("/sinks/{sink}/dead/replay", post(replay))
        .route("/sinks/{sink}/dead/drop", post(drop_letters))
        .route("/cursors", get(|State(s): State<Shared>| asked(s, |control| Ok(control.cursors()))))
        .route("/log/segments", get(|State(s): State<Shared>| asked(s, |control| control.segments())))
        .route("/log/records", get(records))
        .merge(operate::routes())
        .layer(middleware::from_fn_with_state(shared.clone(), authorize))
        .layer(middleware::map_response(as_json))
        .with_state(shared)
}

/// Lets a request pass that carries the token, where there is one.
async fn authorize(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let Some(Secret(token)) = &shared.token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    if same(given.as_bytes(), token.as_bytes()) {
        next.run(request).await
    } else {
        let text = "this server asks for its token: `Authorization: Bearer …`";
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], fault(text)).into_response()
    }
}

/// Gives faults that the framework finds the form of all others: a path that is none, a query or a body that does not parse.
async fn as_json(response: Response) -> Response {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let said = axum::body::to_bytes(body, FAULT_BYTES_MAX).await.unwrap_or_default();
    let text = match (String::from_utf8_lossy(&said), status) {
        (said, _) if !said.is_empty() => said.into_owned(),
        (_, StatusCode::NOT_FOUND) => "there is nothing at this path".to_owned(),
        (_, StatusCode::METHOD_NOT_ALLOWED) => "this path takes another method".to_owned(),
        (_, other) => other.to_string(),
    };
    let mut answer = (status, fault(text)).into_response();
    if let Some(methods) = parts.headers.get(header::ALLOW) {
        answer.headers_mut().insert(header::ALLOW, methods.clone());
    }
    answer
}

/// Compares without stopping at the first difference, so that the time taken tells nothing about the token.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |different, (a, b)| different | (a ^ b)) == 0
}

fn fault(text: impl Into<String>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "error": text.into() }))
}

/// Asks the server's parts on a thread that may wait for the disk.
async fn asked<T: Serialize + Send + 'static>(
    shared: Shared,
    question: impl FnOnce(&dyn Control) -> Result<T, ControlError> + Send + 'static,
) -> Response {
    match tokio::task::spawn_blocking(move || question(shared.control.as_ref())).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(ControlError::Unknown(text))) => (StatusCode::NOT_FOUND, fault(text)).into_response(),
        Ok(Err(ControlError::Invalid(text))) => (StatusCode::BAD_REQUEST, fault(text)).into_response(),
        Ok(Err(ControlError::Failed(text))) => (StatusCode::INTERNAL_SERVER_ERROR, fault(text)).into_response(),
        Err(source) => (StatusCode::INTERNAL_SERVER_ERROR, fault(source.to_string())).into_response(),
    }
}

async fn ready(State(shared): State<Shared>) -> Response {
    let reasons = shared.control.not_ready();
    if reasons.is_empty() {
        Json(serde_json::json!({ "ready": true })).into_response()
    } else {
        let body = serde_json::json!({ "ready": false, "reasons": reasons });
        (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
    }
}

async fn pause(State(shared): State<Shared>, Path(sink): Path<String>) -> Response {
    asked(shared, move |control| control.pause(&sink)).await
}

async fn resume(State(shared): State<Shared>, Path(sink): Path<String>) -> Response {
    asked(shared, move |control| control.resume(&sink)).await
}

async fn reset(State(shared): State<Shared>, Path(sink): Path<String>, Json(to): Json<ResetTo>) -> Response {
    asked(shared, move |control| control.reset(&sink, to)).await
}

async fn dead_letters(State(shared): State<Shared>, Path(sink): Path<String>) -> Response {
    asked(shared, move |control| control.dead_letters(&sink)).await
}

async fn dead_letter(State(shared): State<Shared>, Path((sink, id)): Path<(String, u64)>) -> Response {
    asked(shared, move |control| control.dead_letter(&sink, id)).await
}

async fn replay(State(shared): State<Shared>, Path(sink): Path<String>, Json(ids): Json<Vec<u64>>) -> Response {
    asked(shared, move |control| control.replay(&sink, &ids)).await
}

async fn drop_letters(State(shared): State<Shared>, Path(sink): Path<String>, Json(ids): Json<Vec<u64>>) -> Response {
    asked(shared, move |control| control.drop_letters(&sink, &ids)).await
}

#[derive(Deserialize)]
struct Page {
    from: u64,
    limit: u64,
}

async fn records(State(shared): State<Shared>, Query(page): Query<Page>) -> Response {
    asked(shared, move |control| control.records(page.from, page.limit.min(control::RECORDS_MAX))).await
}
