//! `forebay.toml` says the same as `.conf` files, with faults as exact.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::path::Path;

use forebay_sinks::rule::{RuleSet, parse_conf, parse_toml};

/// What a rule set says, without places.
fn meaning(rules: &RuleSet) -> String {
    let pools = rules.pools.iter().map(|pool| format!("{} {} {:?}", pool.database, pool.name, pool.settings));
    let rules = rules.rules.iter().map(|rule| {
        format!(
            "{} {} {} {:?} {:?} {} {:?} {:?} {:?}",
            rule.database,
            rule.hook,
            rule.number,
            rule.topic,
            rule.action,
            rule.pool,
            rule.expired_time,
            rule.offline,
            rule.payload_format
        )
    });
    pools.chain(rules).collect::<Vec<_>>().join("\n")
}

fn faults(text: &str) -> Vec<String> {
    let (_, faults, _) = parse_toml(Path::new("forebay.toml"), text);
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn both_syntaxes_give_the_same_rules() {
    let toml = r##"
        [mqtt]
        listen = "127.0.0.1:1883"

        [pool.redis.pool1]
        server = ["a:1", "b:2"]
        pool_size = 4
        password = "public"

        [pool.mongo.m]
        login = "emqtt"
        topology.connect_timeout_ms = 5000

        [rule_defaults.redis]
        expired_time = "1h"

        [[rule]]
        on = "message.publish"
        db = "redis"
        pool = "pool1"
        topic = "a/#"
        function = "on_message_publish"

        [[rule]]
        on = "session.unsubscribed"
        db = "redis"
        pool = "pool1"
        commands = ["DEL mqtt:acked:${clientid}:${topic}"]

        [[rule]]
        on = "session.subscribed"
        db = "mongo"
        pool = "m"
        function = "on_message_fetch"
        offline_opts = { max_returned_count = 500, time_range = "2h" }

        [[rule]]
        on = "message.publish"
        db = "mongo"
        pool = "m"
        function = "on_message_store"
        payload_format = "mongo_json"
    "##;
    let conf = r##"
        backend.redis.pool1.server = a:1,b:2
        backend.redis.pool1.pool_size = 4
        backend.redis.pool1.password = public
        backend.mongo.m.login = emqtt
        backend.mongo.topology.connect_timeout_ms = 5000
        backend.redis.msg.expired_after = 3600
        backend.redis.hook.message.publish.1 = {"topic": "a/#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
        backend.redis.hook.session.unsubscribed.1 = {"action": {"commands": ["DEL mqtt:acked:${clientid}:${topic}"]}, "pool": "pool1"}
        backend.mongo.hook.session.subscribed.1 = {"action": {"function": "on_message_fetch"}, "offline_opts": {"max_returned_count": 500, "time_range": "2h"}, "pool": "m"}
        backend.mongo.hook.message.publish.1 = {"action": {"function": "on_message_store"}, "payload_format": "mongo_json", "pool": "m"}
    "##;
    let (rules, faults, warnings) = parse_toml(Path::new("forebay.toml"), toml);
    assert_eq!(faults, []);
    let parsed = parse_conf(Path::new("x.conf"), conf);
    assert_eq!(parsed.faults, []);
    assert_eq!(meaning(&rules), meaning(&parsed.rules));
    assert_eq!(
        warnings.iter().map(|warning| &warning.code).collect::<Vec<_>>(),
        parsed.warnings.iter().map(|warning| &warning.code).collect::<Vec<_>>()
    );
    assert!(rules.pools.iter().flat_map(|pool| pool.settings.get("password")).all(|password| password.secret));
}

#[test]
fn faults_have_the_place_the_line_and_a_caret() {
    let text = "[pool.redis.pool1]\npool_sise = 8\n\n[[rule]]\non = \"message.publish\"\ndb = \"redis\"\npool = \"pool1\"\ncommands = \"SET a ${msgdi}\"\n";
    let expected = [
        "forebay.toml:2:1: error: unknown setting `pool_sise` of a redis pool
     2 | pool_sise = 8
       | ^^^^^^^^^
       = help: did you mean `pool_size`?",
        "forebay.toml:8:19: error: unknown parameter `${msgdi}`
     8 | commands = \"SET a ${msgdi}\"
       |                   ^^^^^^^^
       = help: did you mean `msgid`?",
    ];
    assert_eq!(faults(text), expected);
}

#[test]
fn what_is_missing_or_misplaced_is_named() {
    for (text, expected) in [
        ("[[rule]]\ndb = \"redis\"\n", "1:1: error: the rule has no `on`"),
        ("[[rules]]\non = \"message.publish\"\n", "1:3: error: unknown table `rules`"),
        ("[rule]\non = \"message.publish\"\n", "1:2: error: `rule` is no list of tables"),
        ("[pool.redsi.p]\nserver = \"a:1\"\n", "1:7: error: unknown database `redsi`"),
        ("pool = 5\n", "1:1: error: `pool` is no table"),
        ("[pool.redis]\nserver = \"a:1\"\n", "2:1: error: `server` is no table"),
        ("[pool.redis.p]\npool_size = 1.5\n", "2:13: error: pool_size: expected a whole number"),
        ("[pool.redis.p]\nserver = \n", "2:10: error: invalid TOML"),
        ("[rule_defaults.redis]\nexpire = 5\n", "2:1: error: unknown name `expire`"),
        ("[[rule]]\non = \"message.publsh\"\ndb = \"redis\"\n", "2:6: error: unknown hook `message.publsh`"),
    ] {
        let found = faults(text);
        assert!(found.len() == 1 && found[0].contains(expected), "{expected}\n{found:#?}");
    }
}

#[test]
fn tables_of_the_program_are_passed_over() {
    let (rules, faults, warnings) =
        parse_toml(Path::new("forebay.toml"), "data = \"x\"\n[admin]\nlisten = \"a\"\npool = 5\n");
    assert!(rules.pools.is_empty() && rules.rules.is_empty() && faults.is_empty() && warnings.is_empty());
}
