//! The end of a connection: what goes into the log, what the client is told, and a close that lets it arrive.

use std::time::Duration;

use forebay_engine::delivery::Mailbox;
use forebay_engine::event::{ClientDisconnected, CursorAt, DisconnectReason, Event, Published};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::codec::{Disconnect, Packet, encode_fitting};
use crate::listener::Stream;
use crate::metrics::DISCONNECTS;
use crate::registry::{Parked, Seat};
use crate::session::{Close, Session};

/// How long a client may go on sending after our half of the connection is closed.
const DRAIN: Duration = Duration::from_secs(2);
/// How long the last bytes may take to be written.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Logs the end (and a will that is due with it), parks what is in flight, gives the seat back once the end is applied, and says
/// goodbye.
pub(crate) async fn end<S: Stream>(mut session: Session, close: Close, seat: Seat, writer: &mut WriteHalf<S>) {
    metrics::counter!(DISCONNECTS, "reason" => close.reason.as_str()).increment(1);
    tracing::debug!(client = %session.info.client, reason = close.reason.as_str(), text = close.text, "disconnected");
    let mut farewell = std::mem::take(&mut session.out);
    if let Some(code) = close.code.filter(|_| session.info.version.is_v5()) {
        let (plain, mut told) = (Disconnect::new(code), Disconnect::new(code));
        told.properties.reason_string = session.info.problem_information.then(|| close.text.into());
        let (version, max_bytes) = (session.info.version, session.info.max_packet_bytes);
        // Where even the shortest is too large for the client, the connection's end has to say it.
        encode_fitting(&[Packet::Disconnect(told), Packet::Disconnect(plain)], version, max_bytes, &mut farewell);
    }
    log_end(session, &close).await;
    drop(seat);
    if close.reason != DisconnectReason::ConnectionLost && !farewell.is_empty() {
        let _ = tokio::time::timeout(LAST_WRITE, writer.write_all(&farewell)).await;
    }
}

/// Leases go back to their queues before the connection's end is logged; where the cursors stand.
fn give_back(mailbox: Mailbox) -> Vec<CursorAt> {
    mailbox.positions()
}

async fn log_end(session: Session, close: &Close) {
    let shared = session.shared.clone();
    let (cancel_will, changed_expiry_s) = (session.cancel_will, session.changed_expiry_s);
    let (info, mailbox, outbound, received) = session.finish();
    let positions = give_back(mailbox);
    let expiry_s = changed_expiry_s.unwrap_or(info.expiry_s);
    let mut events = vec![Event::ClientDisconnected(ClientDisconnected {
        client: info.client.clone(),
        epoch: info.epoch,
        reason: close.reason,
        superseded: close.reason == DisconnectReason::TakenOver,
        cancel_will,
        expiry_s: changed_expiry_s,
        positions,
    })];
    // A will is due after its delay or with the session's end, whichever comes first; later ones are the janitor's.
    let mut will = info.will.filter(|will| !cancel_will && will.delay_s.min(expiry_s) == 0);
    if let Some(will) = &will {
        events.push(Event::Published(Published { message: will.message.clone(), packet_id: None, epoch: info.epoch }));
    }
    if shared.engine.log().no_space().is_some() && will.take().is_some() {
        // Room is kept for the end and not for the will: it is due in state, and the janitor publishes it when there is room.
        events.truncate(1);
    }
    match shared.engine.append_wait(&events).await {
        // Who takes the seat next goes by the state that this end makes: whether there is a session, whether its will is due.
        Ok(appended) => {
            if let Err(error) = shared.engine.applied(appended.last).await {
                tracing::error!(client = %info.client, %error, "a connection's end could not be made durable");
            }
        }
        Err(error) => tracing::error!(client = %info.client, %error, "a connection's end could not be logged"),
    }
    if let Some(will) = will {
        shared.fan_out_qos0(&will.message);
    }
    if expiry_s > 0 {
        shared.registry.park(&info.client, Parked { epoch: info.epoch, outbound, received });
    }
}

/// Closes our half and reads what the client still sends, for a while: a close with unread input is a reset, and the client would
/// lose our last words.
pub(crate) async fn drain<S: Stream>(mut reader: ReadHalf<S>, mut writer: WriteHalf<S>) {
    let work = async {
        if writer.shutdown().await.is_err() {
            return;
        }
        let mut scrap = [0u8; 4096];
        while reader.read(&mut scrap).await.is_ok_and(|n| n > 0) {}
    };
    let _ = tokio::time::timeout(DRAIN, work).await;
}
