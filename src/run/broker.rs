//! The lines that know the broker.

use std::sync::Arc;
use std::time::Duration;

use forebay_broker_adapter::access::FileAccess;
use forebay_broker_adapter::{Broker, BrokerOptions, ListenerView, LiveBusKind, Operator, StartError, Store};
use forebay_engine::Engine;
use forebay_sinks::Clients;

use super::access;
use super::orders::Online;
use super::sinks::Waiting;
use crate::admin::status::ListenerStatus;
use crate::config::{ListenerSettings, Settings};
use crate::exit::{Exit, Failure};

/// The MQTT side of the server.
pub trait BrokerSide: Send + Sync {
    /// Its listeners, in the order of the settings.
    fn listeners(&self) -> Vec<ListenerStatus>;
    /// Open connections.
    fn connections(&self) -> u64;
    /// Its clients, for orders from the databases' channels.
    fn clients(&self) -> Arc<dyn Clients>;
    /// What operators do.
    fn operator(&self) -> Operator;
    /// Reads the files again that say who may do what. Waits for the disk.
    fn reload(&self);
    /// Closes the listener, tells clients that the server shuts down, and waits for them within the deadline.
    fn shutdown(&self, deadline: Duration) -> Waiting<'_>;
}

struct Running {
    broker: Broker,
    access: Arc<FileAccess>,
    /// Looks whether those files change.
    watch: tokio::task::AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

impl BrokerSide for Running {
    fn listeners(&self) -> Vec<ListenerStatus> {
        let status = |view: ListenerView| ListenerStatus {
            address: view.address,
            kind: view.kind.to_owned(),
            connections: view.connections as u64,
        };
        self.broker.listeners().into_iter().map(status).collect()
    }

    fn connections(&self) -> u64 {
        self.broker.stats().connections as u64
    }

    fn clients(&self) -> Arc<dyn Clients> {
        Arc::new(Online(self.broker.proxy()))
    }

    fn operator(&self) -> Operator {
        self.broker.operator()
    }

    fn reload(&self) {
        self.access.reload(true);
    }

    fn shutdown(&self, deadline: Duration) -> Waiting<'_> {
        Box::pin(async move {
            if !self.broker.shutdown(deadline).await {
                tracing::warn!("some connections did not end within the deadline and were cut");
            }
        })
    }
}

/// Starts the listeners.
///
/// # Errors
/// Where an address can't be listened on, or the users or rules file can't be read.
pub async fn start(
    engine: &Engine,
    settings: &Settings,
    store: Arc<dyn Store>,
) -> Result<Box<dyn BrokerSide>, Failure> {
    let mqtt = &settings.mqtt;
    let access = Arc::new(access::open(settings)?);
    let options = BrokerOptions {
        listeners: settings.ways_in().iter().map(ListenerSettings::options).collect(),
        max_packet_bytes: size(mqtt.packet_bytes_max),
        max_connections: size(mqtt.connections_max),
        receive_maximum: u16::try_from(mqtt.receive_maximum).unwrap_or(u16::MAX),
        send_window: u16::try_from(mqtt.send_maximum).unwrap_or(u16::MAX),
        connect_timeout: Duration::from_millis(settings.limits.connect_timeout_ms),
        live_queue: size(settings.limits.live_queue_messages_max),
        limits: settings.limits.limits(),
        session_expiry_max: u32::try_from(mqtt.session_expiry_s_max).unwrap_or(u32::MAX),
        max_keep_alive: u16::try_from(mqtt.keep_alive_s_max).ok().filter(|seconds| *seconds > 0),
        sent_topic_aliases: u16::try_from(mqtt.topic_aliases_sent).unwrap_or(u16::MAX),
        system_interval: Duration::from_secs(mqtt.sys_interval_s),
        live_bus: if mqtt.rumqttd_bus { LiveBusKind::Rumqttd } else { LiveBusKind::Trie },
        access: access.clone(),
        ..BrokerOptions::default()
    };
    match Broker::start(engine.clone(), options, store).await {
        Ok(broker) => {
            let watch = tokio::spawn(access.clone().watch()).abort_handle();
            Ok(Box::new(Running { broker, access, watch }))
        }
        Err(StartError::Bind { source, address, remedy }) if source.kind() == std::io::ErrorKind::AddrInUse => {
            Err(Failure::new(Exit::AddressInUse, format!("the MQTT address {address} is in use: {remedy}")))
        }
        Err(source) => Err(Failure::new(Exit::Failure, source.to_string())),
    }
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
