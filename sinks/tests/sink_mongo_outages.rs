//! MongoDB in trouble: killed, silent, cut off, without rights, stepping down, emptied; poison among thousands; TLS.
//!
//! What only a replica set does (stepping down, write concerns, write conflicts) is said by `configureFailPoint`, in mongod's own words.
#![cfg(all(feature = "conformance", feature = "mongo"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod mongo_support;

use std::sync::Arc;
use std::time::Duration;

use forebay_engine::event::Message;
use forebay_engine::{Lsn, QoS};
use forebay_services::mongo::Mongo;
use forebay_services::toxiproxy::Link;
use forebay_services::{Private, private};
use forebay_sinks::conformance::{Bench, SINK, caught_up, quick, until};
use forebay_sinks::dead_letter::DeadLetters;
use forebay_sinks::mongo::{MongoConfig, MongoSink, Secret, Tls};
use forebay_sinks::rule::Database;
use forebay_sinks::runtime::plan::Plan;
use forebay_sinks::runtime::{self, RuntimeOptions, SinkHandle, SinkState};
use forebay_sinks::sink::{Severity, Sink};
use mongo_support::{Place, Scratch};
use mongodb::IndexModel;
use mongodb::bson::{Document, doc};
use mongodb::options::IndexOptions;

const DEADLINE: Duration = Duration::from_secs(20);

fn publish(bench: &Bench, count: usize) -> Lsn {
    let mut last = Lsn::NONE;
    let first = bench.log.events().len() + 1;
    for next in first..first + count {
        last = bench.log.publish(&format!("t/{}", next % 50), format!("m{next}").as_bytes(), QoS::AtLeastOnce);
    }
    last
}

fn start(bench: &Bench, config: MongoConfig) -> SinkHandle {
    bench.start_sink(Arc::new(MongoSink::new(config)), Database::Mongo)
}

/// Every message is stored, and each once.
async fn stored_once(bench: &Bench, scratch: &Scratch) {
    let published: Vec<Vec<u8>> = bench
        .log
        .events()
        .iter()
        .filter_map(|e| match e {
            forebay_engine::Event::Published(p) => Some(p.message.payload.to_vec()),
            _ => None,
        })
        .collect();
    let stored = scratch.payloads().await;
    let missing = published.iter().filter(|payload| !stored.contains_key(*payload)).count();
    assert_eq!(missing, 0, "missing of {}", published.len());
    assert_eq!(stored.values().sum::<u64>(), published.len() as u64, "stored twice, or never published");
}

/// As the suite's, for a server that syncs every write on a busy machine.
fn start_patiently(bench: &Bench, config: MongoConfig) -> SinkHandle {
    let plan = Plan::of_pool(&bench.rules, Database::Mongo, "pool1", SINK);
    let letters = DeadLetters::open(SINK, bench.letters.clone()).unwrap();
    let options = RuntimeOptions { request_deadline: Duration::from_secs(10), ..quick() };
    let sink = Arc::new(MongoSink::new(config));
    runtime::spawn(SINK, sink, plan, Arc::new(bench.log.clone()), letters, options)
}

async fn waits_for(sink: &SinkHandle, text: &str) {
    until(&format!("the sink says: {text}"), || match sink.status().state {
        SinkState::Waiting { why, .. } => why.contains(text),
        _ => false,
    })
    .await;
    assert!(sink.dead_letters().is_empty(), "the operator's fault, no record's");
}

fn durable() -> Private {
    private(&Mongo { tls: false, durable: true }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_holds_every_message_once() {
    let mut server = durable();
    let scratch = Scratch::at(Place::of(&server.address)).await;
    let bench = Bench::new(Database::Mongo);
    let sink = start_patiently(&bench, scratch.config(3));
    for round in 0..6 {
        publish(&bench, 1_000);
        tokio::time::sleep(Duration::from_millis(60 + round * 40)).await;
        server.process().kill();
        publish(&bench, 100);
        server.process().restart().unwrap();
    }
    let last = publish(&bench, 10);
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &scratch).await;
    assert!(sink.dead_letters().is_empty());
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_accepts_and_never_answers_is_given_up() {
    let mut server = private(&Mongo { tls: false, durable: false }).unwrap();
    let scratch = Scratch::at(Place::of(&server.address)).await;
    let bench = Bench::new(Database::Mongo);
    let sink = start(&bench, scratch.config(3));
    let last = publish(&bench, 100);
    caught_up(&bench, &sink, last).await;
    for _ in 0..3 {
        server.process().suspend();
        publish(&bench, 300);
        until("silence is noticed", || sink.status().last_error.is_some_and(|e| e.contains("no answer"))).await;
        server.process().resume();
        let last = publish(&bench, 10);
        caught_up(&bench, &sink, last).await;
    }
    stored_once(&bench, &scratch).await;
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_falls_silent_or_loses_answers_stores_everything_once() {
    let scratch = Scratch::new().await;
    let link = Link::to(&scratch.place.server).unwrap();
    let config = MongoConfig { servers: vec![format!("127.0.0.1:{}", link.port())], ..scratch.config(3) };
    let bench = Bench::new(Database::Mongo);
    let sink = start(&bench, config);
    let last = publish(&bench, 300);
    caught_up(&bench, &sink, last).await;
    for trouble in 0..8 {
        match trouble % 4 {
            0 => link.cut(),
            1 => link.silence(),
            2 => link.reset_after(5),
            // In the middle of a batch's bytes.
            _ => link.close_after_bytes("upstream", 70_000),
        }
        .unwrap();
        publish(&bench, 1_500);
        tokio::time::sleep(Duration::from_millis(700)).await;
        link.heal().unwrap();
        let last = publish(&bench, 10);
        caught_up(&bench, &sink, last).await;
    }
    stored_once(&bench, &scratch).await;
    assert!(sink.dead_letters().is_empty());
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_says_of_itself_loses_nothing_and_buries_nothing() {
    let server = private(&Mongo { tls: false, durable: false }).unwrap();
    let scratch = Scratch::at(Place::of(&server.address)).await;
    let bench = Bench::new(Database::Mongo);
    let sink = start_patiently(&bench, MongoConfig { selection_timeout: Duration::from_secs(5), ..scratch.config(3) });
    let last = publish(&bench, 100);
    caught_up(&bench, &sink, last).await;
    let writes = ["insert", "update"];
    let concern = doc! { "code": 64, "codeName": "WriteConcernFailed", "errmsg": "waiting for replication timed out" };
    for (data, says) in [
        (doc! { "errorCode": 10_107, "errmsg": "not primary" }, "not primary"),
        (doc! { "errorCode": 11_602, "errmsg": "operation was interrupted" }, "interrupted"),
        (doc! { "errorCode": 189, "errmsg": "primary stepped down" }, "stepped down"),
        (doc! { "errorCode": 91, "errmsg": "shutting down" }, "shutting down"),
        (doc! { "errorCode": 112, "errmsg": "WriteConflict" }, "in the way"),
        (doc! { "errorCode": 50, "errmsg": "operation exceeded time limit" }, "in time"),
        (doc! { "errorCode": 14_031, "errmsg": "No space left on device" }, "make room"),
        (doc! { "errorCode": 13, "errmsg": "not authorized on mqtt" }, "readWrite"),
        (
            doc! { "errorCode": 2, "errmsg": "cannot use 'j' option when a host does not have journaling enabled" },
            "unsafe",
        ),
        (doc! { "errorCode": 8_000, "errmsg": "something new" }, "something new"),
        (doc! { "closeConnection": true }, "I/O error"),
        (doc! { "writeConcernError": concern }, "rs.status()"),
    ] {
        let mut point = doc! { "failCommands": writes.to_vec() };
        point.extend(data);
        scratch.fail_point("alwaysOn", point).await;
        let last = publish(&bench, 200);
        let until = tokio::time::Instant::now() + DEADLINE;
        loop {
            let said = sink.status().last_error.unwrap_or_default();
            if said.contains(says) {
                break;
            }
            assert!(tokio::time::Instant::now() < until, "{says}: {said}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        scratch.fail_point("off", doc! { "failCommands": [] }).await;
        caught_up(&bench, &sink, last).await;
        assert!(sink.dead_letters().is_empty(), "{says}");
    }
    stored_once(&bench, &scratch).await;
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_or_a_right_that_is_gone_holds_the_sink_with_the_remedy() {
    let server = private(&Mongo { tls: false, durable: false }).unwrap();
    let scratch = Scratch::at(Place::of(&server.address)).await;
    let admin = scratch.db.client().database("admin");
    let user = |role: &str| doc! { "createUser": "sink", "pwd": "secret", "roles": [role] };
    admin.run_command(user("readWrite")).await.unwrap();
    let config =
        || MongoConfig { username: Some("sink".into()), password: Some(Secret("secret".into())), ..scratch.config(2) };
    let bench = Bench::new(Database::Mongo);
    let sink = start(&bench, config());
    let last = publish(&bench, 100);
    caught_up(&bench, &sink, last).await;
    // The right to write is withdrawn from connections that are open.
    admin.run_command(doc! { "updateUser": "sink", "pwd": "secret", "roles": ["read"] }).await.unwrap();
    publish(&bench, 100);
    waits_for(&sink, "readWrite").await;
    admin.run_command(doc! { "updateUser": "sink", "pwd": "secret", "roles": ["readWrite"] }).await.unwrap();
    let last = publish(&bench, 10);
    caught_up(&bench, &sink, last).await;
    // The user is gone, and comes back.
    admin.run_command(doc! { "dropUser": "sink" }).await.unwrap();
    publish(&bench, 100);
    waits_for(&sink, "check its login").await;
    admin.run_command(user("readWrite")).await.unwrap();
    let last = publish(&bench, 10);
    caught_up(&bench, &sink, last).await;
    sink.shutdown(DEADLINE).await;
    stored_once(&bench, &scratch).await;
    // A wrong password from the start, which no output shows.
    let wrong = MongoConfig { password: Some(Secret("hunter2".into())), ..config() };
    let found = MongoSink::new(wrong.clone()).inspect().await;
    assert_eq!(found[0].severity, Severity::Fault);
    assert!(found[0].text.contains("auth_source") && !found[0].text.contains("hunter2"), "{}", found[0].text);
    let sink = start(&bench, wrong);
    waits_for(&sink, "auth_source").await;
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_emptied_is_filled_again_and_a_collection_that_is_dropped_is_made_again() {
    let scratch = Scratch::new().await;
    let bench = Bench::new(Database::Mongo);
    let sink = start(&bench, scratch.config(3));
    let last = publish(&bench, 500);
    caught_up(&bench, &sink, last).await;
    scratch.db.drop().await.unwrap();
    let last = publish(&bench, 10);
    caught_up(&bench, &sink, last).await;
    let end = tokio::time::Instant::now() + Duration::from_secs(30);
    while scratch.payloads().await.len() < 510 {
        assert!(tokio::time::Instant::now() < end, "not filled again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &scratch).await;
    scratch.db.collection::<Document>("mqtt_msg").drop().await.unwrap();
    let last = publish(&bench, 10);
    caught_up(&bench, &sink, last).await;
    assert_eq!(scratch.payloads().await.len(), 10, "what was dropped was the operator's to drop");
    assert!(sink.dead_letters().is_empty());
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_another_message_has_holds_the_sink_and_nothing_is_overwritten() {
    let scratch = Scratch::new().await;
    let bench = Bench::new(Database::Mongo);
    let sink = start(&bench, scratch.config(1));
    let last = publish(&bench, 20);
    caught_up(&bench, &sink, last).await;
    let newest = scratch.find("mqtt_msg", doc! {}).await.pop().unwrap();
    let number = newest.get_i64("_id").unwrap() + 5;
    scratch.insert("mqtt_msg", doc! { "_id": number, "msgid": "0".repeat(20), "payload": "another" }).await;
    let last = publish(&bench, 20);
    waits_for(&sink, "two nodes have the node number").await;
    let kept = scratch.find("mqtt_msg", doc! { "_id": number }).await;
    assert_eq!(kept[0].get_str("payload").unwrap(), "another");
    scratch.db.collection::<Document>("mqtt_msg").delete_one(doc! { "_id": number }).await.unwrap();
    caught_up(&bench, &sink, last).await;
    stored_once(&bench, &scratch).await;
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_poisoned_message_in_ten_thousand_is_buried_and_the_others_are_stored() {
    let scratch = Scratch::new().await;
    scratch.insert("mqtt_msg", doc! { "_id": "in the way", "payload": "poison" }).await;
    let unique = IndexOptions::builder().unique(true).sparse(true).build();
    let index = IndexModel::builder().keys(doc! { "payload": 1 }).options(unique).build();
    scratch.db.collection::<Document>("mqtt_msg").create_index(index).await.unwrap();
    let bench = Bench::new(Database::Mongo);
    publish(&bench, 5_000);
    let bad = bench.log.publish("t/1", b"poison", QoS::AtLeastOnce);
    let last = publish(&bench, 5_000);
    let sink = start(&bench, scratch.config(3));
    caught_up(&bench, &sink, last).await;
    let letters = sink.dead_letters().ls(0, 10).unwrap();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [bad.0]);
    assert!(letters[0].reason.contains("unique index"), "{}", letters[0].reason);
    assert!(letters[0].statement.contains("db.mqtt_msg.insertOne"), "{}", letters[0].statement);
    let stored = scratch.payloads().await;
    assert_eq!((stored.len(), stored.values().sum::<u64>()), (10_000, 10_000));
    // What stood in the way is gone: the letter is stored.
    scratch.db.collection::<Document>("mqtt_msg").delete_one(doc! { "_id": "in the way" }).await.unwrap();
    sink.replay(letters[0].id).await.unwrap();
    stored_once(&bench, &scratch).await;
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_behind_a_refused_statement_is_stored_all_the_same() {
    let scratch = Scratch::new().await;
    let unique = IndexOptions::builder().unique(true).build();
    let index = IndexModel::builder().keys(doc! { "mongo_id": 1 }).options(unique).build();
    scratch.db.collection::<Document>("mqtt_acked").create_index(index).await.unwrap();
    let bench = Bench::new(Database::Mongo);
    let messages: Vec<Lsn> = (0..3).map(|_| bench.log.publish("t/1", b"m", QoS::AtLeastOnce)).collect();
    bench.log.ack("a", "t/1", messages[0]);
    // The operator's index takes the same message once.
    let refused = bench.log.ack("b", "t/1", messages[0]);
    bench.log.ack("c", "t/1", messages[1]);
    let last = bench.log.ack("d", "t/1", messages[2]);
    let sink = start(&bench, scratch.config(1));
    caught_up(&bench, &sink, last).await;
    let letters = sink.dead_letters().ls(0, 10).unwrap();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [refused.0]);
    let acked = scratch.find("mqtt_acked", doc! {}).await;
    let mut clients: Vec<&str> = acked.iter().map(|d| d.get_str("clientid").unwrap()).collect();
    clients.sort_unstable();
    assert_eq!(clients, ["a", "c", "d"]);
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_that_mongodb_does_not_take_is_buried_without_being_sent() {
    let scratch = Scratch::new().await;
    let bench = Bench::new(Database::Mongo);
    publish(&bench, 100);
    let payload = vec![b'x'; 17 << 20];
    let message = Message { topic: "t/1".into(), payload: payload.into(), qos: QoS::AtLeastOnce, ..Message::default() };
    let bad = bench.log.message(message);
    let last = publish(&bench, 100);
    let sink = start(&bench, scratch.config(1));
    caught_up(&bench, &sink, last).await;
    let letters = sink.dead_letters().ls(0, 10).unwrap();
    assert_eq!(letters.iter().map(|letter| letter.lsn).collect::<Vec<_>>(), [bad.0]);
    assert!(letters[0].reason.contains("bytes, and MongoDB takes"), "{}", letters[0].reason);
    assert!(letters[0].statement.len() < 2_000, "a long payload is cut");
    assert_eq!(scratch.payloads().await.len(), 200);
    sink.shutdown(DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_checks_the_server_and_takes_a_certificate_and_its_key_from_two_files() {
    let server = private(&Mongo { tls: true, durable: false }).unwrap();
    let files = forebay_services::certificates::certificates().unwrap();
    let place = Place::of(&server.address);
    let with =
        |tls: Option<Tls>| MongoConfig { tls, selection_timeout: Duration::from_secs(5), ..place.config("mqtt", 2) };
    let client = Some((files.client.clone(), files.client_key.clone()));
    let trusted = with(Some(Tls { ca: Some(files.authority.clone()), client: client.clone() }));
    let found = MongoSink::new(trusted.clone()).inspect().await;
    assert_eq!(found[0].severity, Severity::Fine, "{found:?}");
    assert!(found[0].text.contains("9 collections"), "{found:?}");
    let bench = Bench::new(Database::Mongo);
    let sink = start(&bench, trusted);
    let last = publish(&bench, 200);
    caught_up(&bench, &sink, last).await;
    sink.shutdown(DEADLINE).await;
    // An authority that did not sign it, and no TLS at all.
    for config in
        [with(Some(Tls { ca: None, client })), MongoConfig { selection_timeout: Duration::from_secs(1), ..with(None) }]
    {
        let found = MongoSink::new(config).inspect().await;
        assert_eq!(found[0].severity, Severity::Fault, "{found:?}");
    }
    let missing = Tls { ca: None, client: Some(("/none".into(), files.client_key)) };
    let found = MongoSink::new(with(Some(missing))).inspect().await;
    assert!(found[0].text.contains("/none"), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_check_says_of_a_database() {
    let scratch = Scratch::new().await;
    let look = |config: MongoConfig| async move { MongoSink::new(config).inspect().await };
    let found = look(scratch.config(1)).await;
    assert!(found[0].text.contains("9 collections and 8 indexes are made"), "{found:?}");
    assert!(scratch.db.list_collection_names().await.unwrap().is_empty(), "looking makes nothing");
    let verify = MongoConfig { schema: forebay_sinks::mongo::SchemaMode::Verify, ..scratch.config(1) };
    let found = look(verify.clone()).await;
    assert_eq!(found[0].severity, Severity::Fault);
    assert!(found[0].text.contains("db.createCollection(\"mqtt_msg\")"), "{found:?}");
    let bench = Bench::new(Database::Mongo);
    let sink = start(&bench, verify.clone());
    waits_for(&sink, "createIndex").await;
    sink.shutdown(DEADLINE).await;
    drop(sink);
    let sink = start(&bench, scratch.config(1));
    let last = publish(&bench, 1);
    caught_up(&bench, &sink, last).await;
    sink.shutdown(DEADLINE).await;
    let found = look(verify).await;
    assert_eq!(found.iter().map(|f| f.severity).max(), Some(Severity::Fine), "{found:?}");
    let found = look(MongoConfig { safe: false, ..scratch.config(1) }).await;
    assert_eq!(found.iter().map(|f| f.severity).max(), Some(Severity::Warning), "{found:?}");
    let sharded = MongoConfig { deployment: forebay_sinks::mongo::Deployment::Sharded, ..scratch.config(1) };
    assert!(look(sharded).await[0].text.contains("no router"));
    let gone = MongoConfig { servers: vec!["127.0.0.1:1".into()], ..scratch.config(1) };
    assert_eq!(look(gone).await[0].severity, Severity::Fault);
}
