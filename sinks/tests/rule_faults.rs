//! What is wrong is said with its place, what was expected, and the nearest valid name; all of it at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::{Path, PathBuf};

use forebay_sinks::rule::{Database, RuleSet, WarningCode, load, parse_conf};

const POOL: &str = "backend.redis.pool1.server = 127.0.0.1:6379\nbackend.mysql.pool1.server = 127.0.0.1:3306\n";

/// The faults of a text behind two good pools, as `line:column message | help`.
fn faults(text: &str) -> Vec<String> {
    let parsed = parse_conf(Path::new("x.conf"), &format!("{POOL}{text}"));
    let shown = parsed.faults.iter().map(|fault| {
        let help = fault.help.as_deref().unwrap_or("-");
        format!("{}:{} {} | {help}", fault.at.line, fault.at.column, fault.message)
    });
    shown.collect()
}

fn one(text: &str) -> String {
    let found = faults(text);
    assert_eq!(found.len(), 1, "{text}\n{found:#?}");
    found[0].clone()
}

fn warnings(text: &str) -> Vec<WarningCode> {
    let parsed = parse_conf(Path::new("x.conf"), text);
    assert_eq!(parsed.faults, [], "{text}");
    parsed.warnings.iter().map(|warning| warning.code).collect()
}

#[test]
fn all_faults_are_reported_at_once_each_with_its_line_and_a_caret() {
    let text = "backend.redis.pool1.pool_sise = 8\n\nbackend.redis.pool1.port\r\nnode.name = x\n";
    let parsed = parse_conf(Path::new("etc/x.conf"), text);
    let shown: Vec<String> = parsed.faults.iter().map(ToString::to_string).collect();
    let expected = [
        "etc/x.conf:1:21: error: unknown setting `pool_sise` of a redis pool
     1 | backend.redis.pool1.pool_sise = 8
       |                     ^^^^^^^^^
       = help: did you mean `pool_size`?",
        "etc/x.conf:3:1: error: expected `key = value`
     3 | backend.redis.pool1.port
       | ^^^^^^^^^^^^^^^^^^^^^^^^
       = help: comments begin with #",
        "etc/x.conf:4:1: error: unknown key `node.name`
     4 | node.name = x
       | ^^^^
       = help: keys of rules and pools begin with `backend.`",
    ];
    assert_eq!(shown, expected);
}

#[test]
fn unknown_names_come_with_the_nearest_valid_one() {
    for (text, expected) in [
        ("backend.redsi.pool1.server = a:1", "3:9 unknown database `redsi` | did you mean `redis`?"),
        (
            r#"backend.redis.hook.message.publsh.1 = {"action": {"function": "on_message_publish"}, "pool": "pool1"}"#,
            "3:20 unknown hook `message.publsh` | did you mean `message.publish`?",
        ),
        (
            r#"backend.redis.hook.message.publish.1 = {"action": {"function": "on_mesage_publish"}, "pool": "pool1"}"#,
            "3:64 unknown function `on_mesage_publish` | did you mean `on_message_publish`?",
        ),
        (
            r#"backend.redis.hook.message.publish.1 = {"action": {"function": "on_message_publish"}, "pool": "pol1"}"#,
            "3:95 unknown redis pool `pol1` | did you mean `pool1`?",
        ),
        (
            r#"backend.redis.hook.message.publish.1 = {"acton": {"function": "on_message_publish"}, "action": {"function": "on_message_publish"}, "pool": "pool1"}"#,
            "3:41 unknown name `acton` in a rule | did you mean `action`?",
        ),
        (
            r#"backend.redis.hook.message.publish.1 = {"action": {"commands": ["SET a ${msgdi}"]}, "pool": "pool1"}"#,
            "3:72 unknown parameter `${msgdi}` | did you mean `msgid`?",
        ),
        (
            "backend.redis.pool1.type = sentinal",
            "3:28 type: expected one of single, sentinel, cluster; did you mean `sentinel`? | -",
        ),
        (
            "backend.mysql.max_return_count = 5",
            "3:15 unknown key `max_return_count` of mysql | did you mean `max_returned_count`?",
        ),
    ] {
        assert_eq!(one(text), expected);
    }
}

#[test]
fn json_is_refused_where_it_breaks_with_what_was_expected() {
    let key = "backend.redis.hook.message.publish.1 = ";
    for (json, expected) in [
        (r##"{"topic" "#"}"##, "3:49 invalid JSON: expected `:` | -"),
        (r#"{"topic": "a" "pool": "b"}"#, "3:54 invalid JSON: expected `,` or `}` | -"),
        (r#"{"topic": "a", }"#, "3:55 invalid JSON: expected a name in double quotes | remove the comma before `}`"),
        (r#"{"topic": "a""#, "3:53 invalid JSON: expected `,` or `}`, found the end of the line | -"),
        (r#"{"topic": "a} "#, "3:53 invalid JSON: expected the closing quotation mark, found the end of the line | -"),
        (r#"{"topic": "a"} x"#, "3:55 invalid JSON: expected nothing more after the closing `}` | -"),
        (
            r#"{topic: "a"}"#,
            "3:41 invalid JSON: expected a name in double quotes | names stand in double quotes: write `\"topic\"`",
        ),
        (r#"{"é": x}"#, "3:46 invalid JSON: expected a value | -"),
        ("5", "3:40 expected a rule's JSON object, found a number | -"),
        ("[[[[[[[[[[[[]]]]]]]]]]]]", "3:49 nested too deeply for a rule | -"),
    ] {
        assert_eq!(one(&format!("{key}{json}")), expected, "{json}");
    }
}

#[test]
fn what_is_given_twice_names_both_places() {
    let expected = "4:1 `backend.redis.hook.client.connected.1` is set twice | first set at x.conf:3:1";
    let rule =
        r#"backend.redis.hook.client.connected.1 = {"action": {"function": "on_client_connected"}, "pool": "pool1"}"#;
    assert_eq!(one(&format!("{rule}\n{rule}")), expected);
    // Two spellings of one setting.
    let expected = "4:21 `username` is set twice | first set at x.conf:3:21";
    assert_eq!(one("backend.mysql.pool1.user = a\nbackend.mysql.pool1.username = a"), expected);
    // Two files.
    let folder = tempfile::tempdir().unwrap();
    let files: Vec<PathBuf> = ["a.conf", "b.conf"].iter().map(|name| folder.path().join(name)).collect();
    for file in &files {
        std::fs::write(file, "backend.mysql.pool1.server = a:1\n").unwrap();
    }
    let faults = load(&files, None).unwrap_err();
    assert_eq!(faults.0.len(), 1);
    assert_eq!(faults.0[0].at.file.as_path(), files[1]);
    assert!(faults.0[0].help.as_ref().unwrap().contains("a.conf:1:21"), "{faults}");
}

#[test]
fn values_are_checked() {
    for (text, expected) in [
        ("backend.redis.pool1.pool_size = many", "expected a whole number from 1 to 1024"),
        ("backend.redis.pool1.pool_size = 0", "expected a whole number from 1 to 1024"),
        ("backend.redis.pool2.server = h:70000", "is no port"),
        ("backend.mysql.pool1.ssl = yes", "expected `true` or `false`"),
        ("backend.sqlite.p.file = x\nbackend.sqlite.p.retention = 7 days", "expected a duration"),
        ("backend.mysql.time_range = 2 hours", "expected a duration above 0"),
        ("backend.mysql.max_returned_count = 0", "at least 1"),
        ("backend.redis.msg.expired_after = soon", "expected a duration above 0"),
        ("backend.dynamo.pool1.server = localhost", "expected `http://host:port`"),
        ("backend.redis.pool2.type = sentinel", "has no `sentinel`"),
        ("backend.mongo.pool2.type = rs", "has no `rs_set_name`"),
        ("backend.sqlite.p.retention = 0d", "expected a duration"),
    ] {
        assert!(one(text).contains(expected), "{}", one(text));
    }
}

#[test]
fn rules_that_make_no_sense_are_refused() {
    for (text, expected) in [
        (
            r#"client.connected.1 = {"action": {"function": "on_message_publish"}, "pool": "pool1"}"#,
            "it belongs to message.publish",
        ),
        (
            r##"message.publish.1 = {"topic": "a/#/b", "action": {"function": "on_message_publish"}, "pool": "pool1"}"##,
            "# must be the last level",
        ),
        (
            r#"message.publish.1 = {"action": {"sql": ["select 1"]}, "pool": "pool1"}"#,
            "the statements of redis are called `commands`",
        ),
        (r#"message.publish.1 = {"action": {}, "pool": "pool1"}"#, "the action says nothing to do"),
        (r#"message.publish.1 = {"action": {"commands": []}, "pool": "pool1"}"#, "the list of statements is empty"),
        (r#"message.publish.1 = {"action": {"commands": "SET a  b"}, "pool": "pool1"}"#, "exactly one space"),
        (
            r#"message.publish.1 = {"action": {"function": "on_message_publish", "commands": "SET a b"}, "pool": "pool1"}"#,
            "make two rules of it",
        ),
        (r#"message.publish.1 = {"action": {"function": "on_message_publish"}}"#, "names no `pool`"),
        (r#"message.publish.1 = {"pool": "pool1"}"#, "the rule has no `action`"),
        (
            r#"message.publish.1 = {"topic": 5, "action": {"function": "on_message_publish"}, "pool": "pool1"}"#,
            "expected a topic filter, found a number",
        ),
        (
            r#"message.publish.1 = {"expired_time": -1, "action": {"function": "on_message_publish"}, "pool": "pool1"}"#,
            "expected a duration above 0",
        ),
        (r#"message.publish.x = {}"#, "expected the rule's number"),
        (r#"message.publish.99999999999 = {}"#, "is too large"),
        (r#"message.publish.1 ="#, "the rule is empty"),
    ] {
        assert!(
            one(&format!("backend.redis.hook.{text}")).contains(expected),
            "{text}\n{:?}",
            faults(&format!("backend.redis.hook.{text}"))
        );
    }
    let influx = "backend.influxdb.p.server = a:1\nbackend.influxdb.hook.message.acked.1 = {\"action\": {\"function\": \"on_message_acked\"}, \"pool\": \"p\"}";
    assert!(one(influx).contains("influxdb has no `on_message_acked`"));
}

#[test]
fn secrets_are_not_shown_in_faults() {
    let parsed = parse_conf(Path::new("x.conf"), "backend.redis.pool1.pasword = hunter2\n");
    let shown = parsed.faults[0].to_string();
    assert!(shown.contains("did you mean `password`?") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn files_that_can_t_be_read_and_bytes_that_are_no_text_are_faults_too() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, broken) = (folder.path().join("missing.conf"), folder.path().join("broken.conf"));
    std::fs::write(&broken, b"## ok\nbackend.redis.p.password = \xff\n").unwrap();
    let faults = load(&[missing, broken], None).unwrap_err();
    let shown = faults.to_string();
    assert!(shown.contains("the file can't be read"), "{shown}");
    assert!(shown.contains("broken.conf:2:28: error: this is no UTF-8") && shown.ends_with("2 errors"), "{shown}");
}

#[test]
fn a_rule_for_a_database_without_driver_is_named_with_its_place() {
    let text = format!(
        "{POOL}backend.redis.hook.client.connected.4 = {{\"action\": {{\"function\": \"on_client_connected\"}}, \"pool\": \"pool1\"}}"
    );
    let rules = parse_conf(Path::new("x.conf"), &text).rules;
    let faults = rules.unavailable(&[Database::Sqlite, Database::Mysql]);
    let shown: Vec<String> = faults.iter().map(|fault| format!("{} {}", fault.at, fault.message)).collect();
    assert_eq!(
        shown,
        [
            "x.conf:1:15 pool `pool1` of redis can't be connected to",
            "x.conf:3:1 rule client.connected.4 of redis can't be run"
        ]
    );
    assert_eq!(faults[0].help.as_deref(), Some("this program has no driver for redis; it has: sqlite, mysql"));
    assert!(RuleSet::default_sqlite(Path::new("x.db")).unavailable(&[Database::Sqlite]).is_empty());
}

#[test]
fn what_is_legal_but_suspect_is_warned_of() {
    let rule = |hook: &str, rest: &str| format!("backend.redis.hook.{hook} = {{{rest}, \"pool\": \"p\"}}\n");
    let redis = "backend.redis.p.server = a:1\n";
    let fetch = |n: u32, topic: &str, kind: &str| {
        rule(
            &format!("session.subscribed.{n}"),
            &format!(r#""topic": "{topic}", "action": {{"function": "on_message_fetch_for_{kind}"}}"#),
        )
    };
    let acked = |n: u32, topic: &str, kind: &str| {
        rule(
            &format!("message.acked.{n}"),
            &format!(r#""topic": "{topic}", "action": {{"function": "on_message_acked_for_{kind}"}}"#),
        )
    };
    let connected =
        |rest: &str| rule("client.connected.1", &format!(r#""action": {{"function": "on_client_connected"}}{rest}"#));
    for (text, expected) in [
        (String::new(), vec![WarningCode::PoolUnused]),
        (fetch(1, "a/#", "pubsub"), vec![WarningCode::FetchWithoutAck]),
        (fetch(1, "a/#", "pubsub") + &acked(1, "a/#", "pubsub"), vec![]),
        (fetch(1, "a/#", "queue") + &acked(1, "a/#", "pubsub"), vec![WarningCode::AckKind]),
        (
            fetch(1, "a/#", "queue")
                + &fetch(2, "a/b", "pubsub")
                + &acked(1, "a/#", "queue")
                + &acked(2, "a/b", "pubsub"),
            vec![WarningCode::QueueAndPubsub],
        ),
        (
            rule("message.publish.1", r#""action": {"commands": "RPUSH pub:${topic} ${msgid}"}"#),
            vec![WarningCode::RunOnce],
        ),
        (
            rule("message.publish.1", r#""action": {"commands": "RPUSH pub:${topic} ${msgid}"}"#)
                + "backend.redis.p.type = cluster\n",
            vec![WarningCode::NotRepeatable],
        ),
        (connected("") + "backend.redis.p.type = cluster\nbackend.redis.p.database = 3\n", vec![WarningCode::NoEffect]),
        (rule("message.publish.1", r#""action": {"commands": "SET pub:${topic} ${msgid}"}"#), vec![]),
        (connected(r#", "expired_time": 60"#), vec![WarningCode::NoEffect]),
        (connected(r#", "topic": "a""#), vec![WarningCode::NoEffect]),
        (connected(r#", "offline_opts": {"time_range": "1d"}"#), vec![WarningCode::NoEffect]),
        (connected(r#", "payload_format": "mongo_json""#), vec![WarningCode::NoEffect]),
        (connected("") + "backend.redis.p.type = cluster\nbackend.redis.p.channel = c\n", vec![WarningCode::NoChannel]),
    ] {
        assert_eq!(warnings(&format!("{redis}{text}")), expected, "{text}");
    }
    let sql = r#"{"action": {"sql": ["update t set n = n + 1 where c = ${clientid}"]}, "pool": "p"}"#;
    let text = format!("backend.pgsql.p.server = a:1\nbackend.pgsql.hook.client.connected.1 = {sql}\n");
    assert_eq!(warnings(&text), [WarningCode::RunOnce]);
    let cql = sql.replace("sql", "cql");
    let text = format!("backend.ecql.p.nodes = a:1\nbackend.cassa.hook.client.connected.1 = {cql}\n");
    assert_eq!(warnings(&text), [WarningCode::NotRepeatable]);
}

#[test]
fn settings_for_all_rules_hold_where_a_rule_says_nothing() {
    let text = r##"
        backend.redis.msg.expired_after = 3600
        backend.redis.max_returned_count=500
        backend.redis.time_range=2h
        backend.redis.p.server=a:1
        backend.redis.hook.message.publish.1={"topic": "a", "action": {"function": "on_message_publish"}, "pool": "p"}
        backend.redis.hook.message.publish.2={"topic": "b", "action": {"function": "on_message_publish"}, "expired_time": "1d", "pool": "p"}
        backend.redis.hook.session.subscribed.1={"topic": "#", "action": {"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 9}, "pool": "p"}
        backend.redis.hook.message.delivered.1={"action": {"commands": "SET d:${topic} ${msgid}"}, "pool": "p"}
    "##;
    let parsed = parse_conf(Path::new("x.conf"), text);
    assert_eq!(parsed.faults, []);
    let seconds: Vec<Option<u64>> =
        parsed.rules.rules.iter().map(|rule| rule.expired_time.map(|time| time.as_secs())).collect();
    assert_eq!(seconds, [None, Some(3600), Some(86_400), None]);
    let engine = parsed.rules.engine_rules();
    assert_eq!(
        (engine.pubsub[0].max_returned, engine.pubsub[0].time_range.map(|range| range.as_secs())),
        (Some(9), Some(7200))
    );
    assert_eq!(engine.deliver, ["#"]);
}
