//! OpenTSDB by hand: puts.

use std::time::Instant;

use anyhow::{Context, Result};
use forebay_services::opentsdb::OpenTsdb as Service;
use forebay_services::{Private, private};
use serde_json::Value;

use super::http::{Http, post_all};
use super::rows::{Rows, SECONDS};
use super::side::{Side, Work};
use super::template::Template;

/// Points of one put. The default of 20 is EMQ X's.
const POINTS: u64 = 1_000;

/// As the sink puts: answered when HBase has the points.
const PUT: &str = "/api/put?details&sync&sync_timeout=10000";

const TEMPLATE: &str =
    r##"{"#": {"measurement": "NAME", "tags": {"topic": "$topic"}, "value": ["$payload", "temperature"]}}"##;

/// OpenTSDB 2.4 and its HBase.
#[derive(Debug)]
pub(super) struct OpenTsdb {
    template: Template,
    rows: Option<(Rows, usize)>,
}

impl OpenTsdb {
    pub(super) fn new() -> Result<OpenTsdb> {
        Ok(OpenTsdb { template: Template::new(TEMPLATE)?, rows: None })
    }

    fn put(&self, rows: Rows, n: u64) -> String {
        // A series has one point a millisecond.
        let (topic, time) = (rows.topic(n), SECONDS * 1_000 + n / rows.topics.max(1));
        let (name, value) = (self.template.name(), Rows::temperature(n));
        format!(r#"{{"metric":"{name}","timestamp":{time},"value":{value},"tags":{{"topic":"{topic}"}}}}"#)
    }
}

impl Side for OpenTsdb {
    fn names(&self) -> (&'static str, &'static str) {
        ("OpenTSDB, max_batch_size 1,000", "/api/put of 1,000 points")
    }

    fn most(&self) -> u64 {
        100_000
    }

    fn start(&self) -> Result<Option<Private>> {
        private(&Service).map(Some)
    }

    fn words(&self) -> (&'static str, &'static str) {
        ("opentsdb", "opentsdb")
    }

    fn pool(&self, port: u16) -> Vec<String> {
        let server = format!("server = 127.0.0.1:{port}");
        vec![server, format!("max_batch_size = {POINTS}"), self.template.setting()]
    }

    fn clear(&self, _port: u16) -> Work<'_, ()> {
        Box::pin(async { self.template.next() })
    }

    fn count(&self, port: u16) -> Work<'_, u64> {
        Box::pin(async move {
            let path = format!("/api/query?start={}&ms=true&m=none:{}", SECONDS - 1, self.template.name());
            let answer: Value = serde_json::from_slice(&Http::open(port).await?.ask("GET", &path, b"").await?)?;
            let series = answer.as_array().with_context(|| format!("no series: {answer}"))?;
            let points = series.iter().filter_map(|one| one.get("dps")?.as_object());
            Ok(points.map(|points| points.len() as u64).sum())
        })
    }

    fn prepare(&mut self, rows: Rows, connections: usize) -> Result<()> {
        self.rows = Some((rows, connections));
        Ok(())
    }

    fn bulk(&self, port: u16) -> Work<'_, f64> {
        Box::pin(async move {
            let (rows, connections) = self.rows.context("the bulk way was not prepared")?;
            let body = |begin: u64| {
                let puts: Vec<String> =
                    (begin..(begin + POINTS).min(rows.messages)).map(|n| self.put(rows, n)).collect();
                format!("[{}]", puts.join(",")).into_bytes()
            };
            let bodies: Vec<Vec<u8>> = (0..rows.messages).step_by(POINTS as usize).map(body).collect();
            post_all(port, PUT, connections, move |n| bodies.get(n).cloned()).await
        })
    }

    fn plain(&self, port: u16, rows: Rows) -> Work<'_, f64> {
        Box::pin(async move {
            let mut link = Http::open(port).await?;
            let begun = Instant::now();
            for n in 0..rows.messages {
                link.ask("POST", PUT, self.put(rows, n).as_bytes()).await?;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }
}
