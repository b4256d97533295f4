//! Files of each released format, written once and read for ever: `fixtures/format-1/` holds segments, a checkpoint, and what they have to read as.
//!
//! They were made by `cargo test -p forebay-engine --test format_fixtures -- --ignored`, which writes them anew. Do that only for a format that was not
//! released yet; a released one keeps its files, and a new one gets a folder of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use forebay_engine::clock::SteppedClock;
use forebay_engine::disk::{Disk, ForgettingDisk, RealDisk};
use forebay_engine::event::*;
use forebay_engine::log::{Durability, Log, LogOptions, NewRecord, dump_items, repair, verify};
use forebay_engine::state::checkpoint;
use forebay_engine::{Engine, Lsn};

const LOG_ID: [u8; 16] = *b"format-1-fixture";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1")
}

/// One line for each item of the dump.
fn dumped(disk: &dyn Disk, dir: &Path) -> String {
    let mut text = String::new();
    dump_items(disk, dir, Lsn::FIRST, &mut |file, item| {
        text.push_str(&item.to_json(&file.file_name().unwrap().to_string_lossy()));
        text.push('\n');
        ControlFlow::Continue(())
    })
    .unwrap();
    text
}

/// One line for each row of a checkpoint, sorted.
fn rows(file: &Path) -> String {
    let state = checkpoint::read(&RealDisk, file, LOG_ID).unwrap();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut lines: Vec<String> = state
        .keys()
        .map(|key| format!("{} {}\n", hex(&key.encode()), hex(&state.row(&key).unwrap_or_default())))
        .collect();
    lines.sort();
    format!("{}\n{}", file.file_name().unwrap().to_string_lossy(), lines.concat())
}

fn checkpoint_in(dir: &Path) -> Option<PathBuf> {
    checkpoint::list(&RealDisk, dir).unwrap().into_iter().next().map(|(_, file)| file)
}

#[test]
fn segments_of_format_1_read_as_they_were_written() {
    let expected = std::fs::read_to_string(folder().join("dump.jsonl")).unwrap();
    let found = dumped(&RealDisk, &folder().join("log"));
    for (n, (expected, found)) in expected.lines().zip(found.lines()).enumerate() {
        assert_eq!(found, expected, "line {}", n + 1);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
    assert!(verify(&RealDisk, &folder().join("log")).unwrap().is_sound());
    for kind in 1..=17 {
        assert!(expected.contains(&format!("\"kind\":{kind},")), "no record of kind {kind}");
    }
    for item in ["\"item\":\"seal\"", "\"damage\":true", "\"damage\":false", "\"flags\":1"] {
        assert!(expected.contains(item), "nothing with {item}");
    }
}

#[test]
fn the_log_of_format_1_opens_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(folder().join("log")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::new(dir.path()) };
    let (log, report) = Log::open(options).unwrap();
    assert_eq!((report.cut_bytes, log.id()), (0, LOG_ID));
    let next = log.end();
    assert_eq!(log.append_durable(vec![NewRecord { kind: 1, body: vec![1] }]).unwrap().first, next);
}

#[test]
fn the_checkpoint_of_format_1_reads_as_it_was_written() {
    let file = checkpoint_in(&folder()).unwrap();
    assert_eq!(rows(&file), std::fs::read_to_string(folder().join("checkpoint.rows")).unwrap());
}

fn message(topic: &str, payload: &[u8]) -> Message {
    Message {
        topic: topic.into(),
        payload: payload.to_vec().into(),
        qos: QoS::AtLeastOnce,
        publisher: "sensor-1".into(),
        ..Message::default()
    }
}

fn full_message() -> Message {
    Message {
        qos: QoS::ExactlyOnce,
        retain: true,
        username: "user \"1\"".into(),
        peer: "[::1]:50000".into(),
        origin: Origin::Import { sink: "pgsql.1".into(), key: "k".into(), time_us: 1_600_000_000_000_000 },
        properties: Properties {
            payload_format: Some(1),
            expiry_s: Some(86_400),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers/1".into()),
            correlation_data: Some(vec![0, 1, 254, 255].into()),
            user: vec![("a".into(), "1".into()), ("a".into(), "é".into())],
        },
        ..message("retained/ü", b"\x00\x01\xff payload")
    }
}

fn cursor(filter: &str, low: u64) -> CursorAt {
    CursorAt { filter: filter.into(), low: Lsn(low) }
}

/// Every kind of event, with and without what may be missing.
fn events() -> Vec<Event> {
    let (client, epoch, filter): (bytestring::ByteString, u64, bytestring::ByteString) =
        ("client-1".into(), 300, "sensors/+/t".into());
    let opened = |client: &str, will| {
        let (username, peer) = ("user".into(), "127.0.0.1:1".into());
        SessionOpened { client: client.into(), epoch, resumed: false, expiry_s: 3600, will, username, peer }
    };
    let options = SubscriptionOptions {
        qos: QoS::ExactlyOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: 2,
        identifier: 268_435_455,
    };
    let drop = |owner| DroppedRange { owner, from: Lsn(1), to: Lsn(128), count: 7 };
    let cursors = vec![cursor("sensors/+/t", 5), cursor("#", 16_384)];
    vec![
        Event::SessionOpened(opened("client-1", None)),
        Event::SessionOpened(opened("client-2", Some(Will { message: message("wills/2", b"gone"), delay_s: 30 }))),
        Event::ClientConnected(ClientConnected {
            client: client.clone(),
            epoch,
            username: "".into(),
            peer: "10.0.0.1:2".into(),
            protocol: 5,
            keep_alive_s: 60,
            clean_start: true,
        }),
        Event::Subscribed(Subscribed {
            client: client.clone(),
            epoch,
            filter: filter.clone(),
            options,
            by_proxy: true,
        }),
        Event::Published(Published { message: message("sensors/1/t", b"21.5"), packet_id: Some(1), epoch }),
        Event::Published(Published { message: full_message(), packet_id: None, epoch: 0 }),
        Event::Released(Released { client: "sensor-1".into(), packet_id: 65_535 }),
        Event::Sent(Sent { client: client.clone(), packet_id: 7, lsn: Lsn(5) }),
        Event::Received(Received { client: client.clone(), packet_id: 7 }),
        Event::Delivered(Delivered { client: client.clone(), lsn: Lsn(5), time_us: 127, topic: "sensors/1/t".into() }),
        Event::Acked(Acked {
            client: client.clone(),
            lsn: Lsn(5),
            time_us: 1_700_000_000_000_128,
            topic: "sensors/1/t".into(),
            packet_id: Some(7),
            outcome: AckOutcome::Acknowledged,
            queue: true,
            cursors: cursors.clone(),
        }),
        Event::SinkPosition(SinkPosition { sink: "sqlite.default".into(), next: Lsn(5) }),
        Event::CursorMoved(CursorMoved { client: client.clone(), filter: filter.clone(), next: Lsn(6) }),
        Event::Positions(Positions {
            seen: Lsn(9),
            sessions: vec![SessionPositions { client: client.clone(), epoch, cursors: cursors.clone() }],
        }),
        Event::Dropped(Dropped {
            reason: DropReason::QueueBytes,
            drops: vec![
                drop(DropOwner::Queue("queue/1".into())),
                drop(DropOwner::Cursor { client: client.clone(), filter: filter.clone() }),
                drop(DropOwner::Sink("sqlite.default".into())),
                drop(DropOwner::Group("$share/g/sensors/#".into())),
            ],
        }),
        Event::Unsubscribed(Unsubscribed { client: client.clone(), epoch, filter, by_proxy: false }),
        Event::ClientDisconnected(ClientDisconnected {
            client: client.clone(),
            epoch,
            reason: DisconnectReason::KeepAliveTimeout,
            superseded: false,
            cancel_will: true,
            expiry_s: Some(u32::MAX),
            positions: cursors,
        }),
        Event::SessionClosed(SessionClosed { client: client.clone(), epoch }),
        Event::SharedSent(SharedSent { client, packet_id: 8, lsn: Lsn(5), share: "$share/g/sensors/#".into() }),
    ]
}

fn records(events: &[Event]) -> Vec<NewRecord> {
    let record = |event: &Event| {
        let mut body = Vec::new();
        event.encode(&mut body);
        NewRecord { kind: event.kind(), body }
    };
    events.iter().map(record).collect()
}

/// The log in memory: the same bytes each time.
fn make_log() -> ForgettingDisk {
    let (disk, dir) = (ForgettingDisk::new(), Path::new("/log"));
    let open = |time_us, durability| {
        let options = LogOptions {
            segment_bytes: 64 << 10,
            prepare_ahead: false,
            log_id: Some(LOG_ID),
            durability,
            ..LogOptions::new(dir)
        };
        Log::open_on(Arc::new(disk.clone()), Arc::new(SteppedClock::new(time_us)), options).unwrap().0
    };
    // A sealed segment: every kind, in groups of three; then one record of it damaged and the segment repaired, for a gap of that kind.
    let log = open(1_700_000_000_000_000, Durability::Synced);
    for group in records(&events()).chunks(3) {
        log.append_durable(group).unwrap();
    }
    let last = records(&[Event::Published(Published { message: message("damaged", b"1"), packet_id: None, epoch: 1 })]);
    let damaged = log.append_durable(last).unwrap().first;
    log.append_durable(records(&events()[..1])).unwrap();
    log.close();
    drop(log);
    let mut at = 0;
    dump_items(&disk, dir, Lsn::FIRST, &mut |_, item| {
        if let forebay_engine::log::Item::Frame(frame) = item
            && frame.lsn == damaged
        {
            at = frame.at as usize;
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let path = dir.join("00000000000000000001.seg");
    let mut bytes = disk.bytes(&path).unwrap();
    bytes[at + 40] ^= 1;
    disk.overwrite(&path, &bytes);
    assert_eq!(repair(&disk, dir, true, &mut |_| {}).unwrap().records_lost(), 1);
    // A segment of a weaker level, which begins with a gap.
    let log = open(1_700_000_100_000_000, Durability::Buffered);
    log.append_durable(records(&events()[3..6])).unwrap();
    log.close();
    drop(log);
    // One that is being written, with numbers that jump ahead.
    let log = open(1_700_000_200_000_000, Durability::Synced);
    log.append_durable(records(&events()[..4])).unwrap();
    let gap = log.advance_to(Lsn(1000)).unwrap().unwrap();
    log.wait_durable_blocking(gap.last).unwrap();
    log.append_durable(records(&events()[4..8])).unwrap();
    disk.kill();
    drop(log);
    disk
}

#[test]
#[ignore = "writes the fixtures anew"]
fn regenerate() {
    let (folder, disk) = (folder(), make_log());
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(folder.join("log")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(scratch.path().join("log")).unwrap();
    for path in disk.list(Path::new("/log")).unwrap() {
        if path.extension().is_some_and(|extension| extension == "seg") {
            let name = path.file_name().unwrap();
            std::fs::write(folder.join("log").join(name), disk.bytes(&path).unwrap()).unwrap();
            std::fs::write(scratch.path().join("log").join(name), disk.bytes(&path).unwrap()).unwrap();
        }
    }
    std::fs::write(folder.join("dump.jsonl"), dumped(&RealDisk, &folder.join("log"))).unwrap();
    // The checkpoint of an engine that replayed this log.
    let mut options = common::options(scratch.path());
    options.checkpoint_bytes = 1;
    options.log.segment_bytes = 64 << 10;
    let engine = Engine::open(options).unwrap().0;
    // With a shared subscription whose group owes a message, sent to its member with QoS 2.
    let shared = Subscribed {
        client: "client-1".into(),
        epoch: 300,
        filter: "$share/g/sensors/#".into(),
        options: SubscriptionOptions::of_qos(QoS::ExactlyOnce),
        by_proxy: false,
    };
    common::apply(&engine, &[&events()[..4], &[Event::Subscribed(shared)], &events()[4..6], &events()[18..]].concat());
    let (state, until) = (scratch.path().join("state"), Instant::now() + Duration::from_secs(20));
    while checkpoint_in(&state).is_none() {
        assert!(Instant::now() < until, "no checkpoint was written");
        std::thread::sleep(Duration::from_millis(20));
    }
    engine.close();
    let file = checkpoint_in(&state).unwrap();
    let kept = folder.join(file.file_name().unwrap());
    std::fs::copy(&file, &kept).unwrap();
    std::fs::write(folder.join("checkpoint.rows"), rows(&kept)).unwrap();
}
