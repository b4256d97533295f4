//! The engine, the sinks and MongoDB together: what a client does, document by document, by the guide's own configuration.
#![cfg(all(feature = "mongo", feature = "sqlite"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod mongo_support;
mod support;

use std::time::Duration;

use forebay_engine::event::*;
use forebay_engine::{EngineOptions, QoS};
use mongo_support::{Place, Scratch};
use mongodb::bson::oid::ObjectId;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Document, doc};
use support::{Client, World, message, publish};

/// The guide's configuration: only address, login and database are others.
fn of_the_guide(conf: &str, scratch: &Scratch) -> String {
    let (user, password) = scratch.place.login.clone().unwrap();
    let conf = conf
        .replace("pool1.server = 127.0.0.1:27017", &format!("pool1.server = {}", scratch.place.server))
        .replace("## backend.mongo.pool1.login =  emqtt", &format!("backend.mongo.pool1.login = {user}"))
        .replace("## backend.mongo.pool1.password = emqtt", &format!("backend.mongo.pool1.password = {password}"))
        .replace("## backend.mongo.pool1.auth_source", "backend.mongo.pool1.auth_source")
        .replace("pool1.database = mqtt", &format!("pool1.database = {}", scratch.name));
    assert!(conf.contains(&scratch.place.server) && conf.contains(&scratch.name), "not replaced");
    conf
}

const GUIDE: &str = include_str!("fixtures/conf/emqx_backend_mongo.conf");

/// A pool and the rules of one test.
fn with_rules(rules: &str, scratch: &Scratch) -> String {
    let pool: Vec<&str> = GUIDE.lines().filter(|line| !line.contains(".hook.")).collect();
    format!("{}\n{rules}", of_the_guide(&pool.join("\n"), scratch))
}

async fn start(conf: impl Fn(&Scratch) -> String) -> (Scratch, World) {
    let scratch = Scratch::new().await;
    let world = World::with(&conf(&scratch), with_a_number).await;
    (scratch, world)
}

/// Nodes have a number; only with 0 those of messages begin where other programs' do.
fn with_a_number(options: &mut EngineOptions) {
    options.node = 40_000;
}

async fn guide() -> (Scratch, World) {
    start(|scratch| of_the_guide(GUIDE, scratch)).await
}

fn now_s() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().cast_signed()
}

/// A document with times of today as `<time>`, whole numbers in one form, and without an `_id` that is an object id.
fn shown(document: &Document) -> Document {
    let one = |value: &Bson| match value {
        Bson::Int32(n) => Bson::Int64(i64::from(*n)),
        Bson::Int64(n) if (now_s() - 3_600..=now_s()).contains(n) => Bson::String("<time>".into()),
        other => other.clone(),
    };
    let kept = document.iter().filter(|(key, value)| *key != "_id" || !matches!(value, Bson::ObjectId(_)));
    kept.map(|(key, value)| (key.clone(), one(value))).collect()
}

async fn one(scratch: &Scratch, collection: &str, filter: Document) -> Document {
    let found = scratch.find(collection, filter).await;
    assert_eq!(found.len(), 1, "{found:?}");
    shown(&found[0])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_status_is_what_the_guide_shows() {
    let (scratch, world) = guide().await;
    let client = Client::connect(&world.engine, "test").await;
    world.caught_up().await;
    let status = || one(&scratch, "mqtt_client", doc! { "clientid": "test" });
    let online =
        doc! { "clientid": "test", "state": 1_i64, "node": "here", "online_at": "<time>", "offline_at": Bson::Null };
    assert_eq!(status().await, online);
    let id = scratch.find("mqtt_client", doc! {}).await[0].get_object_id("_id").unwrap();
    // A fast reconnect and a takeover: the disconnect that comes late changes nothing.
    let second = Client::connect(&world.engine, "test").await;
    client.disconnect(true).await;
    world.caught_up().await;
    assert_eq!(status().await, online);
    second.disconnect(false).await;
    world.caught_up().await;
    let offline =
        doc! { "clientid": "test", "state": 0_i64, "node": "here", "online_at": "<time>", "offline_at": "<time>" };
    assert_eq!(status().await, offline);
    assert_eq!(scratch.find("mqtt_client", doc! {}).await[0].get_object_id("_id").unwrap(), id);
    // A client that another node has by now stays online.
    let again = Client::connect(&world.engine, "test").await;
    world.caught_up().await;
    let elsewhere = doc! { "$set": { "node": "elsewhere" } };
    scratch.db.collection::<Document>("mqtt_client").update_one(doc! { "clientid": "test" }, elsewhere).await.unwrap();
    again.disconnect(false).await;
    world.caught_up().await;
    assert_eq!(status().await.get_i64("state").unwrap(), 1);
    // A document that another program made is updated, not joined by a second one.
    scratch.insert("mqtt_client", doc! { "clientid": "old", "state": 0, "node": "emqx@127.0.0.1" }).await;
    let old = Client::connect(&world.engine, "old").await;
    world.caught_up().await;
    let found = one(&scratch, "mqtt_client", doc! { "clientid": "old" }).await;
    assert_eq!((found.get_i64("state").unwrap(), found.get_str("node").unwrap()), (1, "here"));
    old.disconnect(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_read_positions_and_retained_messages_are_what_the_guide_shows() {
    let (scratch, world) = guide().await;
    let engine = &world.engine;
    for (topic, payload, qos) in [("/World", "zero", 0), ("/World", "Hello world!", 1), ("other", "x", 2)] {
        publish(engine, message(topic, payload, qos)).await;
    }
    publish(engine, retained("t/retain", "Hello world!", 1)).await;
    publish(engine, retained("gone", "x", 1)).await;
    publish(engine, retained("gone", "", 1)).await;
    world.caught_up().await;
    // QoS 0 is not stored by on_message_publish.
    let stored = scratch.find("mqtt_msg", doc! { "topic": "/World" }).await;
    assert_eq!(stored.len(), 1);
    let id = stored[0].get_i64("_id").unwrap();
    let msgid = stored[0].get_str("msgid").unwrap().to_owned();
    let parsed = forebay_engine::MsgId::parse(&msgid).unwrap();
    assert_eq!(id, ((u64::from(parsed.node) << 48) | parsed.lsn.0).cast_signed());
    let fields =
        |topic: &str, msgid: &str| doc! { "topic": topic, "msgid": msgid, "sender": "publisher", "qos": 1_i64 };
    let mut expected = doc! { "_id": id };
    expected.extend(fields("/World", &msgid));
    expected.extend(doc! { "retain": 0_i64, "payload": "Hello world!", "arrived": "<time>" });
    assert_eq!(shown(&stored[0]), expected);
    assert_eq!(one(&scratch, "mqtt_msg", doc! { "topic": "t/retain" }).await.get_i64("retain").unwrap(), 1);
    let kept = one(&scratch, "mqtt_retain", doc! {}).await;
    let mut expected = fields("t/retain", kept.get_str("msgid").unwrap());
    expected.extend(doc! { "payload": "Hello world!", "arrived": "<time>" });
    assert_eq!(kept, expected);
    // The read position, and what an unsubscribe does to it.
    let mut reader = Client::connect(engine, "reader").await;
    reader.subscribe("/World").await;
    assert_eq!(reader.receive(1).await, ["Hello world!"]);
    world.caught_up().await;
    let acked = one(&scratch, "mqtt_acked", doc! {}).await;
    assert_eq!(acked, doc! { "clientid": "reader", "topic": "/World", "mongo_id": id });
    for n in 0..3 {
        publish(engine, message("/World", &n.to_string(), 1)).await;
    }
    reader.receive(3).await;
    world.caught_up().await;
    let last = scratch.find("mqtt_msg", doc! { "topic": "/World" }).await.pop().unwrap();
    assert_eq!(one(&scratch, "mqtt_acked", doc! {}).await.get("mongo_id"), last.get("_id"));
    reader.unsubscribe("/World").await;
    reader.disconnect(false).await;
    world.caught_up().await;
    assert!(scratch.find("mqtt_acked", doc! {}).await.is_empty());
    // The collections and indexes of the guide, and nothing else that is not marked as Forebay's.
    let names = scratch.db.list_collection_names().await.unwrap();
    let theirs: Vec<&String> = names.iter().filter(|name| !name.starts_with("forebay_")).collect();
    assert_eq!(theirs.len(), 5, "{names:?}");
    for (name, index) in [
        ("mqtt_client", "clientid_1_node_2"),
        ("mqtt_sub", "clientid_1"),
        ("mqtt_msg", "sender_1_topic_2"),
        ("mqtt_retain", "topic_1"),
    ] {
        let indexes = scratch.db.collection::<Document>(name).list_index_names().await.unwrap();
        assert!(indexes.iter().any(|known| known == index), "{name}: {indexes:?}");
    }
}

fn retained(topic: &str, payload: &str, qos: u8) -> Message {
    Message { retain: true, ..message(topic, payload, qos) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_are_text_bytes_or_documents() {
    let rules = r##"
backend.mongo.hook.message.publish.1 = {"topic": "json/#", "action": {"function": "on_message_store"}, "payload_format": "mongo_json", "pool": "pool1"}
backend.mongo.hook.message.publish.2 = {"topic": "plain/#", "action": {"function": "on_message_store"}, "payload_format": "plain_text", "pool": "pool1"}
backend.mongo.hook.message.publish.3 = {"topic": "json/#", "action": {"function": "on_message_retain"}, "payload_format": "mongo_json", "pool": "pool1"}
"##;
    let (scratch, world) = start(|scratch| with_rules(rules, scratch)).await;
    let json = r#"{"a": {"b": [1, 2.5, "x", null, true]}, "n": 5000000000}"#;
    let document = Bson::Document(doc! { "a": { "b": [1, 2.5, "x", Bson::Null, true] }, "n": 5_000_000_000_i64 });
    let binary = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: vec![0xff, 0, 1] });
    for (topic, payload, expected) in [
        ("json/object", json.as_bytes(), document.clone()),
        ("json/broken", b"{\"a\":", Bson::String("{\"a\":".into())),
        ("json/binary", &[0xff, 0, 1], binary.clone()),
        ("plain/object", b"{}", Bson::String("{}".into())),
        ("plain/nul", b"a\0b", Bson::String("a\0b".into())),
        ("plain/empty", b"", Bson::String(String::new())),
        ("plain/binary", &[0xff, 0, 1], binary),
    ] {
        publish(&world.engine, Message { payload: payload.to_vec().into(), ..message(topic, "", 0) }).await;
        world.caught_up().await;
        let found = scratch.find("mqtt_msg", doc! { "topic": topic }).await;
        assert_eq!(found[0].get("payload"), Some(&expected), "{topic}");
    }
    publish(&world.engine, retained("json/kept", json, 1)).await;
    world.caught_up().await;
    assert_eq!(scratch.find("mqtt_retain", doc! {}).await[0].get("payload"), Some(&document));
    assert!(world.sinks().dead_letters(&world.sink()).unwrap().is_empty());
}

const EVERYTHING: &str = r##"
backend.mongo.hook.session.subscribed.1 = {"topic": "queue/#", "action": {"function": "on_message_fetch_for_queue"}, "pool": "pool1"}
backend.mongo.hook.session.subscribed.2 = {"topic": "pubsub/#", "action": {"function": "on_message_fetch_for_pubsub"}, "pool": "pool1"}
backend.mongo.hook.session.subscribed.3 = {"topic": "latest/#", "action": {"function": "on_message_fetch_for_keep_latest"}, "pool": "pool1"}
backend.mongo.hook.message.publish.1 = {"topic": "queue/#", "action": {"function": "on_message_store"}, "pool": "pool1"}
backend.mongo.hook.message.publish.2 = {"topic": "pubsub/#", "action": {"function": "on_message_publish"}, "pool": "pool1"}
backend.mongo.hook.message.publish.3 = {"topic": "latest/#", "action": {"function": "on_message_store_keep_latest"}, "pool": "pool1"}
backend.mongo.hook.message.acked.1 = {"topic": "queue/#", "action": {"function": "on_message_acked_for_queue"}, "pool": "pool1"}
backend.mongo.hook.message.acked.2 = {"topic": "pubsub/#", "action": {"function": "on_message_acked_for_pubsub"}, "pool": "pool1"}
backend.mongo.hook.message.acked.3 = {"topic": "latest/#", "action": {"function": "on_message_acked_for_keep_latest"}, "pool": "pool1"}
backend.mongo.hook.session.unsubscribed.1 = {"action": {"function": "on_acked_delete"}, "pool": "pool1"}
"##;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_read_positions_and_the_newest_of_each_topic() {
    let (scratch, world) = start(|scratch| with_rules(EVERYTHING, scratch)).await;
    for n in 0..12 {
        publish(&world.engine, message("queue/a", &n.to_string(), 1)).await;
        publish(&world.engine, message(&format!("pubsub/{}", n % 2), &n.to_string(), 1)).await;
        publish(&world.engine, message(&format!("latest/{}", n % 3), &n.to_string(), n % 3)).await;
    }
    world.caught_up().await;
    let payloads = |topic: String| {
        let found = scratch.find("mqtt_msg", doc! { "topic": topic });
        async move { found.await.iter().map(|d| d.get_str("payload").unwrap().to_owned()).collect::<Vec<_>>() }
    };
    for (topic, newest) in [("latest/0", "9"), ("latest/1", "10"), ("latest/2", "11")] {
        assert_eq!(payloads(topic.into()).await, [newest]);
    }
    let mut client = Client::connect(&world.engine, "c").await;
    client.subscribe("queue/a").await;
    assert_eq!(client.receive(5).await.len(), 5);
    client.disconnect(false).await;
    world.caught_up().await;
    // What was delivered and acknowledged is gone; nothing else is.
    let left = payloads("queue/a".into()).await;
    assert!(left.len() <= 7 && left.ends_with(&["11".to_owned()]), "{left:?}");
    let mut client = Client::connect(&world.engine, "c").await;
    for topic in ["pubsub/0", "pubsub/1", "latest/1"] {
        client.subscribe(topic).await;
    }
    client.receive(13).await;
    world.caught_up().await;
    assert_eq!(scratch.find("mqtt_acked", doc! { "clientid": "c" }).await.len(), 3);
    // A wildcard forgets what it matches.
    client.unsubscribe("pubsub/+").await;
    world.caught_up().await;
    let acked = scratch.find("mqtt_acked", doc! { "clientid": "c" }).await;
    assert_eq!(acked.len(), 1);
    assert_eq!(acked[0].get_str("topic").unwrap(), "latest/1");
    client.disconnect(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_messages_go() {
    let rules = r##"
backend.mongo.hook.message.publish.1 = {"topic": "short/#", "action": {"function": "on_message_publish"}, "expired_time": "1s", "pool": "pool1"}
backend.mongo.hook.message.publish.2 = {"topic": "long/#", "action": {"function": "on_message_publish"}, "expired_time": 3600, "pool": "pool1"}
backend.mongo.hook.message.publish.3 = {"topic": "#", "action": {"function": "on_message_retain"}, "expired_time": "2s", "pool": "pool1"}
"##;
    let (scratch, world) = start(|scratch| with_rules(rules, scratch)).await;
    publish(&world.engine, retained("short/a", "s", 1)).await;
    publish(&world.engine, retained("long/a", "l", 1)).await;
    world.caught_up().await;
    assert_eq!(scratch.find("mqtt_msg", doc! {}).await.len(), 2);
    assert_eq!(scratch.find("forebay_expiry", doc! {}).await.len(), 4);
    let end = tokio::time::Instant::now() + Duration::from_secs(40);
    while scratch.find("forebay_expiry", doc! {}).await.len() > 1 {
        assert!(tokio::time::Instant::now() < end, "{:?}", scratch.find("forebay_expiry", doc! {}).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let left = scratch.find("mqtt_msg", doc! {}).await;
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].get_str("topic").unwrap(), "long/a");
    assert!(scratch.find("mqtt_retain", doc! {}).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_of_the_database_are_found() {
    let (scratch, world) = guide().await;
    world.caught_up().await;
    for row in [
        doc! { "clientid": "test", "topic": "test_topic1", "qos": 1 },
        doc! { "clientid": "test", "topic": "test_topic2", "qos": 2_i64 },
        doc! { "clientid": "test", "topic": "test_topic0", "qos": 0.0 },
        doc! { "clientid": "test", "topic": "bad/#/filter", "qos": 1 },
        doc! { "clientid": "test", "topic": "bad", "qos": 7 },
        doc! { "clientid": "other", "topic": "x", "qos": 1 },
    ] {
        scratch.insert("mqtt_sub", row).await;
    }
    let mut found = world.sinks().lookups().proxy_subscriptions("test").await;
    found.sort();
    let expected = [
        ("test_topic0".into(), QoS::AtMostOnce),
        ("test_topic1".into(), QoS::AtLeastOnce),
        ("test_topic2".into(), QoS::ExactlyOnce),
    ];
    assert_eq!(found, expected);
}

/// A message as an application inserts it.
fn theirs(topic: &str, payload: &str) -> Document {
    let name = format!("AAVEwm0la4{payload}==");
    doc! { "topic": topic, "msgid": name, "sender": "app", "qos": 1, "retain": 0, "payload": payload, "arrived": now_s() }
}

fn with_id(id: impl Into<Bson>, rest: Document) -> Document {
    let mut document = doc! { "_id": id };
    document.extend(rest);
    document
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_other_programs_reach_a_subscriber_once_and_are_acknowledged_under_their_own_id() {
    for kind in ["pubsub", "queue"] {
        let (scratch, mut world) = start(|scratch| with_rules(EVERYTHING, scratch)).await;
        let topic = format!("{kind}/cmd");
        publish(&world.engine, message(&topic, "own", 1)).await;
        world.caught_up().await;
        // Every kind of `_id` that applications give; more than one page of the most frequent.
        let mut rows: Vec<Document> = (1..=600).map(|n| with_id(n, theirs(&topic, &format!("n{n:04}")))).collect();
        let binary = Binary { subtype: BinarySubtype::Generic, bytes: vec![7; 16] };
        rows.push(with_id(Bson::Binary(binary), theirs(&topic, "bin")));
        rows.push(with_id("cmd-1", theirs(&topic, "text")));
        rows.push(with_id(ObjectId::new(), theirs(&topic, "oid")));
        rows.push(with_id(1_i64 << 60, theirs(&topic, "snowflake")));
        let mut nameless = with_id(ObjectId::new(), theirs(&topic, "nameless"));
        nameless.remove("msgid");
        rows.push(nameless);
        rows.push(with_id(9_000, theirs("elsewhere", "x")));
        scratch.db.collection::<Document>("mqtt_msg").insert_many(&rows).await.unwrap();
        world.sinks().lookups().before_subscribe("c", &topic).await;
        let mut client = Client::connect(&world.engine, "c").await;
        client.subscribe(&topic).await;
        // As many as may be under way at once, then the rest.
        let mut got = client.receive(300).await;
        got.extend(client.receive(306).await);
        assert_eq!(got.len(), 606);
        got.sort();
        got.dedup();
        assert_eq!(got.len(), 606, "twice");
        for name in ["own", "bin", "text", "oid", "snowflake", "nameless", "n0001", "n0600"] {
            assert!(got.iter().any(|payload| payload == name), "{name}");
        }
        client.disconnect(false).await;
        world.caught_up().await;
        let left = scratch.find("mqtt_msg", doc! { "topic": &topic }).await;
        if kind == "queue" {
            assert!(left.is_empty(), "acknowledged is removed, theirs too: {left:?}");
        } else {
            assert_eq!(left.len(), 606, "not written back under another id");
            // What was settled becomes records a moment later.
            let patience = tokio::time::Instant::now() + Duration::from_secs(60);
            let mut acked = Vec::new();
            while acked.len() != 1 && tokio::time::Instant::now() < patience {
                tokio::time::sleep(Duration::from_millis(20)).await;
                acked = scratch.find("mqtt_acked", doc! { "clientid": "c" }).await;
            }
            assert_eq!(acked.len(), 1);
            assert!(acked[0].get_i64("mongo_id").unwrap() > 1, "{acked:?}");
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
async fn who_comes_from_emq_x_goes_on_where_it_was() {
    let scratch = Scratch::new().await;
    for n in 1..=5 {
        scratch.insert("mqtt_msg", with_id(n, theirs("t", &format!("p{n}")))).await;
    }
    scratch.insert("mqtt_acked", doc! { "clientid": "c", "topic": "t", "mongo_id": 3 }).await;
    let world = World::with(&of_the_guide(GUIDE, &scratch), with_a_number).await;
    publish(&world.engine, message("t", "own", 1)).await;
    world.caught_up().await;
    world.sinks().lookups().before_subscribe("c", "t").await;
    let mut client = Client::connect(&world.engine, "c").await;
    client.subscribe("t").await;
    let mut got = client.receive(3).await;
    got.sort();
    assert_eq!(got, ["own", "p4", "p5"]);
    publish(&world.engine, message("t", "later", 1)).await;
    assert_eq!(client.receive(1).await, ["later"]);
    world.caught_up().await;
    // The position is one of Forebay's own by now; what was read before it is still known as read.
    let acked = scratch.find("mqtt_acked", doc! {}).await;
    assert_eq!(acked.len(), 1, "{acked:?}");
    let last = scratch.find("mqtt_msg", doc! { "payload": "later" }).await;
    assert_eq!(acked[0].get("mongo_id"), last[0].get("_id"));
    let end = world.settled().await;
    world.sinks().lookups().before_subscribe("c", "t").await;
    world.settled().await;
    assert!(world.published_since(end).is_empty());
    client.disconnect(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_options_bound_what_is_fetched() {
    let (scratch, world) = guide().await;
    world.caught_up().await;
    for n in 0..520 {
        scratch.insert("mqtt_msg", with_id(n + 1, theirs("many", &n.to_string()))).await;
    }
    let mut old = theirs("old", "old");
    old.insert("arrived", now_s() - 3 * 3_600);
    scratch.insert("mqtt_msg", with_id(1_000, old)).await;
    let end = world.settled().await;
    for topic in ["many", "old"] {
        world.sinks().lookups().before_subscribe("c", topic).await;
    }
    world.settled().await;
    let fetched = world.published_since(end);
    // The newest 500, oldest first; nothing that is older than two hours.
    assert_eq!(fetched.len(), 500);
    assert!(matches!(&fetched[0], Event::Published(p) if p.message.payload == "20"));
    assert!(matches!(&fetched[499], Event::Published(p) if p.message.payload == "519"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newer_of_the_two_retained_messages_wins() {
    let (scratch, world) = guide().await;
    publish(&world.engine, retained("r/local", "local", 1)).await;
    world.caught_up().await;
    let older = |topic: &str| {
        let mut row = theirs(topic, "theirs");
        row.insert("arrived", 1);
        row
    };
    let by_topic = doc! { "topic": "r/local" };
    scratch.db.collection::<Document>("mqtt_retain").replace_one(by_topic, older("r/local")).await.unwrap();
    scratch.insert("mqtt_retain", older("r/theirs")).await;
    let mut document = theirs("r/document", "x");
    document.insert("payload", doc! { "a": 1, "b": ["x"] });
    scratch.insert("mqtt_retain", document).await;
    for topic in ["r/local", "r/theirs", "r/document", "r/none"] {
        world.sinks().lookups().before_subscribe("c", topic).await;
    }
    world.settled().await;
    let kept = |topic: &str| world.engine.retained(topic).map(|m| m.message.payload.clone());
    assert_eq!(kept("r/local").unwrap(), "local", "an older one loses");
    assert_eq!(kept("r/theirs").unwrap(), "theirs");
    assert_eq!(kept("r/document").unwrap(), r#"{"a":1,"b":["x"]}"#);
    assert!(kept("r/none").is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_transactions_the_same_documents() {
    let scratch = Scratch::at(Place::of(&forebay_services::address("mongo-nx").unwrap())).await;
    let conf = GUIDE
        .replace("pool1.server = 127.0.0.1:27017", &format!("pool1.server = {}", scratch.place.server))
        .replace(
            "pool1.c_pool_size = 8",
            "pool1.c_pool_size = 1\nbackend.mongo.pool1.transactions = on\nbackend.mongo.pool1.schema = off",
        )
        .replace("pool1.database = mqtt", &format!("pool1.database = {}", scratch.name));
    let world = World::new(&conf).await;
    let mut client = Client::connect(&world.engine, "test").await;
    for n in 0..50 {
        publish(&world.engine, message("t", &n.to_string(), 1)).await;
        publish(&world.engine, retained("r", &n.to_string(), 1)).await;
    }
    client.subscribe("t").await;
    client.receive(50).await;
    client.disconnect(false).await;
    world.caught_up().await;
    assert_eq!(scratch.find("mqtt_msg", doc! { "topic": "t" }).await.len(), 50);
    assert_eq!(one(&scratch, "mqtt_retain", doc! {}).await.get_str("payload").unwrap(), "49");
    // It sorts numbers as text, and gives them back in as few bits as hold them.
    let number = |value: Option<&Bson>| match value {
        Some(Bson::Int32(n)) => i64::from(*n),
        Some(Bson::Int64(n)) => *n,
        other => panic!("{other:?}"),
    };
    let stored = scratch.find("mqtt_msg", doc! { "topic": "t" }).await;
    let last = stored.iter().map(|message| number(message.get("_id"))).max().unwrap();
    assert_eq!(number(one(&scratch, "mqtt_acked", doc! {}).await.get("mongo_id")), last);
    assert_eq!(one(&scratch, "mqtt_client", doc! {}).await.get_i64("state").unwrap(), 0);
    assert!(world.sinks().dead_letters(&world.sink()).unwrap().is_empty());
}

#[tokio::test]
async fn explain_shows_the_documents() {
    let parsed = forebay_sinks::rule::parse_conf(std::path::Path::new("mongo.conf"), GUIDE);
    let options = forebay_sinks::DatabaseOptions { data_dir: "/none".into(), node_name: "here".into() };
    let asked = retained("t/1", r#"{"a": 1}"#, 1);
    let explained = forebay_sinks::explain::explain(&parsed.rules, &asked, 1_700_000_000_000_000, &options).unwrap();
    let texts: Vec<&str> =
        explained.iter().flat_map(|e| &e.operations).map(|operation| operation.text.as_str()).collect();
    for part in [
        r#"db.mqtt_client.updateOne({ "clientid": "publisher" }"#,
        r#"db.mqtt_msg.insertOne({ "_id": 1, "topic": "t/1""#,
        r#"db.mqtt_retain.updateOne({ "topic": "t/1" }"#,
        r#"db.mqtt_acked.updateOne({ "clientid": "publisher", "topic": "t/1" }, { "$set": { "mongo_id": 1 } }"#,
    ] {
        assert!(texts.iter().any(|text| text.contains(part)), "{part}: {texts:#?}");
    }
}
