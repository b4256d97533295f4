//! Settings of a Cassandra pool.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use scylla::statement::Consistency;

use super::tls;
use crate::rule::Pool;
use crate::sql::{BinaryPayload, SchemaMode, TlsFiles};

/// The port of a node that is written without one.
const PORT: u16 = 9042;

/// A Cassandra pool.
#[derive(Clone)]
pub struct CassandraConfig {
    /// Nodes to connect to first, `host:port`; the others are learnt from them.
    pub nodes: Vec<String>,
    /// Connections to each node, and batches under way at most (`size`).
    pub connections: NonZeroUsize,
    /// User name.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// TLS with these files; `None` = none. Connecting fails where the build has none (feature `cassandra-tls`).
    pub tls: Option<TlsFiles>,
    /// Keyspace, in small letters as Cassandra takes names without quotation marks.
    pub keyspace: String,
    /// How many replicas must have a write, and are asked for a read.
    pub consistency: Consistency,
    /// What becomes of payloads that a text column can't hold.
    pub binary_payload: BinaryPayload,
    /// What is done about a missing keyspace or missing tables.
    pub schema: SchemaMode,
    /// The node's name in the column `node`.
    pub node_name: String,
}

impl fmt::Debug for CassandraConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CassandraConfig")
            .field("nodes", &self.nodes)
            .field("keyspace", &self.keyspace)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl CassandraConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them.
    ///
    /// # Errors
    /// Where `keyspace` is none that Cassandra takes without quotation marks; where the pool asks for TLS that this build has not, or
    /// names a client's certificate without its key.
    pub fn from_pool(pool: &Pool, node_name: &str) -> Result<CassandraConfig, String> {
        let text = |name: &str| pool.value(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let keyspace = text("keyspace").unwrap_or_else(|| "mqtt".to_owned()).to_ascii_lowercase();
        if !is_keyspace(&keyspace) {
            return Err(format!(
                "pool {}: `{keyspace}` is no keyspace: a letter, then letters, digits and `_`, 48 characters at most",
                pool.name
            ));
        }
        let file = |name: &str| text(name).map(PathBuf::from);
        let tls = (pool.boolean("ssl") == Some(true)).then(|| TlsFiles {
            authority: file("cacertfile"),
            certificate: file("certfile"),
            key: file("keyfile"),
        });
        if let Some(files) = &tls {
            tls::usable(files).map_err(|why| format!("pool {}, `ssl = true`: {why}", pool.name))?;
        }
        let nodes = text("nodes").unwrap_or_else(|| "127.0.0.1".to_owned());
        let size = pool.integer("pool_size").and_then(|n| usize::try_from(n).ok()).and_then(NonZeroUsize::new);
        Ok(CassandraConfig {
            nodes: nodes.split(',').map(|node| with_port(node.trim())).collect(),
            connections: size.unwrap_or(NonZeroUsize::MIN),
            username: text("username"),
            password: text("password"),
            tls,
            keyspace,
            consistency: consistency(pool.value("consistency").unwrap_or_default()),
            binary_payload: match pool.value("binary_payload") {
                Some("base64") => BinaryPayload::Base64,
                Some("hex") => BinaryPayload::Hex,
                _ => BinaryPayload::Refuse,
            },
            schema: match pool.value("schema") {
                Some("verify") => SchemaMode::Verify,
                Some("off") => SchemaMode::Off,
                _ => SchemaMode::Create,
            },
            node_name: node_name.to_owned(),
        })
    }
}

fn is_keyspace(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 48
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`, with the port of Cassandra where there is none.
fn with_port(node: &str) -> String {
    let bare = node.rsplit_once(']').map_or_else(|| !node.contains(':'), |(_, rest)| rest.is_empty());
    if bare { format!("{node}:{PORT}") } else { node.to_owned() }
}

fn consistency(name: &str) -> Consistency {
    match name {
        "one" => Consistency::One,
        "two" => Consistency::Two,
        "three" => Consistency::Three,
        "quorum" => Consistency::Quorum,
        "all" => Consistency::All,
        "each_quorum" => Consistency::EachQuorum,
        "local_one" => Consistency::LocalOne,
        _ => Consistency::LocalQuorum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_a_port_and_keyspaces_a_plain_name() {
        for (node, full) in [
            ("a", "a:9042"),
            ("a:1", "a:1"),
            ("[::1]", "[::1]:9042"),
            ("[::1]:2", "[::1]:2"),
            ("10.0.0.1", "10.0.0.1:9042"),
        ] {
            assert_eq!(with_port(node), full);
        }
        for (name, good) in [("mqtt", true), ("a_1", true), ("1a", false), ("a-b", false), ("a\"", false), ("", false)]
        {
            assert_eq!(is_keyspace(name), good, "{name}");
        }
    }
}
