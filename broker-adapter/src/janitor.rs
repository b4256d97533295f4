//! What is due without any client doing something: wills after their delay, sessions after their expiry, and connections of a
//! server that died.

use std::sync::Arc;
use std::time::Duration;

use forebay_engine::Lsn;
use forebay_engine::event::{ClientDisconnected, DisconnectReason, Event, Published, SessionClosed};
use forebay_engine::log::AppendError;
use forebay_engine::state::SessionView;
use tokio::time::MissedTickBehavior;

use crate::broker::Shared;
use crate::session::{Close, InEffect, apply};

const TICK: Duration = Duration::from_secs(1);
/// Events of one append at the start.
const CHUNK: usize = 256;

/// Ends in the log the connections that were open when the server died, and publishes their wills where no delay is left.
pub(crate) async fn close_what_was_open(shared: &Shared) -> Result<(), Close> {
    let open: Vec<_> = shared.engine.sessions().into_iter().filter(|view| view.connected).collect();
    if !open.is_empty() {
        tracing::info!(clients = open.len(), "clients were connected when the last run ended without notice");
    }
    for views in open.chunks(CHUNK) {
        let mut events = Vec::with_capacity(views.len() * 2);
        for view in views {
            events.push(Event::ClientDisconnected(ClientDisconnected {
                client: view.client.clone(),
                epoch: view.epoch,
                reason: DisconnectReason::ServerDied,
                superseded: false,
                cancel_will: false,
                expiry_s: None,
                positions: Vec::new(),
            }));
            if view.will.as_ref().is_some_and(|will| will.delay_s.min(view.expiry_s) == 0) {
                events.extend(will_event(view));
            }
        }
        if apply(&shared.engine, &events).await? == InEffect::NoSpace {
            // The wills are due in state, and are published when there is room.
            events.retain(Event::is_essential);
            apply(&shared.engine, &events).await?;
        }
    }
    Ok(())
}

/// Looks each second for what is due, until the broker stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stopped() => return,
            _ = ticks.tick() => {}
        }
        if let Some(last) = sweep(&shared) {
            // What was appended must be applied before looking again, or it would be due twice.
            if let Err(error) = shared.engine.applied(last).await {
                tracing::error!(%error, "sessions and wills that are due can't be logged any more");
                return;
            }
        }
    }
}

/// Logs what is due; the last record, where there was something.
fn sweep(shared: &Shared) -> Option<Lsn> {
    let now_us = shared.engine.now_us();
    let mut last = None;
    for view in shared.engine.due(now_us) {
        let ends = view.ends_at_us.is_some_and(|end| end <= now_us);
        let will_due = view.will_due_us.is_some_and(|due| due <= now_us);
        let mut events = Vec::new();
        if ends || will_due {
            events.extend(will_event(&view));
        }
        if ends {
            events.push(Event::SessionClosed(SessionClosed { client: view.client.clone(), epoch: view.epoch }));
        }
        if view.connected || events.is_empty() {
            continue;
        }
        // The registry is asked and the record appended under one lock, so that a client who comes back is either seen or opens
        // its session after this record. One who has come and gone since the look has another connection's end to wait for.
        let done = shared.registry.unless_online(&view.client, || {
            if shared.engine.session(&view.client).is_none_or(|now| now.epoch != view.epoch) {
                return None;
            }
            let appended = shared.engine.append(&events);
            if ends && appended.is_ok() {
                shared.registry.forget(&view.client);
            }
            Some(appended)
        });
        match done.flatten() {
            None => {}
            Some(Ok(appended)) => {
                last = Some(appended.last);
                if let Some(will) = view.will.as_ref() {
                    shared.fan_out_qos0(&will.message);
                }
            }
            // Others that are due may need no room.
            Some(Err(AppendError::NoSpace { .. })) => {}
            Some(Err(error)) => {
                tracing::warn!(client = %view.client, %error, "a session's end waits");
                return last;
            }
        }
    }
    last
}

/// The publication of a session's will, where one waits.
pub(crate) fn will_event(view: &SessionView) -> Option<Event> {
    let will = view.will.as_ref()?;
    Some(Event::Published(Published { message: will.message.clone(), packet_id: None, epoch: view.epoch }))
}
