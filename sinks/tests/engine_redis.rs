//! The engine, the sinks and Redis together: what a client does, key by key, by the guide's and the article's own configuration.
#![cfg(all(feature = "redis", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod redis_support;
mod support;

use std::sync::Arc;
use std::time::Duration;

use forebay_engine::QoS;
use forebay_engine::event::*;
use forebay_services::redis::PASSWORD;
use forebay_sinks::source::BoxFuture;
use forebay_sinks::{Clients, OrderError, SinkState};
use parking_lot::Mutex;
use redis_support::{Database, View};
use support::{Client, Counters, World, message, publish, published, until};

/// A configuration of the guide's or the article's: only its address is another, and the password and database are added.
fn with_address(conf: &str, database: &Database) -> String {
    let address = format!("{}:{}", database.host, database.port);
    let kept: Vec<&str> = conf.lines().filter(|l| !l.starts_with("backend.redis.pool1.database")).collect();
    let conf = kept.join("\n").replace("pool1.server = 127.0.0.1:6379", &format!("pool1.server = {address}"));
    assert!(conf.contains(&address), "the address was not replaced");
    format!("{conf}\nbackend.redis.pool1.password = {PASSWORD}\nbackend.redis.pool1.database = {}\n", database.number)
}

const GUIDE: &str = include_str!("fixtures/conf/emqx_backend_redis.conf");
const ARTICLE: &str = include_str!("fixtures/conf/emqx_backend_redis_article.conf");

async fn start(conf: &str) -> (Database, View, World) {
    let database = tokio::task::spawn_blocking(Database::take).await.unwrap();
    let world = World::new(&with_address(conf, &database)).await;
    let view = database.view().await;
    (database, view, world)
}

/// A hash as pairs, in the order `redis-cli` shows them; times as `<time>` where they are of today.
fn shown(fields: &[String]) -> Vec<(String, String)> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let today = |value: &String| value.parse::<u64>().is_ok_and(|t| t <= now && t + 3_600 > now);
    fields
        .chunks(2)
        .map(|pair| (pair[0].clone(), if today(&pair[1]) { "<time>".to_owned() } else { pair[1].clone() }))
        .collect()
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_status_is_what_the_guide_shows() {
    let (_database, view, world) = start(GUIDE).await;
    let client = Client::connect(&world.engine, "test").await;
    world.caught_up().await;
    let online = [("state", "1"), ("online_at", "<time>"), ("offline_at", "undefined")];
    assert_eq!(shown(&view.hash("mqtt:client:test").await), pairs(&online));
    assert_eq!(shown(&view.hash("mqtt:node:here").await), pairs(&[("test", "<time>")]));
    // A fast reconnect and a takeover: the disconnect that comes late changes nothing.
    let second = Client::connect(&world.engine, "test").await;
    client.disconnect(true).await;
    world.caught_up().await;
    assert_eq!(shown(&view.hash("mqtt:client:test").await), pairs(&online));
    assert_eq!(shown(&view.hash("mqtt:node:here").await), pairs(&[("test", "<time>")]));
    second.disconnect(false).await;
    world.caught_up().await;
    let offline = [("state", "0"), ("online_at", "<time>"), ("offline_at", "<time>")];
    assert_eq!(shown(&view.hash("mqtt:client:test").await), pairs(&offline));
    assert_eq!(view.keys().await, ["conn:test", "mqtt:client:test"]);
    // A client that another node has by now stays online.
    let again = Client::connect(&world.engine, "test").await;
    world.caught_up().await;
    let _ok: String = view.ask("SET forebay:at:test elsewhere").await;
    again.disconnect(false).await;
    world.caught_up().await;
    assert_eq!(shown(&view.hash("mqtt:client:test").await), pairs(&online));
    assert!(view.hash("mqtt:node:here").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_node_that_died_are_set_offline_when_it_starts_again() {
    let (_database, view, world) = start(GUIDE).await;
    let _left = Client::connect(&world.engine, "left").await;
    let _other: i64 = view.ask("HSET mqtt:client:other state 1 online_at 1 offline_at undefined").await;
    let _other: i64 = view.ask("HSET mqtt:node:here other 1").await;
    world.caught_up().await;
    // What the broker appends when it starts and finds a client connected that is not.
    let epoch = world.engine.sessions().into_iter().find(|s| &*s.client == "left").unwrap().epoch;
    let died = ClientDisconnected {
        client: "left".into(),
        epoch,
        reason: DisconnectReason::ServerDied,
        superseded: false,
        cancel_will: false,
        expiry_s: None,
        positions: Vec::new(),
    };
    world.engine.append_wait(&[Event::ClientDisconnected(died)]).await.unwrap();
    world.caught_up().await;
    assert_eq!(shown(&view.hash("mqtt:client:left").await)[0], ("state".into(), "0".into()));
    // A client that this log knows nothing of is not touched.
    assert_eq!(view.hash("mqtt:node:here").await, ["other", "1"]);
    assert_eq!(view.hash("mqtt:client:other").await[1], "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_queues_read_positions_and_retained_messages_are_what_the_guide_shows() {
    let (_database, view, world) = start(GUIDE).await;
    let engine = &world.engine;
    for (topic, payload, qos) in [
        ("plain", "zero", 0),
        ("plain", "one", 1),
        ("queue/a", "job", 1),
        ("queue/a", "left", 2),
        ("pubsub/a", "p1", 1),
    ] {
        publish(engine, message(topic, payload, qos)).await;
    }
    publish(engine, published_retained("plain", "kept", 1)).await;
    publish(engine, published_retained("gone", "x", 1)).await;
    publish(engine, published_retained("gone", "", 1)).await;
    world.caught_up().await;
    // QoS 0 is not stored by on_message_publish.
    let ids: Vec<String> = view.ask("ZRANGE mqtt:msg:plain 0 -1").await;
    assert_eq!(ids.len(), 2);
    assert!(ids.is_sorted() && ids.iter().all(|id| id.len() == 20), "{ids:?}");
    assert_eq!(view.ask::<String>(&format!("ZSCORE mqtt:msg:plain {}", ids[0])).await, "1");
    let fields = |id: &str, payload: &str, retain: &str| {
        pairs(&[
            ("id", id),
            ("from", "publisher"),
            ("qos", "1"),
            ("topic", "plain"),
            ("payload", payload),
            ("ts", "<time>"),
            ("retain", retain),
        ])
    };
    assert_eq!(shown(&view.hash(&format!("mqtt:msg:{}", ids[0])).await), fields(&ids[0], "one", "false"));
    assert_eq!(shown(&view.hash("mqtt:retain:plain").await), fields(&ids[1], "kept", "true"));
    assert_eq!(view.ask::<i64>("EXISTS mqtt:retain:gone").await, 0);
    // expired_time: 3600 s from the record's time, on the message and on what is retained.
    for key in [format!("mqtt:msg:{}", ids[0]), "mqtt:retain:plain".to_owned()] {
        let left = view.ask::<i64>(&format!("PTTL {key}")).await;
        assert!((3_500_000..=3_600_000).contains(&left), "{key} lives for {left} ms");
    }
    // One-to-one: acknowledged is removed, with its hash.
    let jobs: Vec<String> = view.ask("ZRANGE mqtt:msg:queue/a 0 -1").await;
    let mut worker = Client::connect(engine, "worker").await;
    worker.subscribe("queue/a").await;
    assert_eq!(worker.receive(1).await, ["job"]);
    worker.disconnect(false).await;
    world.caught_up().await;
    assert_eq!(view.payloads("queue/a").await, [Some(b"left".to_vec())]);
    assert_eq!(view.ask::<i64>(&format!("EXISTS mqtt:msg:{}", jobs[0])).await, 0);
    // One-to-many: the read position, and what an unsubscribe does to it.
    let mut reader = Client::connect(engine, "reader").await;
    reader.subscribe("pubsub/a").await;
    assert_eq!(reader.receive(1).await, ["p1"]);
    world.caught_up().await;
    let read: Vec<String> = view.ask("ZRANGE mqtt:msg:pubsub/a 0 -1").await;
    assert_eq!(view.ask::<String>("GET mqtt:acked:reader:pubsub/a").await, read[0]);
    reader.unsubscribe("pubsub/a").await;
    reader.disconnect(false).await;
    world.caught_up().await;
    assert_eq!(view.ask::<i64>("EXISTS mqtt:acked:reader:pubsub/a").await, 0);
    // Nothing stands there that the guide does not name.
    let known = ["conn:", "mqtt:client:", "mqtt:msg:", "mqtt:retain:"];
    let keys = view.keys().await;
    assert!(keys.iter().all(|k| known.iter().any(|known| k.starts_with(known))), "{keys:?}");
    for (key, kind) in [("mqtt:client:worker", "hash"), ("mqtt:msg:plain", "zset"), ("mqtt:retain:plain", "hash")] {
        assert_eq!(view.ask::<String>(&format!("TYPE {key}")).await, kind);
    }
}

fn published_retained(topic: &str, payload: &str, qos: u8) -> Message {
    Message { retain: true, ..message(topic, payload, qos) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_article_s_configuration_gives_the_article_s_keys_retained_messages_as_a_sorted_set_too() {
    let (_database, view, world) = start(&format!("{ARTICLE}\nbackend.redis.pool1.retain_layout = zset\n")).await;
    let engine = &world.engine;
    let client = Client::connect(engine, "sub_client").await;
    let client_fields = [("state", "1"), ("online_at", "<time>"), ("offline_at", "undefined")];
    world.caught_up().await;
    assert_eq!(shown(&view.hash("mqtt:node:here").await), pairs(&[("sub_client", "<time>")]));
    assert_eq!(shown(&view.hash("mqtt:client:sub_client").await), pairs(&client_fields));
    for payload in ["1", "2"] {
        publish(engine, published_retained("upstream_topic", payload, 2)).await;
    }
    publish(engine, message("upstream_topic", "3", 2)).await;
    world.caught_up().await;
    let ids: Vec<String> = view.ask("ZRANGE mqtt:msg:upstream_topic 0 -1").await;
    assert_eq!(ids.len(), 3);
    assert_eq!(view.ask::<Vec<String>>("ZRANGE mqtt:retain:upstream_topic 0 -1").await, [ids[1].clone()]);
    assert_eq!(view.hash(&format!("mqtt:msg:{}", ids[1])).await[13], "true");
    publish(engine, published_retained("upstream_topic", "", 2)).await;
    world.caught_up().await;
    assert_eq!(view.ask::<i64>("EXISTS mqtt:retain:upstream_topic").await, 0);
    assert_eq!(view.payloads("upstream_topic").await.len(), 4, "what is stored stays stored");
    // Proxy subscriptions, as the article enters them.
    let _new: i64 = view.ask("HSET mqtt:sub:sub_client sub_client/upstream 1 sub_client/downlink 1").await;
    let mut found = world.sinks().lookups().proxy_subscriptions("sub_client").await;
    found.sort();
    assert_eq!(
        found,
        [("sub_client/downlink".into(), QoS::AtLeastOnce), ("sub_client/upstream".into(), QoS::AtLeastOnce)]
    );
    client.disconnect(false).await;
}

const COMMANDS: &str = r##"
backend.redis.pool1.server = 127.0.0.1:6379
backend.redis.hook.client.connected.1 = {"action": {"commands": ["SET conn:${clientid} ${clientid}"]}, "pool": "pool1"}
backend.redis.hook.client.disconnected.1 = {"action": {"commands": ["SET disconn:${clientid} ${clientid}"]}, "pool": "pool1"}
backend.redis.hook.session.subscribed.1 = {"action": {"commands": ["HSET sub:${clientid} ${topic} ${qos}"]}, "pool": "pool1"}
backend.redis.hook.session.unsubscribed.1 = {"action": {"commands": ["SET unsub:${clientid} ${topic}"]}, "pool": "pool1"}
backend.redis.hook.message.publish.1 = {"topic": "#", "action": {"commands": ["RPUSH pub:${topic} ${msgid}", "RPUSH all ${message}", "SET last:${topic} ${payload}", "INCR count"]}, "pool": "pool1"}
backend.redis.hook.message.acked.1 = {"action": {"commands": ["HSET ack:${clientid} ${topic} ${msgid}"]}, "pool": "pool1"}
backend.redis.hook.message.deliver.1 = {"action": {"commands": ["HSET deliver:${clientid} ${topic} ${msgid}"]}, "pool": "pool1"}
"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_guide_s_commands_run_with_their_parameters_inside_their_fields() {
    let (_database, view, world) = start(COMMANDS).await;
    let engine = &world.engine;
    let odd = "a client with spaces";
    let mut client = Client::connect(engine, odd).await;
    client.subscribe("t/1").await;
    publish(engine, message("t/1", "two words\r\nDEL all", 1)).await;
    assert_eq!(client.receive(1).await.len(), 1);
    client.unsubscribe("t/1").await;
    client.disconnect(false).await;
    world.caught_up().await;
    for (words, expected) in [
        (["GET", "conn:a client with spaces"], odd),
        (["GET", "disconn:a client with spaces"], odd),
        (["GET", "unsub:a client with spaces"], "t/1"),
        (["GET", "last:t/1"], "two words\r\nDEL all"),
        (["GET", "count"], "1"),
    ] {
        assert_eq!(view.words::<String>(&words).await, expected, "{words:?}");
    }
    let id = view.words::<Vec<String>>(&["LRANGE", "pub:t/1", "0", "-1"]).await.remove(0);
    assert_eq!(view.hash("sub:a client with spaces").await, ["t/1", "2"]);
    assert_eq!(view.hash("ack:a client with spaces").await, ["t/1", id.as_str()]);
    let json = view.words::<Vec<String>>(&["LRANGE", "all", "0", "-1"]).await.remove(0);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["id"], id);
    assert_eq!((&json["topic"], &json["qos"], &json["retain"]), (&"t/1".into(), &1.into(), &false.into()));
    assert_eq!((&json["payload"], &json["from"]), (&"two words\r\nDEL all".into(), &"publisher".into()));
    // JSON can't hold other bytes: that rule's command goes to the dead letters, nothing is altered.
    let bytes = Message { payload: vec![0xff, 0x00].into(), ..message("t/2", "", 1) };
    support::publish(engine, bytes).await;
    world.caught_up().await;
    let letters = world.sinks().dead_letters(&world.sink()).unwrap().ls(0, 10).unwrap();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].reason.contains("not UTF-8"), "{}", letters[0].reason);
}

const EXPIRY: &str = r##"
backend.redis.pool1.server = 127.0.0.1:6379
backend.redis.msg.expired_after = 1
backend.redis.hook.message.publish.1 = {"topic": "short/#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.redis.hook.message.publish.2 = {"topic": "long/#", "action": {"function": "on_message_publish"}, "expired_time": 3600, "pool": "pool1"}
backend.redis.hook.message.publish.3 = {"topic": "#", "action": {"function": "on_message_retain"}, "expired_time": "2s", "pool": "pool1"}
"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_messages_go_and_leave_their_sorted_sets() {
    for layout in ["hash", "zset"] {
        let (_database, view, world) =
            start(&format!("{EXPIRY}\nbackend.redis.pool1.retain_layout = {layout}\n")).await;
        publish(&world.engine, published_retained("short/a", "s", 1)).await;
        publish(&world.engine, published_retained("long/a", "l", 1)).await;
        world.caught_up().await;
        assert_eq!(view.stored("*/a").await.len(), 2);
        let end = tokio::time::Instant::now() + Duration::from_secs(40);
        while view.ask::<i64>("EXISTS mqtt:msg:short/a mqtt:retain:short/a mqtt:retain:long/a").await > 0 {
            assert!(tokio::time::Instant::now() < end, "{layout}: {:?}", view.keys().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let keys = view.keys().await;
        // With the sorted set for retained messages, the message's hash lives as long as the longest of the two.
        assert!(keys.contains(&"mqtt:msg:long/a".to_owned()), "{layout}: {keys:?}");
        assert!(keys.len() <= 2, "{layout}: {keys:?}");
    }
}

const LATEST: &str = r##"
backend.redis.pool1.server = 127.0.0.1:6379
backend.redis.hook.session.subscribed.1 = {"topic": "#", "action": {"function": "on_message_fetch_for_keep_latest"}, "pool": "pool1"}
backend.redis.hook.message.publish.1 = {"topic": "#", "action": {"function": "on_message_store_keep_latest"}, "pool": "pool1"}
backend.redis.hook.message.acked.1 = {"topic": "#", "action": {"function": "on_message_acked_for_keep_latest"}, "pool": "pool1"}
"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keep_latest_keeps_the_newest_message_of_each_topic() {
    let (_database, view, world) = start(LATEST).await;
    for n in 0..30 {
        publish(&world.engine, message(&format!("t/{}", n % 3), &n.to_string(), n % 3)).await;
    }
    world.caught_up().await;
    for (topic, newest) in [("t/0", "27"), ("t/1", "28"), ("t/2", "29")] {
        assert_eq!(view.payloads(topic).await, [Some(newest.as_bytes().to_vec())]);
    }
    assert_eq!(view.keys().await.len(), 6, "older hashes are gone");
    let mut client = Client::connect(&world.engine, "c").await;
    client.subscribe("t/1").await;
    assert_eq!(client.receive(1).await, ["28"]);
    world.caught_up().await;
    let id: Vec<String> = view.ask("ZRANGE mqtt:msg:t/1 0 -1").await;
    assert_eq!(view.ask::<String>("GET mqtt:acked:c:t/1").await, id[0]);
    client.disconnect(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_other_programs_reach_a_subscriber_once_and_are_acknowledged_under_their_own_id() {
    for kind in ["pubsub", "queue"] {
        let (_database, view, mut world) = start(GUIDE).await;
        let topic = format!("{kind}/cmd");
        publish(&world.engine, message(&topic, "own", 1)).await;
        world.caught_up().await;
        let mut ids: Vec<String> = (0..299).map(|n| format!("cmd-{n:04}")).collect();
        ids.push("00-first-by-name".to_owned());
        for id in &ids {
            let hash = format!("mqtt:msg:{id}");
            let fields =
                ["id", id, "from", "app", "qos", "1", "topic", &topic, "payload", id, "ts", "1", "retain", "false"];
            let _new: i64 = view.words(&[&["HSET", hash.as_str()][..], &fields[..]].concat()).await;
            let _new: i64 = view.words(&["ZADD", &format!("mqtt:msg:{topic}"), "1", id]).await;
        }
        world.sinks().lookups().before_subscribe("c", &topic).await;
        let mut client = Client::connect(&world.engine, "c").await;
        client.subscribe(&topic).await;
        let got = client.receive(301).await;
        assert_eq!(
            (got[0].as_str(), got[1].as_str(), got[2].as_str(), got[300].as_str()),
            ("own", "00-first-by-name", "cmd-0000", "cmd-0298")
        );
        client.disconnect(false).await;
        world.caught_up().await;
        if kind == "queue" {
            assert!(view.payloads(&topic).await.is_empty(), "acknowledged is removed, theirs too");
            assert_eq!(view.ask::<i64>("EXISTS mqtt:msg:cmd-0007").await, 0);
        } else {
            assert_eq!(view.payloads(&topic).await.len(), 301, "not written back under another id");
            assert_eq!(view.ask::<String>("GET mqtt:acked:c:pubsub/cmd").await, "cmd-0298");
        }
        for restart in [false, true] {
            if restart {
                world = world.restart_engine().await;
                world.caught_up().await;
            }
            let end = world.settled().await;
            world.sinks().lookups().before_subscribe("c", &topic).await;
            world.sinks().lookups().before_subscribe("d", &topic).await;
            world.settled().await;
            assert!(world.published_since(end).is_empty(), "{kind}: imported again, restart: {restart}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_of_the_two_retained_messages_wins_in_either_layout() {
    let (_database, view, world) = start(GUIDE).await;
    publish(&world.engine, published_retained("r/local", "local", 1)).await;
    world.caught_up().await;
    let _new: i64 =
        view.ask("HSET mqtt:retain:r/local id x1 from app qos 1 topic r/local payload theirs ts 1 retain true").await;
    let _new: i64 =
        view.ask("HSET mqtt:retain:r/theirs id x2 from app qos 1 topic r/theirs payload theirs ts 1 retain true").await;
    let _new: i64 = view.ask("HSET mqtt:msg:x3 id x3 from app qos 1 topic r/set payload set ts 1 retain true").await;
    let _new: i64 = view.ask("ZADD mqtt:retain:r/set 1 x3").await;
    let lookups = world.sinks().lookups();
    for topic in ["r/local", "r/theirs", "r/set", "r/none"] {
        lookups.before_subscribe("c", topic).await;
    }
    world.settled().await;
    let retained = |topic: &str| world.engine.retained(topic).map(|m| m.message.payload.clone());
    assert_eq!(retained("r/local").unwrap(), "local", "an older one loses");
    assert_eq!(retained("r/theirs").unwrap(), "theirs");
    assert_eq!(retained("r/set").unwrap(), "set");
    assert!(retained("r/none").is_none());
}

/// Notes what is ordered; `known` clients are online.
#[derive(Default)]
struct Noted(Mutex<Vec<String>>);

impl Clients for Noted {
    fn subscribe<'a>(&'a self, client: &'a str, filter: &'a str, qos: QoS) -> BoxFuture<'a, Result<(), OrderError>> {
        Box::pin(async move {
            if client != "known" {
                return Err(OrderError::NotConnected);
            }
            self.0.lock().push(format!("+{filter} {}", qos.as_u8()));
            Ok(())
        })
    }
    fn unsubscribe<'a>(&'a self, client: &'a str, filter: &'a str) -> BoxFuture<'a, Result<(), OrderError>> {
        Box::pin(async move {
            self.0.lock().push(format!("-{client} {filter}"));
            Ok(())
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_on_the_channel_are_carried_out_and_received_again_after_the_link_is_lost() {
    let recorder = Counters::install();
    let channel = format!("orders-{}", std::process::id());
    let conf = GUIDE.replace("mqtt_channel", &channel);
    let (_database, view, world) = start(&conf).await;
    let clients = Arc::new(Noted::default());
    world.sinks().obey(&(clients.clone() as Arc<dyn Clients>));
    let send = async |text: &str| {
        let end = tokio::time::Instant::now() + Duration::from_secs(30);
        while view.words::<i64>(&["PUBLISH", &channel, text]).await == 0 {
            assert!(tokio::time::Instant::now() < end, "nobody listens on the channel");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let orders = || recorder.total("forebay_sink_orders");
    let before = orders();
    send(r#"{"type": "subscribe", "topic": "topic0", "clientid": "known", "qos": "1"}"#).await;
    send(r#"{"type": "subscribe", "topic": "topic1", "clientid": "unknown", "qos": 1}"#).await;
    send("not an order").await;
    // The server closes all links of listeners; the next order comes through a new one.
    let _killed: i64 = view.ask("CLIENT KILL TYPE pubsub").await;
    send(r#"{"type": "unsubscribe", "topic": "topic0", "clientid": "known"}"#).await;
    until("four orders are counted", || orders() == before + 4).await;
    assert_eq!(*clients.0.lock(), ["+topic0 1", "-known topic0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_answer_from_local_state_while_the_server_hangs() {
    let recorder = Counters::install();
    let server = tokio::task::spawn_blocking(|| {
        forebay_services::private(&forebay_services::redis::Redis { tls: false, durable: false }).unwrap()
    })
    .await
    .unwrap();
    let database =
        std::mem::ManuallyDrop::new(Database { host: "127.0.0.1".into(), port: server.members[0].port(), number: 0 });
    let world = World::new(&with_address(GUIDE, &database)).await;
    let view = database.view().await;
    let _new: i64 = view.ask("HSET mqtt:sub:c a/b 2 not/#/valid 1 odd x").await;
    world.caught_up().await;
    let lookups = world.sinks().lookups();
    assert_eq!(lookups.proxy_subscriptions("c").await, [("a/b".into(), QoS::ExactlyOnce)]);
    let before = recorder.total("forebay_sink_lookups_stale");
    server.members[0].suspend();
    assert_eq!(lookups.proxy_subscriptions("c").await, [("a/b".into(), QoS::ExactlyOnce)], "as remembered");
    lookups.before_subscribe("c", "pubsub/x").await;
    assert!(recorder.total("forebay_sink_lookups_stale") >= before + 2);
    server.members[0].resume();
    for n in 0..100 {
        support::publish(&world.engine, message("t", &n.to_string(), 1)).await;
    }
    world.caught_up().await;
    assert_eq!(world.status().state, SinkState::Running);
    assert_eq!(view.payloads("t").await.len(), 100);
    let _kept = published(message("t", "", 0));
}
