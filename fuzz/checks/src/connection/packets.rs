//! Packets of a schedule's bytes.

use forebay_broker_adapter::codec::{Packet, Publish, RequestedFilter, Subscribe};
use forebay_engine::QoS;
use forebay_engine::event::SubscriptionOptions;

use super::{RECEIVE_MAXIMUM, Schedule};

pub(super) const TOPICS: [&str; 6] = ["t", "t/1", "q/x", "état/ü", "$own/t", "a/long/topic/with/levels"];

pub(super) fn id(schedule: &mut Schedule<'_>) -> u16 {
    u16::from(schedule.byte() % 6) + 1
}

pub(super) fn publish(schedule: &mut Schedule<'_>, published: &mut u32) -> Packet {
    let flags = schedule.byte();
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce][usize::from(flags & 3)];
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { id(schedule) };
    let alias = schedule.byte();
    *published += 1;
    let size = usize::from(alias >> 4) * usize::from(RECEIVE_MAXIMUM) * 4;
    let mut publish = Publish {
        dup: flags & 4 != 0 && qos != QoS::AtMostOnce,
        qos,
        retain: flags & 8 != 0,
        topic: TOPICS[usize::from(flags >> 4 & 7) % 6].into(),
        packet_id,
        payload: format!("{}{}", published, "x".repeat(size)).into(),
        ..Publish::default()
    };
    if alias & 4 != 0 {
        publish.topic_alias = Some(u16::from(alias & 3));
        if alias & 8 != 0 {
            publish.topic = "".into();
        }
    }
    if flags & 128 != 0 {
        (publish.properties.payload_format, publish.properties.expiry_s) = (Some(1), Some(5));
    }
    Packet::Publish(publish)
}

pub(super) fn subscribe(filter: &str, schedule: &mut Schedule<'_>) -> Packet {
    let flags = schedule.byte();
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce, QoS::ExactlyOnce][usize::from(flags & 3)];
    let options = SubscriptionOptions {
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        retain_handling: (flags >> 4 & 3).min(2),
        identifier: u32::from(flags >> 6),
        ..SubscriptionOptions::of_qos(qos)
    };
    let filters = vec![RequestedFilter { filter: filter.into(), options }];
    Packet::Subscribe(Subscribe { packet_id: id(schedule), filters, user: Vec::new() })
}
