//! InfluxDB by hand: bodies of lines.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, Result};
use forebay_services::influxdb::{ADMIN, DATABASE, InfluxDb as Service, PASSWORD};
use forebay_services::{Private, private};
use serde_json::Value;

use super::http::{Http, post_all};
use super::rows::{Rows, SECONDS};
use super::side::{Side, Work};
use super::template::Template;

/// Lines of one body: the sink's own number, unless set otherwise.
const LINES: u64 = 1_000;

const TEMPLATE: &str = r##"{"#": {"measurement": "NAME", "tags": {"topic": "$topic"}, "fields": {"temperature": ["$payload", "temperature"],
    "humidity": ["$payload", "humidity"], "seq": ["$payload", "seq"]}}}"##;

/// InfluxDB 1.6.
#[derive(Debug)]
pub(super) struct InfluxDb {
    template: Template,
    rows: Option<(Rows, usize)>,
}

impl InfluxDb {
    pub(super) fn new() -> Result<InfluxDb> {
        Ok(InfluxDb { template: Template::new(TEMPLATE)?, rows: None })
    }

    fn line(&self, rows: Rows, n: u64, text: &mut String) {
        let (topic, time) = (rows.topic(n), SECONDS * 1_000_000_000 + n * 1_000);
        let (temperature, humidity) = (Rows::temperature(n), Rows::humidity(n));
        // Writing into a String can't fail.
        let _ = writeln!(
            text,
            "{},topic={topic} temperature={temperature},humidity={humidity},seq={n} {time}",
            self.template.name()
        );
    }
}

fn path() -> String {
    format!("/write?db={DATABASE}&precision=ns&u={ADMIN}&p={PASSWORD}")
}

impl Side for InfluxDb {
    fn names(&self) -> (&'static str, &'static str) {
        ("InfluxDB", "POST of 1,000 lines")
    }

    fn start(&self) -> Result<Option<Private>> {
        private(&Service { tls: false }).map(Some)
    }

    fn words(&self) -> (&'static str, &'static str) {
        ("influxdb", "influxdb")
    }

    fn pool(&self, port: u16) -> Vec<String> {
        vec![
            format!("http.server = 127.0.0.1:{port}"),
            format!("http.database = {DATABASE}"),
            format!("http.username = {ADMIN}"),
            format!("http.password = {PASSWORD}"),
            self.template.setting(),
        ]
    }

    fn clear(&self, _port: u16) -> Work<'_, ()> {
        Box::pin(async { self.template.next() })
    }

    fn count(&self, port: u16) -> Work<'_, u64> {
        Box::pin(async move {
            let query = format!("select%20count(seq)%20from%20{}", self.template.name());
            let path = format!("/query?db={DATABASE}&u={ADMIN}&p={PASSWORD}&q={query}");
            let answer: Value = serde_json::from_slice(&Http::open(port).await?.ask("GET", &path, b"").await?)?;
            let found = answer.pointer("/results/0/series/0/values/0/1");
            found.map_or(Ok(0), |count| count.as_u64().with_context(|| format!("no count: {answer}")))
        })
    }

    fn prepare(&mut self, rows: Rows, connections: usize) -> Result<()> {
        self.rows = Some((rows, connections));
        Ok(())
    }

    fn bulk(&self, port: u16) -> Work<'_, f64> {
        Box::pin(async move {
            let (rows, connections) = self.rows.context("the bulk way was not prepared")?;
            let mut bodies = Vec::new();
            for begin in (0..rows.messages).step_by(LINES as usize) {
                let mut body = String::new();
                (begin..(begin + LINES).min(rows.messages)).for_each(|n| self.line(rows, n, &mut body));
                bodies.push(body.into_bytes());
            }
            post_all(port, &path(), bodies, connections).await
        })
    }

    fn plain(&self, port: u16, rows: Rows) -> Work<'_, f64> {
        Box::pin(async move {
            let mut link = Http::open(port).await?;
            let begun = Instant::now();
            for n in 0..rows.messages {
                let mut body = String::new();
                self.line(rows, n, &mut body);
                link.ask("POST", &path(), body.as_bytes()).await?;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }
}
