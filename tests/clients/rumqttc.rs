//! rumqttc, a library of this language: each client has a thread of the test's.
//!
//! rumqttc tells of every PUBLISH of QoS 2 that comes, and leaves it to the program to know one that it has had; after a break it does not
//! know any more what it has received, and takes a PUBREL for an error. So [`Receiver`] remembers both, for each client id over all its
//! connections.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::rumqttc::{Outgoing as Sent, Transport};
use tokio::sync::Notify;

use crate::client::{Client, Event, Hand, Kind, Library, Message, Open, Outgoing, Way, Will};

/// Seconds.
const SESSION: u32 = 3600;
const LONGEST: usize = 1 << 20;
/// More than is published in a session: ids of packets are not used again.
const IN_FLIGHT: u16 = 1000;

/// The library, with one version of MQTT.
#[derive(Default)]
pub struct Rumqttc {
    is_5: bool,
    sessions: Mutex<HashMap<String, Arc<Mutex<Receiver>>>>,
}

impl Rumqttc {
    pub fn new(is_5: bool) -> Rumqttc {
        Rumqttc { is_5, ..Rumqttc::default() }
    }
}

impl Library for Rumqttc {
    fn is_5(&self) -> bool {
        self.is_5
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Tcp, Kind::Tls]
    }

    fn open(&self, open: &Open) -> Client {
        let mut sessions = self.sessions.lock().unwrap();
        if !open.lasting {
            sessions.remove(open.id);
        }
        let received = Arc::clone(sessions.entry(open.id.to_owned()).or_default());
        if self.is_5 { v5::open(open, received) } else { v4::open(open, received) }
    }
}

fn transport(way: &Way) -> Transport {
    let read = |file| std::fs::read(file).unwrap();
    match way.kind {
        Kind::Tls => {
            let own = way.certificate.as_ref().map(|[certificate, key]| (read(certificate), read(key)));
            Transport::tls(read(&way.authority), own, None)
        }
        _ => Transport::Tcp,
    }
}

/// What has been received with QoS 2.
#[derive(Default)]
struct Receiver {
    unreleased: HashSet<u16>,
    ever: HashSet<u16>,
}

impl Receiver {
    /// True for a message that has not come before.
    fn is_new(&mut self, id: u16) -> bool {
        self.ever.insert(id);
        self.unreleased.insert(id)
    }
}

/// Which message has which id.
#[derive(Default)]
struct Published {
    waiting: Arc<Mutex<VecDeque<u64>>>,
    tags: HashMap<u16, u64>,
}

impl Published {
    /// The tag of a message that is sent and never acknowledged.
    fn sent(&mut self, id: u16) -> Option<u64> {
        // One that is known is sent again.
        if id != 0 && self.tags.contains_key(&id) {
            return None;
        }
        let tag = self.waiting.lock().unwrap().pop_front().unwrap();
        if id == 0 {
            return Some(tag);
        }
        self.tags.insert(id, tag);
        None
    }

    fn acknowledged(&mut self, id: u16) -> Option<u64> {
        self.tags.remove(&id)
    }
}

/// The same for both versions, whose types have the same names and nothing in common.
macro_rules! client {
    () => {
        struct Thread {
            client: AsyncClient,
            waiting: Arc<Mutex<VecDeque<u64>>>,
            cut: Arc<Notify>,
        }

        impl Hand for Thread {
            fn publish(&mut self, message: &Outgoing, tag: u64) {
                let Outgoing { topic, payload, qos: level, retain } = *message;
                self.waiting.lock().unwrap().push_back(tag);
                self.client.try_publish(topic, qos(level), retain, payload.as_bytes().to_vec()).unwrap();
            }

            fn disconnect(&mut self) {
                self.client.try_disconnect().unwrap();
            }

            fn cut(&mut self) {
                self.cut.notify_one();
            }
        }

        fn qos(level: u8) -> QoS {
            [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(level)]
        }

        pub fn open(open: &Open, received: Arc<Mutex<Receiver>>) -> Client {
            let mut options = options(open);
            options.set_transport(transport(open.way));
            let (client, link) = AsyncClient::new(options, usize::from(IN_FLIGHT));
            let (sender, events) = channel();
            let cut = Arc::<Notify>::default();
            let published = Published::default();
            let hand =
                Thread { client: client.clone(), waiting: Arc::clone(&published.waiting), cut: Arc::clone(&cut) };
            let filters = open.filters.iter().map(|filter| SubscribeFilter::new((*filter).to_owned(), qos(open.qos)));
            let filters: Vec<SubscribeFilter> = filters.collect();
            let running = Running { client, link, filters, published, received, sender };
            std::thread::spawn(move || crate::support::wait(running.run(&cut)));
            Client::new(open.id, events, Box::new(hand))
        }

        struct Running {
            client: AsyncClient,
            link: EventLoop,
            /// What is still to be subscribed to.
            filters: Vec<SubscribeFilter>,
            published: Published,
            received: Arc<Mutex<Receiver>>,
            sender: Sender<Event>,
        }

        impl Running {
            async fn run(mut self, cut: &Notify) {
                let mut connected = false;
                loop {
                    let event = tokio::select! {
                        event = self.link.poll() => event,
                        () = cut.notified() => return self.tell(Event::Ended),
                    };
                    match event {
                        Ok(FromLink::Outgoing(Sent::Disconnect)) => return self.tell(Event::Ended),
                        Ok(event) => {
                            connected = true;
                            self.take(event);
                        }
                        Err(error) if !connected => return self.tell(Event::Failed { reason: error.to_string() }),
                        Err(_) => {
                            // What had come before the break.
                            while let Some(event) = self.link.state.events.pop_front() {
                                self.take(event);
                            }
                            tokio::time::sleep(Duration::from_millis(50)).await;
                        }
                    }
                }
            }

            fn tell(&self, event: Event) {
                // Nobody may look any more.
                let _ = self.sender.send(event);
            }

            fn take(&mut self, event: FromLink) {
                match event {
                    FromLink::Outgoing(Sent::Publish(id)) => {
                        let tag = self.published.sent(id);
                        tag.into_iter().for_each(|tag| self.tell(Event::Published { tag }));
                    }
                    FromLink::Outgoing(_) => {}
                    FromLink::Incoming(Packet::ConnAck(answer)) => {
                        self.tell(Event::Connected { resumed: Some(answer.session_present) });
                        for id in &self.received.lock().unwrap().ever {
                            self.link.state.handle_incoming_packet(received(*id)).unwrap();
                        }
                        self.link.state.events.clear();
                        if !self.filters.is_empty() {
                            self.client.try_subscribe_many(std::mem::take(&mut self.filters)).unwrap();
                        }
                    }
                    FromLink::Incoming(Packet::SubAck(answer)) => {
                        let granted = answer.return_codes.iter().map(|code| match code {
                            SubscribeReasonCode::Success(qos) => *qos as u8,
                            _ => 0x80,
                        });
                        self.tell(Event::Subscribed { granted: granted.collect() });
                    }
                    FromLink::Incoming(Packet::Publish(message)) => {
                        if message.qos == QoS::ExactlyOnce && !self.received.lock().unwrap().is_new(message.pkid) {
                            return;
                        }
                        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                        let (topic, payload) = (text(message.topic.as_ref()), text(&message.payload));
                        let (qos, retain) = (message.qos as u8, message.retain);
                        self.tell(Event::Message(Message { topic, payload, qos, retain }));
                    }
                    FromLink::Incoming(Packet::PubRel(release)) => {
                        self.received.lock().unwrap().unreleased.remove(&release.pkid);
                    }
                    FromLink::Incoming(Packet::PubAck(answer)) => self.acknowledged(answer.pkid),
                    FromLink::Incoming(Packet::PubComp(answer)) => self.acknowledged(answer.pkid),
                    FromLink::Incoming(_) => {}
                }
            }

            fn acknowledged(&mut self, id: u16) {
                let tag = self.published.acknowledged(id);
                tag.into_iter().for_each(|tag| self.tell(Event::Published { tag }));
            }
        }
    };
}

mod v4 {
    use ::rumqttc::{
        AsyncClient, Event as FromLink, EventLoop, LastWill, MqttOptions, Packet, Publish, QoS, SubscribeFilter,
        SubscribeReasonCode,
    };

    use super::*;

    fn options(open: &Open) -> MqttOptions {
        let mut options = MqttOptions::new(open.id, "localhost", open.way.port);
        options.set_clean_session(!open.lasting).set_max_packet_size(LONGEST, LONGEST).set_inflight(IN_FLIGHT);
        if let Some(Will { topic, retain, .. }) = open.will {
            options.set_last_will(LastWill::new(topic, Will::PAYLOAD, qos(Will::QOS), retain));
        }
        options
    }

    fn received(id: u16) -> Packet {
        Packet::Publish(Publish { pkid: id, ..Publish::new("", QoS::ExactlyOnce, "") })
    }

    client!();
}

mod v5 {
    use ::rumqttc::v5::mqttbytes::QoS;
    use ::rumqttc::v5::mqttbytes::v5::{Filter, LastWill, LastWillProperties, Packet, Publish, SubscribeReasonCode};
    use ::rumqttc::v5::{AsyncClient, Event as FromLink, EventLoop, MqttOptions};

    use super::*;

    type SubscribeFilter = Filter;

    fn options(open: &Open) -> MqttOptions {
        let mut options = MqttOptions::new(open.id, "localhost", open.way.port);
        options.set_clean_start(!open.lasting).set_session_expiry_interval(open.lasting.then_some(SESSION));
        options.set_max_packet_size(Some(LONGEST as u32)).set_outgoing_inflight_upper_limit(IN_FLIGHT);
        if let Some(Will { topic, retain, delay }) = open.will {
            let properties = LastWillProperties {
                delay_interval: Some(delay),
                payload_format_indicator: None,
                message_expiry_interval: None,
                content_type: None,
                response_topic: None,
                correlation_data: None,
                user_properties: Vec::new(),
            };
            options.set_last_will(LastWill::new(topic, Will::PAYLOAD, qos(Will::QOS), retain, Some(properties)));
        }
        options
    }

    fn received(id: u16) -> Packet {
        Packet::Publish(Publish { pkid: id, ..Publish::new("", QoS::ExactlyOnce, "", None) })
    }

    client!();
}
