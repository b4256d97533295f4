//! Settings that pools of MySQL and PostgreSQL have alike.

use std::fmt;
use std::path::PathBuf;

use crate::rule::Pool;

/// A server with its login, and how its tables are treated.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User name; `None` = the driver's default.
    pub username: Option<String>,
    /// Password.
    pub password: Option<String>,
    /// Database.
    pub database: String,
    /// TLS with these files; `None` = none.
    pub tls: Option<TlsFiles>,
    /// Connections (`pool_size`).
    pub connections: usize,
    /// What becomes of payloads that a text column can't hold.
    pub binary_payload: BinaryPayload,
    /// What is done about missing tables.
    pub schema: SchemaMode,
    /// Statements stay prepared in a connection.
    pub statement_cache: bool,
    /// The node's name in the `node` columns.
    pub node_name: String,
}

/// Files of a TLS connection, PEM. The server's certificate and name are always checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// What servers are checked against; `None` = the public authorities.
    pub authority: Option<PathBuf>,
    /// The client's certificate.
    pub certificate: Option<PathBuf>,
    /// The client's key.
    pub key: Option<PathBuf>,
}

/// What becomes of payloads that a text column can't hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BinaryPayload {
    /// They go to the dead letters.
    #[default]
    Refuse,
    /// They are stored in base64 (with padding).
    Base64,
    /// They are stored as lower-case hexadecimal digits.
    Hex,
}

/// What is done about missing tables and indexes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchemaMode {
    /// They are created.
    #[default]
    Create,
    /// They are an error that says what is missing.
    Verify,
    /// They are not looked for.
    Off,
}

impl fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerConfig")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("database", &self.database)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl ServerConfig {
    /// The settings of a pool, as [rules](crate::rule) have checked them.
    ///
    /// # Errors
    /// Where `server` names several: these databases have one.
    pub fn from_pool(pool: &Pool, default_port: u16, node_name: &str) -> Result<ServerConfig, String> {
        let text = |name: &str| pool.value(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let server = text("server").unwrap_or_else(|| "127.0.0.1".to_owned());
        if server.contains(',') {
            return Err(format!(
                "pool {} names several servers (`{server}`): give the one that takes writes, or a proxy in front of them",
                pool.name
            ));
        }
        let (host, port) = host_and_port(server.trim());
        let file = |name: &str| text(name).map(PathBuf::from);
        let tls = (pool.boolean("ssl") == Some(true)).then(|| TlsFiles {
            authority: file("cacertfile"),
            certificate: file("certfile"),
            key: file("keyfile"),
        });
        Ok(ServerConfig {
            host,
            port: port.unwrap_or(default_port),
            username: text("username"),
            password: text("password"),
            database: text("database").unwrap_or_else(|| "mqtt".to_owned()),
            tls,
            connections: pool.integer("pool_size").and_then(|n| usize::try_from(n).ok()).unwrap_or(8).max(1),
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
            statement_cache: pool.value("statement_cache") != Some("off"),
            node_name: node_name.to_owned(),
        })
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`.
fn host_and_port(server: &str) -> (String, Option<u16>) {
    let (host, port) = match server.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
    };
    (host.to_owned(), port.and_then(|port| port.parse().ok()))
}

impl BinaryPayload {
    /// Bytes as text; `None` where they are to be refused.
    pub(crate) fn text(self, bytes: &[u8]) -> Option<String> {
        match self {
            BinaryPayload::Refuse => None,
            BinaryPayload::Base64 => Some(base64(bytes)),
            BinaryPayload::Hex => Some(bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()),
        }
    }
}

fn digit(nibble: u8) -> char {
    char::from_digit(u32::from(nibble), 16).unwrap_or('0')
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| (word << 8) | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let six = usize::try_from(word >> (18 - 6 * place) & 63).unwrap_or(0);
            let letter = ALPHABET.get(six).copied().unwrap_or(b'=');
            text.push(if place as usize > chunk.len() { '=' } else { char::from(letter) });
        }
    }
    text
}

#[cfg(test)]
impl ServerConfig {
    /// A test server's address with another database.
    pub(crate) fn of_url(url: &str, database: &str) -> ServerConfig {
        let rest = url.split_once("://").unwrap().1;
        let (login, place) = rest.split_once('@').unwrap();
        let (user, password) = login.split_once(':').unwrap();
        let (host, port) = host_and_port(place.split('/').next().unwrap());
        ServerConfig {
            host,
            port: port.unwrap(),
            username: Some(user.to_owned()),
            password: Some(password.to_owned()),
            database: database.to_owned(),
            tls: None,
            connections: 1,
            binary_payload: BinaryPayload::Refuse,
            schema: SchemaMode::Create,
            statement_cache: true,
            node_name: "n".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_text_as_asked() {
        for (bytes, base64) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
            (b"\xff\xfe", "//4="),
        ] {
            assert_eq!(BinaryPayload::Base64.text(bytes).as_deref(), Some(base64));
        }
        assert_eq!(BinaryPayload::Hex.text(b"\x00\xab").as_deref(), Some("00ab"));
        assert_eq!(BinaryPayload::Refuse.text(b"x"), None);
    }

    #[test]
    fn servers_are_hosts_with_or_without_a_port() {
        for (server, host, port) in
            [("a", "a", None), ("a:1", "a", Some(1)), ("[::1]:2", "::1", Some(2)), ("[::1]", "::1", None)]
        {
            assert_eq!(host_and_port(server), (host.to_owned(), port));
        }
    }
}
