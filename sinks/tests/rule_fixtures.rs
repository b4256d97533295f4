//! Every `.conf` block of the EMQ X documents loads, or is refused with the exact place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use forebay_sinks::rule::{
    Action, Database, Function, Hook, Loaded, PayloadFormat, RuleSet, WarningCode, load, parse_conf,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/conf").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(fixture(name)).unwrap()
}

/// Loads a file that has no fault and compares its counts.
fn loads(name: &str, pools: usize, rules: usize) -> Loaded {
    let loaded = load(&[fixture(name)], None).unwrap_or_else(|faults| panic!("{name}\n{faults}"));
    assert_eq!((loaded.rules.pools.len(), loaded.rules.rules.len()), (pools, rules), "{name}");
    loaded
}

fn codes(loaded: &Loaded) -> Vec<WarningCode> {
    loaded.warnings.iter().map(|warning| warning.code).collect()
}

/// The lines that a file has commented out are as valid as the others: each replaces its namesake in turn.
fn commented_lines_load(name: &str) {
    let text = text(name);
    let mut tried = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("## ")).filter(|line| line.starts_with("backend.")) {
        let key = line.split('=').next().unwrap().trim();
        let rest = text.lines().filter(|other| other.split('=').next().unwrap().trim() != key);
        let changed: String = rest.chain([line]).flat_map(|line| [line, "\n"]).collect();
        let parsed = parse_conf(Path::new(name), &changed);
        assert!(parsed.faults.is_empty(), "{line}\n{}", parsed.faults[0]);
        tried += 1;
    }
    assert!(tried > 0, "{name} has no commented lines");
}

#[test]
fn redis_guide() {
    let loaded = loads("emqx_backend_redis.conf", 1, 13);
    assert_eq!(codes(&loaded), []);
    let rules = &loaded.rules.rules;
    let stored: Vec<_> = rules.iter().filter(|rule| rule.hook == Hook::MessagePublish).collect();
    assert_eq!(stored[0].action, Action::Function(Function::MessagePublish));
    assert_eq!(stored[0].expired_time.map(|time| time.as_secs()), Some(3600));
    assert_eq!(stored[2].expired_time, None);
    let pool = &loaded.rules.pools[0];
    assert_eq!(
        (pool.value("channel"), pool.value("type"), pool.integer("pool_size")),
        (Some("mqtt_channel"), Some("single"), Some(8))
    );
    let engine = loaded.rules.engine_rules();
    assert_eq!((engine.queue, engine.publish), (vec!["queue/#".to_owned()], vec![("#".to_owned(), 1)]));
    commented_lines_load("emqx_backend_redis.conf");
}

#[test]
fn redis_article() {
    let loaded = loads("emqx_backend_redis_article.conf", 1, 8);
    assert_eq!(codes(&loaded), [WarningCode::FetchWithoutAck; 2]);
}

#[test]
fn mysql_guide() {
    let loaded = loads("emqx_backend_mysql.conf", 1, 11);
    assert_eq!(codes(&loaded), []);
    let pool = &loaded.rules.pools[0];
    assert_eq!((pool.value("username"), pool.settings["password"].secret), (Some("root"), true));
    assert!(!format!("{:?}", loaded.rules).contains("public"), "the password is printed");
    commented_lines_load("emqx_backend_mysql.conf");
}

#[test]
fn pgsql_guide() {
    let loaded = loads("emqx_backend_pgsql.conf", 1, 11);
    assert_eq!(codes(&loaded), []);
    assert_eq!(loaded.rules.pools[0].boolean("ssl"), Some(false));
    commented_lines_load("emqx_backend_pgsql.conf");
}

#[test]
fn mongo_guide() {
    let loaded = loads("emqx_backend_mongo.conf", 1, 10);
    assert_eq!(codes(&loaded), []);
    let fetch = loaded.rules.rules.iter().find(|rule| rule.action == Action::Function(Function::MessageFetch)).unwrap();
    assert_eq!(fetch.offline.max_returned_count, Some(500));
    assert_eq!(fetch.offline.time_range.map(|range| range.as_secs()), Some(7200));
    commented_lines_load("emqx_backend_mongo.conf");
}

#[test]
fn the_driver_settings_of_mongo_are_kept_or_named_once_with_what_is_used_instead() {
    let text = text("emqx_backend_mongo.conf").replace("## backend.mongo.topology", "backend.mongo.topology");
    let parsed = parse_conf(Path::new("mongo.conf"), &text);
    assert_eq!(parsed.faults, []);
    assert_eq!(parsed.rules.pools[0].integer("topology.connect_timeout_ms"), Some(20_000));
    let named: Vec<&str> = parsed.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(named.len(), 7, "{named:#?}");
    assert_eq!(
        named[2],
        "mongo has no `topology.overflow_ttl` here (their life in ms); used instead: never more than `pool_size` connections"
    );
    assert!(parsed.warnings.iter().all(|warning| warning.code == WarningCode::KeyReplaced));
}

#[test]
fn a_replaced_setting_of_two_pools_is_named_once() {
    let parsed =
        parse_conf(Path::new("x.conf"), "backend.ecql.a.auto_reconnect = 1\nbackend.ecql.b.auto_reconnect = 1\n");
    let replaced = parsed.warnings.iter().filter(|warning| warning.code == WarningCode::KeyReplaced);
    assert_eq!(replaced.count(), 1);
}

#[test]
fn mongo_json_is_a_payload_format() {
    let text = text("emqx_backend_mongo.conf")
        .replace("## backend.mongo.hook.message.publish.4", "backend.mongo.hook.message.publish.4");
    let parsed = parse_conf(Path::new("mongo.conf"), &text);
    let store = parsed.rules.rules.iter().find(|rule| rule.action == Action::Function(Function::MessageStore)).unwrap();
    assert_eq!(store.payload_format, PayloadFormat::MongoJson);
    assert_eq!(parsed.warnings.iter().map(|warning| warning.code).collect::<Vec<_>>(), [WarningCode::StoreAndPublish]);
}

#[test]
fn the_guide_s_malformed_cassandra_line_is_refused_at_its_column() {
    let name = "emqx_backend_cassa.conf";
    let parsed = parse_conf(Path::new(name), &text(name));
    assert_eq!(parsed.faults.len(), 1);
    let expected = r##"emqx_backend_cassa.conf:17:59: error: invalid JSON: expected a name in double quotes
    17 | backend.cassa.hook.session.unsubscribed.1= {"topic": "#", action": {"cql": ["delete from acked where client_id = ${clientid} and topic = ${topic}"]}, "pool": "pool1"}
       |                                                           ^^^^^^
       = help: the quotation mark before `action` is missing: write `"action"`"##;
    assert_eq!(parsed.faults[0].to_string(), expected);
    // Everything else of the file is understood.
    assert_eq!((parsed.rules.pools.len(), parsed.rules.rules.len()), (1, 10));
}

#[test]
fn cassandra_guide_with_the_quotation_mark() {
    let name = "emqx_backend_cassa.conf";
    let parsed = parse_conf(Path::new(name), &text(name).replace(", action\":", ", \"action\":"));
    assert_eq!(parsed.faults, []);
    assert_eq!((parsed.rules.pools.len(), parsed.rules.rules.len()), (1, 11));
    assert_eq!(parsed.rules.pools[0].database, Database::Cassandra);
    assert_eq!(parsed.rules.pools[0].value("pool_size"), Some("8"));
    let codes: Vec<_> = parsed.warnings.iter().map(|warning| warning.code).collect();
    assert_eq!(codes, [WarningCode::KeyReplaced; 2], "auto_reconnect and logger");
    assert!(parsed.rules.rules.iter().any(|rule| rule.action == Action::Function(Function::SubscribeLookup)));
}

#[test]
fn dynamo() {
    let loaded = loads("emqx_backend_dynamo.conf", 1, 10);
    assert_eq!(codes(&loaded), []);
    let pool = &loaded.rules.pools[0];
    assert_eq!(pool.value("region"), Some("us-west-2"), "the region holds for every pool");
    assert!(pool.settings["aws_access_key_id"].secret && pool.settings["aws_secret_access_key"].secret);
    commented_lines_load("emqx_backend_dynamo.conf");
}

#[test]
fn influxdb_in_its_three_generations() {
    let loaded = loads("emqx_backend_influxdb_3_2.conf", 1, 3);
    assert_eq!(loaded.rules.pools[0].value("write_protocol"), Some("udp"));
    assert_eq!(codes(&loaded), [WarningCode::KeyReplaced, WarningCode::CoarseTime, WarningCode::UdpLoses]);
    let loaded = loads("emqx_backend_influxdb_4_4.conf", 1, 3);
    assert_eq!(loaded.rules.pools[0].value("write_protocol"), Some("udp"));
    assert_eq!(loaded.rules.pools[0].integer("udp.port"), Some(8089));
    let loaded = loads("emqx_backend_influxdb_operator.conf", 1, 3);
    assert_eq!(loaded.rules.pools[0].name, "pool1");
    assert_eq!(loaded.rules.pools[0].value("write_protocol"), Some("http"), "only HTTP confirms");
    assert_eq!(loaded.rules.pools[0].value("http.server"), Some("127.0.0.1:8086"));
    commented_lines_load("emqx_backend_influxdb_4_4.conf");
}

#[test]
fn opentsdb() {
    let loaded = loads("emqx_backend_opentsdb.conf", 1, 3);
    let expected = [WarningCode::KeyReplaced, WarningCode::KeyReplaced, WarningCode::CoarseTime];
    assert_eq!(codes(&loaded), expected, "summary and details; milliseconds");
    assert_eq!(loaded.rules.pools[0].integer("max_batch_size"), Some(20));
}

#[test]
fn timescale() {
    let loaded = loads("emqx_backend_timescale.conf", 1, 3);
    assert_eq!(codes(&loaded), []);
    commented_lines_load("emqx_backend_timescale.conf");
}

#[test]
fn sqlite_has_the_default_rules_when_they_are_written_out() {
    let loaded = loads("sqlite.conf", 1, 12);
    assert_eq!(codes(&loaded), [WarningCode::StoreAndPublish]);
    let default = RuleSet::default_sqlite(Path::new("mqtt.db"));
    let shape = |rules: &RuleSet| -> Vec<_> {
        rules.rules.iter().map(|rule| (rule.hook, rule.number, rule.topic.clone(), rule.action.clone())).collect()
    };
    assert_eq!(shape(&loaded.rules), shape(&default));
    assert_eq!(loaded.rules.engine_rules(), default.engine_rules());
}

#[test]
fn all_files_load_as_one_and_a_rule_may_use_a_pool_of_another_file() {
    let folder = std::fs::read_dir(fixture("")).unwrap();
    let mut files: Vec<PathBuf> = folder.map(|entry| entry.unwrap().path()).collect();
    // One generation of InfluxDB, one Redis file, and not the malformed one.
    files.retain(|file| {
        let name = file.file_name().unwrap().to_string_lossy();
        !["3_2", "operator", "article", "cassa"].iter().any(|part| name.contains(part))
    });
    files.sort();
    let toml = "[[rule]]\non = \"message.publish\"\ndb = \"redis\"\npool = \"pool1\"\ncommands = \"SET a:${topic} ${msgid}\"\n";
    let loaded = load(&files, Some((Path::new("forebay.toml"), toml))).unwrap_or_else(|faults| panic!("{faults}"));
    let databases: BTreeSet<Database> = loaded.rules.rules.iter().map(|rule| rule.database).collect();
    assert_eq!(databases.len(), 9);
    assert_eq!(loaded.rules.rules.iter().filter(|rule| rule.database == Database::Redis).count(), 14);
}
