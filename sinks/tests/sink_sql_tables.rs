//! What the tables of PostgreSQL, MySQL and MariaDB hold after each function of the guide, and what lookups read from them.
#![cfg(all(feature = "conformance", feature = "pgsql", feature = "mysql"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod sql;

use std::time::Duration;

use forebay_engine::event::{Message, Origin};
use forebay_engine::{Event, Lsn, QoS};
use forebay_sinks::conformance::{BEGIN_US, MemoryLog, until};
use forebay_sinks::inspect::inspect;
use forebay_sinks::mysql::MysqlSink;
use forebay_sinks::pgsql::PgsqlSink;
use forebay_sinks::rule::{Function, Hook, OfflineOpts, RuleSet};
use forebay_sinks::sink::{Finding, Severity, Sink};
use sql::{Scratch, Server, done, guide, start, stop};

/// A test for each server.
macro_rules! on_each {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $(mod $name {
            use super::*;
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn pgsql() {
                super::$name(Server::Pgsql).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mysql() {
                super::$name(Server::Mysql).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn mariadb() {
                super::$name(Server::Mariadb).await;
            }
        })*
    };
}

on_each!(
    the_guide_s_configuration_tables_and_queries,
    client_status,
    messages_and_acknowledgements,
    retained_messages,
    keep_latest_and_unsubscribes,
    rows_of_other_programs,
    offline_options,
    statements_of_users,
    expiry,
    what_does_not_fit,
    a_schema_that_is_only_verified,
    a_look_at_the_tables_changes_nothing,
);

const AT: &str = "2024-01-01 00:00:00";

fn message(topic: &str, payload: &[u8], publisher: &str) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.to_vec().into(),
        qos: QoS::AtLeastOnce,
        publisher: publisher.into(),
        ..Message::default()
    }
}

/// The payload column as text.
fn payload(server: Server) -> &'static str {
    if server == Server::Pgsql { "encode(payload, 'escape')" } else { "payload" }
}

async fn shown(scratch: &Scratch, columns: &str, rest: &str) -> Vec<String> {
    scratch.rows(columns, rest).await
}

async fn the_guide_s_configuration_tables_and_queries(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    scratch.run("create table conn (clientid varchar(64))").await;
    let text = match server {
        Server::Pgsql => include_str!("fixtures/conf/emqx_backend_pgsql.conf"),
        _ => include_str!("fixtures/conf/emqx_backend_mysql.conf"),
    };
    // Addresses, names and passwords are all that is changed.
    let (host, port, user, password) = sql::parts(&scratch.url);
    let text = text
        .replace("127.0.0.1:3306", &format!("{host}:{port}"))
        .replace("127.0.0.1:5432", &format!("{host}:{port}"))
        .replace("= root", &format!("= {user}"))
        .replace("= public", &format!("= {password}"))
        .replace("database = mqtt", &format!("database = {}", scratch.name));
    let rules: RuleSet = scratch.parse(&text);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    log.connect("test", 1);
    let hello = log.message(message("hello", b"hello", "test"));
    log.message(message("world", b"world", "test"));
    log.message(Message { retain: true, ..message("retain", b"www", "test") });
    log.message(Message { retain: true, ..message("gone", b"x", "test") });
    log.message(Message { retain: true, ..message("gone", b"", "test") });
    let last = log.ack("test", "hello", hello);
    done(&log, &sinks, last).await;
    let client = "clientid,state,node,online_at,offline_at,created";
    let of_test = "from mqtt_client where clientid = 'test'";
    assert_eq!(shown(&scratch, client, of_test).await, [format!("test|1|forebay@here|{AT}|-|{AT}")]);
    let id = shown(&scratch, "id", "from mqtt_msg where topic = 'hello'").await.remove(0);
    assert_eq!(
        shown(&scratch, "mid,created", "from mqtt_acked where clientid = 'test' and topic = 'hello'").await,
        [format!("{id}|{AT}")]
    );
    let last = log.disconnect("test", 1, false);
    done(&log, &sinks, last).await;
    assert_eq!(shown(&scratch, client, of_test).await, [format!("test|0|forebay@here|{AT}|{AT}|{AT}")]);
    let in_log_order = if server == Server::Pgsql { "msgid collate \"C\"" } else { "cast(msgid as binary)" };
    assert_eq!(
        shown(
            &scratch,
            "topic,sender,qos,retain,payload,arrived,length(msgid)",
            &format!("from mqtt_msg where sender = 'test' order by {in_log_order}")
        )
        .await,
        [
            format!("hello|test|1|0|hello|{AT}|20"),
            format!("world|test|1|0|world|{AT}|20"),
            format!("retain|test|1|1|www|{AT}|20"),
            format!("gone|test|1|1|x|{AT}|20"),
            format!("gone|test|1|1||{AT}|20"),
        ]
    );
    let retained = shown(
        &scratch,
        "topic,sender,qos,payload,arrived,length(msgid)",
        "from mqtt_retain where topic in ('retain','gone')",
    )
    .await;
    assert_eq!(retained, [format!("retain|test|1|www|{AT}|20")]);
    assert_eq!(shown(&scratch, "clientid", "from conn").await, ["test"]);
    let last = log.unsubscribe("test", "hello");
    done(&log, &sinks, last).await;
    assert!(shown(&scratch, "mid", "from mqtt_acked").await.is_empty());
    assert!(sinks.dead_letters(&scratch.sink()).unwrap().is_empty());
    stop(sinks).await;
}

async fn client_status(server: Server) {
    let scratch = Scratch::new(server).await;
    let rules = scratch.rules(&[
        (Hook::ClientConnected, None, Function::ClientConnected),
        (Hook::ClientDisconnected, None, Function::ClientDisconnected),
    ]);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    log.connect("a", 1);
    log.connect("a", 2);
    log.disconnect("a", 1, true);
    log.connect("b", 3);
    let last = log.disconnect("b", 3, false);
    done(&log, &sinks, last).await;
    let columns = "clientid,state,node,online_at,offline_at";
    let expected = [format!("a|1|forebay@here|{AT}|-"), format!("b|0|forebay@here|{AT}|{AT}")];
    assert_eq!(shown(&scratch, columns, "from mqtt_client order by clientid").await, expected);
    // The client moves to another node, and its going here is seen late.
    scratch.run("update mqtt_client set node = 'other' where clientid = 'a'").await;
    let last = log.disconnect("a", 2, false);
    done(&log, &sinks, last).await;
    assert_eq!(shown(&scratch, columns, "from mqtt_client where clientid = 'a'").await, [format!("a|1|other|{AT}|-")]);
    let ids = shown(&scratch, "id", "from mqtt_client order by id").await;
    for epoch in 10..20 {
        let last = log.connect("b", epoch);
        done(&log, &sinks, last).await;
    }
    assert_eq!(
        shown(&scratch, columns, "from mqtt_client where clientid = 'b'").await,
        [format!("b|1|forebay@here|{AT}|-")]
    );
    log.connect("c", 30);
    let last = log.connect("b", 31);
    done(&log, &sinks, last).await;
    let after = shown(&scratch, "id", "from mqtt_client order by id").await;
    assert_eq!(after[..2], ids);
    if server != Server::Pgsql {
        assert_eq!(after[2], "3", "updates use up no ids");
    }
    stop(sinks).await;
}

async fn messages_and_acknowledgements(server: Server) {
    let scratch = Scratch::new(server).await;
    let rules = scratch.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("#"), Function::MessageStore),
        (Hook::MessageAcked, Some("queue/#"), Function::MessageAckedForQueue),
        (Hook::MessageAcked, Some("pubsub/#"), Function::MessageAckedForPubsub),
    ]);
    let log = MemoryLog::default();
    let queued = log.publish("queue/a", b"gone", QoS::AtLeastOnce);
    let first = log.publish("pubsub/a", b"one", QoS::ExactlyOnce);
    let second = log.publish("pubsub/a", b"\xff\xfe", QoS::AtLeastOnce);
    let zero = log.publish("pubsub/a", b"zero", QoS::AtMostOnce);
    log.ack("c", "queue/a", queued);
    log.ack("c", "pubsub/a", second);
    let last = log.ack("c", "pubsub/a", first);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let topics = shown(&scratch, "topic,sender,qos,retain,arrived", "from mqtt_msg order by id").await;
    let expected = [2, 1, 0].map(|qos| format!("pubsub/a|publisher|{qos}|0|{AT}"));
    assert_eq!(topics, expected, "each stored once, the queue's removed");
    let bytes = scratch.open().await.bytes("select payload from mqtt_msg order by id").await;
    assert_eq!(bytes, [&b"one"[..], b"\xff\xfe", b"zero"]);
    let ids = shown(&scratch, "id", "from mqtt_msg order by id").await;
    // The later message's id: an acknowledgement never goes backwards.
    assert_eq!(shown(&scratch, "clientid,topic,mid", "from mqtt_acked").await, [format!("c|pubsub/a|{}", ids[1])]);
    let last = log.ack("c", "pubsub/a", zero);
    done(&log, &sinks, last).await;
    assert_eq!(shown(&scratch, "clientid,topic,mid", "from mqtt_acked").await, [format!("c|pubsub/a|{}", ids[2])]);
    stop(sinks).await;
}

async fn retained_messages(server: Server) {
    let scratch = Scratch::new(server).await;
    let rules = scratch.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessageRetain),
        (Hook::MessagePublish, Some("#"), Function::RetainDelete),
    ]);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    let retained =
        |topic: &str, payload: &str| log.message(Message { retain: true, ..message(topic, payload.as_bytes(), "p") });
    for (topic, payload) in [("a", "old"), ("a", "new"), ("b", "x"), ("b", ""), ("c", "1")] {
        retained(topic, payload);
    }
    let last = log.message(message("d", b"not retained", "p"));
    done(&log, &sinks, last).await;
    let text = format!("topic,{}", payload(server));
    let rows = |rest: &'static str| scratch.rows(&text, rest);
    assert_eq!(rows("from mqtt_retain order by topic").await, ["a|new", "c|1"]);
    retained("c", "2");
    let last = retained("a", "");
    done(&log, &sinks, last).await;
    assert_eq!(rows("from mqtt_retain order by topic").await, ["c|2"]);
    stop(sinks).await;
}

async fn keep_latest_and_unsubscribes(server: Server) {
    let scratch = Scratch::new(server).await;
    let rules = scratch.rules(&[
        (Hook::MessagePublish, Some("last/#"), Function::MessageStoreKeepLatest),
        (Hook::MessagePublish, Some("t/#"), Function::MessageStore),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
        (Hook::SessionUnsubscribed, Some("#"), Function::AckedDelete),
    ]);
    let log = MemoryLog::default();
    let sinks = start(&log, &rules);
    for n in 0..5 {
        log.publish("last/a", format!("{n}").as_bytes(), QoS::AtMostOnce);
    }
    let mut acks = Vec::new();
    for topic in ["t/1", "t/2", "t/x/3", "t/y"] {
        acks.push((topic, log.publish(topic, b"x", QoS::AtLeastOnce)));
    }
    for (topic, lsn) in &acks {
        log.ack("c", topic, *lsn);
        log.ack("d", topic, *lsn);
    }
    log.unsubscribe("c", "t/+");
    let last = log.unsubscribe("d", "t/2");
    done(&log, &sinks, last).await;
    let text = payload(server);
    assert_eq!(scratch.rows(text, "from mqtt_msg where topic = 'last/a'").await, ["4"]);
    let left = shown(&scratch, "clientid,topic", "from mqtt_acked order by clientid, topic").await;
    assert_eq!(left, ["c|t/x/3", "d|t/1", "d|t/x/3", "d|t/y"]);
    stop(sinks).await;
}

async fn rows_of_other_programs(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    let rules = scratch.rules(&[
        (Hook::ClientConnected, None, Function::SubscribeLookup),
        (Hook::SessionSubscribed, Some("#"), Function::MessageFetch),
        (Hook::SessionSubscribed, Some("#"), Function::RetainLookup),
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
    ]);
    let log = MemoryLog::default();
    let own = log.publish("cmd/c", b"own", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, own).await;
    for sql in [
        "insert into mqtt_msg (topic, qos, payload, arrived) values ('cmd/c', 1, 'reboot', '2023-12-31 00:00:00')",
        "insert into mqtt_msg (msgid, sender, topic, qos, payload, arrived) values \
         ('53F98F80F66017005000004A60003', 'app', 'cmd/c', 1, 'restart', '2023-12-31 00:00:01'), \
         ('53F98F80F66017005000004A60004', 'app', 'CMD/c', 1, 'other', '2023-12-31 00:00:01')",
        "insert into mqtt_retain (topic, qos, payload, arrived) values ('cmd/c', 1, 'kept', '2023-12-31 00:00:02')",
        "insert into mqtt_sub (clientid, topic, qos) values ('c', 'cmd/c', 2), ('c', 'not/#/valid', 1), ('d', 'x', 1)",
    ] {
        scratch.run(sql).await;
    }
    let lookups = sinks.lookups();
    assert_eq!(lookups.proxy_subscriptions("c").await, [("cmd/c".into(), QoS::ExactlyOnce)]);
    lookups.before_subscribe("c", "cmd/c").await;
    lookups.before_subscribe("c", "cmd/c").await;
    let imported: Vec<(Lsn, Message)> = log
        .events()
        .into_iter()
        .enumerate()
        .filter_map(|(n, event)| match event {
            Event::Published(p) if matches!(p.message.origin, Origin::Import { .. }) => {
                Some((Lsn(n as u64 + 1), p.message))
            }
            _ => None,
        })
        .collect();
    let payloads: Vec<&[u8]> = imported.iter().map(|(_, m)| &m.payload[..]).collect();
    assert_eq!(payloads, [&b"reboot"[..], b"restart", b"kept"], "each once, the own row not at all");
    assert_eq!(imported[1].1.publisher, "app");
    let last = log.ack("c", "cmd/c", imported[1].0);
    done(&log, &sinks, last).await;
    assert_eq!(shown(&scratch, "count(*)", "from mqtt_msg").await, ["4"], "not written back");
    assert_eq!(shown(&scratch, "clientid,topic,mid", "from mqtt_acked").await, ["c|cmd/c|3"], "the row's own id");
    stop(sinks).await;
    // Another process, another memory: the database knows.
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let before = log.events().len();
    sinks.lookups().before_subscribe("d", "cmd/c").await;
    let again = log.events().iter().skip(before).filter(|e| matches!(e, Event::Published(_))).count();
    assert_eq!(again, 0);
    stop(sinks).await;
}

async fn offline_options(server: Server) {
    let scratch = Scratch::new(server).await;
    let mut rules = scratch.rules(&[(Hook::SessionSubscribed, Some("#"), Function::MessageFetch)]);
    rules.rules[0].offline = OfflineOpts { max_returned_count: Some(2), time_range: Some(Duration::from_secs(7_200)) };
    let log = MemoryLog::default();
    let last = log.publish("x", b"x", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    // The log's clock stands at the beginning of 2024.
    for (payload, arrived) in [
        ("old", "2023-12-31 20:00:00"),
        ("1", "2023-12-31 23:00:00"),
        ("2", "2023-12-31 23:10:00"),
        ("3", "2023-12-31 23:20:00"),
    ] {
        let sql =
            format!("insert into mqtt_msg (topic, qos, payload, arrived) values ('t', 1, '{payload}', '{arrived}')");
        scratch.run(&sql).await;
    }
    sinks.lookups().before_subscribe("c", "t").await;
    let events = log.events();
    let imported: Vec<&[u8]> = events
        .iter()
        .filter_map(|event| match event {
            Event::Published(p) if p.message.topic == "t" => Some(&p.message.payload[..]),
            _ => None,
        })
        .collect();
    assert_eq!(imported, [b"2", b"3"], "the newest two, the older first");
    stop(sinks).await;
}

async fn statements_of_users(server: Server) {
    let scratch = Scratch::new(server).await;
    for sql in [
        "create table seen (clientid varchar(64), topic varchar(100), qos integer, n bigint, f double precision, d decimal(10,3), t varchar(100))",
        "create table total (n integer)",
        "insert into total values (0)",
    ] {
        scratch.run(sql).await;
    }
    let name = server.database().name();
    let conf = [
        format!("backend.{name}.pool1.pool_size = 1"),
        format!(
            r#"backend.{name}.hook.message.publish.1 = {{"topic": "n/#", "action": {{"sql": ["insert into seen (clientid, topic, qos, n, f, d, t) values (${{clientid}}, ${{topic}}, ${{qos}}, ${{payload}}, ${{payload}}, ${{payload}}, ${{payload}})", "update total set n = n + 1"]}}, "pool": "pool1"}}"#
        ),
        format!(
            r#"backend.{name}.hook.session.subscribed.1 = {{"action": {{"sql": "insert into seen (topic, qos) values (${{topic}}, ${{qos}})"}}, "pool": "pool1"}}"#
        ),
    ];
    let rules = scratch.conf(&conf.join("\n"));
    let log = MemoryLog::default();
    for payload in ["42", "no number", "-7"] {
        log.publish("n/x", payload.as_bytes(), QoS::AtLeastOnce);
    }
    let last = log.publish("other", b"1", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    assert_eq!(
        shown(&scratch, "clientid,topic,qos,n,f,d,t", "from seen order by n").await,
        ["publisher|n/x|1|-7|-7|-7.000|-7", "publisher|n/x|1|42|42|42.000|42"]
    );
    assert_eq!(
        shown(&scratch, "n", "from total").await,
        ["3"],
        "the second statement is the next in order, whatever became of the first"
    );
    let letters = sinks.dead_letters(&scratch.sink()).unwrap().ls(0, 10).unwrap();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(
        letters[0].statement.contains("no number") && letters[0].statement.contains("insert into seen"),
        "{letters:?}"
    );
    stop(sinks).await;
}

async fn expiry(server: Server) {
    let scratch = Scratch::new(server).await;
    let mut rules = scratch.rules(&[
        (Hook::MessagePublish, Some("short/#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("long/#"), Function::MessagePublish),
        (Hook::MessagePublish, Some("r/#"), Function::MessageRetain),
    ]);
    rules.rules[0].expired_time = Some(Duration::from_secs(60));
    rules.rules[2].expired_time = Some(Duration::from_secs(60));
    let log = MemoryLog::default();
    log.publish("short/a", b"s", QoS::AtLeastOnce);
    log.publish("long/a", b"l", QoS::AtLeastOnce);
    let last = log.message(Message { retain: true, ..message("r/a", b"r", "p") });
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    stop(sinks).await;
    scratch.run("insert into mqtt_retain (topic, msgid, qos, arrived) values ('r/b', 'someone else', 1, '2024-01-01 00:00:00')").await;
    async fn upkeep<S: Sink>(sink: S, scratch: &Scratch) {
        let mut conn = sink.connect().await.unwrap();
        assert_eq!(sink.maintain(&mut conn, BEGIN_US + 30_000_000).await.unwrap(), 0);
        assert_eq!(scratch.rows("topic", "from mqtt_msg order by topic").await, ["long/a", "short/a"]);
        assert_eq!(sink.maintain(&mut conn, BEGIN_US + 61_000_000).await.unwrap(), 2);
        assert_eq!(scratch.rows("topic", "from mqtt_msg order by id").await, ["long/a"]);
        assert_eq!(scratch.rows("topic", "from mqtt_retain order by id").await, ["r/b"]);
        assert_eq!(sink.maintain(&mut conn, BEGIN_US + 70_000_000).await.unwrap(), 0);
    }
    match server {
        Server::Pgsql => upkeep(PgsqlSink::new(scratch.config()), &scratch).await,
        _ => upkeep(MysqlSink::new(scratch.config()), &scratch).await,
    }
}

/// Values that a column can't hold go to the dead letters with the remedy, are never altered, and are stored after it.
async fn what_does_not_fit(server: Server) {
    let scratch = Scratch::new(server).await;
    scratch.script(guide(server)).await;
    if server != Server::Pgsql {
        scratch.run("alter table mqtt_msg modify payload text").await;
    }
    let rules = scratch.rules(&[
        (Hook::MessagePublish, Some("#"), Function::MessagePublish),
        (Hook::ClientConnected, None, Function::ClientConnected),
        (Hook::MessageAcked, Some("#"), Function::MessageAcked),
    ]);
    let log = MemoryLog::default();
    let wide = "ä".repeat(300);
    let binary = log.publish("b", b"\xff\xfe", QoS::AtLeastOnce);
    let nul = log.publish("n", b"a\0b", QoS::AtLeastOnce);
    let long = log.publish(&wide, b"x", QoS::AtLeastOnce);
    log.connect(&"c".repeat(65), 1);
    log.ack("c", &wide, nul);
    let fits = "ä".repeat(180);
    let last = log.publish(&fits, b"good", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    done(&log, &sinks, last).await;
    let mut letters = sinks.dead_letters(&scratch.sink()).unwrap().ls(0, 10).unwrap();
    letters.sort_by_key(|letter| letter.lsn);
    let reasons: Vec<String> = letters.iter().map(|letter| letter.reason.clone()).collect();
    let refused: Vec<u64> = letters.iter().map(|letter| letter.lsn).collect();
    // MySQL's text holds U+0000.
    let expected = if server == Server::Pgsql { vec![1, 2, 3, 4, 5] } else { vec![1, 3, 4, 5] };
    assert_eq!(refused, expected, "{reasons:?}");
    assert!(
        reasons[0].contains("binary_payload") && reasons.iter().any(|why| why.contains("widen the column")),
        "{reasons:?}"
    );
    let text = "payload,topic";
    let mut stored = vec![format!("good|{fits}")];
    if server != Server::Pgsql {
        stored.insert(0, "a\0b|n".into());
    }
    assert_eq!(shown(&scratch, text, "from mqtt_msg order by msgid").await, stored);
    // The remedies, without a restart.
    let remedies: &[&str] = match server {
        Server::Pgsql => &[
            "alter table mqtt_msg alter payload type bytea using convert_to(payload, 'UTF8')",
            "alter table mqtt_msg alter topic type varchar",
        ],
        _ => &["alter table mqtt_msg modify payload mediumblob, modify topic varchar(512) not null"],
    };
    for remedy in remedies {
        scratch.run(remedy).await;
    }
    for letter in letters.iter().filter(|letter| [binary.0, nul.0, long.0].contains(&letter.lsn)) {
        sinks.replay(&scratch.sink(), letter.id).await.unwrap();
    }
    let bytes =
        scratch.open().await.bytes("select payload from mqtt_msg where topic in ('b', 'n') order by topic").await;
    assert_eq!(bytes, [&b"\xff\xfe"[..], b"a\0b"]);
    assert_eq!(shown(&scratch, "count(*)", &format!("from mqtt_msg where topic = '{wide}'")).await, ["1"]);
    stop(sinks).await;
    // A text column and a pool that says how bytes are to be written.
    let other = Scratch::new(server).await;
    other.script(guide(server)).await;
    if server != Server::Pgsql {
        other.run("alter table mqtt_msg modify payload text").await;
    }
    for (kind, expected) in [("base64", "//4="), ("hex", "fffe")] {
        let mut rules = other.rules(&[(Hook::MessagePublish, Some(kind), Function::MessagePublish)]);
        rules.pools = vec![other.pool(&[("binary_payload", kind)])];
        let log = MemoryLog::default();
        let last = log.publish(kind, b"\xff\xfe", QoS::AtLeastOnce);
        other.run("drop table if exists forebay_position").await;
        let sinks = start(&log, &rules);
        done(&log, &sinks, last).await;
        assert_eq!(shown(&other, "payload", &format!("from mqtt_msg where topic = '{kind}'")).await, [expected]);
        stop(sinks).await;
    }
}

async fn a_schema_that_is_only_verified(server: Server) {
    let scratch = Scratch::new(server).await;
    let mut rules = scratch.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    rules.pools = vec![scratch.pool(&[("schema", "verify")])];
    let log = MemoryLog::default();
    let last = log.publish("a", b"1", QoS::AtLeastOnce);
    let sinks = start(&log, &rules);
    until("the operator is told", || sinks.status()[0].last_error.is_some()).await;
    let why = sinks.status()[0].last_error.clone().unwrap();
    assert!(why.contains("mqtt_msg") && why.contains("create table if not exists mqtt_msg"), "{why}");
    // What it says is what is to be run.
    let statements = why.split_once("run: ").unwrap().1;
    let mut other = scratch.open().await;
    for statement in statements.split(';').map(str::trim).filter(|s| !s.is_empty()) {
        other.run(statement).await;
    }
    done(&log, &sinks, last).await;
    assert_eq!(shown(&scratch, "topic", "from mqtt_msg").await, ["a"]);
    stop(sinks).await;
}

async fn a_look_at_the_tables_changes_nothing(server: Server) {
    let scratch = Scratch::new(server).await;
    let mut rules = scratch.rules(&[(Hook::MessagePublish, Some("#"), Function::MessagePublish)]);
    let look = async |rules: &RuleSet| {
        let found = inspect(rules, &sql::options().databases, Duration::from_secs(20)).await.unwrap();
        found.into_iter().flat_map(|one| one.findings).collect::<Vec<_>>()
    };
    let of = |findings: &[Finding], severity: Severity| {
        findings.iter().filter(|f| f.severity == severity).map(|f| f.text.clone()).collect::<Vec<_>>()
    };
    let new = look(&rules).await;
    assert_eq!(of(&new, Severity::Fine).len(), new.len(), "{new:?}");
    assert!(new.iter().any(|finding| finding.text.contains("mqtt_msg is not there yet")), "{new:?}");
    rules.pools = vec![scratch.pool(&[("schema", "verify")])];
    let verified = look(&rules).await;
    assert!(of(&verified, Severity::Fault).iter().any(|why| why.contains("create table if not exists mqtt_acked")));
    scratch.script(guide(server)).await;
    rules.pools = vec![scratch.pool(&[])];
    let guides = look(&rules).await;
    assert_eq!(of(&guides, Severity::Fault), [""; 0]);
    let warned = of(&guides, Severity::Warning);
    assert!(warned.iter().any(|why| why.contains("mqtt_acked.mid has 32 bits")), "{warned:?}");
    scratch.run("alter table mqtt_msg drop column arrived").await;
    let broken = of(&look(&rules).await, Severity::Fault);
    assert!(broken.iter().any(|why| why.contains("mqtt_msg lacks arrived")), "{broken:?}");
    // Other tests' databases are visible in MySQL; of this one nothing is.
    let own = format!(
        "from information_schema.tables where table_name like 'forebay%' and '{}' in (table_schema, table_catalog)",
        scratch.name
    );
    assert_eq!(scratch.rows("table_name", &own).await, [""; 0]);
    rules.pools = vec![scratch.pool(&[("password", "wrong")])];
    let refused = of(&look(&rules).await, Severity::Fault);
    assert!(refused.len() == 1 && refused[0].contains("check the pool's username and password"), "{refused:?}");
}
