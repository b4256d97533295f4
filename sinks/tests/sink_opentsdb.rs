//! OpenTSDB on the real server and on VictoriaMetrics: the conformance suite, what is stored, what is refused.
#![cfg(all(feature = "conformance", feature = "opentsdb"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod points;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::event::Message;
use forebay_engine::{Event, Lsn, QoS};
use forebay_services::opentsdb::OpenTsdb;
use forebay_services::toxiproxy::Link;
use forebay_services::{address, private};
use forebay_sinks::conformance::{self, BEGIN_US, Bench, Fault, Faulty, Subject, caught_up, rule, until as eventually};
use forebay_sinks::dead_letter::DeadLetter;
use forebay_sinks::opentsdb::{OpentsdbConfig, OpentsdbSink, Put};
use forebay_sinks::rule::{Action, Database, Function, Hook, Statement};
use forebay_sinks::sink::{Severity, Sink, SinkRecord};
use points::{counted, http, pool, troubled, unique};
use serde_json::Value as Json;

/// All times of the suite are in these seconds.
const BEGIN: u64 = BEGIN_US / 1_000_000 - 10;
const END: u64 = BEGIN_US / 1_000_000 + 100;

/// The pool's part of a `.conf` file.
fn lines(port: &str, more: &str) -> String {
    let more: String = more.lines().map(|line| format!("backend.opentsdb.pool1.{line}\n")).collect();
    format!("backend.opentsdb.pool1.server = 127.0.0.1:{port}\n{more}")
}

fn sink(port: &str, more: &str, template: &str) -> OpentsdbSink {
    let (pool, dir) = pool(&lines(port, more), template);
    OpentsdbSink::new(OpentsdbConfig::from_pool(&pool, dir.path()).unwrap())
}

fn port_of(url: &str) -> String {
    url.rsplit(':').next().unwrap().to_owned()
}

/// Points of a metric: each as its tags and its times with values.
fn query(url: &str, metric: &str, filter: &str) -> Vec<(Json, BTreeMap<u64, Json>)> {
    let query = format!("{url}/api/query?start={BEGIN}&end={END}&ms=true&m=none:{metric}{filter}");
    let (status, body) = http(&["--globoff", &query]);
    if body.contains("No such name") {
        return Vec::new();
    }
    assert_eq!(status, 200, "{body}");
    let found: Json = serde_json::from_str(&body).unwrap();
    let series = found.as_array().unwrap().iter().map(|series| {
        let points = series["dps"].as_object().unwrap();
        (series["tags"].clone(), points.iter().map(|(time, value)| (time.parse().unwrap(), value.clone())).collect())
    });
    series.collect()
}

struct Subjected {
    url: String,
    metric: String,
    template: String,
    sink: Faulty<OpentsdbSink>,
}

/// Makes points of these payloads such as the server refuses.
fn spoil(record: &SinkRecord, put: &mut Put) {
    if matches!(&record.event, Event::Published(p) if &p.message.payload[..] == b"poison") {
        put.json = put.json.replace("\"value\":1", "\"value\":\"no number\"");
    }
}

const MORE: &str = "pool_size = 2\nmax_batch_size = 50";

fn subject() -> Subjected {
    let url = address("opentsdb").unwrap();
    let metric = unique("suite");
    let template = format!(
        r##"{{"t/#": {{"measurement": "{metric}", "tags": {{"topic": "$topic", "payload": "$payload"}}, "value": 1}}}}"##
    );
    let sink = sink(&port_of(&url), MORE, &template);
    Subjected { url, metric, template, sink: Faulty::new(sink).spoiling(spoil) }
}

impl Subject for Subjected {
    type Sink = Faulty<OpentsdbSink>;
    fn sink(&self) -> Arc<Faulty<OpentsdbSink>> {
        Arc::new(self.sink.anew(sink(&port_of(&self.url), MORE, &self.template)))
    }
    fn database(&self) -> Database {
        Database::Opentsdb
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    /// Each payload is a series: a message stored twice is two points of it.
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        let series = query(&self.url, &self.metric, "");
        counted(series.into_iter().flat_map(|(tags, points)| {
            let payload = tags["payload"].as_str().unwrap().to_owned();
            std::iter::repeat_n(payload, points.len())
        }))
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        let series = query(&self.url, &self.metric, &format!("{{topic={topic}}}"));
        let mut rows: Vec<(u64, String)> = series
            .into_iter()
            .flat_map(|(tags, points)| {
                let payload = tags["payload"].as_str().unwrap().to_owned();
                points.into_keys().map(move |time| (time, payload.clone())).collect::<Vec<_>>()
            })
            .collect();
        // Within a millisecond there is no order.
        rows.sort_by_key(|(time, payload)| (*time, payload.len(), payload.clone()));
        rows.into_iter().map(|(_, payload)| payload.into_bytes()).collect()
    }
    fn poison_rule(&self) -> Option<Vec<Statement>> {
        None
    }
    async fn acknowledged(&self, _client: &str) -> usize {
        0
    }
    fn stores_once(&self) -> bool {
        false
    }
}

macro_rules! suite {
    ($($clause:ident),* $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $clause() {
            conformance::$clause(&subject()).await;
        })*
    };
}

suite!(
    reconnects,
    survives_dying_in_mid_batch,
    survives_being_killed,
    replaying_the_log_gives_the_same_rows,
    keeps_the_order_of_each_key,
    buries_poison_and_stores_the_rest,
    gives_up_on_silence,
    sends_less_at_once_where_more_is_not_answered,
    waits_for_slow_and_busy,
    shuts_down_in_mid_batch,
    positions_survive,
    pauses_and_resumes,
    catches_up_after_an_outage_under_load,
    goes_on_behind_a_recorded_gap,
    lets_go_when_asked,
);

fn bench() -> Bench {
    Bench::new(Database::Opentsdb)
}

async fn store(bench: &Bench, sink: OpentsdbSink, last: Lsn) -> Vec<DeadLetter> {
    let sink = bench.start_sink(Arc::new(sink), Database::Opentsdb);
    caught_up(bench, &sink, last).await;
    let letters = sink.dead_letters().ls(0, 2_000).unwrap();
    sink.shutdown(Duration::from_secs(20)).await;
    letters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_point_in_a_batch_of_a_thousand_is_buried_alone() {
    let url = address("opentsdb").unwrap();
    let metric = unique("poison");
    // Nine tags are one more than OpenTSDB takes.
    let template = format!(
        r##"{{"t/#": {{"measurement": "{metric}", "value": ["$payload", "v"], "tags": {{"t": "$topic", "a": ["$payload", "a"],
            "b": ["$payload", "a"], "c": ["$payload", "a"], "d": ["$payload", "a"], "e": ["$payload", "a"], "f": ["$payload", "a"],
            "g": ["$payload", "a"], "h": ["$payload", "a"]}}}}}}"##
    );
    let bench = bench();
    let (mut last, mut bad) = (Lsn::NONE, Vec::new());
    for n in 0..1_000 {
        let payload = match n {
            300 => r#"{"v": 1, "a": "x"}"#.to_owned(),
            600 => r#"{"v": "no number"}"#.to_owned(),
            _ => format!(r#"{{"v": {n}.5}}"#),
        };
        last = bench.log.publish("t/x", payload.as_bytes(), QoS::AtLeastOnce);
        if matches!(n, 300 | 600) {
            bad.push(last.0);
        }
    }
    let letters = store(&bench, sink(&port_of(&url), "pool_size = 1\nmax_batch_size = 1000", &template), last).await;
    let mut buried: Vec<u64> = letters.iter().map(|letter| letter.lsn).collect();
    buried.sort_unstable();
    assert_eq!(buried, bad);
    let reason = |lsn: u64| letters.iter().find(|letter| letter.lsn == lsn).unwrap().reason.clone();
    assert!(reason(bad[0]).contains("tags"), "{}", reason(bad[0]));
    assert!(reason(bad[1]).contains("`no number` is no number"), "{}", reason(bad[1]));
    // One series, all within few milliseconds: each has one of its own.
    let found = query(&url, &metric, "");
    assert_eq!(found.iter().map(|(_, points)| points.len()).sum::<usize>(), 998);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_example_and_names_of_all_kinds() {
    let url = address("opentsdb").unwrap();
    let metric = unique("sample");
    let template = format!(
        r##"{{"#": {{"measurement": "{metric}", "tags": {{"host": ["$payload", "data", "$0", "host"], "region": ["$payload", "data", "$0", "region"],
            "qos": "$qos", "clientid": "$clientid"}}, "value": ["$payload", "data", "$0", "temp"], "timestamp": "$timestamp"}}}}"##
    );
    let mut bench = bench();
    let action = Action::Function(Function::MessagePublish);
    bench.rules.rules = vec![rule(Database::Opentsdb, Hook::MessagePublish, 1, Some("#"), action)];
    let payload = r#"{"data": [{"temp": 1, "host": "serverA", "region": "hangzhou"}, {"temp": "2.5", "host": "a b:c", "region": "宁波"}]}"#;
    let last = bench.log.message(Message {
        topic: "sample".into(),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        publisher: "mqttjs_1".into(),
        ..Message::default()
    });
    assert_eq!(store(&bench, sink(&port_of(&url), "gzip = true", &template), last).await, vec![]);
    let mut found = query(&url, &metric, "");
    found.sort_by_key(|(tags, _)| tags["host"].to_string());
    let tags = |host: &str, region: &str| serde_json::json!({"clientid": "mqttjs_1", "host": host, "qos": "1", "region": region});
    let time = (BEGIN_US + last.0) / 1_000;
    assert_eq!(
        found,
        [
            (tags("a_x20_b_x3A_c", "宁波"), BTreeMap::from([(time, 2.5.into())])),
            (tags("serverA", "hangzhou"), BTreeMap::from([(time, 1.into())])),
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victoria_s_endpoint_takes_the_same() {
    let server = address("victoria-metrics").unwrap();
    let (url, port) = server.split_once("/?opentsdb=").unwrap();
    let metric = unique("victoria");
    let template =
        format!(r##"{{"t/#": {{"measurement": "{metric}", "tags": {{"topic": "$topic"}}, "value": "$payload"}}}}"##);
    let bench = bench();
    let mut last = Lsn::NONE;
    for n in 0..100 {
        last = bench.log.publish(&format!("t/{}", n % 3), n.to_string().as_bytes(), QoS::AtLeastOnce);
    }
    let sink = sink(port, "", &template);
    let found = sink.inspect().await;
    assert!(found.iter().all(|finding| finding.severity == Severity::Fine), "{found:?}");
    assert_eq!(store(&bench, sink, last).await, vec![]);
    http(&[&format!("{url}/internal/force_flush")]);
    let export = format!("{url}/api/v1/export");
    let (_, body) = http(&["--get", &export, "--data-urlencode", &format!("match[]={metric}")]);
    let values: usize =
        body.lines().map(|line| serde_json::from_str::<Json>(line).unwrap()["values"].as_array().unwrap().len()).sum();
    assert_eq!((body.lines().count(), values), (3, 100), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_inspecting_finds() {
    let url = address("opentsdb").unwrap();
    let template = r##"{"t/#": {"measurement": "m", "tags": {"t": "$topic"}, "value": 1}}"##;
    let found = sink(&port_of(&url), "sync = false", template).inspect().await;
    assert!(found.len() == 2 && found[0].severity == Severity::Fine, "{found:?}");
    assert!(found[1].severity == Severity::Warning && found[1].text.contains("sync"), "{found:?}");
    let nobody = forebay_services::free_port().unwrap().to_string();
    let found = sink(&nobody, "", template).inspect().await;
    assert!(found.len() == 1 && found[0].severity == Severity::Fault, "{found:?}");
}

fn publish(bench: &Bench, count: usize) -> Lsn {
    let mut last = Lsn::NONE;
    for n in 0..count {
        let next = bench.log.events().len() + 1;
        last = bench.log.publish(&format!("t/{}", n % 5), next.to_string().as_bytes(), QoS::AtLeastOnce);
    }
    last
}

/// The values of a metric, each as often as it is there.
fn values(url: &str, metric: &str) -> BTreeMap<Vec<u8>, u64> {
    counted(
        query(url, metric, "").into_iter().flat_map(|(_, points)| points.into_values().map(|value| value.to_string())),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_is_killed_hangs_or_is_away_ends_with_each_message_once() {
    const OPENTSDB: usize = 0;
    const HBASE: usize = 1;
    let mut server = private(&OpenTsdb).unwrap();
    let (url, port) = (server.address.clone(), port_of(&server.address));
    let template = r##"{"t/#": {"measurement": "m", "tags": {"topic": "$topic"}, "value": "$payload"}}"##;
    let bench = bench();
    let more = "pool_size = 2\nmax_batch_size = 50\nsync_timeout = 300";
    let running = bench.start_sink(Arc::new(sink(&port, more, template)), Database::Opentsdb);
    let last = publish(&bench, 100);
    caught_up(&bench, &running, last).await;
    // OpenTSDB is killed in mid batch, and comes back.
    publish(&bench, 500);
    server.members[OPENTSDB].kill();
    eventually("the loss is noticed", || running.status().last_error.is_some()).await;
    server.members[OPENTSDB].restart().unwrap();
    let last = publish(&bench, 100);
    caught_up(&bench, &running, last).await;
    // Its store hangs: it answers 400, and no point is bad.
    server.members[HBASE].suspend();
    let last = publish(&bench, 100);
    eventually("storage is named", || running.status().last_error.is_some_and(|e| e.contains("HBase"))).await;
    server.members[HBASE].resume();
    caught_up(&bench, &running, last).await;
    // OpenTSDB accepts and never answers.
    server.members[OPENTSDB].suspend();
    let last = publish(&bench, 100);
    eventually("silence is noticed", || running.status().last_error.is_some_and(|e| e.contains("no answer"))).await;
    server.members[OPENTSDB].resume();
    caught_up(&bench, &running, last).await;
    // Its store is killed in mid batch, and comes back.
    publish(&bench, 300);
    server.members[HBASE].kill();
    let last = publish(&bench, 100);
    server.members[HBASE].restart().unwrap();
    eventually("it is stored", || running.status().position > last).await;
    assert!(running.dead_letters().is_empty());
    let stored = values(&url, "m");
    assert_eq!(stored.len(), bench.log.events().iter().filter(|e| matches!(e, Event::Published(_))).count());
    assert!(stored.values().all(|times| *times == 1));
    eventually("the lag is 0", || running.status().lag_records == 0).await;
    running.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_falls_silent_or_is_reset_ends_with_each_message_once() {
    let url = address("opentsdb").unwrap();
    let link = Link::to(&format!("127.0.0.1:{}", port_of(&url))).unwrap();
    let metric = unique("link");
    let template =
        format!(r##"{{"t/#": {{"measurement": "{metric}", "tags": {{"topic": "$topic"}}, "value": "$payload"}}}}"##);
    let bench = bench();
    let sink = sink(&link.port().to_string(), "pool_size = 2\nmax_batch_size = 50\nsync_timeout = 300", &template);
    let running = bench.start_sink(Arc::new(sink), Database::Opentsdb);
    troubled(&link, &bench, &running, 2_000, publish).await;
    let stored = values(&url, &metric);
    assert_eq!(stored.len(), bench.log.events().iter().filter(|e| matches!(e, Event::Published(_))).count());
    assert!(stored.values().all(|times| *times == 1));
    running.shutdown(Duration::from_secs(20)).await;
}

#[test]
fn the_documented_keys_are_read() {
    let lines = "backend.opentsdb.pool1.server = 10.0.0.1\nbackend.opentsdb.pool1.pool_size = 8\nbackend.opentsdb.pool1.summary = true\n\
                 backend.opentsdb.pool1.details = false\nbackend.opentsdb.pool1.sync = false\nbackend.opentsdb.pool1.sync_timeout = 0\n\
                 backend.opentsdb.pool1.max_batch_size = 20\n";
    let (pool, dir) = pool(lines, r##"{"t": {"measurement": "m", "tags": {"t": "$topic"}, "value": 1}}"##);
    let config = OpentsdbConfig::from_pool(&pool, dir.path()).unwrap();
    assert_eq!((config.http.servers, config.batch, config.connections), (vec!["10.0.0.1:4242".to_owned()], 20, 8));
    assert!(!config.sync && config.sync_timeout_ms == 0);
}
