//! Forebay's rules and database sinks.
//!
//! A *rule* says what is stored on which hook; a *pool* is a database with its connections; a *sink* is a pool's worker over the
//! log. EMQ X `.conf` files and `forebay.toml` become the same [`rule::RuleSet`]; later stages can't tell.
//!
//! Order of reading: [`sink`] (what a database's author writes), [`runtime`] (everything else), [`memory`] (the smallest sink),
//! [`sqlite`] (a real one; what it shares with the other SQL databases is in [`sql`]), [`registry`] (how a configuration becomes running sinks).

#[cfg(feature = "cassandra")]
pub mod cassandra;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod dead_letter;
#[cfg(feature = "dynamodb")]
pub mod dynamo;
pub mod explain;
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "influxdb")]
pub mod influxdb;
pub mod inspect;
#[cfg_attr(
    not(any(
        feature = "cassandra",
        feature = "dynamodb",
        feature = "mongo",
        feature = "redis",
        feature = "sqlite",
        feature = "mysql",
        feature = "pgsql",
        feature = "http"
    )),
    allow(dead_code, reason = "the databases' lookups use it")
)]
pub mod lookup;
pub mod memory;
pub mod metrics;
#[cfg(feature = "mongo")]
pub mod mongo;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "opentsdb")]
pub mod opentsdb;
pub mod orders;
#[cfg(feature = "pgsql")]
pub mod pgsql;
#[cfg(feature = "redis")]
pub mod redis;
pub mod registry;
pub mod rule;
pub mod runtime;
pub mod sink;
pub mod source;
#[cfg(any(feature = "cassandra", feature = "dynamodb", feature = "sqlite", feature = "mysql", feature = "pgsql"))]
#[cfg_attr(
    not(any(feature = "sqlite", feature = "mysql", feature = "pgsql")),
    allow(dead_code, unused_imports, reason = "Cassandra and DynamoDB use a part of it")
)]
pub mod sql;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod template;
#[cfg(feature = "pgsql")]
pub mod timescale;
#[cfg(any(feature = "cassandra-tls", feature = "http"))]
mod tls;

/// The databases this build can write to.
pub const AVAILABLE: &[rule::Database] = &[
    #[cfg(feature = "redis")]
    rule::Database::Redis,
    #[cfg(feature = "sqlite")]
    rule::Database::Sqlite,
    #[cfg(feature = "mysql")]
    rule::Database::Mysql,
    #[cfg(feature = "pgsql")]
    rule::Database::Pgsql,
    #[cfg(feature = "pgsql")]
    rule::Database::Timescale,
    #[cfg(feature = "influxdb")]
    rule::Database::Influxdb,
    #[cfg(feature = "opentsdb")]
    rule::Database::Opentsdb,
    #[cfg(feature = "cassandra")]
    rule::Database::Cassandra,
    #[cfg(feature = "mongo")]
    rule::Database::Mongo,
    #[cfg(feature = "dynamodb")]
    rule::Database::Dynamo,
];

pub use lookup::Lookups;
pub use orders::{Clients, OrderError};
pub use registry::{DatabaseOptions, Sinks, SinksOptions, StartError};
pub use runtime::{ResetError, ResetTo, SinkState, SinkStatus};
