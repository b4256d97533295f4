//! Settings of a MongoDB pool.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::rule::Pool;

/// A MongoDB pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MongoConfig {
    /// Servers, `host:port`; with [`MongoConfig::srv_record`] one DNS name.
    pub servers: Vec<String>,
    /// Kind of deployment (`type`).
    pub deployment: Deployment,
    /// `server` is a DNS name whose SRV records name the servers.
    pub srv_record: bool,
    /// Connections (`pool_size`).
    pub connections: usize,
    /// Database.
    pub database: String,
    /// User.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Database that knows the user.
    pub auth_source: String,
    /// TLS, where the pool has `ssl = true`.
    pub tls: Option<Tls>,
    /// A batch counts as stored when a majority of the servers has it in its journal (`w_mode = safe`); otherwise when one has answered.
    pub safe: bool,
    /// Lookups may read from secondaries (`r_mode = slave_ok`).
    pub read_secondaries: bool,
    /// Batches and positions in transactions.
    pub transactions: Transactions,
    /// Missing collections and indexes are created.
    pub schema: SchemaMode,
    /// Servers this much slower than the nearest are not read.
    pub local_threshold: Duration,
    /// Time to connect to a server.
    pub connect_timeout: Duration,
    /// Time to find a server that can be used.
    pub selection_timeout: Duration,
    /// Time between checks of the servers.
    pub heartbeat: Duration,
    /// The node's name in `mqtt_client`.
    pub node_name: String,
}

/// Kinds of deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// This one server and no other, whatever it belongs to.
    Single,
    /// Whatever the servers say they are.
    Unknown,
    /// Routers (mongos) of a sharded cluster.
    Sharded,
    /// A replica set of this name.
    ReplicaSet(String),
}

/// Whether batches are transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transactions {
    /// Where the deployment has them: replica sets and sharded clusters.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What is done about missing collections and indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaMode {
    /// They are created.
    Create,
    /// They are an error that says what is missing.
    Verify,
    /// They are not looked for.
    Off,
}

/// Files for TLS, PEM, read when a connection is made for the first time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates that servers are checked against; the public authorities where absent.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key, where the server asks for them. They may be one file.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A password: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl MongoConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them.
    ///
    /// # Errors
    /// Where settings do not go together.
    pub fn from_pool(pool: &Pool, node_name: &str) -> Result<MongoConfig, String> {
        let text = |name: &str| pool.value(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let millis = |name: &str| Duration::from_millis(pool.integer(name).unwrap_or_default());
        let servers: Vec<String> =
            pool.value("server").unwrap_or_default().split(',').map(|s| s.trim().into()).collect();
        let deployment = match pool.value("type") {
            Some("unknown") => Deployment::Unknown,
            Some("sharded") => Deployment::Sharded,
            Some("rs") => Deployment::ReplicaSet(text("rs_set_name").unwrap_or_default()),
            _ => Deployment::Single,
        };
        let srv_record = pool.boolean("srv_record") == Some(true);
        if (deployment == Deployment::Single || srv_record) && servers.len() > 1 {
            let what = if srv_record { "srv_record = true" } else { "type = single" };
            return Err(format!(
                "pool {} names {} servers, and `{what}` takes one; for a replica set write `type = rs` and `rs_set_name`",
                pool.name,
                servers.len()
            ));
        }
        let (certificate, key) = (text("certfile"), text("keyfile"));
        let client = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            // One file may hold both.
            (Some(both), None) | (None, Some(both)) => Some((PathBuf::from(&both), PathBuf::from(both))),
            (None, None) => None,
        };
        Ok(MongoConfig {
            servers,
            deployment,
            srv_record,
            connections: pool.integer("pool_size").and_then(|n| usize::try_from(n).ok()).unwrap_or(8).max(1),
            database: text("database").unwrap_or_else(|| "mqtt".to_owned()),
            username: text("username"),
            password: text("password").map(Secret),
            auth_source: text("auth_source").unwrap_or_else(|| "admin".to_owned()),
            tls: (pool.boolean("ssl") == Some(true)).then(|| Tls { ca: text("cacertfile").map(PathBuf::from), client }),
            safe: pool.value("w_mode") != Some("unsafe"),
            read_secondaries: matches!(pool.value("r_mode"), Some("slave_ok" | "slaver_ok")),
            transactions: match pool.value("transactions") {
                Some("on") => Transactions::On,
                Some("off") => Transactions::Off,
                _ => Transactions::Auto,
            },
            schema: match pool.value("schema") {
                Some("verify") => SchemaMode::Verify,
                Some("off") => SchemaMode::Off,
                _ => SchemaMode::Create,
            },
            local_threshold: millis("topology.local_threshold_ms"),
            connect_timeout: millis("topology.connect_timeout_ms"),
            selection_timeout: millis("topology.server_selection_timeout_ms"),
            heartbeat: millis("topology.heartbeat_frequency_ms"),
            node_name: node_name.to_owned(),
        })
    }
}
