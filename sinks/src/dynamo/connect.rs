//! The client that all connections of a sink share, and what is known of the tables.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::{Credentials, StalledStreamProtectionConfig};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use parking_lot::Mutex as Lock;
use tokio::sync::{Mutex, OnceCell};

use super::config::DynamoConfig;
use super::error::Failure;
use super::lookup::Listing;
use super::map::Topics;
use super::schema;
use crate::sink::WriteError;

/// How long a connection may be in the making.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a client may be in the making, its tables included: DynamoDB takes some seconds for each.
const MAKING: Duration = Duration::from_secs(120);

/// Idle connections that are older are not used again.
const IDLE: Duration = Duration::from_secs(20);

/// Keys of `forebay_acked` that are remembered as stored.
const REMEMBERED: usize = 100_000;

/// DynamoDB as a sink. Clones share the client.
#[derive(Clone, Debug)]
pub struct DynamoSink {
    pub(super) config: Arc<DynamoConfig>,
    pub(super) shared: Arc<Shared>,
}

/// What is known, and outlives a client.
#[derive(Debug, Default)]
pub(super) struct Shared {
    slot: Mutex<Option<Arc<Link>>>,
    settings: OnceCell<SdkConfig>,
    /// The tables were looked at, and made.
    looked_at: AtomicBool,
    /// Items of other programs became records, at some time.
    pub(super) imports: AtomicBool,
    /// Something is to go at some time.
    pub(super) expires: AtomicBool,
    /// The items of `mqtt_topic_msg_map` by topic.
    pub(super) topics: Topics,
    /// Keys that `forebay_acked` has.
    pub(super) acked: Lock<HashSet<(String, String)>>,
}

/// A turn at the client.
#[derive(Debug)]
pub struct DynamoConn {
    pub(super) link: Arc<Link>,
    /// Positions of another epoch are those of before a reset.
    pub(super) epoch: Option<String>,
    /// What the last page of offline messages was cut from.
    pub(super) listing: Option<Listing>,
}

/// A client with connections of its own.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) client: Client,
    /// A table was not there: look again before the next batch.
    stale: AtomicBool,
    /// Given up: the next connect makes another client.
    broken: AtomicBool,
}

impl DynamoSink {
    /// A sink with these settings. Opens nothing.
    #[must_use]
    pub fn new(config: DynamoConfig) -> Self {
        DynamoSink { config: Arc::new(config), shared: Arc::default() }
    }

    /// Region, credentials, time limits; where the credentials are none of the pool's, what the environment, the profile or the machine
    /// says, asked when a request is signed.
    async fn settings(&self) -> SdkConfig {
        let config = &self.config;
        let load = || async {
            let mut loader = aws_config::defaults(BehaviorVersion::latest())
                .region(Region::new(config.region.clone()))
                .http_client(http_client())
                // What is sent again is the runtime's to decide, and each request has its deadline.
                .retry_config(RetryConfig::disabled())
                .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT).build())
                .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
            if let Some((id, secret)) = &config.credentials {
                loader = loader.credentials_provider(Credentials::new(&id.0, &secret.0, None, None, "the pool"));
            }
            loader.load().await
        };
        self.shared.settings.get_or_init(load).await.clone()
    }

    /// A client that has looked at nothing.
    pub(super) async fn client(&self) -> Client {
        let settings = self.settings().await;
        let mut builder = aws_sdk_dynamodb::config::Builder::from(&settings).http_client(http_client());
        if let Some(endpoint) = &self.config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        Client::from_conf(builder.build())
    }

    /// The client in use, or a new one where it was given up. It is made to its end though the caller gives up: the next one finds it.
    pub(super) async fn link(&self) -> Result<Arc<Link>, WriteError> {
        let sink = self.clone();
        let making = tokio::spawn(async move {
            let made = tokio::time::timeout(MAKING, sink.current()).await;
            made.unwrap_or_else(|_| Err(WriteError::Disconnected("no answer within 120 s".into())))
        });
        making.await.unwrap_or_else(|error| Err(WriteError::Disconnected(error.into())))
    }

    async fn current(&self) -> Result<Arc<Link>, WriteError> {
        let mut slot = self.shared.slot.lock().await;
        if let Some(link) = slot.as_ref().filter(|link| !link.broken.load(Ordering::Relaxed)) {
            let link = link.clone();
            drop(slot);
            return self.refresh(&link).await.map(|()| link);
        }
        let client = self.client().await;
        let link = Arc::new(Link { client, stale: AtomicBool::new(false), broken: AtomicBool::new(false) });
        if !self.shared.looked_at.load(Ordering::Relaxed) {
            self.look(&link).await?;
        }
        *slot = Some(link.clone());
        Ok(link)
    }

    async fn look(&self, link: &Link) -> Result<(), WriteError> {
        schema::prepare(&link.client, &self.config).await?;
        self.shared.forget();
        self.shared.imports.fetch_or(link.has_any("forebay_imported").await?, Ordering::Relaxed);
        self.shared.expires.fetch_or(link.has_any("forebay_expiry").await?, Ordering::Relaxed);
        self.shared.looked_at.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Looks at the tables again where one was missing.
    pub(super) async fn refresh(&self, link: &Link) -> Result<(), WriteError> {
        if !link.stale.load(Ordering::Relaxed) {
            return Ok(());
        }
        // One looks, for all.
        let _looking = self.shared.slot.lock().await;
        if link.stale.load(Ordering::Relaxed) {
            self.look(link).await?;
            link.stale.store(false, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl DynamoSink {
    /// True where items of other programs became records. Where none ever did, nothing needs to be asked about any.
    pub(super) fn has_imports(&self) -> bool {
        self.shared.imports.load(Ordering::Relaxed)
    }

    /// An item of another program has become a record.
    pub(super) fn imports(&self) {
        self.shared.imports.store(true, Ordering::Relaxed);
    }

    /// True where `forebay_acked` is known to have this key.
    pub(super) fn knows_acked(&self, client: &str, topic: &str) -> bool {
        self.shared.acked.lock().contains(&(client.to_owned(), topic.to_owned()))
    }
}

impl Shared {
    /// What was remembered of items is void.
    pub(super) fn forget(&self) {
        self.topics.forget();
        self.acked.lock().clear();
    }

    /// Takes note of a key that `forebay_acked` has.
    pub(super) fn has_acked(&self, client: &str, topic: &str) {
        let mut acked = self.acked.lock();
        if acked.len() >= REMEMBERED {
            acked.clear();
        }
        acked.insert((client.to_owned(), topic.to_owned()));
    }
}

/// Connections of its own, over rustls with ring.
fn http_client() -> aws_sdk_dynamodb::config::SharedHttpClient {
    aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .pool_idle_timeout(IDLE)
        .build_https()
}

impl Link {
    /// Takes note of what a failure says about the link or the tables.
    pub(super) fn noted(&self, failure: Failure) -> Failure {
        match &failure {
            Failure::Missing(_) => self.stale.store(true, Ordering::Relaxed),
            Failure::Other(WriteError::Disconnected(_)) => self.broken.store(true, Ordering::Relaxed),
            _ => {}
        }
        failure
    }

    /// Takes note that a call was given up before its answer.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch { link: self, answered: false }
    }
}

/// Dropped without an answer it gives the connections up: the service is silent, or the link is.
pub(super) struct Watch<'a> {
    link: &'a Link,
    answered: bool,
}

impl Watch<'_> {
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.link.broken.store(true, Ordering::Relaxed);
        }
    }
}
