//! Orders that other programs send through a database's channel: subscribe or unsubscribe a client that is online.

use std::fmt;
use std::sync::Arc;

use forebay_engine::QoS;

use crate::source::BoxFuture;

/// The broker's clients, as sinks may change them. The program gives it to [`crate::Sinks::obey`].
pub trait Clients: Send + Sync + 'static {
    /// Subscribes a client that is online; when it returns the subscription is durable and in effect.
    fn subscribe<'a>(&'a self, client: &'a str, filter: &'a str, qos: QoS) -> BoxFuture<'a, Result<(), OrderError>>;
    /// Ends a subscription of a client that is online; when it returns that is durable and in effect.
    fn unsubscribe<'a>(&'a self, client: &'a str, filter: &'a str) -> BoxFuture<'a, Result<(), OrderError>>;
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The client is not online here: another node may have it, or nobody.
    #[error("the client is not connected here")]
    NotConnected,
    /// The order can't be carried out for any client.
    #[error("{0}")]
    Invalid(String),
}

/// What listens on a pool's channel until it is dropped; nothing where there is no channel.
pub(crate) type Listen = Box<dyn Fn(Arc<dyn Clients>) -> Option<BoxFuture<'static, ()>> + Send + Sync>;

/// The listeners of all pools.
#[derive(Default)]
pub(crate) struct Listeners(pub(crate) Vec<Listen>);

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&self.0.len()).finish()
    }
}
