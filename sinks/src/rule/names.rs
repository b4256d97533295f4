//! The names rules are written with, and which of them belong together.

use std::fmt;

use super::{Database, Function, Hook, Param};

/// How the statements of a database are written in `action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StatementKind {
    /// `"commands": […]`
    Commands,
    /// `"sql": […]`
    Sql,
    /// `"cql": […]`
    Cql,
}

impl StatementKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            StatementKind::Commands => "commands",
            StatementKind::Sql => "sql",
            StatementKind::Cql => "cql",
        }
    }
}

impl Database {
    /// All of them.
    pub const ALL: [Database; 10] = [
        Database::Sqlite,
        Database::Redis,
        Database::Mysql,
        Database::Pgsql,
        Database::Mongo,
        Database::Cassandra,
        Database::Dynamo,
        Database::Influxdb,
        Database::Opentsdb,
        Database::Timescale,
    ];

    /// The name in keys of rules: `backend.<name>.hook.…`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Database::Sqlite => "sqlite",
            Database::Redis => "redis",
            Database::Mysql => "mysql",
            Database::Pgsql => "pgsql",
            Database::Mongo => "mongo",
            Database::Cassandra => "cassa",
            Database::Dynamo => "dynamo",
            Database::Influxdb => "influxdb",
            Database::Opentsdb => "opentsdb",
            Database::Timescale => "timescale",
        }
    }

    /// The name in keys of pools: the same as [`Database::name`] but for Cassandra, whose pools are `backend.ecql.…`.
    #[must_use]
    pub fn pool_name(self) -> &'static str {
        if self == Database::Cassandra { "ecql" } else { self.name() }
    }

    /// The database of a name; Cassandra has two.
    #[must_use]
    pub fn parse(name: &str) -> Option<Database> {
        Database::ALL.into_iter().find(|db| db.name() == name || db.pool_name() == name)
    }

    /// How its statements are called; `None` where rules can name functions only.
    pub(super) fn statements(self) -> Option<StatementKind> {
        match self {
            Database::Redis => Some(StatementKind::Commands),
            Database::Sqlite | Database::Mysql | Database::Pgsql => Some(StatementKind::Sql),
            Database::Cassandra => Some(StatementKind::Cql),
            _ => None,
        }
    }

    /// True where a statement and the sink's position commit in one transaction.
    #[must_use]
    pub fn is_transactional(self) -> bool {
        matches!(self, Database::Sqlite | Database::Mysql | Database::Pgsql | Database::Timescale)
    }

    /// True for the databases of points in time: they take published messages and nothing else.
    #[must_use]
    pub fn is_time_series(self) -> bool {
        matches!(self, Database::Influxdb | Database::Opentsdb | Database::Timescale)
    }
}

impl Hook {
    /// All of them, in the order rules are listed.
    pub const ALL: [Hook; 8] = [
        Hook::ClientConnected,
        Hook::ClientDisconnected,
        Hook::SessionCreated,
        Hook::SessionSubscribed,
        Hook::SessionUnsubscribed,
        Hook::MessagePublish,
        Hook::MessageDeliver,
        Hook::MessageAcked,
    ];

    /// The name in keys: `client.connected`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Hook::ClientConnected => "client.connected",
            Hook::ClientDisconnected => "client.disconnected",
            Hook::SessionCreated => "session.created",
            Hook::SessionSubscribed => "session.subscribed",
            Hook::SessionUnsubscribed => "session.unsubscribed",
            Hook::MessagePublish => "message.publish",
            Hook::MessageDeliver => "message.deliver",
            Hook::MessageAcked => "message.acked",
        }
    }

    /// The hook of a name; `message.delivered` is `message.deliver`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Hook> {
        if name == "message.delivered" {
            return Some(Hook::MessageDeliver);
        }
        Hook::ALL.into_iter().find(|hook| hook.name() == name)
    }

    /// The `${…}` parameters that statements on this hook can use.
    #[must_use]
    pub fn params(self, database: Database) -> &'static [Param] {
        match self {
            Hook::ClientConnected | Hook::ClientDisconnected | Hook::SessionCreated => &[Param::ClientId],
            Hook::SessionSubscribed => &[Param::ClientId, Param::Topic, Param::Qos],
            Hook::SessionUnsubscribed => &[Param::ClientId, Param::Topic],
            Hook::MessagePublish if database == Database::Redis => {
                &[Param::MsgId, Param::Topic, Param::Payload, Param::Qos, Param::ClientId, Param::Message]
            }
            Hook::MessagePublish => &[Param::MsgId, Param::Topic, Param::Payload, Param::Qos, Param::ClientId],
            Hook::MessageDeliver | Hook::MessageAcked => &[Param::MsgId, Param::Topic, Param::ClientId],
        }
    }

    /// True where the event has a topic that a rule's `topic` can be matched with.
    #[must_use]
    pub fn has_topic(self) -> bool {
        !matches!(self, Hook::ClientConnected | Hook::ClientDisconnected | Hook::SessionCreated)
    }
}

impl Function {
    /// True for functions that read from the database and store nothing.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(
            self,
            Function::SubscribeLookup
                | Function::MessageFetch
                | Function::MessageFetchForQueue
                | Function::MessageFetchForPubsub
                | Function::MessageFetchForKeepLatest
                | Function::RetainLookup
        )
    }

    /// All of them.
    pub const ALL: [Function; 18] = [
        Function::ClientConnected,
        Function::ClientDisconnected,
        Function::SubscribeLookup,
        Function::MessageFetch,
        Function::MessageFetchForQueue,
        Function::MessageFetchForPubsub,
        Function::MessageFetchForKeepLatest,
        Function::RetainLookup,
        Function::AckedDelete,
        Function::MessagePublish,
        Function::MessageStore,
        Function::MessageStoreKeepLatest,
        Function::MessageRetain,
        Function::RetainDelete,
        Function::MessageAcked,
        Function::MessageAckedForQueue,
        Function::MessageAckedForPubsub,
        Function::MessageAckedForKeepLatest,
    ];

    /// The name in `action`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Function::ClientConnected => "on_client_connected",
            Function::ClientDisconnected => "on_client_disconnected",
            Function::SubscribeLookup => "on_subscribe_lookup",
            Function::MessageFetch => "on_message_fetch",
            Function::MessageFetchForQueue => "on_message_fetch_for_queue",
            Function::MessageFetchForPubsub => "on_message_fetch_for_pubsub",
            Function::MessageFetchForKeepLatest => "on_message_fetch_for_keep_latest",
            Function::RetainLookup => "on_retain_lookup",
            Function::AckedDelete => "on_acked_delete",
            Function::MessagePublish => "on_message_publish",
            Function::MessageStore => "on_message_store",
            Function::MessageStoreKeepLatest => "on_message_store_keep_latest",
            Function::MessageRetain => "on_message_retain",
            Function::RetainDelete => "on_retain_delete",
            Function::MessageAcked => "on_message_acked",
            Function::MessageAckedForQueue => "on_message_acked_for_queue",
            Function::MessageAckedForPubsub => "on_message_acked_for_pubsub",
            Function::MessageAckedForKeepLatest => "on_message_acked_for_keep_latest",
        }
    }

    /// The function of a name; `on_subscription_lookup` is `on_subscribe_lookup`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Function> {
        if name == "on_subscription_lookup" {
            return Some(Function::SubscribeLookup);
        }
        Function::ALL.into_iter().find(|function| function.name() == name)
    }

    /// The hooks it can stand on.
    #[must_use]
    pub fn hooks(self) -> &'static [Hook] {
        match self {
            Function::ClientConnected => &[Hook::ClientConnected],
            Function::ClientDisconnected => &[Hook::ClientDisconnected],
            Function::SubscribeLookup => &[Hook::SessionCreated, Hook::ClientConnected],
            Function::MessageFetch
            | Function::MessageFetchForQueue
            | Function::MessageFetchForPubsub
            | Function::MessageFetchForKeepLatest
            | Function::RetainLookup => &[Hook::SessionSubscribed],
            Function::AckedDelete => &[Hook::SessionUnsubscribed],
            Function::MessagePublish
            | Function::MessageStore
            | Function::MessageStoreKeepLatest
            | Function::MessageRetain
            | Function::RetainDelete => &[Hook::MessagePublish],
            Function::MessageAcked
            | Function::MessageAckedForQueue
            | Function::MessageAckedForPubsub
            | Function::MessageAckedForKeepLatest => &[Hook::MessageAcked],
        }
    }

    /// True when the database can have it: those of points in time only store what is published.
    #[must_use]
    pub fn is_for(self, database: Database) -> bool {
        !database.is_time_series() || matches!(self, Function::MessagePublish | Function::MessageStore)
    }

    /// True for the functions that give a subscriber stored messages.
    #[must_use]
    pub fn is_fetch(self) -> bool {
        matches!(
            self,
            Function::MessageFetch
                | Function::MessageFetchForQueue
                | Function::MessageFetchForPubsub
                | Function::MessageFetchForKeepLatest
        )
    }

    /// True for the functions that write a message or a retained message, so that `expired_time` and `payload_format` apply.
    #[must_use]
    pub fn is_store(self) -> bool {
        matches!(
            self,
            Function::MessagePublish
                | Function::MessageStore
                | Function::MessageStoreKeepLatest
                | Function::MessageRetain
        )
    }
}

impl Param {
    /// All of them.
    pub const ALL: [Param; 6] =
        [Param::ClientId, Param::Topic, Param::Qos, Param::MsgId, Param::Payload, Param::Message];

    /// The name between `${` and `}`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Param::ClientId => "clientid",
            Param::Topic => "topic",
            Param::Qos => "qos",
            Param::MsgId => "msgid",
            Param::Payload => "payload",
            Param::Message => "message",
        }
    }

    /// The parameter of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Param> {
        Param::ALL.into_iter().find(|param| param.name() == name)
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The candidate nearest to a misspelt name, if one is near enough to be what was meant.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A misspelling can't be far from a name, and comparing costs length times length: hostile input is not compared.
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_ascii_lowercase();
    let allowed = (name.chars().count() / 3).max(2);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&lower, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= allowed && *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean …?` where a near name is known, else the list of what is valid.
pub(crate) fn suggestion(name: &str, candidates: &[&str]) -> String {
    match nearest(name, candidates.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("valid here: {}", candidates.join(", ")),
    }
}
