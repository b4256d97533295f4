//! A link to the router of somebody else's rumqttd: with `live_bus/rumqttd.rs` and `live_bus/router_link.rs` the only file that knows
//! rumqttd.
//!
//! What it keeps to, so that their router lives on: nothing is published over it; its client id is random, for a client that takes the id
//! of a link has the link removed, and a router dies of being woken by a link it has removed; who wakes is who
//! leaves; it subscribes with QoS 0, so there is no acknowledgement that could come out of order, which a router answers by removing the
//! link. Back-pressure needs none: a router pauses by itself at 199 messages that were not taken, and goes on when it is told to.
//!
//! Two things rumqttd does not mean to tell are told all the same. It overwrites a message's QoS with the subscription's, but with QoS 0 it
//! leaves the publisher's packet id, which only a publish of QoS 0 does not have. And each message comes with its place in the ring of its
//! filter: places that are left out are messages that were overwritten, or expired, before they were handed out.

use std::collections::VecDeque;
use std::mem;
use std::time::{Duration, Instant};

use bytestring::ByteString;
use forebay_engine::event::Properties;
use forebay_engine::topic::{TopicError, check_name};
use forebay_engine::{Message, QoS};
use futures_util::FutureExt;
use ring::rand::{SecureRandom, SystemRandom};
use rumqttd::local::LinkTx;
use rumqttd::protocol::{
    Disconnect, DisconnectReasonCode, Filter, Packet, PingReq, Publish, PublishProperties, RetainForwardRule,
    Subscribe, SubscribeProperties,
};
use rumqttd::{Broker, Forward};

use super::AttachError;
use crate::live_bus::router_link::{FromRouter, RouterDied, Sent};

/// Longest wait for a router to answer subscriptions.
const ANSWER: Duration = Duration::from_secs(10);

/// See the module.
pub(super) struct Link {
    tx: LinkTx,
    rx: FromRouter,
    /// What came before the last subscription was answered.
    early: VecDeque<Forward>,
    /// The place of the next message, by subscription.
    expected: Vec<Option<u64>>,
    missed: u64,
}

/// What a link hands out.
#[allow(clippy::large_enum_variant, reason = "each is moved once, into a batch")]
pub(super) enum Passed {
    /// A message.
    Message(Message),
    /// One whose topic is none; rumqttd does not look.
    Unusable(TopicError),
    /// A retained message of before the subscription.
    Retained,
    /// The answer to [`Link::ping`].
    Answer,
    /// The router had paused, and goes on.
    Resumed,
}

impl Link {
    /// Links and subscribes. Blocks until the router has answered.
    pub(super) fn open(broker: &Broker, filters: &[String]) -> Result<Link, AttachError> {
        let mut random = [0; 8];
        SystemRandom::new().fill(&mut random).map_err(|_| AttachError::NoRandom)?;
        let id = format!("forebay-{:016x}", u64::from_be_bytes(random));
        let (tx, rx) = broker.link(&id).map_err(|error| AttachError::NoLink(error.to_string()))?;
        let expected = vec![None; filters.len()];
        let mut link = Link { tx, rx: FromRouter::new(rx), early: VecDeque::new(), expected, missed: 0 };
        match link.subscribe(filters) {
            Ok(true) => Ok(link),
            Ok(false) => Err(AttachError::NoAnswer),
            Err(RouterDied) => Err(AttachError::NoLink("its router has died".to_owned())),
        }
    }

    /// Each filter under a number of its own, which comes back with its messages. False where the router is too slow to answer.
    fn subscribe(&mut self, filters: &[String]) -> Result<bool, RouterDied> {
        for (index, path) in filters.iter().enumerate() {
            let filter = Filter {
                path: path.clone(),
                qos: rumqttd::protocol::QoS::AtMostOnce,
                nolocal: false,
                preserve_retain: false,
                retain_forward_rule: RetainForwardRule::Never,
            };
            let properties = SubscribeProperties { id: Some(index + 1), user_properties: Vec::new() };
            self.send(Packet::Subscribe(Subscribe { pkid: 1, filters: vec![filter] }, Some(properties)))?;
        }
        let (deadline, mut answers) = (Instant::now() + ANSWER, 0);
        while answers < filters.len() {
            match self.rx.next(deadline)? {
                Some(Sent::Answer) => answers += 1,
                Some(Sent::Message(forward)) => self.early.push_back(forward),
                Some(Sent::Resumed) => {}
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Puts a packet before the router and tells it to look. Blocks while the router's own queue is full: it drains that by itself.
    fn send(&mut self, packet: Packet) -> Result<(), RouterDied> {
        // The future never waits; it is one only by its signature.
        match self.tx.send(packet).now_or_never() {
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => Err(RouterDied),
        }
    }

    /// Asks for an [`Answer`](Passed::Answer). What the router had taken in by then it hands out with the turn that answers, unless its
    /// turn ends because the link's buffer is full or a hundred reads are done.
    pub(super) fn ping(&mut self) -> Result<(), RouterDied> {
        self.send(Packet::PingReq(PingReq))
    }

    /// The next thing, or none until `deadline`. A deadline that has passed gives what is there.
    pub(super) fn next(&mut self, deadline: Instant) -> Result<Option<Passed>, RouterDied> {
        let sent = match self.early.pop_front() {
            Some(forward) => Some(Sent::Message(forward)),
            None => self.rx.next(deadline)?,
        };
        Ok(sent.map(|sent| match sent {
            Sent::Message(forward) => self.passed(forward),
            Sent::Answer => Passed::Answer,
            Sent::Resumed => Passed::Resumed,
        }))
    }

    /// How many messages were overwritten in the router's ring, or expired there, since it was asked before.
    pub(super) fn take_missed(&mut self) -> u64 {
        mem::take(&mut self.missed)
    }

    fn passed(&mut self, forward: Forward) -> Passed {
        let Forward { cursor, mut publish, properties, .. } = forward;
        let properties = properties.unwrap_or_default();
        // Only what is read from the ring has a place.
        let Some((_, place)) = cursor else { return Passed::Retained };
        // rumqttd refuses publishes with identifiers: this one is the subscription's.
        let subscription = properties.subscription_identifiers.last().and_then(|id| id.checked_sub(1));
        if let Some(expected) = subscription.and_then(|index| self.expected.get_mut(index)) {
            self.missed += expected.map_or(0, |expected| place.saturating_sub(expected));
            *expected = Some(place + 1);
        }
        let (topic, payload) = (mem::take(&mut publish.topic), mem::take(&mut publish.payload));
        let Ok(topic) = ByteString::try_from(topic) else { return Passed::Unusable(TopicError::Empty) };
        if let Err(error) = check_name(&topic) {
            return Passed::Unusable(error);
        }
        let (qos, properties) = (published_qos(&publish), with_us(properties));
        Passed::Message(Message { topic, payload, qos, properties, ..Message::default() })
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // rumqttd keeps a link until it is told to leave. A router that is gone needs no farewell.
        let leave = Disconnect { reason_code: DisconnectReasonCode::NormalDisconnection };
        let _ = self.send(Packet::Disconnect(leave, None));
    }
}

/// QoS 0 as it is, QoS 1 and 2 as 1, from a publish whose topic and payload were taken out: what is left is small enough to be written
/// out, which is the only way to the packet id.
fn published_qos(publish: &Publish) -> QoS {
    match publish.serialize().get(1..3) {
        Some([0, 0]) | None => QoS::AtMostOnce,
        Some(_) => QoS::AtLeastOnce,
    }
}

fn with_us(theirs: PublishProperties) -> Properties {
    Properties {
        // rumqttd passes on whatever number stands there; MQTT knows two.
        payload_format: theirs.payload_format_indicator.filter(|format| *format <= 1),
        // What is left of it when the message is handed out.
        expiry_s: theirs.message_expiry_interval,
        content_type: theirs.content_type.map(Into::into),
        response_topic: theirs.response_topic.map(Into::into),
        correlation_data: theirs.correlation_data,
        user: theirs.user_properties.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
    }
}
