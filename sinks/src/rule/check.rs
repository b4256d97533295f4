//! What is legal but suspect.

use forebay_engine::topic;

use super::fault::{Level, Warning};
use super::{Action, Database, Function, Hook, OfflineOpts, PayloadFormat, Pool, Rule, RuleSet};

/// The known warnings. `docs/RULES.md` says what each means and what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WarningCode {
    /// on_message_store beside on_message_publish or a fetch, on overlapping topics.
    StoreAndPublish,
    /// Stored messages are given to subscribers and their acknowledgements are not stored.
    FetchWithoutAck,
    /// Acknowledgements are stored as of a queue where topics are one-to-many, or the reverse.
    AckKind,
    /// Topics that are one-to-one and one-to-many at once.
    QueueAndPubsub,
    /// A statement that does more when it is run again, where it may be run again.
    NotRepeatable,
    /// A statement that does more when it is run again, where it is run once.
    RunOnce,
    /// A pool that no rule uses.
    PoolUnused,
    /// Something that does nothing where it stands.
    NoEffect,
    /// A setting of the Erlang drivers without counterpart.
    KeyReplaced,
    /// A Redis channel with `type = cluster`.
    NoChannel,
    /// Points sent where their loss can't be noticed.
    UdpLoses,
    /// Points in a unit of time so coarse that messages of one series may fall together.
    CoarseTime,
}

impl WarningCode {
    /// All of them.
    pub const ALL: [WarningCode; 12] = [
        WarningCode::StoreAndPublish,
        WarningCode::FetchWithoutAck,
        WarningCode::AckKind,
        WarningCode::QueueAndPubsub,
        WarningCode::NotRepeatable,
        WarningCode::RunOnce,
        WarningCode::PoolUnused,
        WarningCode::NoEffect,
        WarningCode::KeyReplaced,
        WarningCode::NoChannel,
        WarningCode::UdpLoses,
        WarningCode::CoarseTime,
    ];

    /// Its name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            WarningCode::StoreAndPublish => "store-and-publish",
            WarningCode::FetchWithoutAck => "fetch-without-ack",
            WarningCode::AckKind => "ack-kind",
            WarningCode::QueueAndPubsub => "queue-and-pubsub",
            WarningCode::NotRepeatable => "not-repeatable",
            WarningCode::RunOnce => "run-once",
            WarningCode::PoolUnused => "pool-unused",
            WarningCode::NoEffect => "no-effect",
            WarningCode::KeyReplaced => "key-replaced",
            WarningCode::NoChannel => "no-channel",
            WarningCode::UdpLoses => "udp-loses",
            WarningCode::CoarseTime => "coarse-time",
        }
    }

    /// How serious it is.
    #[must_use]
    pub fn level(self) -> Level {
        match self {
            WarningCode::RunOnce | WarningCode::KeyReplaced | WarningCode::CoarseTime => Level::Note,
            _ => Level::Warning,
        }
    }
}

/// Finds what is legal but suspect in a whole rule set.
#[must_use]
pub fn check(rules: &RuleSet) -> Vec<Warning> {
    let mut found = Vec::new();
    for pool in &rules.pools {
        check_pool(pool, rules, &mut found);
    }
    for (i, rule) in rules.rules.iter().enumerate() {
        check_effects(rule, &mut found);
        check_repeatable(rule, rules, &mut found);
        check_storing(rule, rules, &mut found);
        check_acks(rule, rules, &mut found);
        check_delivery(rule, rules.rules.iter().take(i), &mut found);
    }
    found
}

fn warn(found: &mut Vec<Warning>, code: WarningCode, at: &super::Location, message: String) {
    found.push(Warning { code, at: at.clone(), message, excerpt: None });
}

fn check_pool(pool: &Pool, rules: &RuleSet, found: &mut Vec<Warning>) {
    let Pool { database, name, .. } = pool;
    if !rules.rules.iter().any(|rule| rule.database == *database && rule.pool == *name) {
        let message = format!("no rule uses the {database} pool `{name}`: it is not connected to");
        warn(found, WarningCode::PoolUnused, &pool.at, message);
    }
    if let (Database::Redis, Some("cluster"), Some(channel)) =
        (*database, pool.value("type"), pool.settings.get("channel"))
    {
        let message =
            "a Redis cluster has no channel here: subscribe and unsubscribe orders are not received".to_owned();
        warn(found, WarningCode::NoChannel, &channel.at, message);
    }
    if let (Database::Redis, Some("cluster"), Some(number)) =
        (*database, pool.value("type"), pool.settings.get("database").filter(|number| number.value != "0"))
    {
        let message = "`database` has no effect here: a Redis cluster has database 0 and no other".to_owned();
        warn(found, WarningCode::NoEffect, &number.at, message);
    }
    if let Some((unit, remedy)) = coarse_unit(pool) {
        let becomes = match pool.value("same_time") {
            Some("dead_letter") => "goes to the dead letters",
            _ => "is moved to the next free one",
        };
        let message = format!(
            "points of pool `{name}` are told apart by their series and the {unit} they are in: a second message of a series in \
             one {unit} {becomes}; {remedy}"
        );
        warn(found, WarningCode::CoarseTime, &pool.at, message);
    }
    if *database == Database::Influxdb && pool.value("write_protocol") == Some("udp") {
        let message =
            format!("pool `{name}` sends by UDP: points can be lost without anybody noticing; HTTP confirms them");
        warn(found, WarningCode::UdpLoses, &pool.at, message);
    }
}

/// The unit of a pool's points, where it is coarser than microseconds, and what would be finer.
fn coarse_unit(pool: &Pool) -> Option<(&str, &'static str)> {
    let (unit, remedy) = match (pool.database, pool.value("write_protocol")) {
        (Database::Opentsdb, _) => {
            (pool.value("precision")?, "a tag that tells messages apart helps, e.g. \"$clientid\"")
        }
        (Database::Influxdb, Some("udp")) => (pool.value("udp.precision")?, "HTTP can have ns"),
        (Database::Influxdb, _) => (pool.value("http.precision")?, "without `http.precision` it is ns"),
        _ => return None,
    };
    (!matches!(unit, "ns" | "us" | "u")).then_some((unit, remedy))
}

fn function(rule: &Rule) -> Option<Function> {
    match rule.action {
        Action::Function(function) => Some(function),
        Action::Statements(_) => None,
    }
}

fn filter(rule: &Rule) -> &str {
    rule.topic.as_deref().unwrap_or("#")
}

fn same_pool(a: &Rule, b: &Rule) -> bool {
    a.database == b.database && a.pool == b.pool
}

fn check_effects(rule: &Rule, found: &mut Vec<Warning>) {
    let function = function(rule);
    let stores = function.is_some_and(Function::is_store);
    let mut idle = Vec::new();
    if rule.expired_time.is_some() && !stores {
        idle.push(("expired_time", "it belongs to functions that store messages"));
    }
    if rule.offline != OfflineOpts::default() && !function.is_some_and(Function::is_fetch) {
        idle.push(("offline_opts", "it belongs to functions that fetch messages"));
    }
    if rule.payload_format != PayloadFormat::PlainText && (!stores || rule.database != Database::Mongo) {
        idle.push(("payload_format", "it belongs to functions that store messages in MongoDB"));
    }
    if rule.topic.as_deref().is_some_and(|topic| topic != "#") && !rule.hook.has_topic() {
        idle.push(("topic", "the hook is about a client, not about a topic"));
    }
    for (name, why) in idle {
        warn(found, WarningCode::NoEffect, &rule.at, format!("`{name}` has no effect here: {why}"));
    }
}

/// A Redis server runs a batch and its position as one script; a cluster can't.
fn commits_with_position(rule: &Rule, rules: &RuleSet) -> bool {
    let pool = rules.pools.iter().find(|pool| pool.database == rule.database && pool.name == rule.pool);
    rule.database.is_transactional()
        || (rule.database == Database::Redis && pool.is_none_or(|pool| pool.value("type") != Some("cluster")))
}

fn check_repeatable(rule: &Rule, rules: &RuleSet, found: &mut Vec<Warning>) {
    let Action::Statements(statements) = &rule.action else { return };
    for statement in statements {
        let what = match rule.database {
            Database::Redis => adding_command(&statement.source),
            _ => adding_assignment(&statement.source),
        };
        let Some(what) = what else { continue };
        if commits_with_position(rule, rules) {
            let message = format!(
                "`{what}` adds up when it is repeated; it commits together with the sink's position, so it is applied once"
            );
            warn(found, WarningCode::RunOnce, &rule.at, message);
        } else {
            let message =
                format!("`{what}` adds up when it is repeated, and after a failure it may be: it is run at least once");
            warn(found, WarningCode::NotRepeatable, &rule.at, message);
        }
    }
}

/// Redis commands whose second run changes what the first one left.
const ADDING: [&str; 29] = [
    "APPEND",
    "BLPOP",
    "BRPOP",
    "DECR",
    "DECRBY",
    "HINCRBY",
    "HINCRBYFLOAT",
    "INCR",
    "INCRBY",
    "INCRBYFLOAT",
    "LINSERT",
    "LMOVE",
    "LMPOP",
    "LPOP",
    "LPUSH",
    "LPUSHX",
    "PUBLISH",
    "RPOP",
    "RPOPLPUSH",
    "RPUSH",
    "RPUSHX",
    "SPOP",
    "SPUBLISH",
    "XADD",
    "ZINCRBY",
    "ZMPOP",
    "ZPOPMAX",
    "ZPOPMIN",
    "BITFIELD",
];

fn adding_command(source: &str) -> Option<String> {
    let name = source.split(' ').next()?.to_ascii_uppercase();
    ADDING.contains(&name.as_str()).then_some(name)
}

/// `x = x + 1` and the like: a column set from its own value.
fn adding_assignment(source: &str) -> Option<String> {
    let mut tokens: Vec<&str> = Vec::new();
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '"' | '`' | '$' | '{' | '}' | '\'');
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if is_word(first) { rest.find(|c| !is_word(c)).unwrap_or(rest.len()) } else { first.len_utf8() };
        let (token, tail) = rest.split_at_checked(end)?;
        tokens.push(token);
        rest = tail.trim_start();
    }
    tokens.windows(4).find_map(|window| match window {
        [left, "=", right, op @ ("+" | "-" | "*" | "|")] if same_column(left, right) => {
            Some(format!("{left} = {right} {op} …"))
        }
        _ => None,
    })
}

/// `x`, `t.x`, and `"x"` name the same column.
fn same_column(left: &str, right: &str) -> bool {
    let column = |name: &str| {
        let name = name.rsplit('.').next().unwrap_or(name);
        name.trim_matches(['"', '`']).to_ascii_lowercase()
    };
    !left.starts_with("${") && column(left) == column(right)
}

fn check_storing(rule: &Rule, rules: &RuleSet, found: &mut Vec<Warning>) {
    if function(rule) != Some(Function::MessageStore) {
        return;
    }
    let other = rules.rules.iter().find(|other| {
        same_pool(rule, other)
            && function(other).is_some_and(|f| f == Function::MessagePublish || f.is_fetch())
            && topic::overlaps(filter(rule), filter(other))
    });
    if let (Some(other), Some(name)) = (other, other.and_then(function)) {
        let message = format!(
            "on_message_store beside {name} ({}) on overlapping topics: EMQ X stores QoS 1 and 2 messages twice then; here they are stored once",
            other.at
        );
        warn(found, WarningCode::StoreAndPublish, &rule.at, message);
    }
}

fn check_acks(rule: &Rule, rules: &RuleSet, found: &mut Vec<Warning>) {
    let Some(fetch) = function(rule).filter(|function| function.is_fetch()) else { return };
    let mut acks = rules.rules.iter().filter(|other| {
        other.hook == Hook::MessageAcked && same_pool(rule, other) && topic::overlaps(filter(rule), filter(other))
    });
    let Some(first) = acks.next() else {
        let message = format!(
            "no rule on message.acked stores the acknowledgements of {} in this pool: subscribers go on where they \
             stopped as long as this data folder lives, but the database doesn't know where that is",
            filter(rule)
        );
        return warn(found, WarningCode::FetchWithoutAck, &rule.at, message);
    };
    let fits = |ack: &Rule| function(ack).is_none_or(|ack| ack_fits(fetch, ack));
    if !fits(first) && !acks.any(fits) {
        let name = function(first).map_or("", Function::name);
        let message = format!("{} is fetched with {fetch} and acknowledged with {name} ({})", filter(rule), first.at);
        warn(found, WarningCode::AckKind, &rule.at, message);
    }
}

fn ack_fits(fetch: Function, ack: Function) -> bool {
    match ack {
        Function::MessageAckedForQueue => fetch == Function::MessageFetchForQueue,
        Function::MessageAckedForPubsub => matches!(fetch, Function::MessageFetch | Function::MessageFetchForPubsub),
        Function::MessageAckedForKeepLatest => fetch == Function::MessageFetchForKeepLatest,
        // The plain one follows what the topic is.
        _ => true,
    }
}

/// Delivery is one for all databases: what a topic is can't differ between pools.
fn check_delivery<'a>(rule: &Rule, mut earlier: impl Iterator<Item = &'a Rule>, found: &mut Vec<Warning>) {
    let kind = |rule: &Rule| {
        function(rule).filter(|function| function.is_fetch()).map(|f| f == Function::MessageFetchForQueue)
    };
    let Some(queue) = kind(rule) else { return };
    let other = earlier.find(|other| {
        kind(other).is_some_and(|other_queue| other_queue != queue) && topic::overlaps(filter(rule), filter(other))
    });
    if let Some(other) = other {
        let message = format!(
            "{} overlaps {} ({}): one is one-to-one, the other is not; topics of both are queues",
            filter(rule),
            filter(other),
            other.at
        );
        warn(found, WarningCode::QueueAndPubsub, &rule.at, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_set_from_their_own_value_are_found() {
        for source in [
            "update t set x = x + 1",
            "update t set t.n=n+1 where id = ${clientid}",
            "insert into t values (1) on duplicate key update `n` = n - 1",
            "insert into t(id) values (1) on conflict (id) do update set n = t.n + 1",
        ] {
            assert!(adding_assignment(source).is_some(), "{source}");
        }
        for source in
            ["update t set x = y + 1", "insert into t(x) values (${topic})", "delete from t where a = b", "", "= = ="]
        {
            assert_eq!(adding_assignment(source), None, "{source}");
        }
    }
}
