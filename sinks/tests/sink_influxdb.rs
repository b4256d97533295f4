//! InfluxDB on real servers: the conformance suite, what is stored, what is refused.
#![cfg(all(feature = "conformance", feature = "influxdb"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod points;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forebay_engine::event::Message;
use forebay_engine::{Event, Lsn, QoS};
use forebay_services::influxdb::{self, InfluxDb};
use forebay_services::toxiproxy::Link;
use forebay_services::{Private, address, private};
use forebay_sinks::conformance::{self, Bench, Fault, Faulty, Subject, caught_up, rule, until as eventually};
use forebay_sinks::influxdb::{InfluxConfig, InfluxSink, Line};
use forebay_sinks::rule::{Action, Database, Function, Hook, Statement};
use forebay_sinks::sink::{Severity, Sink, SinkRecord};
use points::{counted, http, pool, troubled, unique, until};

const TEMPLATE: &str = r#"{"t/#": {"measurement": "t", "tags": {"topic": "$topic"}, "fields": {"v": "$payload"}}}"#;

/// A database of a server.
struct Base {
    /// With the administrator's login.
    url: String,
    port: u16,
    database: String,
}

impl Base {
    fn of(address: &str) -> Base {
        let url = address.split_once("/?").unwrap().0.to_owned();
        let port = url.rsplit(':').next().unwrap().parse().unwrap();
        let base = Base { url, port, database: unique("suite") };
        base.ask(&format!("CREATE DATABASE {}", base.database));
        base
    }

    fn shared() -> Base {
        Base::of(&address("influxdb").unwrap())
    }

    fn ask(&self, statement: &str) -> serde_json::Value {
        let (url, statement) = (format!("{}/query?db={}&epoch=ns", self.url, self.database), format!("q={statement}"));
        let (status, body) = http(&["-X", "POST", &url, "--data-urlencode", &statement]);
        assert_eq!(status, 200, "{statement}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    /// Rows of a query of one series.
    fn rows(&self, query: &str) -> Vec<Vec<serde_json::Value>> {
        let answer = self.ask(query);
        let values = &answer["results"][0]["series"][0]["values"];
        values.as_array().into_iter().flatten().map(|row| row.as_array().unwrap().clone()).collect()
    }

    fn texts(&self, query: &str) -> Vec<String> {
        self.rows(query).into_iter().map(|row| row[1].as_str().unwrap().to_owned()).collect()
    }

    fn lines(&self, more: &str) -> String {
        format!(
            "backend.influxdb.pool1.http.port = {}\nbackend.influxdb.pool1.http.database = {}\n\
             backend.influxdb.pool1.http.username = admin\nbackend.influxdb.pool1.http.password = pw\n{}",
            self.port,
            self.database,
            more.lines().map(|line| format!("backend.influxdb.pool1.{line}\n")).collect::<String>(),
        )
    }

    fn sink(&self, more: &str, template: &str) -> InfluxSink {
        sink(&self.lines(more), template)
    }
}

fn sink(lines: &str, template: &str) -> InfluxSink {
    let (pool, dir) = pool(lines, template);
    InfluxSink::new(InfluxConfig::from_pool(&pool, dir.path()).unwrap())
}

struct Subjected {
    base: Base,
    more: &'static str,
    sink: Faulty<InfluxSink>,
}

/// Makes lines of these payloads such as the server can't read.
fn spoil(record: &SinkRecord, line: &mut Line) {
    if matches!(&record.event, Event::Published(p) if &p.message.payload[..] == b"poison") {
        line.text = "t,topic=t/1 v=unquoted".to_owned();
    }
}

fn subject(more: &'static str) -> Subjected {
    let base = Base::shared();
    let sink = Faulty::new(base.sink(more, TEMPLATE)).spoiling(spoil);
    Subjected { base, more, sink }
}

impl Subject for Subjected {
    type Sink = Faulty<InfluxSink>;
    fn sink(&self) -> Arc<Faulty<InfluxSink>> {
        Arc::new(self.sink.anew(self.base.sink(self.more, TEMPLATE)))
    }
    fn database(&self) -> Database {
        Database::Influxdb
    }
    fn fault(&self, fault: Fault) {
        self.sink.set(fault);
    }
    async fn stored(&self) -> BTreeMap<Vec<u8>, u64> {
        counted(self.base.texts("select v from t"))
    }
    async fn order(&self, topic: &str) -> Vec<Vec<u8>> {
        let query = format!("select v from t where topic = '{topic}' order by time");
        self.base.texts(&query).into_iter().map(String::into_bytes).collect()
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
    ($name:ident, $more:literal: $($clause:ident),* $(,)?) => {
        mod $name {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $clause() {
                conformance::$clause(&subject($more)).await;
            })*
        }
    };
}

suite!(in_nanoseconds, "":
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

// All records of the suite are within few milliseconds: most points are moved, and have to be moved the same way each time.
suite!(in_milliseconds_compressed, "http.precision = ms\nhttp.gzip = true\npool_size = 2":
    survives_dying_in_mid_batch,
    survives_being_killed,
    replaying_the_log_gives_the_same_rows,
    keeps_the_order_of_each_key,
    buries_poison_and_stores_the_rest,
    positions_survive,
    catches_up_after_an_outage_under_load,
);

fn bench() -> Bench {
    Bench::new(Database::Influxdb)
}

async fn store(bench: &Bench, sink: InfluxSink, last: Lsn) -> Vec<forebay_sinks::dead_letter::DeadLetter> {
    let sink = bench.start_sink(Arc::new(sink), Database::Influxdb);
    caught_up(bench, &sink, last).await;
    let letters = sink.dead_letters().ls(0, 2_000).unwrap();
    sink.shutdown(Duration::from_secs(20)).await;
    letters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_point_in_a_batch_of_a_thousand_is_buried_alone() {
    let base = Base::shared();
    let (url, body) = (format!("{}/write?db={}", base.url, base.database), "t,topic=t/x v=1 1");
    assert_eq!(http(&[&url, "--data-binary", body]).0, 204);
    let bench = bench();
    let mut last = Lsn::NONE;
    let mut bad = Lsn::NONE;
    for n in 0..1_000 {
        // 500 has a text where the others, and what is there, have a number.
        let payload = if n == 500 { "a text".to_owned() } else { n.to_string() };
        last = bench.log.publish("t/x", payload.as_bytes(), QoS::AtLeastOnce);
        if n == 500 {
            bad = last;
        }
    }
    let letters = store(&bench, base.sink("pool_size = 1\nbatch_size = 1000", TEMPLATE), last).await;
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [bad.0]);
    assert!(letters[0].reason.contains("field type conflict"), "{}", letters[0].reason);
    assert!(letters[0].reason.contains("compat_string") && letters[0].statement.contains("a text"));
    assert_eq!(base.rows("select count(v) from t")[0][1], 1_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_example_is_stored_as_documented() {
    let base = Base::shared();
    let mut bench = bench();
    let action = Action::Function(Function::MessagePublish);
    bench.rules.rules = vec![rule(Database::Influxdb, Hook::MessagePublish, 1, Some("#"), action)];
    let payload = r#"{"data": [{"temp": 1, "host": "serverA", "region": "hangzhou"}, {"temp": 2, "host": "serverB", "region": "ningbo"}]}"#;
    let last = bench.log.message(Message {
        topic: "sample".into(),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        publisher: "mqttjs_ebcc36079a".into(),
        ..Message::default()
    });
    let template = include_str!("fixtures/templates/sample.tmpl");
    let letters = store(&bench, base.sink("field_type = compat_string", template), last).await;
    assert_eq!(letters, vec![]);
    let time = (conformance::BEGIN_US + last.0) * 1_000;
    let row = |host: &str, region: &str, temperature: &str| {
        serde_json::json!([time, "mqttjs_ebcc36079a", host, "1", region, temperature]).as_array().unwrap().clone()
    };
    let mut rows = base.rows("select * from sample");
    rows.sort_by_key(|row| row[2].to_string());
    assert_eq!(rows, [row("serverA", "hangzhou", "1"), row("serverB", "ningbo", "2")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_line_can_say_comes_back_as_it_was() {
    let base = Base::shared();
    let bench = bench();
    let words = [
        "plain",
        "two words",
        "a,b",
        "a=b",
        "a\\b",
        "a\\,b",
        "\\ x",
        "\"quoted\"",
        "'",
        "ä€🦀",
        "#x",
        " lead",
        "trail ",
        ",",
        "=",
        "{}",
        "$1",
        "a\\\\b",
        "t=1,u=2 v=3 4",
    ];
    let template = r##"{"t/#": {"measurement": ["$payload", "m"], "tags": {"a tag,=": ["$payload", "w"]},
        "fields": {"a field,=": ["$payload", "w"], "line": ["$payload", "l"]}}}"##;
    let mut last = Lsn::NONE;
    let mut expected = Vec::new();
    for (n, word) in words.iter().enumerate() {
        let line = format!("{word}\n\"{word}\\");
        // What a measurement can't be, a tag and a field can.
        let refused = word.starts_with('#') || word.contains("\\,") || word.contains("\\ ");
        let name = if refused { format!("m{n}") } else { (*word).to_owned() };
        let payload = serde_json::json!({"m": name, "w": word, "l": line}).to_string();
        last = bench.log.publish(&format!("t/{n}"), payload.as_bytes(), QoS::AtLeastOnce);
        expected.push((name, word.to_owned(), line));
    }
    let letters = store(&bench, base.sink("", template), last).await;
    assert_eq!(letters, vec![]);
    for (name, word, line) in expected {
        let name = name.replace('\\', "\\\\").replace('"', "\\\"");
        let rows = base.rows(&format!("select \"a field,=\", line, \"a tag,=\" from \"{name}\""));
        assert_eq!(rows.len(), 1, "{word}");
        assert_eq!(rows[0][1..], [serde_json::json!(word), serde_json::json!(line), serde_json::json!(word)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_databases_and_rights_hold_the_sink_with_the_remedy() {
    let base = Base::shared();
    let lines = |user: &str, password: &str, database: &str| {
        format!(
            "backend.influxdb.pool1.http.port = {}\nbackend.influxdb.pool1.http.database = {database}\n\
             backend.influxdb.pool1.http.username = {user}\nbackend.influxdb.pool1.http.password = {password}\n",
            base.port
        )
    };
    for (lines, said) in [
        (lines("admin", "wrong", &base.database), "login"),
        (lines("forebay", "pw", &base.database), "may not write"),
        (lines("admin", "pw", "no_such"), "create it"),
    ] {
        let refused = sink(&lines, TEMPLATE);
        let found = refused.inspect().await;
        assert!(found.len() == 1 && found[0].severity == Severity::Fault && found[0].text.contains(said), "{found:?}");
        let bench = bench();
        bench.log.publish("t/1", b"1", QoS::AtLeastOnce);
        let running = bench.start_sink(Arc::new(refused), Database::Influxdb);
        eventually("the remedy is shown", || running.status().last_error.is_some_and(|e| e.contains(said))).await;
        assert!(running.dead_letters().is_empty() && running.status().stored == 0);
        running.shutdown(Duration::from_secs(20)).await;
    }
    let found = base.sink("", TEMPLATE).inspect().await;
    assert!(found.len() == 1 && found[0].severity == Severity::Fine, "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_checks_the_server_s_certificate() {
    let base = {
        let server = address("influxdb-tls").unwrap();
        let url = server.split_once("/?").unwrap().0.to_owned();
        Base { port: url.rsplit(':').next().unwrap().parse().unwrap(), url, database: influxdb::DATABASE.into() }
    };
    let authority = forebay_services::certificates::certificates().unwrap().authority;
    let tls =
        format!("http.https_enabled = true\nhttp.ssl.version = tlsv1.2\nhttp.ssl.cacertfile = {}", authority.display());
    let found = base.sink(&tls, TEMPLATE).inspect().await;
    assert!(found.len() == 1 && found[0].severity == Severity::Fine, "{found:?}");
    let found = base.sink("http.https_enabled = true", TEMPLATE).inspect().await;
    assert!(found[0].severity == Severity::Fault && found[0].text.to_lowercase().contains("certificate"), "{found:?}");
    let bench = bench();
    let topic = format!("t/{}", unique("tls"));
    let last = bench.log.publish(&topic, b"over TLS", QoS::AtLeastOnce);
    assert_eq!(store(&bench, base.sink(&tls, TEMPLATE), last).await, vec![]);
    let (query, statement) =
        (format!("{}/query?db={}", base.url, base.database), format!("q=select v from t where topic = '{topic}'"));
    let (_, body) =
        http(&["--cacert", &authority.display().to_string(), "--get", &query, "--data-urlencode", &statement]);
    assert!(body.contains("over TLS"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_udp_points_arrive_where_nothing_is_lost() {
    let server = address("influxdb").unwrap();
    let (url, udp) = server.split_once("/?udp=").unwrap();
    let measurement = unique("udp");
    let template = TEMPLATE.replace("\"t\"", &format!("\"{measurement}\""));
    let bench = bench();
    let mut last = Lsn::NONE;
    for n in 0..200 {
        last = bench.log.publish("t/1", format!("m{n}").as_bytes(), QoS::AtLeastOnce);
    }
    let long = bench.log.publish("t/1", "x".repeat(70_000).as_bytes(), QoS::AtLeastOnce);
    let sink = sink(
        &format!("backend.influxdb.pool1.server = 127.0.0.1:{udp}\nbackend.influxdb.pool1.pool_size = 1\n"),
        &template,
    );
    let found = sink.inspect().await;
    assert!(found[0].severity == Severity::Warning && found[0].text.contains("not noticed"), "{found:?}");
    let letters = store(&bench, sink, long.max(last)).await;
    assert_eq!(letters.iter().map(|l| l.lsn).collect::<Vec<_>>(), [long.0]);
    let base = Base { url: url.to_owned(), port: 0, database: influxdb::UDP_DATABASE.into() };
    // All within one millisecond, which is the unit: each has one of its own.
    until("200 points", || {
        base.rows(&format!("select count(v) from {measurement}")).first().is_some_and(|row| row[1] == 200)
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_api_writes_to_a_server_that_has_it() {
    let server = address("victoria-metrics").unwrap();
    let url = server.split_once("/?").unwrap().0;
    let port = url.rsplit(':').next().unwrap();
    let measurement = unique("second");
    let template = format!(
        r##"{{"t/#": {{"measurement": "{measurement}", "tags": {{"topic": "$topic"}}, "fields": {{"v": ["$payload", "v"]}},
            "timestamp": ["$payload", "at"], "timestamp_unit": "s"}}}}"##
    );
    let lines = format!(
        "backend.influxdb.pool1.http.server = 127.0.0.1:{port}\nbackend.influxdb.pool1.http.token = t0ken\n\
         backend.influxdb.pool1.http.org = o\nbackend.influxdb.pool1.http.bucket = b\nbackend.influxdb.pool1.http.precision = ms\n"
    );
    let bench = bench();
    let mut last = Lsn::NONE;
    for n in 0..50 {
        last = bench.log.publish(
            "t/1",
            format!(r#"{{"v": {n}.5, "at": {}}}"#, 1_600_000_000 + n).as_bytes(),
            QoS::AtLeastOnce,
        );
    }
    let second = sink(&lines, &template);
    let found = second.inspect().await;
    assert!(found[0].severity == Severity::Fine, "{found:?}");
    assert_eq!(store(&bench, second, last).await, vec![]);
    http(&[&format!("{url}/internal/force_flush")]);
    let export = format!("{url}/api/v1/export");
    let (_, body) = http(&["--get", &export, "--data-urlencode", &format!("match[]={measurement}_v")]);
    let series: serde_json::Value = serde_json::from_str(body.lines().next().unwrap()).unwrap();
    assert_eq!(series["values"].as_array().unwrap().len(), 50, "{body}");
    assert_eq!((&series["values"][0], &series["timestamps"][0]), (&0.5.into(), &1_600_000_000_000_u64.into()));
    assert_eq!(series["metric"]["topic"], "t/1");
}

/// A server that the test may kill, with a bench that publishes while it does.
fn own() -> (Private, Base) {
    let server = private(&InfluxDb { tls: false }).unwrap();
    let base = Base::of(&server.address);
    (server, base)
}

fn publish(bench: &Bench, count: usize) -> Lsn {
    let mut last = Lsn::NONE;
    for n in 0..count {
        let next = bench.log.events().len() + 1;
        last = bench.log.publish(&format!("t/{}", n % 5), format!("m{next}").as_bytes(), QoS::AtLeastOnce);
    }
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_suspended_and_robbed_of_its_user_ends_with_each_message_once() {
    let (mut server, base) = own();
    let bench = bench();
    let sink = Arc::new(base.sink("pool_size = 2\nbatch_size = 200", TEMPLATE));
    let running = bench.start_sink(sink, Database::Influxdb);
    let mut count = 0;
    for round in 0..4 {
        count += 2_000;
        publish(&bench, 1_000);
        tokio::time::sleep(Duration::from_millis(15 * round)).await;
        server.process().kill();
        publish(&bench, 1_000);
        eventually("the loss is noticed", || running.status().last_error.is_some()).await;
        server.process().restart().unwrap();
    }
    let last = publish(&bench, 1);
    caught_up(&bench, &running, last).await;
    server.process().suspend();
    let last = publish(&bench, 500);
    eventually("silence is noticed", || running.status().last_error.is_some_and(|e| e.contains("no answer"))).await;
    server.process().resume();
    caught_up(&bench, &running, last).await;
    base.ask("SET PASSWORD FOR admin = 'other'");
    let last = publish(&bench, 500);
    eventually("the login is asked for", || running.status().last_error.is_some_and(|e| e.contains("login"))).await;
    let other =
        Base { url: base.url.replace("admin:pw", "admin:other"), port: base.port, database: base.database.clone() };
    other.ask("SET PASSWORD FOR admin = 'pw'");
    caught_up(&bench, &running, last).await;
    assert!(running.dead_letters().is_empty());
    let stored = counted(base.texts("select v from t"));
    let expected: usize = count + 1 + 500 + 500;
    assert_eq!(stored.len(), expected);
    assert!(stored.values().all(|times| *times == 1));
    eventually("the lag is 0", || running.status().lag_records == 0).await;
    running.shutdown(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_falls_silent_or_is_reset_ends_with_each_message_once() {
    let base = Base::shared();
    let link = Link::to(&format!("127.0.0.1:{}", base.port)).unwrap();
    let through = Base { url: base.url.clone(), port: link.port(), database: base.database.clone() };
    let bench = bench();
    let sink = Arc::new(through.sink("pool_size = 2\nbatch_size = 200", TEMPLATE));
    let running = bench.start_sink(sink, Database::Influxdb);
    troubled(&link, &bench, &running, 3_000, publish).await;
    let stored = counted(base.texts("select v from t"));
    assert_eq!(stored.len(), bench.log.events().iter().filter(|e| matches!(e, Event::Published(_))).count());
    assert!(stored.values().all(|times| *times == 1));
    running.shutdown(Duration::from_secs(20)).await;
}

/// Answers each request with the next of these, then with 204; a server that throttles is not to be had otherwise.
async fn throttling(answers: &'static [&'static str]) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let next = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let next = next.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 65_536];
                // Each request of this test is short enough to come at once.
                while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let head = answers.get(n).copied().unwrap_or("204 No Content");
                    let answer = format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn throttling_is_waited_out_and_buries_nothing() {
    let port = throttling(&[
        "429 Too Many Requests\r\nRetry-After: 1",
        "503 Service Unavailable",
        "500 Internal Server Error",
    ])
    .await;
    let lines = format!("backend.influxdb.pool1.http.port = {port}\nbackend.influxdb.pool1.pool_size = 1\n");
    let bench = bench();
    let last = bench.log.publish("t/1", b"1", QoS::AtLeastOnce);
    let began = std::time::Instant::now();
    let running = bench.start_sink(Arc::new(sink(&lines, TEMPLATE)), Database::Influxdb);
    caught_up(&bench, &running, last).await;
    assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After was not waited for");
    assert!(running.dead_letters().is_empty() && running.status().stored == 1);
    running.shutdown(Duration::from_secs(20)).await;
}

#[test]
fn each_generation_of_keys_is_read() {
    use forebay_sinks::influxdb::Target;
    let config = |lines: &str| {
        let (pool, dir) = pool(lines, TEMPLATE);
        InfluxConfig::from_pool(&pool, dir.path()).unwrap()
    };
    let first = config(
        "backend.influxdb.pool1.server = 10.0.0.1:8089\nbackend.influxdb.pool1.pool_size = 5\nbackend.influxdb.pool1.set_timestamp = true\n",
    );
    assert_eq!((first.target, first.connections), (Target::Udp(vec!["10.0.0.1:8089".into()]), 5));
    let guide = |protocol: &str| {
        format!(
            "backend.influxdb.pool1.common.write_protocol = {protocol}\nbackend.influxdb.pool1.common.batch_size = 1000\n\
             backend.influxdb.pool1.pool_size = 8\nbackend.influxdb.pool1.udp.host = 127.0.0.1\n\
             backend.influxdb.pool1.udp.port = 8089\nbackend.influxdb.pool1.http.host = 127.0.0.1\n\
             backend.influxdb.pool1.http.port = 8086\nbackend.influxdb.pool1.http.database = mydb\n\
             backend.influxdb.pool1.http.username = u\nbackend.influxdb.pool1.http.password = p\n\
             backend.influxdb.pool1.http.precision = ms\nbackend.influxdb.pool1.http.https_enabled = false\n\
             backend.influxdb.pool1.http.ssl.version = tlsv1.2\n"
        )
    };
    assert_eq!(config(&guide("udp")).target, Target::Udp(vec!["127.0.0.1:8089".into()]));
    let Target::V1 { http, database } = config(&guide("http")).target else { panic!("HTTP was asked for") };
    assert_eq!((http.servers, http.tls, database.as_str()), (vec!["127.0.0.1:8086".to_owned()], None, "mydb"));
    let operator = config(
        "backend.influxdb.http.pool1.server = a:1\nbackend.influxdb.http.pool1.pool_size = 3\nbackend.influxdb.http.pool1.precision = s\n",
    );
    assert_eq!((operator.connections, operator.unit.name()), (3, "s"));
    assert!(matches!(operator.target, Target::V1 { http, .. } if http.servers == ["a:1"]));
    let (pool, dir) = pool("backend.influxdb.pool1.http.token = x\n", TEMPLATE);
    assert!(InfluxConfig::from_pool(&pool, dir.path()).unwrap_err().contains("http.bucket"));
    let (pool, _dir) = points::pool("backend.influxdb.pool1.http.port = 1\n", TEMPLATE);
    let missing = InfluxConfig::from_pool(&pool, std::path::Path::new("/no/such")).unwrap_err();
    assert!(
        missing.contains("/no/such/templates/emqx_backend_influxdb.tmpl") && missing.contains("TEMPLATES.md"),
        "{missing}"
    );
}
