//! The channel: `{"type": "subscribe" | "unsubscribe", "topic": …, "clientid": …, "qos": …}`.

use std::sync::Arc;
use std::time::Duration;

use forebay_engine::{QoS, topic};
use futures_util::StreamExt;
use serde_json::Value as Json;

use super::config::RedisConfig;
use super::error;
use super::link::{self, Login};
use crate::metrics::ORDERS;
use crate::orders::{Clients, OrderError};
use crate::sink::WriteError;

/// First and longest wait before listening again.
const WAITS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// A link that says nothing for this long is asked for a sign of life,
const QUIET: Duration = Duration::from_secs(15);

/// and is given up where none comes for this long.
const ANSWER: Duration = Duration::from_secs(10);

/// What a message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order {
    client: String,
    filter: String,
    /// Nothing to unsubscribe.
    subscribe: Option<QoS>,
}

/// Listens until it is dropped, over lost links and failovers. Messages that are published while nobody listens are lost: that is
/// how Redis's channels work.
pub(super) async fn listen(config: RedisConfig, channel: String, sink: String, clients: Arc<dyn Clients>) {
    let mut wait = WAITS.0;
    loop {
        let began = tokio::time::Instant::now();
        let why = match session(&config, &channel, &sink, &*clients).await {
            Ok(()) => "the link was closed".to_owned(),
            Err(error) => error.to_string(),
        };
        if began.elapsed() > WAITS.1 {
            wait = WAITS.0;
        }
        tracing::warn!(sink, channel, why, "subscribe and unsubscribe orders are not received: listening again soon");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(WAITS.1);
    }
}

async fn session(config: &RedisConfig, channel: &str, sink: &str, clients: &dyn Clients) -> Result<(), WriteError> {
    let master = tokio::time::timeout(ANSWER, link::master(config)).await;
    let (server, _) = master.map_err(|_| silent())??;
    let client = link::client(config, &server, Login::Pool).await?;
    let connect = async {
        let mut pubsub = client.get_async_pubsub().await?;
        pubsub.subscribe(channel).await?;
        Ok(pubsub)
    };
    let pubsub = tokio::time::timeout(ANSWER, connect).await.map_err(|_| silent())?.map_err(error::map)?;
    tracing::info!(sink, channel, %server, "listening for subscribe and unsubscribe orders");
    let (mut asking, mut messages) = pubsub.split();
    loop {
        match tokio::time::timeout(QUIET, messages.next()).await {
            Ok(Some(message)) => obey(message.get_payload_bytes(), sink, clients).await,
            Ok(None) => return Ok(()),
            Err(_) => {
                let alive = tokio::time::timeout(ANSWER, asking.ping::<redis::Value>()).await;
                alive.map_err(|_| silent())?.map_err(error::map)?;
            }
        }
    }
}

fn silent() -> WriteError {
    WriteError::Disconnected("no answer".into())
}

async fn obey(payload: &[u8], sink: &str, clients: &dyn Clients) {
    let count = |what: &'static str| {
        metrics::counter!(ORDERS, "sink" => sink.to_owned(), "what" => what).increment(1);
    };
    let order = match parse(payload) {
        Ok(order) => order,
        Err(why) => {
            count("invalid");
            let message = String::from_utf8_lossy(payload.get(..200).unwrap_or(payload)).into_owned();
            tracing::warn!(sink, why, message, "a message on the channel is no order");
            return;
        }
    };
    let Order { client, filter, subscribe } = order;
    let done = match subscribe {
        Some(qos) => clients.subscribe(&client, &filter, qos).await,
        None => clients.unsubscribe(&client, &filter).await,
    };
    match done {
        Ok(()) => count(if subscribe.is_some() { "subscribe" } else { "unsubscribe" }),
        Err(OrderError::NotConnected) => {
            count("offline");
            tracing::debug!(sink, client, filter, "an order for a client that is not connected here");
        }
        Err(OrderError::Invalid(why)) => {
            count("invalid");
            tracing::warn!(sink, client, filter, why, "an order can't be carried out");
        }
    }
}

fn parse(payload: &[u8]) -> Result<Order, String> {
    let json: Json = serde_json::from_slice(payload).map_err(|e| format!("it is not JSON: {e}"))?;
    let text = |name: &str| match json.get(name) {
        Some(Json::String(text)) if !text.is_empty() => Ok(text.clone()),
        Some(other) => Err(format!("`{name}` is {other}, expected a text")),
        None => Err(format!("it has no `{name}`")),
    };
    let (client, filter) = (text("clientid")?, text("topic")?);
    if let Err(why) = topic::check_filter(&filter) {
        return Err(format!("`topic` is no topic filter: {why}"));
    }
    let subscribe = match text("type")?.as_str() {
        "subscribe" => Some(qos(json.get("qos"))?),
        "unsubscribe" => None,
        other => return Err(format!("`type` is {other}, expected `subscribe` or `unsubscribe`")),
    };
    Ok(Order { client, filter, subscribe })
}

/// A number, or a number in a text as in the guide; 0 where absent.
fn qos(value: Option<&Json>) -> Result<QoS, String> {
    let number = match value {
        None => Some(0),
        Some(Json::Number(n)) => n.as_u64(),
        Some(Json::String(text)) => text.trim().parse().ok(),
        Some(_) => None,
    };
    let qos = number.and_then(|n| u8::try_from(n).ok()).and_then(QoS::from_u8);
    qos.ok_or_else(|| format!("`qos` is {}, expected 0, 1 or 2", value.unwrap_or(&Json::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guides_own_orders_are_understood() {
        let order = parse(br#"{"type": "subscribe", "topic": "topic0", "clientid": "test", "qos": "0"}"#);
        let expected = Order { client: "test".into(), filter: "topic0".into(), subscribe: Some(QoS::AtMostOnce) };
        assert_eq!(order, Ok(expected));
        let order = parse(br#"{"type": "unsubscribe", "topic": "test_topic0", "clientid": "test"}"#);
        assert_eq!(order, Ok(Order { client: "test".into(), filter: "test_topic0".into(), subscribe: None }));
        let order = parse(br#"{"type":"subscribe","topic":"a/#","clientid":"c","qos":2}"#);
        assert_eq!(order.map(|o| o.subscribe), Ok(Some(QoS::ExactlyOnce)));
    }

    #[test]
    fn everything_else_is_refused_with_its_reason() {
        for (text, why) in [
            ("subscribe", "not JSON"),
            ("[]", "no `clientid`"),
            (r#"{"type":"subscribe","topic":"a","clientid":""}"#, "`clientid` is"),
            (r#"{"type":"subscribe","topic":"a","clientid":7}"#, "`clientid` is 7"),
            (r#"{"type":"subscribe","topic":"a","clientid":"c","qos":3}"#, "`qos` is 3"),
            (r#"{"type":"subscribe","topic":"a","clientid":"c","qos":"x"}"#, "`qos` is"),
            (r#"{"type":"subscribe","topic":"a/#/b","clientid":"c"}"#, "no topic filter"),
            (r#"{"type":"kick","topic":"a","clientid":"c"}"#, "`type` is kick"),
        ] {
            let found = parse(text.as_bytes()).unwrap_err();
            assert!(found.contains(why), "{text}: {found}");
        }
    }
}
