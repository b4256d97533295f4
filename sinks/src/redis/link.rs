//! Connections: to one server, to the master that sentinels name, and what they are set up with.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ErrorKind, IntoConnectionInfo,
    ProtocolVersion, RedisConnectionInfo, TlsCertificates, Value, cmd,
};

use super::config::{Deployment, RedisConfig, Server, Tls};
use super::error;
use crate::sink::WriteError;

/// How long one server may take to be connected to, so that a dead one does not use up the deadline of all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a connection logs in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Login {
    /// As the pool says, in the pool's database.
    Pool,
    /// With the pool's password only (sentinels that have one).
    Password,
    /// Not at all (sentinels).
    None,
    /// Not at all; a database is asked for, so that a refusal has words.
    Probe,
}

/// The client of a server; connects nothing.
pub(super) async fn client(config: &RedisConfig, server: &Server, login: Login) -> Result<Client, WriteError> {
    let (host, port) = (server.host.clone(), server.port);
    let addr = match config.tls {
        None => ConnectionAddr::Tcp(host, port),
        Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
    };
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name().set_protocol(ProtocolVersion::RESP2);
    if login == Login::Pool {
        settings = settings.set_db(config.database);
        if let Some(username) = &config.username {
            settings = settings.set_username(username);
        }
    }
    if login == Login::Probe {
        settings = settings.set_db(config.database.max(1));
    }
    if let (Some(password), Login::Pool | Login::Password) = (&config.password, login) {
        settings = settings.set_password(&password.0);
    }
    let failed = |e: redis::RedisError| WriteError::busy(format!("connecting to {server}: {e}"));
    // A link that is given up, or whose process is killed, takes along what the server has not received: late commands would undo in a
    // cluster what was stored since.
    let tcp = TcpSettings::default().set_nodelay(true).set_linger_time(Duration::ZERO);
    let info = addr.into_connection_info().map_err(failed)?.set_redis_settings(settings).set_tcp_settings(tcp);
    match &config.tls {
        None => Client::open(info).map_err(failed),
        Some(tls) => {
            // Another part of the program may have chosen one before: any will do.
            let _chosen = rustls::crypto::ring::default_provider().install_default();
            Client::build_with_tls(info, certificates(tls).await?).map_err(failed)
        }
    }
}

async fn certificates(tls: &Tls) -> Result<TlsCertificates, WriteError> {
    let root_cert = match &tls.ca {
        Some(path) => Some(read("cacertfile", path).await?),
        None => None,
    };
    let client_tls = match &tls.client {
        Some((cert, key)) => {
            let (client_cert, client_key) = (read("certfile", cert).await?, read("keyfile", key).await?);
            Some(ClientTlsConfig { client_cert, client_key })
        }
        None => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

async fn read(setting: &str, path: &str) -> Result<Vec<u8>, WriteError> {
    tokio::fs::read(path).await.map_err(|e| WriteError::busy(format!("the pool's {setting} {path}: {e}")))
}

/// Connects to one server.
pub(super) async fn open(
    config: &RedisConfig,
    server: &Server,
    login: Login,
) -> Result<MultiplexedConnection, WriteError> {
    let client = client(config, server, login).await?;
    // Deadlines of requests are the runtime's.
    let setup = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT_TIMEOUT)).set_response_timeout(None);
    match client.get_multiplexed_async_connection_with_config(&setup).await {
        Ok(link) => Ok(link),
        Err(failed) => {
            let at = |cause: String| format!("{server}: {cause}");
            let full = failed.kind() == ErrorKind::AuthenticationFailed && is_full(config, server, &setup).await;
            let failed = if full { error::answered(error::FULL) } else { error::map(failed) };
            Err(match failed {
                WriteError::Busy { wait, cause } => WriteError::Busy { wait, cause: at(cause.to_string()).into() },
                other => WriteError::Disconnected(at(other.to_string()).into()),
            })
        }
    }
}

/// True where the server refuses every connection for want of room. The driver takes that answer for one to the login, and keeps its
/// words to itself.
async fn is_full(config: &RedisConfig, server: &Server, setup: &AsyncConnectionConfig) -> bool {
    let Ok(client) = client(config, server, Login::Probe).await else { return false };
    let refused = client.get_multiplexed_async_connection_with_config(setup).await.err();
    refused.is_some_and(|error| error.to_string().contains("max number of clients"))
}

/// Connects to the server that takes writes.
pub(super) async fn master(config: &RedisConfig) -> Result<(Server, MultiplexedConnection), WriteError> {
    let (server, mut link) = match &config.deployment {
        Deployment::Sentinel(name) => {
            let server = find_master(config, name).await?;
            let link = open(config, &server, Login::Pool).await?;
            (server, link)
        }
        _ => return first(config).await,
    };
    if role(&mut link).await?.as_deref() != Some("master") {
        return Err(WriteError::Disconnected(
            format!("{server} is no master yet, though the sentinels name it: a failover is under way").into(),
        ));
    }
    Ok((server, link))
}

/// The only server, or the first master among several.
async fn first(config: &RedisConfig) -> Result<(Server, MultiplexedConnection), WriteError> {
    let mut why = WriteError::busy("the pool names no server");
    for server in &config.servers {
        match open(config, server, Login::Pool).await {
            Ok(mut link) => {
                if config.servers.len() == 1 || role(&mut link).await?.as_deref() == Some("master") {
                    return Ok((server.clone(), link));
                }
                why = WriteError::busy(format!("{server} is a replica, and no other server of the pool is a master"));
            }
            Err(error) => why = error,
        }
    }
    Err(why)
}

/// What the server says it is; nothing where the user may not ask.
async fn role(link: &mut MultiplexedConnection) -> Result<Option<String>, WriteError> {
    match link.send_packed_command(&cmd("ROLE")).await {
        Ok(Value::Array(parts)) => Ok(parts.first().and_then(string)),
        Ok(other) => Err(error::unexpected("ROLE", &other)),
        Err(failed) if failed.code() == Some("NOPERM") => Ok(Some("master".to_owned())),
        Err(failed) => Err(error::map(failed)),
    }
}

/// Asks one sentinel after the other.
async fn find_master(config: &RedisConfig, name: &str) -> Result<Server, WriteError> {
    let mut ask = cmd("SENTINEL");
    ask.arg("get-master-addr-by-name").arg(name);
    let mut why = WriteError::busy("the pool names no sentinel");
    for sentinel in &config.servers {
        let answer = match asked(config, sentinel, Login::None, &ask).await {
            Err(error) if config.password.is_some() && error.to_string().contains("NOAUTH") => {
                asked(config, sentinel, Login::Password, &ask).await
            }
            other => other,
        };
        match answer {
            Ok(Value::Array(parts)) => {
                let port = parts.get(1).and_then(string).and_then(|p| p.parse().ok());
                if let (Some(host), Some(port)) = (parts.first().and_then(string), port) {
                    return Ok(Server { host, port });
                }
            }
            Ok(_) => why = WriteError::busy(format!("sentinel {sentinel} knows no master `{name}`")),
            Err(error) => why = WriteError::Disconnected(format!("sentinel {error}").into()),
        }
    }
    Err(why)
}

async fn asked(config: &RedisConfig, server: &Server, login: Login, ask: &Cmd) -> Result<Value, WriteError> {
    let mut link = open(config, server, login).await?;
    match tokio::time::timeout(CONNECT_TIMEOUT, link.send_packed_command(ask)).await {
        Ok(answer) => answer.map_err(error::map),
        Err(_) => Err(WriteError::Disconnected(format!("{server} does not answer").into())),
    }
}

/// A text of an answer.
pub(super) fn string(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        Value::Int(n) => Some(n.to_string()),
        _ => None,
    }
}

/// Fields and values of a hash.
pub(super) fn pairs(value: &Value) -> Vec<(&[u8], &[u8])> {
    let Value::Array(items) = value else { return Vec::new() };
    let (chunks, _) = items.as_chunks::<2>();
    chunks
        .iter()
        .filter_map(|[field, value]| match (field, value) {
            (Value::BulkString(field), Value::BulkString(value)) => Some((field.as_slice(), value.as_slice())),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::redis::RetainLayout;

    #[tokio::test]
    async fn what_the_server_has_not_received_goes_with_the_link() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = RedisConfig {
            servers: vec![Server { host: "127.0.0.1".into(), port }],
            deployment: Deployment::Single,
            connections: 1,
            database: 0,
            username: None,
            password: None,
            channel: None,
            retain: RetainLayout::Hash,
            tls: None,
            wait_replicas: 0,
            rewind: Duration::ZERO,
            node_name: "here".into(),
        };
        let link = open(&config, &config.servers[0], Login::Pool).await.unwrap();
        let (mut end, _) = listener.accept().await.unwrap();
        drop(link);
        // An orderly end would send what is left first, for minutes if it has to.
        let error = tokio::time::timeout(Duration::from_secs(20), end.read(&mut [0; 64])).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}
