//! Settings of a Redis pool.

use std::fmt;
use std::time::Duration;

use crate::rule::Pool;

/// A Redis pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisConfig {
    /// Servers; sentinels with [`Deployment::Sentinel`], any nodes with [`Deployment::Cluster`].
    pub servers: Vec<Server>,
    /// Kind of deployment (`type`).
    pub deployment: Deployment,
    /// Connections (`pool_size`).
    pub connections: usize,
    /// Number of the database; a cluster has only 0.
    pub database: i64,
    /// User, for servers with access lists.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Channel with subscribe and unsubscribe orders; none with [`Deployment::Cluster`].
    pub channel: Option<String>,
    /// Shape of `mqtt:retain:${topic}`.
    pub retain: RetainLayout,
    /// TLS, where the pool has `ssl = true`.
    pub tls: Option<Tls>,
    /// Replicas that must have a batch before it counts as stored (`wait_replicas`).
    pub wait_replicas: u64,
    /// How far a cluster's sink goes back after a master was replaced (`rewind`).
    pub rewind: Duration,
    /// The node's name in `mqtt:node:${node}`.
    pub node_name: String,
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Server {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Kinds of deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deployment {
    /// One server; with several, the first that answers as a master.
    Single,
    /// Sentinels know which server is the master of this name.
    Sentinel(String),
    /// Slots over several masters.
    Cluster,
}

/// What `mqtt:retain:${topic}` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainLayout {
    /// A hash with the message's seven fields (the guide).
    Hash,
    /// A sorted set with the message's id; the fields are in `mqtt:msg:${msgid}` (the article).
    Zset,
}

/// Files for TLS, read at each connect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates that servers are checked against (PEM); the system's where absent.
    pub ca: Option<String>,
    /// The client's certificate and key (PEM), where the server asks for them.
    pub client: Option<(String, String)>,
}

/// A password: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Port of a Redis server that is written without one.
const PORT: u16 = 6379;

/// Port of a sentinel that is written without one.
const SENTINEL_PORT: u16 = 26379;

impl RedisConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them.
    #[must_use]
    pub fn from_pool(pool: &Pool, node_name: &str) -> RedisConfig {
        let text = |name: &str| pool.value(name).map(str::to_owned);
        let deployment = match pool.value("type") {
            Some("sentinel") => Deployment::Sentinel(text("sentinel").unwrap_or_default()),
            Some("cluster") => Deployment::Cluster,
            _ => Deployment::Single,
        };
        let port = if matches!(deployment, Deployment::Sentinel(_)) { SENTINEL_PORT } else { PORT };
        let servers = pool.value("server").unwrap_or_default().split(',').filter_map(|s| server(s.trim(), port));
        let cluster = deployment == Deployment::Cluster;
        RedisConfig {
            servers: servers.collect(),
            connections: pool.integer("pool_size").and_then(|n| usize::try_from(n).ok()).unwrap_or(8).max(1),
            database: if cluster {
                0
            } else {
                pool.integer("database").and_then(|n| i64::try_from(n).ok()).unwrap_or(0)
            },
            username: text("username"),
            password: text("password").map(Secret),
            channel: text("channel").filter(|_| !cluster),
            retain: if pool.value("retain_layout") == Some("zset") { RetainLayout::Zset } else { RetainLayout::Hash },
            tls: (pool.boolean("ssl") == Some(true))
                .then(|| Tls { ca: text("cacertfile"), client: text("certfile").zip(text("keyfile")) }),
            wait_replicas: pool.integer("wait_replicas").unwrap_or(0),
            rewind: pool.duration("rewind").unwrap_or_default(),
            deployment,
            node_name: node_name.to_owned(),
        }
    }
}

/// `host`, `host:port`, `[::1]:port`.
pub(super) fn server(text: &str, port: u16) -> Option<Server> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = rest.map_or(Some(port), |p| p.parse().ok())?;
    (!host.is_empty()).then(|| Server { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_the_port_of_their_kind() {
        let at = |text| server(text, 6379).map(|s| s.to_string());
        assert_eq!(at("10.0.0.1:7000").as_deref(), Some("10.0.0.1:7000"));
        assert_eq!(at("redis").as_deref(), Some("redis:6379"));
        assert_eq!(at("[::1]:7000").as_deref(), Some("[::1]:7000"));
        assert_eq!(at("[::1]").as_deref(), Some("[::1]:6379"));
        assert_eq!(at(":1"), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(format!("{:?}", Secret("hunter2".into())), "***");
    }
}
