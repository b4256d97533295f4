//! A sink's connection: one link, or one to each master of a cluster.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, Value};

use super::cluster::Cluster;
use super::config::{Deployment, RedisConfig};
use super::keys::Home;
use super::{error, link};
use crate::sink::WriteError;

/// A connection, and what it knows of the sink it serves.
#[derive(Debug)]
pub struct RedisConn {
    pub(super) links: Links,
    /// Keys of the sink and the epoch of its position, once the position was read.
    pub(super) home: Option<(Home, String)>,
    /// Name of the batch script on the server.
    pub(super) sha: String,
}

#[derive(Debug)]
pub(super) enum Links {
    One(One),
    Cluster(Cluster),
}

/// A link to one server.
pub(super) struct One(pub(super) MultiplexedConnection);

impl std::fmt::Debug for One {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("One")
    }
}

/// A command with the key that says where it runs.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) key: Vec<u8>,
    pub(super) cmd: Cmd,
}

impl Request {
    /// `name key`; arguments follow with [`Request::arg`].
    pub(super) fn new(name: &str, key: impl Into<Vec<u8>>) -> Request {
        let key = key.into();
        let mut cmd = redis::cmd(name);
        cmd.arg(&key);
        Request { key, cmd }
    }

    /// A short script over one key.
    pub(super) fn eval(source: &str, key: impl Into<Vec<u8>>) -> Request {
        let key = key.into();
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(source).arg(1).arg(&key);
        Request { key, cmd }
    }

    pub(super) fn arg(mut self, arg: impl redis::ToRedisArgs) -> Request {
        self.cmd.arg(arg);
        self
    }
}

impl RedisConn {
    pub(super) async fn open(config: &RedisConfig) -> Result<RedisConn, WriteError> {
        let links = match config.deployment {
            Deployment::Cluster => Links::Cluster(Cluster::open(config).await?),
            _ => Links::One(One(link::master(config).await?.1)),
        };
        Ok(RedisConn { links, home: None, sha: String::new() })
    }

    /// Runs commands, in order for each key; an answer each. Errors of single commands are answers
    /// ([`Value::ServerError`]); those of the link or the server as a whole are errors.
    pub(super) async fn run(&mut self, requests: &[Request]) -> Result<Vec<Value>, WriteError> {
        match &mut self.links {
            Links::One(One(link)) => pipelined(link, requests.iter().map(|r| &r.cmd)).await,
            Links::Cluster(cluster) => cluster.run(requests).await,
        }
    }

    /// As [`RedisConn::run`]; the first refusal is an error.
    pub(super) async fn ask(&mut self, requests: &[Request]) -> Result<Vec<Value>, WriteError> {
        let answers = self.run(requests).await?;
        match answers.iter().find_map(refusal) {
            Some(text) => Err(error::answered(&text)),
            None => Ok(answers),
        }
    }

    /// One command.
    pub(super) async fn one(&mut self, request: Request) -> Result<Value, WriteError> {
        Ok(self.ask(&[request]).await?.pop().unwrap_or_default())
    }
}

/// The words of a refusal.
pub(super) fn refusal(value: &Value) -> Option<String> {
    match value {
        Value::ServerError(refused) => Some(error::text(refused)),
        _ => None,
    }
}

/// Sends commands in one go.
pub(super) async fn pipelined<'a>(
    link: &mut MultiplexedConnection,
    commands: impl Iterator<Item = &'a Cmd>,
) -> Result<Vec<Value>, WriteError> {
    let mut pipeline = Pipeline::new();
    for command in commands {
        pipeline.add_command(command.clone());
    }
    let count = pipeline.len();
    if count == 0 {
        return Ok(Vec::new());
    }
    let answers = link.send_packed_commands(&pipeline, 0, count).await.map_err(error::map)?;
    if answers.len() != count {
        return Err(WriteError::Disconnected(format!("{} answers to {count} commands", answers.len()).into()));
    }
    Ok(answers)
}
