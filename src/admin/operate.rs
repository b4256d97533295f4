//! The part of admin HTTP that looks at clients and messages, and changes them.
//!
//! Lists are given in parts: `limit` rows at most (100 unless asked for, never more than [`ROWS_MAX`]), and `next`, which is `after` of
//! the next request.

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;

use super::control::ControlError;
use super::rows::{PublishRequest, TopicRequest};
use super::{Shared, asked, fault};

/// Rows of one answer.
pub const ROWS_MAX: usize = 10_000;
/// A payload of 16 MiB, as text in which every byte is escaped.
const PUBLISH_BYTES_MAX: usize = 100 * 1024 * 1024;

pub(super) fn routes() -> Router<Shared> {
    Router::new()
        .route("/clients", get(clients))
        .route("/clients/{client}", get(client))
        .route("/clients/{client}/kick", post(kick))
        .route("/sessions", get(sessions))
        .route("/sessions/{client}", get(session))
        .route("/sessions/{client}/drop", post(drop_session))
        .route("/subscriptions", get(subscriptions))
        .route("/retained", get(retained))
        .route("/retained/{topic}", get(retained_message))
        // `clear` is a topic too.
        .route("/retained/clear", post(clear_retained).get(retained_message_clear))
        .route("/publish", post(publish).layer(DefaultBodyLimit::max(PUBLISH_BYTES_MAX)))
}

/// Which part of which list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Which {
    /// Behind this place; empty = from the beginning.
    pub after: String,
    /// Rows at most.
    pub limit: Option<usize>,
    /// Sessions: only those whose client is not connected.
    pub away: bool,
    /// Subscriptions: of this client.
    pub client: Option<String>,
    /// Subscriptions: of this filter. Retained messages: that match it.
    pub filter: Option<String>,
    /// Subscriptions: those that match this topic.
    pub topic: Option<String>,
}

impl Which {
    /// Rows at most.
    pub fn rows(&self) -> usize {
        self.limit.unwrap_or(100).clamp(1, ROWS_MAX)
    }

    /// Refuses what this list does not go by, so that nobody takes a whole list for a part of it.
    fn check(&self, takes: &[&str]) -> Result<(), ControlError> {
        let given = [
            ("away", self.away),
            ("client", self.client.is_some()),
            ("filter", self.filter.is_some()),
            ("topic", self.topic.is_some()),
        ];
        if let Some((key, _)) = given.iter().find(|(key, given)| *given && !takes.contains(key)) {
            let takes = ["after", "limit"].iter().chain(takes).copied().collect::<Vec<_>>().join(", ");
            return Err(ControlError::Invalid(format!("this list takes no `{key}`; it takes {takes}")));
        }
        if self.limit == Some(0) {
            return Err(ControlError::Invalid(format!("`limit` takes a whole number from 1 to {ROWS_MAX}, not 0")));
        }
        Ok(())
    }
}

async fn clients(State(shared): State<Shared>, Query(which): Query<Which>) -> Response {
    asked(shared, move |control| which.check(&[]).map(|()| control.clients(&which))).await
}

async fn client(State(shared): State<Shared>, Path(client): Path<String>) -> Response {
    asked(shared, move |control| control.client(&client)).await
}

async fn kick(State(shared): State<Shared>, Path(client): Path<String>) -> Response {
    asked(shared, move |control| control.kick(&client)).await
}

async fn sessions(State(shared): State<Shared>, Query(which): Query<Which>) -> Response {
    asked(shared, move |control| which.check(&["away"]).map(|()| control.sessions(&which))).await
}

async fn session(State(shared): State<Shared>, Path(client): Path<String>) -> Response {
    asked(shared, move |control| control.session(&client)).await
}

async fn drop_session(State(shared): State<Shared>, Path(client): Path<String>) -> Response {
    asked(shared, move |control| control.drop_session(&client)).await
}

async fn subscriptions(State(shared): State<Shared>, Query(which): Query<Which>) -> Response {
    let takes = &["client", "filter", "topic"];
    asked(shared, move |control| which.check(takes).and_then(|()| control.subscriptions(&which))).await
}

async fn retained(State(shared): State<Shared>, Query(which): Query<Which>) -> Response {
    asked(shared, move |control| which.check(&["filter"]).and_then(|()| control.retained(&which))).await
}

async fn retained_message(State(shared): State<Shared>, Path(topic): Path<String>) -> Response {
    asked(shared, move |control| control.retained_message(&topic)).await
}

async fn retained_message_clear(State(shared): State<Shared>) -> Response {
    asked(shared, |control| control.retained_message("clear")).await
}

async fn clear_retained(State(shared): State<Shared>, request: Result<Json<TopicRequest>, JsonRejection>) -> Response {
    match request {
        Ok(Json(TopicRequest { topic })) => asked(shared, move |control| control.clear_retained(&topic)).await,
        Err(rejection) => refused(&rejection),
    }
}

async fn publish(State(shared): State<Shared>, request: Result<Json<PublishRequest>, JsonRejection>) -> Response {
    match request {
        Ok(Json(request)) => asked(shared, move |control| control.publish(request)).await,
        Err(rejection) => refused(&rejection),
    }
}

fn refused(rejection: &JsonRejection) -> Response {
    let status = match rejection.status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        other => other,
    };
    (status, fault(rejection.body_text())).into_response()
}
