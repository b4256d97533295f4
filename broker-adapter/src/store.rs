//! What the broker asks of the database side when a client comes online or subscribes.

use bytestring::ByteString;
use forebay_engine::QoS;
use futures_util::future::{BoxFuture, FutureExt};

/// The database side. Each call brings its own deadline: the broker waits as long as it takes.
pub trait Store: Send + Sync {
    /// The subscriptions the store holds for a client that has just come online (on_subscribe_lookup).
    fn proxy_subscriptions<'a>(&'a self, client: &'a str, username: &'a str) -> BoxFuture<'a, Vec<(ByteString, QoS)>>;

    /// Runs before a subscription takes effect: imports rows that other programs have put into the database, so that they
    /// are in the log when the subscription's cursor starts.
    fn before_subscribe<'a>(&'a self, client: &'a str, filter: &'a str) -> BoxFuture<'a, ()>;
}

/// No database: no proxy subscriptions, nothing to import.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

impl Store for NoStore {
    fn proxy_subscriptions<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Vec<(ByteString, QoS)>> {
        std::future::ready(Vec::new()).boxed()
    }

    fn before_subscribe<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, ()> {
        std::future::ready(()).boxed()
    }
}
