//! The parsers return whatever the text is, and what is written out is read back as it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::path::Path;

use forebay_sinks::rule::{Action, Database, Function, Rule, RuleSet, ValueKind, keys, parse_conf, parse_toml};
use proptest::prelude::*;

/// Writes a rule set in `.conf` syntax.
fn to_conf(rules: &RuleSet) -> String {
    let mut out = String::new();
    for pool in &rules.pools {
        for (name, setting) in &pool.settings {
            writeln!(out, "backend.{}.{}.{name} = {}", pool.database.pool_name(), pool.name, setting.value).unwrap();
        }
    }
    for rule in &rules.rules {
        writeln!(out, "backend.{}.hook.{}.{} = {}", rule.database, rule.hook, rule.number, to_json(rule)).unwrap();
    }
    out
}

fn to_json(rule: &Rule) -> String {
    let action = match &rule.action {
        Action::Function(function) => serde_json::json!({ "function": function.name() }),
        Action::Statements(statements) => {
            let name = match rule.database {
                Database::Redis => "commands",
                Database::Cassandra => "cql",
                _ => "sql",
            };
            let texts: Vec<&str> = statements.iter().map(|statement| statement.source.as_str()).collect();
            serde_json::json!({ name: texts })
        }
    };
    let mut json = serde_json::json!({ "action": action, "pool": rule.pool });
    if let Some(topic) = &rule.topic {
        json["topic"] = topic.as_str().into();
    }
    if let Some(time) = rule.expired_time {
        json["expired_time"] = time.as_secs().into();
    }
    if let Some(count) = rule.offline.max_returned_count {
        json["offline_opts"]["max_returned_count"] = count.into();
    }
    if let Some(range) = rule.offline.time_range {
        json["offline_opts"]["time_range"] = format!("{}s", range.as_secs()).into();
    }
    json.to_string()
}

fn shape(rules: &RuleSet) -> Vec<String> {
    let pools = rules.pools.iter().map(|pool| {
        let settings: Vec<_> =
            pool.settings.iter().map(|(name, setting)| (name, &setting.value, setting.secret)).collect();
        format!("{} {} {settings:?}", pool.database, pool.name)
    });
    let rules = rules.rules.iter().map(|rule| {
        format!(
            "{} {} {} {:?} {:?} {} {:?} {:?}",
            rule.database, rule.hook, rule.number, rule.topic, rule.action, rule.pool, rule.expired_time, rule.offline
        )
    });
    pools.chain(rules).collect()
}

/// Text made of what the grammar is made of, so that it gets past the first check.
fn conf_like() -> impl Strategy<Value = String> {
    let words = vec![
        "backend",
        ".",
        "redis",
        "mysql",
        "ecql",
        "cassa",
        "influxdb",
        "udp",
        "hook",
        "message",
        "publish",
        "1",
        "=",
        " ",
        "{",
        "}",
        "\"topic\"",
        ":",
        "\"#\"",
        "\"action\"",
        "\"function\"",
        "\"commands\"",
        "\"sql\"",
        "[",
        "]",
        "${",
        "clientid",
        "\"pool\"",
        "\"pool1\"",
        ",",
        "\n",
        "\r\n",
        "#",
        "pool1",
        "server",
        "password",
        "é",
        "\u{feff}",
        "\\",
        "\"",
        "'",
        "\0",
        "\\ud800",
        "99999999999999999999",
        "-1",
        "expired_time",
        "\t",
    ];
    proptest::collection::vec(proptest::sample::select(words), 0..60).prop_map(|words| words.concat())
}

fn value_of(kind: ValueKind) -> BoxedStrategy<String> {
    match kind {
        ValueKind::Text => "[a-z/._-]{1,12}".boxed(),
        ValueKind::Secret => "[!-~é]{1,12}".boxed(),
        ValueKind::Integer(min, max) => (min..=max).prop_map(|n| n.to_string()).boxed(),
        ValueKind::Boolean => any::<bool>().prop_map(|b| b.to_string()).boxed(),
        ValueKind::OneOf(words) => proptest::sample::select(words.to_vec()).prop_map(str::to_owned).boxed(),
        ValueKind::DurationOrOff => "[1-9][0-9]{0,4}(ms|s|m|h|d)|off".boxed(),
        ValueKind::Servers => "[a-z]{1,8}:[1-9][0-9]{0,3}(, ?[a-z]{1,8}:[1-9][0-9]{0,3})?".boxed(),
        ValueKind::Url => "https?://[a-z]{1,8}(:[1-9][0-9]{0,3})?".boxed(),
    }
}

/// A pool with all settings of its database, and a rule for each function that the database has.
fn valid_conf() -> impl Strategy<Value = String> {
    let database = proptest::sample::select(Database::ALL.to_vec());
    (database, "[a-oq-z][a-z0-9_]{0,8}", "[a-z+é]{1,3}(/[a-z]{1,3}){0,2}(/#)?", 1u64..100_000).prop_flat_map(
        |(database, pool, topic, number)| {
            let topic = if topic.contains('+') { "+/#".to_owned() } else { topic };
            let settings: Vec<BoxedStrategy<String>> = keys(database)
                .iter()
                .map(|spec| {
                    let key = format!("backend.{}.{pool}_.{}", database.pool_name(), spec.name);
                    value_of(spec.kind).prop_map(move |value| format!("{key} = {value}\n")).boxed()
                })
                .collect();
            let mut rules = String::new();
            for (i, function) in Function::ALL.into_iter().filter(|function| function.is_for(database)).enumerate() {
                let hook = function.hooks()[0];
                let extra = if function.is_fetch() {
                    format!(r#", "offline_opts": {{"max_returned_count": {number}, "time_range": "{number}m"}}"#)
                } else {
                    format!(r#", "expired_time": {number}"#)
                };
                writeln!(
                    rules,
                    r#"backend.{database}.hook.{hook}.{i}={{"topic":"{topic}","action":{{"function":"{function}"}},"pool":"{pool}_"{extra}}}"#
                )
                .unwrap();
            }
            settings.prop_map(move |lines| format!("{}{rules}", lines.concat()))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parsers_panic(text in prop_oneof![any::<String>(), conf_like()]) {
        for fault in parse_conf(Path::new("x.conf"), &text).faults {
            prop_assert!(fault.to_string().contains("x.conf:"));
            prop_assert!(fault.excerpt.is_some(), "{}", fault);
        }
        let (_, faults, _) = parse_toml(Path::new("x.toml"), &text);
        prop_assert!(faults.iter().all(|fault| fault.to_string().contains("x.toml:")));
    }

    #[test]
    fn a_rule_set_written_out_is_read_back(text in valid_conf()) {
        let first = parse_conf(Path::new("a.conf"), &text);
        prop_assert!(first.faults.is_empty(), "{}\n{}", text, first.faults[0]);
        prop_assert!(first.rules.rules.len() > 1);
        let second = parse_conf(Path::new("b.conf"), &to_conf(&first.rules));
        prop_assert!(second.faults.is_empty(), "{}", second.faults[0]);
        prop_assert_eq!(shape(&first.rules), shape(&second.rules));
    }
}

#[test]
fn statements_written_out_are_read_back() {
    for name in ["emqx_backend_redis.conf", "emqx_backend_mysql.conf", "emqx_backend_pgsql.conf", "sqlite.conf"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/conf").join(name);
        let first = parse_conf(&file, &std::fs::read_to_string(&file).unwrap());
        let second = parse_conf(Path::new("again.conf"), &to_conf(&first.rules));
        assert_eq!(second.faults, []);
        assert_eq!(shape(&first.rules), shape(&second.rules), "{name}");
    }
}
