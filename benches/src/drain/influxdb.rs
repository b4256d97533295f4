//! InfluxDB by hand: messages become lines, and lines bodies.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use forebay_services::influxdb::{ADMIN, DATABASE, InfluxDb as Service, PASSWORD};
use forebay_services::{Private, private};
use serde::Deserialize;
use serde_json::Value;

use super::http::{Http, post_all};
use super::rows::{Rows, SECONDS};
use super::side::{Side, Work};
use super::template::Template;

/// Lines of one body: the sink's own number, unless set otherwise.
const LINES: usize = 1_000;

const TEMPLATE: &str = r##"{"#": {"measurement": "NAME", "tags": {"topic": "$topic"}, "fields": {"temperature": ["$payload", "temperature"],
    "humidity": ["$payload", "humidity"], "seq": ["$payload", "seq"]}}}"##;

/// What is wanted of a payload.
#[derive(Deserialize)]
struct Payload {
    temperature: f64,
    humidity: u32,
    seq: u64,
}

/// InfluxDB 1.6.
#[derive(Debug)]
pub(super) struct InfluxDb {
    template: Template,
    /// Messages as they wait: topic and payload.
    messages: Arc<Vec<(String, String)>>,
    connections: usize,
}

impl InfluxDb {
    pub(super) fn new() -> Result<InfluxDb> {
        Ok(InfluxDb { template: Template::new(TEMPLATE)?, messages: Arc::default(), connections: 1 })
    }
}

/// A line of the message number `n`; without one where the payload is not as expected.
fn line(name: &str, n: usize, topic: &str, payload: &str, text: &mut String) {
    let Ok(Payload { temperature, humidity, seq }) = serde_json::from_str(payload) else { return };
    let time = SECONDS * 1_000_000_000 + n as u64 * 1_000;
    // Writing into a String can't fail.
    let _ = writeln!(text, "{name},topic={topic} temperature={temperature},humidity={humidity},seq={seq} {time}");
}

fn path() -> String {
    format!("/write?db={DATABASE}&precision=ns&u={ADMIN}&p={PASSWORD}")
}

impl Side for InfluxDb {
    fn names(&self) -> (&'static str, &'static str) {
        ("InfluxDB", "POST of 1,000 lines, made of payloads")
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
        self.messages = Arc::new((0..rows.messages).map(|n| (rows.topic(n), rows.payload(n))).collect());
        self.connections = connections;
        Ok(())
    }

    fn bulk(&self, port: u16) -> Work<'_, f64> {
        Box::pin(async move {
            let (messages, name) = (self.messages.clone(), self.template.name());
            post_all(port, &path(), self.connections, move |body| {
                let begin = body * LINES;
                let part = messages.get(begin..(begin + LINES).min(messages.len())).filter(|part| !part.is_empty())?;
                let mut text = String::with_capacity(part.len() * 128);
                for (n, (topic, payload)) in (begin..).zip(part) {
                    line(&name, n, topic, payload, &mut text);
                }
                Some(text.into_bytes())
            })
            .await
        })
    }

    fn plain(&self, port: u16, rows: Rows) -> Work<'_, f64> {
        Box::pin(async move {
            let (mut link, name) = (Http::open(port).await?, self.template.name());
            let begun = Instant::now();
            for (n, (topic, payload)) in self.messages.iter().enumerate().take(rows.messages as usize) {
                let mut body = String::new();
                line(&name, n, topic, payload, &mut body);
                link.ask("POST", &path(), body.as_bytes()).await?;
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }
}
