//! Cassandra by its driver: a prepared statement, many at once.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use forebay_services::cassandra::{Cassandra as Service, USER};
use forebay_services::{Private, private};
use scylla::client::PoolSize;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::PagingState;
use scylla::statement::prepared::PreparedStatement;
use scylla::value::CqlTimestamp;
use tokio::task::JoinSet;

use super::rows::{Rows, SECONDS, SENDER};
use super::side::{Side, Work};

/// Insertions under way on each connection: as many partitions as the sink writes at once on one.
const AT_ONCE: usize = 64;

const INSERT: &str =
    "insert into mqtt.msg (topic, msgid, arrived, payload, qos, retain, sender) values (?, ?, ?, ?, ?, ?, ?)";

/// A row's topic, name and payload.
type Row = (String, String, String);

/// One node, which has a row on its disk before it answers.
#[derive(Debug, Default)]
pub(super) struct Cassandra {
    rows: Arc<Vec<Row>>,
    connections: usize,
}

async fn session(port: u16, connections: usize) -> Result<Session> {
    let connections = NonZeroUsize::new(connections).unwrap_or(NonZeroUsize::MIN);
    let builder = SessionBuilder::new().known_node(format!("127.0.0.1:{port}")).user(USER, USER);
    let builder = builder.pool_size(PoolSize::PerHost(connections)).disallow_shard_aware_port(true);
    Ok(builder.fetch_schema_metadata(false).build().await?)
}

async fn insert(session: &Session, prepared: &PreparedStatement, (topic, msgid, payload): &Row) -> Result<()> {
    let arrived = CqlTimestamp(SECONDS.cast_signed() * 1_000);
    session.execute_unpaged(prepared, (topic, msgid, arrived, payload, 1, 0, SENDER)).await?;
    Ok(())
}

fn row(rows: Rows, n: u64) -> Row {
    (rows.topic(n), Rows::msgid(n), rows.payload(n))
}

impl Side for Cassandra {
    fn names(&self) -> (&'static str, &'static str) {
        ("Cassandra", "prepared insertions, 64 at once a connection")
    }

    fn most(&self) -> u64 {
        200_000
    }

    fn start(&self) -> Result<Option<Private>> {
        private(&Service { tls: false }).map(Some)
    }

    fn words(&self) -> (&'static str, &'static str) {
        ("ecql", "cassa")
    }

    fn pool(&self, port: u16) -> Vec<String> {
        vec![
            format!("nodes = 127.0.0.1:{port}"),
            format!("username = {USER}"),
            format!("password = {USER}"),
            "keyspace = mqtt".to_owned(),
        ]
    }

    fn clear(&self, port: u16) -> Work<'_, ()> {
        Box::pin(async move {
            let session = session(port, 1).await?;
            session.query_unpaged("truncate mqtt.msg", ()).await?;
            session.query_unpaged("truncate mqtt.forebay_position", ()).await?;
            Ok(())
        })
    }

    fn count(&self, port: u16) -> Work<'_, u64> {
        Box::pin(async move {
            // Page by page: a node that is asked for the count of a million rows at once ends the connection.
            let (session, mut count, mut from) = (session(port, 1).await?, 0, PagingState::start());
            loop {
                let (page, rest) = session.query_single_page("select msgid from mqtt.msg", (), from).await?;
                count += page.into_rows_result()?.rows_num() as u64;
                match rest.into_paging_control_flow() {
                    ControlFlow::Continue(next) => from = next,
                    ControlFlow::Break(()) => return Ok(count),
                }
            }
        })
    }

    fn prepare(&mut self, rows: Rows, connections: usize) -> Result<()> {
        self.rows = Arc::new((0..rows.messages).map(|n| row(rows, n)).collect());
        self.connections = connections.max(1);
        Ok(())
    }

    fn bulk(&self, port: u16) -> Work<'_, f64> {
        Box::pin(async move {
            let session = Arc::new(session(port, self.connections).await?);
            let prepared = Arc::new(session.prepare(INSERT).await?);
            let writers = self.connections * AT_ONCE;
            let begun = Instant::now();
            let mut inserting = JoinSet::new();
            for writer in 0..writers {
                let (session, prepared, rows) = (session.clone(), prepared.clone(), self.rows.clone());
                inserting.spawn(async move {
                    for row in rows.iter().skip(writer).step_by(writers) {
                        insert(&session, &prepared, row).await?;
                    }
                    anyhow::Ok(())
                });
            }
            while let Some(ended) = inserting.join_next().await {
                ended.context("an insertion panicked")??;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }

    fn plain(&self, port: u16, rows: Rows) -> Work<'_, f64> {
        Box::pin(async move {
            let session = session(port, 1).await?;
            let prepared = session.prepare(INSERT).await?;
            let begun = Instant::now();
            for n in 0..rows.messages {
                insert(&session, &prepared, &row(rows, n)).await?;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }
}
