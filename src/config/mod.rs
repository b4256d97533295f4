//! Settings: what they are, where they come from, and what is wrong with them.
//!
//! Every setting is described once, in [`fields::FIELDS`]; the file, the environment, the command line and the test of
//! `docs/CONFIG.md` all go by that table. A later source wins over an earlier one: default, file, environment, command line.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub mod fault;
pub mod fields;
pub mod file;
pub mod limits;
pub mod listener;
pub mod load;
pub mod node;

pub use limits::LimitSettings;
pub use listener::ListenerSettings;
pub use load::{Overrides, load};

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Data folder.
    pub data: PathBuf,
    /// EMQ X `.conf` files with rules and pools.
    pub backends: Vec<PathBuf>,
    /// Name and number of this node.
    pub node: NodeSettings,
    /// The plain MQTT listener, and limits of MQTT.
    pub mqtt: MqttSettings,
    /// The listeners that have a table of their own.
    pub listeners: Vec<ListenerSettings>,
    /// What single clients and addresses may use.
    pub limits: LimitSettings,
    /// Who may connect, and what he may do.
    pub access: AccessSettings,
    /// The admin HTTP listener.
    pub admin: AdminSettings,
    /// The log.
    pub log: LogSettings,
    /// Queues.
    pub queue: QueueSettings,
    /// What is kept for clients that are away.
    pub session: SessionSettings,
    /// The database sinks.
    pub sinks: SinkSettings,
    /// When `/ready` says no.
    pub ready: ReadySettings,
    /// Longest orderly shutdown, seconds.
    pub shutdown_deadline_s: u64,
    /// Messages of the program itself.
    pub messages: MessageSettings,
}

/// Who this node is.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// The name in `mqtt_client.node` and its like.
    pub name: String,
    /// The number in msgids, 0..=65535; `None` = derived from the name once and kept in the data folder.
    pub number: Option<u64>,
}

/// The plain MQTT listener, and limits of MQTT.
#[derive(Clone, Debug)]
pub struct MqttSettings {
    /// Where to listen; `None` = at [`MQTT_LISTEN`], unless listeners have tables of their own.
    pub listen: Option<SocketAddr>,
    /// Largest packet taken, bytes.
    pub packet_bytes_max: u64,
    /// Connections at a time.
    pub connections_max: u64,
    /// QoS 1 and 2 publishes of one client that may wait for their acknowledgement.
    pub receive_maximum: u64,
    /// QoS 1 and 2 messages on their way to one client, unless it asks for fewer.
    pub send_maximum: u64,
    /// Longest session expiry granted, seconds.
    pub session_expiry_s_max: u64,
    /// Longest keep alive granted, seconds; 0 = no limit.
    pub keep_alive_s_max: u64,
    /// Topic aliases sent to one client at most; 0 = none.
    pub topic_aliases_sent: u64,
    /// Time between two reports in `$SYS`, seconds; 0 = none.
    pub sys_interval_s: u64,
    /// What carries messages that are not waited for (QoS 0): false = our own matcher, true = rumqttd's router.
    pub rumqttd_bus: bool,
}

/// The admin HTTP listener.
#[derive(Clone, Debug)]
pub struct AdminSettings {
    /// Where to listen.
    pub listen: SocketAddr,
    /// What requests must carry as `Authorization: Bearer …`; needed where the address is not a loopback one.
    pub token: Option<Secret>,
}

/// The log.
#[derive(Clone, Debug)]
pub struct LogSettings {
    /// Size of a segment, bytes.
    pub segment_bytes: u64,
    /// When an acknowledgement may be sent.
    pub durability: Durability,
    /// Time between two syncs with [`Durability::Every`], milliseconds.
    pub sync_interval_ms: u64,
    /// Records waiting for the disk, bytes; publishers wait beyond it.
    pub queue_bytes_max: u64,
    /// Newest records kept in memory, bytes: readers that keep up never read the disk.
    pub tail_cache_bytes: u64,
    /// What a damaged last segment means for a start: false = refuse, true = keep a copy of the file and go on with what reads.
    pub quarantine: bool,
    /// Records that nobody needs any more are kept this long, seconds.
    pub retention_age_s: u64,
    /// While the log is smaller than this, nothing is removed for its size, bytes.
    pub retention_bytes: u64,
    /// What the log, its spare segments and the state beside it may take, bytes; none = what the disk has.
    pub disk_budget_bytes: Option<u64>,
    /// What happens to a sink that lags while there is no room: false = the log waits for it, true = the oldest segment goes.
    pub drop_oldest: bool,
}

/// Bounds of one-to-one queues. Beyond them the oldest messages are dropped, and counted.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// Most messages owed by the queue of one topic, or by the group of one shared subscription; 0 = any number.
    pub messages_max: u64,
    /// Most bytes (topics and payloads) owed by the queue of one topic; 0 = any number.
    pub bytes_max: u64,
}

/// Bounds of what is kept for clients that are away. Beyond them the oldest is dropped, and counted.
#[derive(Clone, Debug)]
pub struct SessionSettings {
    /// Most messages of one session's backlog that are kept beyond retention; 0 = any number.
    pub backlog_messages_max: u64,
    /// Most bytes of records of one session's backlog that are kept beyond retention; 0 = any number.
    pub backlog_bytes_max: u64,
    /// Most read positions of one rule filter whose clients are away; 0 = any number.
    pub idle_cursors_max: u64,
}

/// Who may connect, and what he may do.
#[derive(Clone, Debug)]
pub struct AccessSettings {
    /// The users file.
    pub users: Option<PathBuf>,
    /// The file of rules.
    pub acl: Option<PathBuf>,
    /// Whether what no rule decides is allowed.
    pub acl_default_allow: bool,
    /// Whether clients that show no credentials are let in.
    pub anonymous: Anonymous,
    /// Users whose verified password is remembered; 0 = none.
    pub remembered_max: u64,
    /// Passwords hashed at a time; 0 = half of the processors.
    pub hashes_at_once: u64,
    /// Longest wait of an attempt after failed ones, milliseconds; 0 = none waits.
    pub failure_delay_ms_max: u64,
}

/// Whether clients that show no credentials are let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anonymous {
    /// Where there is no users file.
    Auto,
    /// Yes.
    Yes,
    /// No.
    No,
}

impl AccessSettings {
    /// Whether a listener that does not say otherwise lets in clients that show no credentials.
    pub fn lets_anonymous_in(&self) -> bool {
        match self.anonymous {
            Anonymous::Auto => self.users.is_none(),
            Anonymous::Yes => true,
            Anonymous::No => false,
        }
    }
}

/// What an acknowledgement means for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// `fdatasync` has returned.
    Synced,
    /// Written; a sync follows within `sync_interval_ms`. Not durable.
    Every,
    /// Handed to the operating system. Not durable.
    Buffered,
}

/// The database sinks.
#[derive(Clone, Debug)]
pub struct SinkSettings {
    /// False: no database is written to or asked. What the rules log is logged and delivered all the same.
    pub enabled: bool,
    /// How long a subscriber may wait for a database's answer, milliseconds.
    pub lookup_deadline_ms: u64,
    /// A request that a database does not answer within this time counts as failed, milliseconds.
    pub request_deadline_ms: u64,
    /// Operations of one sink in memory, bytes.
    pub memory_bytes_max: u64,
    /// How long a batch may wait to fill, milliseconds.
    pub batch_age_ms: u64,
}

/// When the server calls itself ready.
#[derive(Clone, Debug)]
pub struct ReadySettings {
    /// Most records a sink may lag behind; 0 = lag does not matter.
    pub sink_lag_records_max: u64,
}

/// Messages of the program itself, on stderr.
#[derive(Clone, Debug)]
pub struct MessageSettings {
    /// Their form.
    pub format: MessageFormat,
    /// Which of them, in the syntax of `RUST_LOG`.
    pub filter: String,
}

/// The form of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Where the plain MQTT listener is by default.
pub const MQTT_LISTEN: SocketAddr = loopback(1883);

const MIB: u64 = 1024 * 1024;

impl Settings {
    /// All listeners: the plain one where it is set or there is no other, then those of the tables.
    pub fn ways_in(&self) -> Vec<ListenerSettings> {
        let plain = self.mqtt.listen.or(self.listeners.is_empty().then_some(MQTT_LISTEN));
        plain.map(ListenerSettings::plain).into_iter().chain(self.listeners.iter().cloned()).collect()
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            data: PathBuf::from("forebay-data"),
            backends: Vec::new(),
            node: NodeSettings { name: node::default_name(), number: None },
            mqtt: MqttSettings {
                listen: None,
                packet_bytes_max: MIB,
                connections_max: 100_000,
                receive_maximum: 1024,
                send_maximum: 1024,
                session_expiry_s_max: u64::from(u32::MAX),
                keep_alive_s_max: 0,
                topic_aliases_sent: 16,
                sys_interval_s: 10,
                rumqttd_bus: false,
            },
            listeners: Vec::new(),
            limits: LimitSettings::default(),
            access: AccessSettings {
                users: None,
                acl: None,
                acl_default_allow: false,
                anonymous: Anonymous::Auto,
                remembered_max: 10_000,
                hashes_at_once: 0,
                failure_delay_ms_max: 5000,
            },
            admin: AdminSettings { listen: loopback(18830), token: None },
            log: LogSettings {
                segment_bytes: 64 * MIB,
                durability: Durability::Synced,
                sync_interval_ms: 100,
                queue_bytes_max: 64 * MIB,
                tail_cache_bytes: 32 * MIB,
                quarantine: false,
                retention_age_s: 7 * 24 * 3600,
                retention_bytes: 10 * 1024 * MIB,
                disk_budget_bytes: None,
                drop_oldest: false,
            },
            queue: QueueSettings { messages_max: 1_000_000, bytes_max: 1024 * MIB },
            session: SessionSettings {
                backlog_messages_max: 100_000,
                backlog_bytes_max: 256 * MIB,
                idle_cursors_max: 1_000_000,
            },
            sinks: SinkSettings {
                enabled: true,
                lookup_deadline_ms: 250,
                request_deadline_ms: 30_000,
                memory_bytes_max: 32 * MIB,
                batch_age_ms: 5,
            },
            ready: ReadySettings { sink_lag_records_max: 0 },
            shutdown_deadline_s: 30,
            messages: MessageSettings { format: MessageFormat::Text, filter: "info".into() },
        }
    }
}
