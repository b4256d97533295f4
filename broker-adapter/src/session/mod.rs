//! One connection's session: what is said to the client and when, without any I/O.
//!
//! Packets go in through [`Session::on_packet`], bytes come out in [`Session::out`], events leave through
//! [`Session::take_batch`] and come back as [`Session::committed`]; what must be durable before it is sent waits in between.

mod aliases;
mod inbound;
mod incoming;
mod outbound;
mod outgoing;
mod pending;
mod requests;
mod resume;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use bytestring::ByteString;
use forebay_engine::Lsn;
use forebay_engine::delivery::{Delivery, Mailbox, SettledShared};
use forebay_engine::event::{AckOutcome, DisconnectReason, Epoch, Event, SubscriptionOptions, Will};
use forebay_engine::log::Appended;

use crate::access::Gate;
use crate::broker::Shared;
use crate::codec::{Packet, Version, encode, reason};
use crate::live_bus::LiveInbox;
use crate::metrics::DROPPED;
use crate::system::Tally;

pub(crate) use aliases::Aliases;
pub(crate) use inbound::Inbound;
pub(crate) use incoming::payload_is_as_promised;
pub(crate) use outbound::{InFlight, Outbound, Stage};
pub(crate) use pending::{Batch, Pending, Reply};
pub(crate) use requests::{InEffect, Job, apply};
pub(crate) use resume::restore;

/// Bytes waiting for the socket beyond which nothing more is delivered.
const OUT_HIGH_WATER: usize = 256 * 1024;
/// Events of one append.
const BATCH_MAX: usize = 1024;

/// Why a connection ends.
#[derive(Clone, Debug)]
pub(crate) struct Close {
    pub(crate) reason: DisconnectReason,
    /// Reason code of a DISCONNECT to an MQTT 5 client.
    pub(crate) code: Option<u8>,
    /// What went wrong, for the log and the client.
    pub(crate) text: &'static str,
}

impl Close {
    pub(crate) const fn protocol(code: u8, text: &'static str) -> Close {
        Close { reason: DisconnectReason::ProtocolError, code: Some(code), text }
    }

    /// Nothing can be logged any more, not even this end: the next start of the server logs it, with the same reason.
    pub(crate) const fn log_stopped() -> Close {
        Close {
            reason: DisconnectReason::ServerDied,
            code: Some(reason::IMPLEMENTATION_SPECIFIC_ERROR),
            text: "the log takes no more records",
        }
    }

    pub(crate) const fn lost(text: &'static str) -> Close {
        Close { reason: DisconnectReason::ConnectionLost, code: None, text }
    }
}

/// What is known about a connection's client.
#[derive(Clone, Debug)]
pub(crate) struct ClientInfo {
    pub(crate) client: ByteString,
    pub(crate) username: ByteString,
    pub(crate) peer: ByteString,
    pub(crate) epoch: Epoch,
    pub(crate) version: Version,
    pub(crate) clean_start: bool,
    /// CONNECT named a method of authentication.
    pub(crate) enhanced: bool,
    pub(crate) keep_alive_s: u16,
    /// Session expiry in seconds.
    pub(crate) expiry_s: u32,
    pub(crate) will: Option<Will>,
    /// QoS 1/2 messages on their way to the client at a time.
    pub(crate) window: u16,
    /// Largest packet the client takes.
    pub(crate) max_packet_bytes: usize,
    /// Topic aliases that may be sent to the client.
    pub(crate) topic_aliases: u16,
    /// Reason strings may be sent.
    pub(crate) problem_information: bool,
}

impl ClientInfo {
    /// True where the session outlives its connection: what it has under way is then kept in the log.
    pub(crate) const fn is_persistent(&self) -> bool {
        self.expiry_s > 0
    }
}

/// See the module.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) info: ClientInfo,
    /// It goes on from an earlier connection.
    resumed: bool,
    /// Bytes for the socket.
    pub(crate) out: BytesMut,
    pub(crate) mailbox: Mailbox,
    pub(crate) inbox: Arc<LiveInbox>,
    /// What the client may do.
    gate: Gate,
    aliases: Aliases,
    /// PUBLISH packets not yet counted in the broker's totals.
    tally: Tally,
    inbound: Inbound,
    outbound: Outbound,
    subscriptions: HashMap<ByteString, SubscriptionOptions>,
    batch: Batch,
    pending: Pending,
    jobs: VecDeque<Job>,
    /// Packet ids to be sent again after a resume.
    resend: VecDeque<u16>,
    /// Deliveries taken from the mailbox that the window has no room for.
    held: VecDeque<Delivery>,
    /// QoS 1/2 publishes sent on this connection and not settled.
    under_way: usize,
    /// Granted QoS 0: settled once the bytes are written.
    unwritten: Vec<(Lsn, Option<ByteString>)>,
    taken: Vec<Delivery>,
    settled: Settled,
    pub(crate) blocked: bool,
    pub(crate) cancel_will: bool,
    pub(crate) changed_expiry_s: Option<u32>,
}

/// Deliveries that are over and not yet settled: what the session was owed, and what groups of shared subscriptions gave it.
#[derive(Debug, Default)]
struct Settled {
    own: Vec<(Lsn, Option<u16>, AckOutcome)>,
    shared: Vec<SettledShared>,
}

impl Settled {
    fn add(&mut self, lsn: Lsn, share: Option<ByteString>, id: Option<u16>, outcome: AckOutcome) {
        match share {
            None => self.own.push((lsn, id, outcome)),
            Some(share) => self.shared.push((lsn, share, id, outcome)),
        }
    }
}

/// What a session starts from.
pub(crate) struct Start {
    pub(crate) resumed: bool,
    pub(crate) gate: Gate,
    pub(crate) mailbox: Mailbox,
    pub(crate) inbox: Arc<LiveInbox>,
    pub(crate) outbound: Outbound,
    pub(crate) received: Vec<u16>,
    pub(crate) subscriptions: HashMap<ByteString, SubscriptionOptions>,
}

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, info: ClientInfo, start: Start) -> Session {
        let options = &shared.options;
        for (filter, subscription) in &start.subscriptions {
            shared.subscribe_live(filter, &start.inbox, *subscription);
        }
        Session {
            inbound: Inbound::new(start.received, options.receive_maximum.max(1), options.topic_alias_maximum),
            resend: start.outbound.in_order().into(),
            outbound: start.outbound,
            shared,
            aliases: Aliases::new(info.topic_aliases),
            tally: Tally::default(),
            resumed: start.resumed,
            info,
            out: BytesMut::new(),
            mailbox: start.mailbox,
            inbox: start.inbox,
            gate: start.gate,
            subscriptions: start.subscriptions,
            batch: Batch::default(),
            pending: Pending::default(),
            jobs: VecDeque::new(),
            held: VecDeque::new(),
            under_way: 0,
            unwritten: Vec::new(),
            taken: Vec::new(),
            settled: Settled::default(),
            blocked: false,
            cancel_will: false,
            changed_expiry_s: None,
        }
    }

    /// True while packets may be taken in: nothing the client asked for is unfinished, and not too much waits for the disk.
    pub(crate) fn may_read(&self) -> bool {
        !self.blocked
            && self.batch.len() < BATCH_MAX
            && self.pending.len() + self.batch.len() < self.shared.options.pending_acks.max(1)
            && self.out.len() < OUT_HIGH_WATER * 4
            && !self.jobs.iter().any(Job::is_clients)
    }

    /// True while there is room for deliveries.
    pub(crate) fn may_deliver(&self) -> bool {
        self.out.len() < OUT_HIGH_WATER
    }

    /// True while stored messages may be taken from the mailbox.
    pub(crate) fn may_take(&self) -> bool {
        self.may_deliver() && !self.blocked && self.held.is_empty() && self.resend.is_empty()
    }

    /// An event nothing waits for.
    pub(crate) fn log(&mut self, event: Event) {
        self.batch.event(event);
    }

    /// The events to be appended now; `None` where there is nothing.
    pub(crate) fn take_batch(&mut self) -> Option<Batch> {
        if self.blocked || self.batch.is_empty() {
            return None;
        }
        Some(std::mem::take(&mut self.batch))
    }

    /// The log had no room for a batch: what goes on now, and what is kept waiting. MQTT 5 clients are told at once, others wait; QoS 0
    /// publishes are shed.
    pub(crate) fn no_space(&mut self, batch: Batch) -> (Batch, Batch) {
        let parted = batch.part(self.info.version.is_v5());
        for id in parted.forgotten {
            self.inbound.release(id);
        }
        if parted.shed > 0 {
            metrics::counter!(DROPPED, "reason" => "log_full").increment(parted.shed);
        }
        (parted.essential, parted.waiting)
    }

    /// Publishes that waited for room are given up with their connection: they were never acknowledged, their client sends them again.
    pub(crate) fn give_up(&mut self, batch: &Batch) {
        for id in batch.received_ids() {
            self.inbound.release(id);
        }
    }

    /// A batch is in the log (or had nothing for it).
    pub(crate) fn committed(&mut self, batch: Batch, appended: Option<Appended>) {
        self.pending.extend(batch, appended);
    }

    /// QoS 1/2 publishes sent and received on this connection that are not settled.
    pub(crate) fn under_way(&self) -> (usize, usize) {
        (self.under_way, self.inbound.under_way())
    }

    /// The record that must be durable before anything more can be sent.
    pub(crate) fn waits_for(&self) -> Option<Lsn> {
        self.pending.waits_for()
    }

    /// Writes what the watermark has passed.
    pub(crate) fn release(&mut self, durable_end: Lsn) {
        let mut acks = 0;
        while let Some(reply) = self.pending.release(durable_end) {
            acks += u64::from(matches!(reply, Reply::PubAck { .. } | Reply::PubRec { .. }));
            self.answer(reply);
        }
        if acks > 0 {
            self.shared.counters.acks_sent.increment(acks);
        }
    }

    /// The out buffer has been written to the socket.
    pub(crate) fn written(&mut self) {
        if !self.unwritten.is_empty() {
            for (lsn, share) in self.unwritten.drain(..) {
                self.settled.add(lsn, share, None, AckOutcome::Sent);
            }
            self.settle();
        }
    }

    fn settle(&mut self) {
        if !self.settled.own.is_empty() {
            self.mailbox.settle(&self.settled.own);
            self.settled.own.clear();
        }
        if !self.settled.shared.is_empty() {
            self.mailbox.settle_shared(&self.settled.shared);
            self.settled.shared.clear();
        }
    }

    /// Writes a packet, unless it is larger than the client takes.
    fn write(&mut self, packet: &Packet) -> bool {
        let before = self.out.len();
        if let Err(error) = encode(packet, self.info.version, &mut self.out) {
            tracing::warn!(client = %self.info.client, %error, "a packet can't be written");
            metrics::counter!(DROPPED, "reason" => "too_large").increment(1);
            return false;
        }
        if self.out.len() - before > self.info.max_packet_bytes {
            self.out.truncate(before);
            return false;
        }
        true
    }

    /// Adds what was counted since the last call to the broker's totals.
    pub(crate) fn report(&mut self) {
        if self.tally != Tally::default() {
            self.shared.traffic.add(std::mem::take(&mut self.tally));
        }
    }

    /// Takes the session apart at the connection's end.
    pub(crate) fn finish(mut self) -> (ClientInfo, Mailbox, Outbound, Vec<u16>) {
        self.settle();
        self.report();
        for filter in self.subscriptions.keys() {
            self.shared.unsubscribe_live(filter, &self.inbox);
        }
        self.shared.registry.count_shed(self.inbox.shed());
        let received = self.inbound.received();
        (self.info, self.mailbox, self.outbound, received)
    }
}
