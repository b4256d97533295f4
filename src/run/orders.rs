//! Orders from a database's channel, carried out by the broker.

use forebay_broker_adapter::{Proxy, ProxyError};
use forebay_engine::QoS;
use forebay_sinks::source::BoxFuture;
use forebay_sinks::{Clients, OrderError};

/// The broker's clients as the sinks see them.
pub struct Online(pub Proxy);

impl Clients for Online {
    fn subscribe<'a>(&'a self, client: &'a str, filter: &'a str, qos: QoS) -> BoxFuture<'a, Result<(), OrderError>> {
        Box::pin(async move { self.0.subscribe_for(client, filter, qos).await.map_err(refused) })
    }

    fn unsubscribe<'a>(&'a self, client: &'a str, filter: &'a str) -> BoxFuture<'a, Result<(), OrderError>> {
        Box::pin(async move { self.0.unsubscribe_for(client, filter).await.map_err(refused) })
    }
}

fn refused(error: ProxyError) -> OrderError {
    match error {
        ProxyError::NotConnected(_) => OrderError::NotConnected,
        ProxyError::Filter { .. } => OrderError::Invalid(error.to_string()),
    }
}
