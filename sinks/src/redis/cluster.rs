//! A cluster: who has which slot, links to all masters, redirects.

use std::collections::HashSet;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value, cmd};

use super::config::{RedisConfig, Server, server};
use super::conn::{Request, pipelined, refusal};
use super::keys::{SLOTS, slot};
use super::link::{self, Login, string};
use super::{error, keys};
use crate::sink::WriteError;

/// Redirects of one command at most.
const REDIRECTS: usize = 4;

/// Links to all masters of a cluster, as it was when they were opened.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    /// Slot -> index of its node; `u16::MAX` where nobody has it.
    owners: Vec<u16>,
    /// The cluster's configuration epoch; a failover raises it.
    epoch: u64,
}

struct Node {
    server: Server,
    link: MultiplexedConnection,
    /// Its replication id: another one after a restart or a failover.
    replid: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("masters", &self.nodes.len())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Asks the pool's servers for the slots until one knows, and connects to every master.
    pub(super) async fn open(config: &RedisConfig) -> Result<Cluster, WriteError> {
        let mut why = WriteError::busy("the pool names no server");
        for known in &config.servers {
            match Cluster::by(config, known).await {
                Ok(cluster) => return Ok(cluster),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    async fn by(config: &RedisConfig, known: &Server) -> Result<Cluster, WriteError> {
        let mut first = link::open(config, known, Login::Pool).await?;
        let mut ask = cmd("CLUSTER");
        ask.arg("SLOTS");
        let slots = first.send_packed_command(&ask).await.map_err(error::map)?;
        let mut cluster = Cluster { nodes: Vec::new(), owners: vec![u16::MAX; SLOTS], epoch: 0 };
        for (from, to, at) in ranges(&slots, known) {
            let index = match cluster.nodes.iter().position(|n| n.server == at) {
                Some(index) => index,
                None => {
                    let mut link = link::open(config, &at, Login::Pool).await?;
                    let replid = replication_id(&mut link).await?;
                    cluster.nodes.push(Node { server: at, link, replid });
                    cluster.nodes.len() - 1
                }
            };
            for owner in cluster.owners.iter_mut().take(to + 1).skip(from) {
                *owner = u16::try_from(index).unwrap_or(u16::MAX);
            }
        }
        if cluster.nodes.is_empty() {
            return Err(WriteError::busy(format!("{known} is in no cluster, or its cluster has no slots yet")));
        }
        cluster.epoch = cluster.epochs().await?;
        Ok(cluster)
    }

    /// Who the masters are: changes when one restarts or is replaced.
    pub(super) fn masters(&self) -> String {
        let mut ids: Vec<&str> = self.nodes.iter().map(|n| n.replid.as_str()).collect();
        ids.sort_unstable();
        ids.join(",")
    }

    /// True where a master that was not among these before has nothing at all: it was restarted without its data.
    pub(super) async fn came_back_empty(&mut self, before: &HashSet<&str>) -> Result<bool, WriteError> {
        for node in self.nodes.iter_mut().filter(|n| !before.contains(n.replid.as_str())) {
            if node.link.send_packed_command(&cmd("DBSIZE")).await.map_err(error::map)? == Value::Int(0) {
                tracing::warn!(server = %node.server, "a master of the cluster has come back empty");
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The cluster's epoch; an error where a master is gone, no longer one, or sees no majority.
    async fn epochs(&mut self) -> Result<u64, WriteError> {
        let mut ask = cmd("CLUSTER");
        ask.arg("INFO");
        let asked = self.nodes.iter_mut().map(|node| {
            let ask = &ask;
            async move { (node.server.clone(), node.link.send_packed_command(ask).await) }
        });
        let mut highest = 0;
        for (server, answer) in futures_util::future::join_all(asked).await {
            let text = string(&answer.map_err(error::map)?).unwrap_or_default();
            let field =
                |name: &str| text.lines().find_map(|line| line.trim_end().strip_prefix(name).map(str::to_owned));
            if field("cluster_state:").as_deref() != Some("ok") {
                return Err(error::answered(&format!("CLUSTERDOWN {server} says the cluster is down")));
            }
            highest = highest.max(field("cluster_current_epoch:").and_then(|e| e.parse().ok()).unwrap_or(0));
        }
        Ok(highest)
    }

    /// Asks every master whether anything has changed since the links were opened. What was written before this answer went to
    /// those that are still masters.
    pub(super) async fn unchanged(&mut self) -> Result<(), WriteError> {
        let epoch = self.epochs().await?;
        if epoch == self.epoch {
            return Ok(());
        }
        let why = format!("the cluster's masters have changed (epoch {} to {epoch}): connecting anew", self.epoch);
        Err(WriteError::Disconnected(why.into()))
    }

    /// Sends `WAIT` to every master; its answers.
    pub(super) async fn wait(&mut self, replicas: u64, ms: u64) -> Result<Vec<Value>, WriteError> {
        let mut wait = cmd("WAIT");
        wait.arg(replicas).arg(ms);
        let asked = self.nodes.iter_mut().map(|node| {
            let wait = &wait;
            async move { node.link.send_packed_command(wait).await }
        });
        let answers = futures_util::future::join_all(asked).await;
        answers.into_iter().map(|a| a.map_err(error::map)).collect()
    }

    /// Runs commands on their slots' masters, all at once, those of one master in order.
    pub(super) async fn run(&mut self, requests: &[Request]) -> Result<Vec<Value>, WriteError> {
        let mut answers: Vec<Value> = vec![Value::Nil; requests.len()];
        let mut queues: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
        for (index, request) in requests.iter().enumerate() {
            let slot = slot(&request.key);
            let owner = self.owners.get(usize::from(slot)).copied().unwrap_or(u16::MAX);
            let Some(queue) = queues.get_mut(usize::from(owner)) else {
                return Err(error::answered(&format!("CLUSTERDOWN nobody has slot {slot}")));
            };
            queue.push(index);
        }
        let sent =
            self.nodes.iter_mut().zip(&queues).filter(|(_, queue)| !queue.is_empty()).map(|(node, queue)| async move {
                let commands = queue.iter().filter_map(|i| requests.get(*i)).map(|r| &r.cmd);
                (queue, pipelined(&mut node.link, commands).await)
            });
        for (queue, result) in futures_util::future::join_all(sent).await {
            for (index, answer) in queue.iter().zip(result?) {
                if let Some(slot) = answers.get_mut(*index) {
                    *slot = answer;
                }
            }
        }
        for (request, answer) in requests.iter().zip(&mut answers) {
            self.follow(request, answer).await?;
        }
        Ok(answers)
    }

    /// Goes where a redirect says.
    async fn follow(&mut self, request: &Request, answer: &mut Value) -> Result<(), WriteError> {
        for _ in 0..REDIRECTS {
            let Some(text) = refusal(answer) else { return Ok(()) };
            let mut words = text.split(' ');
            let kind = words.next().unwrap_or_default();
            if kind != "MOVED" && kind != "ASK" {
                return Ok(());
            }
            let at = words.nth(1).and_then(|at| server(at, 6379));
            let Some(node) = at.and_then(|at| self.nodes.iter_mut().find(|n| n.server == at)) else {
                return Err(WriteError::Disconnected(format!("{text}: slots have moved, connecting anew").into()));
            };
            let asking = cmd("ASKING");
            let commands: Vec<&Cmd> = if kind == "ASK" { vec![&asking, &request.cmd] } else { vec![&request.cmd] };
            *answer = pipelined(&mut node.link, commands.into_iter()).await?.pop().unwrap_or_default();
        }
        match refusal(answer) {
            Some(text) if text.starts_with("MOVED") || text.starts_with("ASK") => {
                Err(WriteError::Disconnected(format!("{text}: redirected again and again").into()))
            }
            _ => Ok(()),
        }
    }
}

/// First slot, last slot and master of each range.
fn ranges(slots: &Value, asked: &Server) -> Vec<(usize, usize, Server)> {
    let number = |value: &Value| match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    };
    let range = |value: &Value| {
        let Value::Array(parts) = value else { return None };
        let (from, to) = (number(parts.first()?)?, number(parts.get(1)?)?);
        let Value::Array(master) = parts.get(2)? else { return None };
        // A node that does not know its own address leaves it out.
        let host = master.first().and_then(string).filter(|h| !h.is_empty() && h != "?");
        let port = number(master.get(1)?)?;
        let at = Server { host: host.unwrap_or_else(|| asked.host.clone()), port: u16::try_from(port).ok()? };
        (from <= to && to < keys::SLOTS).then_some((from, to, at))
    };
    match slots {
        Value::Array(all) => all.iter().filter_map(range).collect(),
        _ => Vec::new(),
    }
}

async fn replication_id(link: &mut MultiplexedConnection) -> Result<String, WriteError> {
    let mut ask = cmd("INFO");
    ask.arg("replication");
    let value = link.send_packed_command(&ask).await.map_err(error::map)?;
    let text = string(&value).unwrap_or_default();
    let id = text.lines().find_map(|line| line.trim_end().strip_prefix("master_replid:").map(str::to_owned));
    id.ok_or_else(|| error::unexpected("INFO replication", &value))
}
