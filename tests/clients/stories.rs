//! What every client lives through. Each part has topics and client ids of its own.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::client::{Client, Kind, Library, Message, Open, Outgoing, Way, Will};
use crate::stage::Stage;
use crate::support::PATIENCE;

fn ready(library: &dyn Library, open: Open) -> Client {
    library.open(&open).ready(&open)
}

fn subscriber(library: &dyn Library, way: &Way, id: &str, filters: &[&str], qos: u8) -> Client {
    ready(library, Open { filters, qos, ..Open::new(way, id) })
}

fn message(topic: &str, payload: &str, qos: u8, retain: bool) -> Message {
    Message { topic: topic.to_owned(), payload: payload.to_owned(), qos, retain }
}

/// Each QoS of a subscription meets each QoS of a message: the lower one is what comes.
pub fn qos_0_1_and_2_both_ways(stage: &Stage, library: &dyn Library) {
    let way = stage.tcp();
    let mut subscribers: Vec<Client> =
        [0, 1, 2].iter().map(|qos| subscriber(library, way, &format!("qos-{qos}"), &["qos/+"], *qos)).collect();
    let mut publisher = ready(library, Open::new(way, "qos-publisher"));
    for qos in [0, 1, 2] {
        let (topic, payload) = (format!("qos/{qos}"), format!("sent with {qos}, é"));
        publisher.publish(&Outgoing { topic: &topic, payload: &payload, qos, retain: false });
    }
    publisher.acknowledged();
    for (granted, subscriber) in (0..).zip(&mut subscribers) {
        let expected: Vec<Message> = (0..3)
            .map(|sent| message(&format!("qos/{sent}"), &format!("sent with {sent}, é"), sent.min(granted), false))
            .collect();
        assert_eq!(subscriber.messages(3), expected, "subscribed with QoS {granted}");
        subscriber.disconnect();
    }
    publisher.disconnect();
}

/// A short and a long message with each QoS through each way that the client knows.
pub fn every_way_in(stage: &Stage, library: &dyn Library) {
    for (number, way) in stage.ways.iter().enumerate().filter(|(_, way)| library.kinds().contains(&way.kind)) {
        let topic = format!("way/{number}");
        let mut subscriber = subscriber(library, way, &format!("way-{number}"), &[&topic], 2);
        let mut publisher = ready(library, Open::new(way, &format!("way-publisher-{number}")));
        let mut expected = Vec::new();
        for payload in ["short", &"long".repeat(50_000)] {
            for qos in 0..3 {
                publisher.publish(&Outgoing { topic: &topic, payload, qos, retain: false });
                expected.push(message(&topic, payload, qos, false));
            }
        }
        publisher.acknowledged();
        expected.sort();
        assert!(subscriber.messages(6) == expected, "{way:?}: {:?}", subscriber.seen.counts().values());
        subscriber.disconnect();
        publisher.disconnect();
    }
}

/// A retained message comes to whoever subscribes later, and says so, until it is cleared.
pub fn retained_messages(stage: &Stage, library: &dyn Library) {
    let way = stage.tcp();
    let mut publisher = ready(library, Open::new(way, "retained-publisher"));
    let mut earlier = subscriber(library, way, "retained-earlier", &["retained/+"], 1);
    publisher.publish(&Outgoing { topic: "retained/a", payload: "kept", qos: 1, retain: true });
    publisher.publish(&Outgoing { topic: "retained/b", payload: "kept too", qos: 2, retain: true });
    publisher.acknowledged();
    let expected = |retain| [message("retained/a", "kept", 1, retain), message("retained/b", "kept too", 1, retain)];
    assert_eq!(earlier.messages(2), expected(false));
    let mut later = subscriber(library, way, "retained-later", &["retained/+"], 1);
    assert_eq!(later.messages(2), expected(true));
    for topic in ["retained/a", "retained/b"] {
        publisher.publish(&Outgoing { topic, payload: "", qos: 1, retain: true });
    }
    publisher.acknowledged();
    let mut last = subscriber(library, way, "retained-last", &["retained/+"], 1);
    publisher.publish(&Outgoing { topic: "retained/c", payload: "not kept", qos: 1, retain: false });
    assert_eq!(last.messages(1), [message("retained/c", "not kept", 1, false)]);
    [publisher, earlier, later, last].iter_mut().for_each(Client::disconnect);
}

fn mourned<'a>(way: &'a Way, id: &'a str, topic: &'static str, retain: bool, delay: u32) -> Open<'a> {
    // A session that ends with its connection takes its will's delay with it.
    Open { will: Some(Will { topic, retain, delay }), lasting: delay > 0, filters: &["nothing"], ..Open::new(way, id) }
}

/// The will of who is cut off is published, that of who says goodbye is not.
pub fn wills(stage: &Stage, library: &dyn Library) {
    let way = stage.tcp();
    let mut watcher = subscriber(library, way, "will-watcher", &["will/+"], 2);
    ready(library, mourned(way, "will-polite", "will/polite", false, 0)).disconnect();
    ready(library, mourned(way, "will-cut", "will/cut", false, 0)).cut();
    ready(library, mourned(way, "will-kept", "will/kept", true, 0)).cut();
    let said = |topic| message(topic, Will::PAYLOAD, Will::QOS, false);
    let mut expected = vec![said("will/cut"), said("will/kept")];
    expected.extend(library.says_goodbye_with_its_will().then(|| said("will/polite")));
    assert_eq!(watcher.messages(expected.len()), expected);
    let kept = said("will/kept");
    let mut later = subscriber(library, way, "will-later", &["will/+"], 2);
    assert_eq!(later.messages(1), [Message { retain: true, ..kept }]);
    [watcher, later].iter_mut().for_each(Client::disconnect);
}

/// A will with a delay comes no earlier, and not at all to who is back before.
pub fn delayed_wills(stage: &Stage, library: &dyn Library) {
    const DELAY: u32 = 2;
    let way = stage.tcp();
    let mut watcher = subscriber(library, way, "delay-watcher", &["delay/+"], 2);
    let back = mourned(way, "delay-back", "delay/back", false, DELAY);
    ready(library, back).cut();
    let back = ready(library, back);
    let mut gone = ready(library, mourned(way, "delay-gone", "delay/gone", false, DELAY));
    let since = Instant::now();
    gone.cut();
    // The will of the one who is back would have come before this one.
    assert_eq!(watcher.messages(1), [message("delay/gone", Will::PAYLOAD, Will::QOS, false)]);
    assert!(since.elapsed() >= Duration::from_secs(DELAY.into()), "after {:?}", since.elapsed());
    [watcher, back].iter_mut().for_each(Client::disconnect);
}

/// Messages of a group's members, until all of them have so many; sorted.
fn together(members: &mut [Client], count: usize) -> Vec<Message> {
    let begun = Instant::now();
    loop {
        let came = members.iter_mut().flat_map(|member| member.told("anything", |seen| Some(seen.messages.clone())));
        let mut came: Vec<Message> = came.collect();
        if came.len() >= count {
            came.sort();
            return came;
        }
        assert!(begun.elapsed() < PATIENCE, "{} of {count} came", came.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Each message comes to one member of a group, to those that are there, and waits while there is none.
pub fn shared_subscriptions(stage: &Stage, library: &dyn Library) {
    let way = stage.tcp();
    let member = |id| Open { lasting: true, filters: &["$share/crew/shared/+"], qos: 2, ..Open::new(way, id) };
    let mut publisher = ready(library, Open::new(way, "shared-publisher"));
    let mut publish = |numbers: Range<usize>| -> Vec<Message> {
        let each = |n| message("shared/a", &format!("{n:03}"), 1 + (n % 2) as u8, false);
        let messages: Vec<Message> = numbers.map(each).collect();
        for Message { topic, payload, qos, .. } in &messages {
            publisher.publish(&Outgoing { topic, payload, qos: *qos, retain: false });
        }
        publisher.acknowledged();
        messages
    };
    let mut members = [ready(library, member("shared-first")), ready(library, member("shared-second"))];
    let expected = publish(0..20);
    assert_eq!(together(&mut members, 20), expected);
    assert!(members.iter().all(|member| !member.seen.messages.is_empty()), "one member had all of it");
    let [mut first, mut second] = members;
    second.disconnect();
    let seen = first.seen.messages.len();
    let expected = publish(20..30);
    first.told("what comes while the other is away", |seen_now| (seen_now.messages.len() >= seen + 10).then_some(()));
    assert_eq!(sorted(first.seen.messages.iter().skip(seen)), expected);
    first.disconnect();
    let expected = publish(30..40);
    let mut second = ready(library, member("shared-second"));
    assert_eq!(second.messages(10), expected);
    second.disconnect();
    publisher.disconnect();
}

fn sorted<'a>(messages: impl Iterator<Item = &'a Message>) -> Vec<Message> {
    let mut messages: Vec<Message> = messages.cloned().collect();
    messages.sort();
    messages
}

/// A client that trusts others than who signed the server's certificate does not come in.
pub fn only_a_server_with_the_right_certificate(stage: &Stage, library: &dyn Library) {
    for way in &stage.ways {
        if !library.kinds().contains(&way.kind) || matches!(way.kind, Kind::Tcp | Kind::Ws) {
            continue;
        }
        let way = Way { authority: stage.stranger.clone(), ..way.clone() };
        let mut client = library.open(&Open { filters: &["nothing"], ..Open::new(&way, "misled") });
        let reason = client.told("that it does not trust the server", |seen| seen.failed.clone());
        let reason = reason.to_lowercase();
        assert!(["certificate", "unknownissuer"].iter().any(|word| reason.contains(word)), "{way:?}: {reason}");
        assert_eq!(client.seen.connected, []);
    }
}

/// Messages of one QoS, each different.
struct Stream {
    client: Client,
    topic: String,
    qos: u8,
    sent: Vec<String>,
}

impl Stream {
    fn open(stage: &Stage, library: &dyn Library, qos: u8) -> Stream {
        let (topic, id) = (format!("kill/{qos}"), format!("kill-publisher-{qos}"));
        let stream = Some((topic.as_str(), qos));
        let open = Open { lasting: true, stream, ..Open::new(stage.tcp(), &id) };
        let client = ready(library, open);
        Stream { client, topic, qos, sent: Vec::new() }
    }

    fn publish(&mut self, count: usize) {
        for _ in 0..count {
            let payload = format!("{}-{}", self.qos, self.sent.len());
            self.client.publish(&Outgoing { topic: &self.topic, payload: &payload, qos: self.qos, retain: false });
            self.sent.push(payload);
        }
    }

    /// Publishes, so many at a time, until so many more are acknowledged.
    fn go_on(&mut self, more: usize, in_flight: usize) {
        let target = self.client.seen.published.len() + more;
        loop {
            let done = self.client.seen.published.len();
            if done >= target {
                break;
            }
            self.publish((done + in_flight).saturating_sub(self.sent.len()));
            self.client.told("that more is acknowledged", |seen| (seen.published.len() > done).then_some(()));
        }
    }
}

/// The server is killed while two publishers are in mid stream, one subscriber has not got everything and another sleeps.
pub fn sessions_over_sigkill(stage: &mut Stage, library: &dyn Library) {
    let way = stage.tcp().clone();
    let session = |id| Open { lasting: true, filters: &["kill/+"], qos: 2, ..Open::new(&way, id) };
    ready(library, session("kill-asleep")).disconnect();
    let mut awake = ready(library, session("kill-awake"));
    let mut streams = [1, 2].map(|qos| Stream::open(stage, library, qos));
    streams.iter_mut().for_each(|stream| stream.go_on(30, 10));
    // These are under way when it happens.
    streams.iter_mut().for_each(|stream| stream.publish(20));
    stage.server.kill();
    let acknowledged = streams.iter().map(|stream| stream.client.seen.published.len()).collect::<Vec<_>>();
    assert!(acknowledged.iter().all(|count| *count >= 30), "{acknowledged:?}");
    // What is published meanwhile goes when the server is back.
    streams.iter_mut().for_each(|stream| stream.publish(5));
    stage.server.restart();
    for stream in &mut streams {
        stream.go_on(30, 10);
        stream.client.acknowledged();
        stream.client.disconnect();
    }
    let mut asleep = ready(library, session("kill-asleep"));
    for client in [&mut awake, &mut asleep] {
        everything_came(client, &streams);
        client.disconnect();
    }
    // Nothing stays behind: whoever comes again has had all of it.
    let mut again = ready(library, session("kill-asleep"));
    let mut publisher = ready(library, Open::new(&way, "kill-last"));
    publisher.publish(&Outgoing { topic: "kill/last", payload: "last", qos: 2, retain: false });
    assert_eq!(again.messages(1), [message("kill/last", "last", 2, false)]);
    for client in [&awake, &asleep, &again] {
        let resumed = client.seen.connected.last().copied().flatten();
        assert_ne!(resumed, Some(false), "{} lost its session", client.name);
    }
    [again, publisher].iter_mut().for_each(Client::disconnect);
}

/// All of the streams has come, what was sent with QoS 2 once.
fn everything_came(client: &mut Client, streams: &[Stream]) {
    let all = || streams.iter().flat_map(|stream| &stream.sent);
    client.told("that everything came", |seen| {
        let counts = seen.counts();
        all().all(|payload| counts.contains_key(payload.as_str())).then_some(())
    });
    let counts = client.seen.counts();
    assert_eq!(counts.len(), all().count(), "{}: {counts:?}", client.name);
    for (payload, count) in counts {
        assert!(count == 1 || payload.starts_with("1-"), "{}: {payload} came {count} times", client.name);
    }
}
