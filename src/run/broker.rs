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
    let access = Arc::new(access::open(settings)?);
    match Broker::start(engine.clone(), options(settings, access.clone()), store).await {
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

/// The broker's form of the settings.
fn options(settings: &Settings, access: Arc<FileAccess>) -> BrokerOptions {
    let mqtt = &settings.mqtt;
    BrokerOptions {
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
        access,
        ..BrokerOptions::default()
    }
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{fields, listener};

    fn options_of(settings: &Settings) -> BrokerOptions {
        options(settings, Arc::new(FileAccess::everybody()))
    }

    type Arrived = fn(&BrokerOptions) -> u64;

    /// Every number of `[mqtt]` and `[limits]`, a value that is not its default, and where it arrives.
    const NUMBERS: &[(&str, u64, Arrived)] = &[
        ("mqtt.packet_bytes_max", 70_001, |o| o.max_packet_bytes as u64),
        ("mqtt.connections_max", 70_002, |o| o.max_connections as u64),
        ("mqtt.receive_maximum", 3, |o| o.receive_maximum.into()),
        ("mqtt.send_maximum", 4, |o| o.send_window.into()),
        ("mqtt.session_expiry_s_max", 70_005, |o| o.session_expiry_max.into()),
        ("mqtt.keep_alive_s_max", 6, |o| o.max_keep_alive.map_or(0, u64::from)),
        ("mqtt.topic_aliases_sent", 7, |o| o.sent_topic_aliases.into()),
        ("mqtt.sys_interval_s", 8, |o| o.system_interval.as_secs()),
        ("limits.connect_timeout_ms", 1009, |o| o.connect_timeout.as_millis() as u64),
        ("limits.connections_per_address_max", 11, |o| o.limits.connections_per_address as u64),
        ("limits.connects_per_s_max", 12, |o| o.limits.connects_per_s),
        ("limits.connects_per_address_per_s_max", 13, |o| o.limits.connects_per_address_per_s),
        ("limits.client_id_bytes_max", 34, |o| o.limits.client_id_bytes as u64),
        ("limits.topic_bytes_max", 15, |o| o.limits.topic_bytes as u64),
        ("limits.topic_levels_max", 17, |o| o.limits.topic_levels as u64),
        ("limits.subscriptions_per_client_max", 18, |o| o.limits.subscriptions_per_client as u64),
        ("limits.messages_per_s_max", 19, |o| o.limits.messages_per_s),
        ("limits.bytes_per_s_max", 20, |o| o.limits.bytes_per_s),
        ("limits.live_queue_messages_max", 21, |o| o.live_queue as u64),
        ("limits.live_queue_bytes_max", 70_022, |o| o.limits.live_queue_bytes as u64),
    ];

    #[test]
    fn every_number_arrives_in_the_broker_s_options_where_it_belongs() {
        let default = options_of(&Settings::default());
        for (key, value, _) in NUMBERS {
            let mut settings = Settings::default();
            fields::by_key(key).unwrap().set_number(&mut settings, *value).unwrap();
            let options = options_of(&settings);
            for (other, _, arrived) in NUMBERS {
                let before = arrived(&default);
                assert_ne!(before, *value, "{key}: the value is no default");
                let expected = if other == key { *value } else { before };
                assert_eq!(arrived(&options), expected, "{other}, when {key} is {value}");
            }
        }
    }

    #[test]
    fn the_listener_and_the_bus_arrive_and_nothing_of_mqtt_and_limits_is_forgotten_here() {
        let mut settings = Settings::default();
        for (key, text) in [("mqtt.listen", "127.0.0.1:7"), ("mqtt.live_bus", "rumqttd")] {
            fields::by_key(key).unwrap().set_text(&mut settings, text, Path::new("")).unwrap();
        }
        let options = options_of(&settings);
        assert_eq!(options.listeners.iter().map(|l| l.address.to_string()).collect::<Vec<_>>(), ["127.0.0.1:7"]);
        assert_eq!(options.live_bus, LiveBusKind::Rumqttd);
        assert_eq!(options_of(&Settings::default()).live_bus, LiveBusKind::Trie);
        let words = ["mqtt.listen", "mqtt.live_bus"];
        for field in fields::FIELDS.iter().filter(|f| f.key.starts_with("mqtt.") || f.key.starts_with("limits.")) {
            let is_tried = words.contains(&field.key) || NUMBERS.iter().any(|(key, ..)| *key == field.key);
            assert!(is_tried, "{} has no row in this test", field.key);
        }
    }

    #[test]
    fn every_setting_of_a_listener_changes_an_option_of_its_own() {
        let set = |listener: &mut ListenerSettings, key: &str, text: &str| {
            let field = listener::FIELDS.iter().find(|field| field.key == key).unwrap();
            field.set_text(listener, text, Path::new("/base")).unwrap();
        };
        let mut base = ListenerSettings::plain("127.0.0.1:1".parse().unwrap());
        for (key, text) in [
            ("kind", "wss"),
            ("certificate_file", "c"),
            ("key_file", "k"),
            ("client_certificate", "required"),
            ("client_ca_file", "a"),
        ] {
            set(&mut base, key, text);
        }
        let options_with = |listener: &ListenerSettings| {
            let settings = Settings { listeners: vec![listener.clone()], ..Settings::default() };
            let mut options = options_of(&settings);
            assert_eq!(options.listeners.len(), 1);
            options.listeners.remove(0)
        };
        let mut seen = vec![format!("{:?}", options_with(&base))];
        for field in listener::FIELDS {
            let (text, arrives) = match field.key {
                "listen" => ("127.0.0.1:2", "address: 127.0.0.1:2"),
                "kind" => ("tls", "websocket: None"),
                "path" => ("/p", "path: Some(\"/p\")"),
                "certificate_file" => ("c2", "certificate_file: \"/base/c2\""),
                "key_file" => ("k2", "key_file: \"/base/k2\""),
                "client_certificate" => ("optional", "required: false"),
                "client_ca_file" => ("a2", "ca_file: \"/base/a2\""),
                "user_from" => ("san_uri", "user_from: Some(SanUri)"),
                "proxy_protocol" => ("true", "proxy_protocol: true"),
                "connections_max" => ("77", "max_connections: Some(77)"),
                "anonymous" => ("false", "anonymous: Some(false)"),
                key => panic!("{key} has no row in this test"),
            };
            let mut listener = base.clone();
            set(&mut listener, field.key, text);
            let options = format!("{:?}", options_with(&listener));
            assert!(options.contains(arrives) && !seen[0].contains(arrives), "{}: {options}", field.key);
            assert!(!seen.contains(&options));
            seen.push(options);
        }
    }
}
