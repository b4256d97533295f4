//! What templates' statements leave in the tables of TimescaleDB (or PostgreSQL, see `timescale/mod.rs`), and what they refuse.
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sql;
mod timescale;

use std::time::Duration;

use forebay_engine::QoS;
use forebay_engine::event::Message;
use forebay_sinks::Sinks;
use forebay_sinks::conformance::MemoryLog;
use forebay_sinks::dead_letter::DeadLetter;
use forebay_sinks::explain::explain;
use forebay_sinks::inspect::inspect;
use forebay_sinks::rule::RuleSet;
use forebay_sinks::sink::{Finding, Severity};
use sql::{done, options, parts, shows, stop};
use timescale::{Base, SINK};

/// The pool's lines of the guide, with this database's address and login.
fn guide(base: &Base, folder: &std::path::Path) -> RuleSet {
    let (host, port, user, password) = parts(&base.scratch.url);
    let text = include_str!("fixtures/conf/emqx_backend_timescale.conf")
        .replace("127.0.0.1:5432", &format!("{host}:{port}"))
        .replace("= root", &format!("= {user}"))
        .replace("= public", &format!("= {password}"))
        .replace("database = tutorial", &format!("database = {}", base.scratch.name));
    let file = folder.join("templates/emqx_backend_timescale.tmpl");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, include_str!("fixtures/templates/timescale.tmpl")).unwrap();
    base.scratch.parse(&text)
}

const THREE: &str = r#"{"data":[
    {"location":"bedroom","temperature":21.3,"humidity":40.3},
    {"location":"bathroom","temperature":22.3,"humidity":61.8},
    {"location":"kitchen","temperature":29.5,"humidity":58.7}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_documented_configuration_and_templates_fill_the_documented_rows() {
    let base = Base::new("{}").await;
    base.run("create table sensor_data (time timestamptz not null, location text not null, temperature double precision, humidity double precision)").await;
    base.run("create table easy_data (time timestamptz not null, data jsonb)").await;
    for table in ["sensor_data", "easy_data"] {
        base.hypertable(table, "time").await;
    }
    let folder = tempfile::tempdir().unwrap();
    let rules = guide(&base, folder.path());
    let mut options = options();
    options.databases.data_dir = folder.path().to_owned();
    let log = MemoryLog::default();
    let sinks = Sinks::start(std::sync::Arc::new(log.clone()), &rules, &options).unwrap();
    log.publish("sensor_data", THREE.as_bytes(), QoS::AtLeastOnce);
    log.publish("sensor_data2/attic", br#"{"location": "attic", "temperature": 31}"#, QoS::AtLeastOnce);
    log.publish("easy_data", br#"{"any": ["thing", 1.50]}"#, QoS::ExactlyOnce);
    // on_message_publish is for QoS 1 and 2; a topic without a template stores nothing.
    log.publish("easy_data", b"{}", QoS::AtMostOnce);
    let last = log.publish("other", b"{}", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    // The rules for `#` and for these topics overlap: a message is stored once all the same.
    assert_eq!(
        base.rows("location,temperature,humidity", "from sensor_data order by temperature").await,
        ["bedroom|21.3|40.3", "bathroom|22.3|61.8", "kitchen|29.5|58.7", "attic|31|-"]
    );
    assert_eq!(base.rows("data", "from easy_data").await, [r#"{"any": ["thing", 1.50]}"#]);
    assert_eq!(base.rows("now() - time < interval '5 minutes'", "from easy_data").await, ["true"]);
    assert!(sinks.dead_letters(SINK).unwrap().is_empty());
    // Of its own it has made one table.
    let own = "from pg_tables where schemaname = 'public' and tablename like 'forebay%'";
    assert_eq!(base.rows("tablename", own).await, ["forebay_position"]);
    stop(sinks).await;
    let message =
        Message { topic: "sensor_data".into(), payload: THREE.into(), qos: QoS::AtLeastOnce, ..Message::default() };
    let explained = explain(&rules, &message, 1_700_000_000_000_000, &options.databases).unwrap();
    let shown: Vec<&str> = explained.iter().flat_map(|rule| &rule.operations).map(|op| op.text.as_str()).collect();
    let into = "insert into sensor_data(time, location, temperature, humidity) values";
    assert_eq!(
        shown,
        [
            format!("{into} (NOW(), 'bedroom', 21.3, 40.3)"),
            format!("{into} (NOW(), 'bathroom', 22.3, 61.8)"),
            format!("{into} (NOW(), 'kitchen', 29.5, 58.7)"),
        ]
    );
}

/// A template for `v/#` that fills the columns of `all_types` from the payload.
async fn all_types() -> Base {
    const COLUMNS: [(&str, &str); 16] = [
        ("t", "text"),
        ("v", "varchar(5)"),
        ("i", "integer"),
        ("b", "bigint"),
        ("f", "double precision"),
        ("n", "numeric"),
        ("y", "boolean"),
        ("j", "json"),
        ("jb", "jsonb"),
        ("tz", "timestamptz"),
        ("ts", "timestamp"),
        ("d", "date"),
        ("ip", "inet"),
        ("u", "uuid"),
        ("a", "text[]"),
        ("m", "\"Mood\""),
    ];
    let places: Vec<String> = (1..=COLUMNS.len()).map(|n| format!("${n}")).collect();
    let keys: Vec<String> = COLUMNS.iter().map(|(name, _)| format!(r#"["$payload", "{name}"]"#)).collect();
    let base = Base::new(&format!(
        r#"{{"v/#": {{"name": "all", "sql": "insert into all_types values ({})", "param_keys": [{}]}},
            "s/#": {{"name": "seconds", "sql": "insert into all_types (t, tz, ts, d) values ($1, $2, $3, $4)",
                "param_keys": ["$timestamp", "$timestamp", "$timestamp", ["$payload", "d"]], "timestamp_unit": "s"}},
            "p/#": {{"name": "payload", "sql": "insert into payloads values ($1, $2, $3)", "param_keys": ["$payload", "$payload", "$payload"]}}}}"#,
        places.join(", "),
        keys.join(", ")
    ))
    .await;
    let columns: Vec<String> = COLUMNS.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    base.run("create type \"Mood\" as enum ('good', 'bad')").await;
    base.run(&format!("create table all_types ({})", columns.join(", "))).await;
    base.run("create table payloads (t text, j jsonb, b bytea)").await;
    base
}

fn letters(sinks: &Sinks) -> Vec<DeadLetter> {
    let mut letters = sinks.dead_letters(SINK).unwrap().ls(0, 100).unwrap();
    letters.sort_by_key(|letter| letter.lsn);
    letters
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_what_their_columns_are_and_what_is_missing_is_null() {
    let base = all_types().await;
    let log = MemoryLog::default();
    let sinks = base.start(&log, &[]);
    for payload in [
        r#"{"t": "it's", "v": "a", "i": -7, "b": 9007199254740993, "f": 1e-7, "n": 1e-7, "y": true, "j": {"k": [1]}, "jb": [1, null],
            "tz": "2024-05-06 07:08:09.5+02", "ts": "2024-05-06 07:08:09", "d": "2024-05-06", "ip": "10.0.0.9/8",
            "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a": "{x,y}", "m": "good"}"#,
        r#"{"t": 21.50, "v": true, "i": "42", "b": "1", "f": "2.5", "n": 12345678901234567890, "y": "false", "j": "a text", "jb": false}"#,
        r#"{"t": {"z": 1, "a": [true]}, "i": null, "jb": null, "tz": null, "u": null, "a": null}"#,
        "{}",
    ] {
        log.publish("v/1", payload.as_bytes(), QoS::AtLeastOnce);
    }
    let last = log.publish("s/1", br#"{"d": 1704067199}"#, QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert_eq!(letters(&sinks), vec![]);
    let rows = base.rows("t,v,i,b,f,n,y,j,jb,tz at time zone 'UTC',ts,d,ip,u,a,m", "from all_types").await;
    assert_eq!(
        rows,
        [
            r#"it's|a|-7|9007199254740993|1e-07|0.0000001|true|{"k":[1]}|[1, null]|2024-05-06 05:08:09.5|2024-05-06 07:08:09|2024-05-06|10.0.0.9/8|a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11|{x,y}|good"#,
            r#"21.5|true|42|1|2.5|12345678901234567890|false|"a text"|false|-|-|-|-|-|-|-"#,
            r#"{"a":[true],"z":1}|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-"#,
            "-|-|-|-|-|-|-|-|-|-|-|-|-|-|-|-",
            // The record's time, and in a column of text the number of seconds; a number of the payload with its unit.
            "1704067200|-|-|-|-|-|-|-|-|2024-01-01 00:00:00.000005|2024-01-01 00:00:00.000005|2023-12-31|-|-|-|-",
        ]
    );
    // Whole payloads: as they are, and in JSON what is none is a string.
    for payload in [&b"{\"a\":  1.50}"[..], b"\"q\"", b"no JSON", b" 7", b""] {
        log.publish("p/1", payload, QoS::AtLeastOnce);
    }
    let last = log.publish("p/1", b"\xff\x00", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    let found = letters(&sinks);
    assert_eq!(found.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [last.0]);
    assert!(found[0].reason.contains("binary_payload"), "{}", found[0].reason);
    assert_eq!(
        base.rows("t,j,encode(b,'escape')", "from payloads").await,
        [
            r#"{"a":  1.50}|{"a": 1.50}|{"a":  1.50}"#,
            r#""q"|"q"|"q""#,
            r#"no JSON|"no JSON"|no JSON"#,
            " 7|7| 7",
            r#"|""|"#
        ]
    );
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_buried_with_its_statement_and_stored_when_it_fits() {
    let base = Base::new(
        r##"{"#": {"name": "n", "sql": "insert into small (t, i, at, w) values ($1, $2, $3, $4)",
            "param_keys": [["$payload", "t"], ["$payload", "i", "$0"], ["$payload", "at"], ["$payload", "w"]]}}"##,
    )
    .await;
    base.run("create table small (t varchar(3) not null, i integer, at timestamptz, w smallint)").await;
    let log = MemoryLog::default();
    let sinks = base.start(&log, &[]);
    let good = log.publish("a", br#"{"t": "ok", "i": [1], "w": 1}"#, QoS::AtLeastOnce);
    done(&log, &sinks, good).await;
    let bad = [
        r#"{"t": "ok", "i": [2, "x", 3]}"#,
        r#"{"t": "long", "i": [4]}"#,
        r#"{"i": [5]}"#,
        r#"{"t": "ok", "i": [6], "at": "yesterdayish"}"#,
        r#"{"t": "ok", "i": [7], "at": 1704067200000}"#,
        r#"{"t": "ok", "i": [8], "w": 40000}"#,
        r#"{"t": "ok", "i": 9}"#,
        "no JSON",
    ];
    let bad: Vec<u64> = bad.iter().map(|payload| log.publish("a", payload.as_bytes(), QoS::AtLeastOnce).0).collect();
    let last = log.publish("a", br#"{"t": "ok", "i": []}"#, QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert_eq!(base.rows("t,i", "from small order by i").await, ["ok|1", "ok|2", "ok|3"], "only the rows that fit");
    let found = letters(&sinks);
    assert_eq!(found.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), bad);
    let said = [
        "`x` goes where INT4 is expected",
        "too long",
        "not-null",
        "invalid input syntax",
        "out of range",
        "`40000` goes where INT2 is expected",
        "wants an array and finds a number",
        "no JSON",
    ];
    for (letter, said) in found.iter().zip(said) {
        assert!(letter.reason.contains(said), "{said}: {}", letter.reason);
        assert!(letter.hook == "message.publish" && letter.rule == 1, "{letter:?}");
    }
    assert_eq!(found[0].statement, "insert into small (t, i, at, w) values ('ok', 'x', null, null)");
    assert_eq!(found[2].statement, "insert into small (t, i, at, w) values (null, 5, null, null)");
    assert_eq!(found[0].place, 1, "the second row of the message");
    // The operator widens the columns: the letters are stored, without a restart.
    for sql in ["alter table small alter t type varchar(9)", "alter table small alter w type integer"] {
        base.run(sql).await;
    }
    for index in [1, 5] {
        sinks.replay(SINK, found[index].id).await.unwrap();
    }
    assert!(sinks.replay(SINK, found[0].id).await.is_err());
    assert_eq!(base.rows("t,i,w", "from small where i in (4, 8) order by i").await, ["long|4|-", "ok|8|40000"]);
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_which_nothing_could_be_made_is_replayed_as_a_whole() {
    let base = Base::new(
        r#"{"a": {"name": "x", "sql": "insert into words values ($1)", "param_keys": [["$payload", "word"]]}}"#,
    )
    .await;
    base.run("create table words (w text)").await;
    let log = MemoryLog::default();
    let mut options = options();
    // The same letters over the restart.
    let store = std::sync::Arc::new(forebay_sinks::dead_letter::MemoryLetters::default());
    options.open_letters = std::sync::Arc::new(move |_| Ok(store.clone()));
    let sinks = base.start_with(&log, &[], &options);
    let last = log.publish("a", b"hello", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    assert!(letters(&sinks)[0].statement.is_empty() && letters(&sinks)[0].reason.contains("no JSON"));
    stop(sinks).await;
    base.template(
        r#"{"a": [{"name": "x", "sql": "insert into words values ($1)", "param_keys": ["$payload"]},
            {"name": "y", "sql": "insert into words values ($1)", "param_keys": ["$clientid"]}]}"#,
    );
    let sinks = base.start_with(&log, &[], &options);
    let last = log.publish("b", b"no template", QoS::AtLeastOnce);
    done(&log, &sinks, last).await;
    let letter = letters(&sinks).remove(0);
    sinks.replay(SINK, letter.id).await.unwrap();
    assert_eq!(base.rows("w", "from words").await, ["hello", "publisher"]);
    assert!(letters(&sinks).is_empty());
    stop(sinks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_are_the_operator_s_and_the_table_of_positions_is_made_as_the_pool_says() {
    let base =
        Base::new(r##"{"#": {"name": "n", "sql": "insert into own values ($1)", "param_keys": ["$payload"]}}"##).await;
    let look = async |more: &[(&str, &str)]| {
        let found = inspect(&base.rules(more), &options().databases, Duration::from_secs(20)).await.unwrap();
        found.into_iter().flat_map(|one| one.findings).collect::<Vec<Finding>>()
    };
    let of = |findings: &[Finding], severity: Severity| -> Vec<String> {
        findings.iter().filter(|f| f.severity == severity).map(|f| f.text.clone()).collect()
    };
    let missing = look(&[]).await;
    assert!(of(&missing, Severity::Fine).iter().any(|text| text.contains("forebay_position is not there yet")));
    let faults = of(&missing, Severity::Fault);
    assert!(faults.len() == 1 && faults[0].contains("template `n` of # ("), "{faults:?}");
    assert!(faults[0].contains("\"own\" does not exist") && faults[0].contains("create the table"), "{faults:?}");
    let verified = of(&look(&[("schema", "verify")]).await, Severity::Fault);
    assert!(verified.iter().any(|text| text.contains("create table if not exists forebay_position")), "{verified:?}");
    let off = of(&look(&[("schema", "off")]).await, Severity::Warning);
    assert!(off.len() == 1 && off[0].contains("forebay_position is missing"), "{off:?}");
    base.run("create table own (p text)").await;
    assert_eq!(of(&look(&[]).await, Severity::Fault), [""; 0]);
    assert_eq!(base.rows("count(*)", "from own").await, ["0"], "looking stores nothing");
    // Who may not write is told so before anything is lost.
    let user = format!("u_{}", base.scratch.name);
    base.run(&format!("create role {user} login password 'pw'")).await;
    base.run(&format!("grant select on own to {user}")).await;
    let rights = of(&look(&[("username", &user), ("password", "pw")]).await, Severity::Fault);
    assert!(rights.len() == 1 && rights[0].contains("permission denied for table own"), "{rights:?}");
    // A start without the table of positions.
    let log = MemoryLog::default();
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    for (schema, said) in [("off", "forebay_position"), ("verify", "create table if not exists forebay_position")] {
        let sinks = base.start(&log, &[("schema", schema)]);
        shows(&sinks, said).await;
        stop(sinks).await;
    }
    let own = "from pg_tables where schemaname = 'public'";
    assert_eq!(base.rows("tablename", own).await, ["own"]);
    let sinks = base.start(&log, &[]);
    done(&log, &sinks, last).await;
    assert_eq!(base.rows("p", "from own").await, ["1"]);
    stop(sinks).await;
    base.run(&format!("drop owned by {user}")).await;
    base.run(&format!("drop role {user}")).await;
}
