//! What a resumed session has in flight: from memory where the server has lived on, else from the log.

use std::sync::Arc;

use forebay_engine::log::ReadError;
use forebay_engine::state::SessionView;
use forebay_engine::{Engine, Message, QoS, topic};

use super::{InFlight, Outbound, Stage};
use crate::registry::Parked;

/// Outbound deliveries and inbound QoS 2 ids of a session that goes on. `view` is the session as of its resumption, `parked` what
/// its last connection, if it was on this server, left in memory.
pub(crate) async fn restore(engine: &Engine, view: SessionView, parked: Option<Parked>) -> (Outbound, Vec<u16>) {
    match parked {
        Some(parked) => (from_memory(parked.outbound, &view), parked.received),
        None => {
            let engine = engine.clone();
            let received = view.received.clone();
            let rebuilt = tokio::task::spawn_blocking(move || from_log(&engine, &view)).await;
            (rebuilt.unwrap_or_default(), received)
        }
    }
}

/// A delivery whose packet id was still on its way to the disk is kept where the record arrived (it is sent under that id) and
/// left to the engine where it did not.
fn from_memory(mut outbound: Outbound, view: &SessionView) -> Outbound {
    for id in outbound.in_order() {
        let Some(delivery) = outbound.get_mut(id) else { continue };
        if delivery.stage != Stage::Recording {
            continue;
        }
        let is_it =
            |o: &forebay_engine::state::Outbound| (o.packet_id, o.lsn, &o.share) == (id, delivery.lsn, &delivery.share);
        if view.outbound.iter().any(is_it) {
            delivery.stage = Stage::Published;
        } else {
            outbound.remove(id);
        }
    }
    outbound
}

fn from_log(engine: &Engine, view: &SessionView) -> Outbound {
    let mut outbound = Outbound::default();
    for sent in &view.outbound {
        let stored = match engine.message(sent.lsn) {
            Ok(stored) => stored,
            Err(error @ ReadError::Trimmed { .. }) => {
                tracing::warn!(client = %view.client, lsn = %sent.lsn, %error, "a QoS 2 message in flight is gone");
                None
            }
            Err(error) => {
                tracing::error!(client = %view.client, lsn = %sent.lsn, %error, "a QoS 2 message in flight can't be read");
                None
            }
        };
        // PUBREL needs no message; a PUBLISH whose message is gone can't be repeated and is left to the engine's cursor.
        if stored.is_none() && !sent.received {
            continue;
        }
        let (retain, identifiers) =
            stored.as_ref().map(|s| as_subscribed(&s.message, view, sent.share.as_deref())).unwrap_or_default();
        outbound.restore(
            sent.packet_id,
            InFlight {
                lsn: sent.lsn,
                time_us: stored.as_ref().map_or(0, |s| s.time_us),
                message: stored.map(|s| Arc::clone(&s.message)).filter(|_| !sent.received),
                qos: QoS::ExactlyOnce,
                retain,
                identifiers,
                share: sent.share.clone(),
                stage: if sent.received { Stage::Released } else { Stage::Published },
                order: 0,
            },
        );
    }
    outbound
}

/// The retain flag and the subscription identifiers that the session's subscriptions give a message: those that match it, or the shared one
/// whose group gave it.
fn as_subscribed(message: &Message, view: &SessionView, share: Option<&str>) -> (bool, Vec<u32>) {
    let (mut retain, mut identifiers) = (false, Vec::new());
    for (filter, options) in &view.subscriptions {
        let own = options.no_local && message.publisher == view.client;
        let gave = match share {
            Some(share) => *filter == share,
            None => topic::shared(filter).is_none() && !own && topic::matches(filter, &message.topic),
        };
        if !gave {
            continue;
        }
        retain |= options.retain_as_published && message.retain;
        if options.identifier != 0 {
            identifiers.push(options.identifier);
        }
    }
    (retain, identifiers)
}
