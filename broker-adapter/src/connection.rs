//! One client's connection: the only place where its socket, its timers and its session meet.
//!
//! One task. Each turn takes what is there (packets of one read, deliveries, what the watermark has passed), appends all
//! events of the turn with one call, and then waits for whatever comes first.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::BytesMut;
use bytestring::ByteString;
use forebay_engine::QoS;
use forebay_engine::event::{ClientConnected, DisconnectReason, Event};
use forebay_engine::log::{AppendError, WaitDurable, WaitRoom};
use futures_util::future::{BoxFuture, FutureExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};

use crate::broker::Shared;
use crate::codec::{ConnAck, DecodeError, Decoder, PACKET_BYTES_MAX, Packet, Version, encode_fitting, reason};
use crate::enhanced::{self, Ends};
use crate::handshake::{self, Opened, Refusal};
use crate::limits::{Limit, Pace};
use crate::listener::{Arrival, Stream};
use crate::metrics::{CONNECTS, CONNECTS_REFUSED};
use crate::registry::{Command, Load};
use crate::session::{Batch, Close, InEffect, Job, Session};
use crate::{closing, registry};

/// Most bytes asked for with one read.
const READ_CHUNK: usize = 64 * 1024;
/// Bytes asked for with the first read, and with each of a client that sends little: most connections are idle.
const READ_LITTLE: usize = 2 * 1024;
/// How long a CONNACK may take to be written.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client is kept waiting for room in the log before its connection ends.
const FULL_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of a packet on its way that count as a sign of life.
const PROGRESS: usize = 1024;
/// The timer's step where there is no keep alive.
const IDLE: Duration = Duration::from_secs(3600);

/// Serves one connection from its first byte to its last.
pub(crate) async fn serve<S: Stream>(shared: Arc<Shared>, stream: S, arrival: Arrival, deadline: Instant) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut input = BytesMut::with_capacity(READ_LITTLE);
    let mut decoder = Decoder::server(shared.options.max_packet_bytes);
    let first = handshake::read_connect(&mut reader, &mut input, &mut decoder);
    let mut max_packet_bytes = PACKET_BYTES_MAX;
    let opened = match within(&shared, deadline, first).await {
        Ok(connect) => {
            max_packet_bytes = connect.max_packet_bytes();
            let ends = Ends { reader: &mut reader, writer: &mut writer, input: &mut input, decoder: &mut decoder };
            // On the heap, and only where there is a method: hardly anybody has one.
            let known = match &connect.properties.authentication_method {
                None => Ok(None),
                Some(_) => {
                    let exchange = Box::pin(enhanced::authenticate(&shared, &connect, &arrival, ends));
                    within(&shared, deadline, exchange).await
                }
            };
            match known {
                // What comes before and after the connection's life is on the heap while it lasts, and no part of what it keeps.
                Ok(known) => Box::pin(handshake::open(&shared, *connect, &arrival, known)).await,
                Err(refusal) => Err(refusal),
            }
        }
        Err(refusal) => Err(refusal),
    };
    let Opened { session, seat, commands, connack } = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            Box::pin(refuse(&shared, &refusal, &arrival, &mut writer, max_packet_bytes)).await;
            return Box::pin(closing::drain(reader, writer)).await;
        }
    };
    let mut connection = Connection::new(session, commands, reader, writer, input, decoder);
    connection.load = seat.load();
    let close = match Box::pin(connection.greet(connack)).await {
        Ok(()) => connection.run().await,
        Err(close) => close,
    };
    Box::pin(connection.close(close, seat)).await;
}

/// Bounds what comes before CONNECT by a deadline and by the broker's stop.
pub(crate) async fn within<T>(
    shared: &Shared,
    deadline: Instant,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::select! {
        result = work => result,
        () = tokio::time::sleep_until(deadline) => Err(Refusal::silent("timeout", "no CONNECT in time")),
        () = shared.stopped() => Err(Refusal::silent("unavailable", "the server stops")),
    }
}

/// Says that a connection ended before its CONNECT was accepted, and why.
pub(crate) fn count_refusal(shared: &Shared, refusal: &Refusal, arrival: &Arrival) {
    let (peer, listener) = (arrival.peer, arrival.listener.options.address);
    // Who was not let in has been said, with the name he gave.
    if refusal.label != "unauthorized" {
        tracing::info!(%peer, %listener, reason = refusal.text, "a connection was refused");
    }
    shared.refused.fetch_add(1, Ordering::Relaxed);
    metrics::counter!(CONNECTS_REFUSED, "reason" => refusal.label).increment(1);
    if refusal.label == "timeout" {
        Limit::ConnectTimeout.hit();
    }
}

async fn refuse<S: Stream>(
    shared: &Shared,
    refusal: &Refusal,
    arrival: &Arrival,
    writer: &mut WriteHalf<S>,
    max_packet_bytes: usize,
) {
    count_refusal(shared, refusal, arrival);
    answer(refusal, writer, max_packet_bytes).await;
}

/// Sends the CONNACK that refuses, where there is one.
pub(crate) async fn answer<S: Stream>(refusal: &Refusal, writer: &mut WriteHalf<S>, max_packet_bytes: usize) {
    if let Some((version, code)) = refusal.answer {
        let mut out = BytesMut::new();
        let plain = ConnAck { code, ..ConnAck::default() };
        let mut told = plain.clone();
        told.properties.reason_string = Some(refusal.text.as_str().into());
        let acks = [Packet::ConnAck(Box::new(told)), Packet::ConnAck(Box::new(plain))];
        if encode_fitting(&acks, version, max_packet_bytes, &mut out) {
            let _ = tokio::time::timeout(WRITE_TIMEOUT, writer.write_all(&out)).await;
        }
    }
}

/// A batch that waits for room in the log, and since when.
struct Blocked {
    batch: Batch,
    room: WaitRoom,
    since: Instant,
}

pub(crate) struct Connection<S> {
    pub(crate) session: Session,
    commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) reader: ReadHalf<S>,
    pub(crate) writer: WriteHalf<S>,
    input: BytesMut,
    /// Bytes that the next read is to have room for.
    chunk: usize,
    decoder: Decoder,
    /// Whether the stream may hold back something that was written.
    unflushed: bool,
    /// An append that waits for room.
    blocked: Option<Blocked>,
    /// The wait for the oldest batch that is not durable.
    watermark: Option<WaitDurable>,
    /// The change of subscriptions under way.
    job: Option<BoxFuture<'static, Result<InEffect, Close>>>,
    /// The lookup of proxy subscriptions.
    lookup: Option<BoxFuture<'static, Vec<(ByteString, QoS)>>>,
    /// Where the client's rate is limited.
    pace: Option<Box<Pace>>,
    /// What operators see of it.
    load: Arc<Load>,
    last_heard: Instant,
    /// Bytes that came since then.
    heard: usize,
    keep_alive: Option<Duration>,
    timer: Pin<Box<Sleep>>,
}

impl<S: Stream> Connection<S> {
    fn new(
        session: Session,
        commands: mpsc::UnboundedReceiver<Command>,
        reader: ReadHalf<S>,
        writer: WriteHalf<S>,
        input: BytesMut,
        decoder: Decoder,
    ) -> Self {
        let seconds = session.info.keep_alive_s;
        let keep_alive = (seconds > 0).then(|| Duration::from_millis(u64::from(seconds) * 1500));
        let pace = Pace::new(&session.shared.options.limits);
        Connection {
            session,
            commands,
            reader,
            writer,
            input,
            chunk: READ_LITTLE,
            decoder,
            unflushed: S::BUFFERS,
            blocked: None,
            watermark: None,
            job: None,
            lookup: None,
            pace,
            load: Arc::default(),
            last_heard: Instant::now(),
            heard: 0,
            keep_alive,
            timer: Box::pin(tokio::time::sleep(keep_alive.unwrap_or(IDLE))),
        }
    }

    /// Writes CONNACK; what follows from being online comes after it.
    async fn greet(&mut self, connack: ConnAck) -> Result<(), Close> {
        let mut out = BytesMut::new();
        let info = &self.session.info;
        if !encode_fitting(&[Packet::ConnAck(Box::new(connack))], info.version, info.max_packet_bytes, &mut out) {
            return Err(Close::lost("CONNACK is larger than the client takes"));
        }
        match tokio::time::timeout(WRITE_TIMEOUT, self.writer.write_all(&out)).await {
            Ok(Ok(())) => {}
            _ => return Err(Close::lost("CONNACK could not be sent")),
        }
        let shared = Arc::clone(&self.session.shared);
        shared.connects.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(CONNECTS, "version" => version_label(info.version)).increment(1);
        let connected = ClientConnected {
            client: info.client.clone(),
            epoch: info.epoch,
            username: info.username.clone(),
            peer: info.peer.clone(),
            protocol: info.version as u8,
            keep_alive_s: info.keep_alive_s,
            clean_start: info.clean_start,
        };
        let (client, username) = (info.client.clone(), info.username.clone());
        self.session.log(Event::ClientConnected(connected));
        self.lookup = Some(async move { shared.store.proxy_subscriptions(&client, &username).await }.boxed());
        Ok(())
    }

    async fn run(&mut self) -> Close {
        loop {
            let again = match self.turn() {
                Ok(again) => again,
                Err(close) => return close,
            };
            if again {
                // More packets are buffered than one append takes; others get their turn in between.
                tokio::task::yield_now().await;
                continue;
            }
            if let Err(close) = self.wait().await {
                return close;
            }
        }
    }

    /// Does what can be done without waiting. True where packets were left for another turn.
    fn turn(&mut self) -> Result<bool, Close> {
        let complete = self.read_packets()?;
        self.session.pump();
        self.commit()?;
        self.session.release(self.session.shared.engine.durable_end());
        self.session.report();
        if self.watermark.is_none()
            && let Some(lsn) = self.session.waits_for()
        {
            self.watermark = Some(self.session.shared.engine.log().wait_durable(lsn));
        }
        if self.job.is_none() {
            self.job = self.session.start_job();
        }
        let (sent, received) = self.session.under_way();
        self.load.in_flight.store(sent, Ordering::Relaxed);
        self.load.receiving.store(received, Ordering::Relaxed);
        Ok(!complete && self.may_read())
    }

    /// True while packets may be taken in.
    fn may_read(&self) -> bool {
        self.session.may_read() && !self.pace.as_ref().is_some_and(|pace| pace.is_held())
    }

    /// Takes in the packets that are buffered, as far as the session takes them. True where none is left.
    fn read_packets(&mut self) -> Result<bool, Close> {
        let mut complete = false;
        while self.may_read() {
            let before = self.input.len();
            match self.decoder.decode(&mut self.input) {
                Ok(Some(packet)) => {
                    self.heard = usize::MAX;
                    if let Some(pace) = &mut self.pace {
                        pace.count(matches!(packet, Packet::Publish(_)), before - self.input.len());
                    }
                    self.session.on_packet(packet)?;
                }
                Ok(None) => {
                    complete = true;
                    break;
                }
                Err(error) => {
                    if matches!(error, DecodeError::TooLarge { .. }) {
                        Limit::PacketBytes.hit();
                    }
                    tracing::info!(client = %self.session.info.client, %error, "a packet was refused");
                    return Err(Close::protocol(error.reason_code(), "a malformed packet"));
                }
            }
        }
        // Keep alive asks for whole packets. A large one on its way counts too, not one that trickles in to hold the connection.
        if self.heard >= PROGRESS {
            (self.heard, self.last_heard) = (0, Instant::now());
        }
        Ok(complete)
    }

    /// One append for everything this turn brought.
    fn commit(&mut self) -> Result<(), Close> {
        let Some(batch) = self.session.take_batch() else { return Ok(()) };
        self.append(batch, Instant::now())
    }

    /// Appends a batch; where there is no room it waits, or those parts of it that may.
    fn append(&mut self, batch: Batch, since: Instant) -> Result<(), Close> {
        if batch.events.is_empty() {
            self.session.committed(batch, None);
            return Ok(());
        }
        let engine = self.session.shared.engine.clone();
        // Of what nobody waits for (QoS 0) the writer thread is soon enough: a sync here would hold up the subscribers that were just woken.
        let appended =
            if batch.is_awaited() { engine.append_inline(&batch.events) } else { engine.append(&batch.events) };
        match appended {
            Ok(appended) => self.session.committed(batch, Some(appended)),
            Err(AppendError::Full { .. }) => self.block(batch, since),
            Err(AppendError::NoSpace { .. }) if batch.is_essential() => self.block(batch, since),
            Err(AppendError::NoSpace { .. }) => {
                let (essential, waiting) = self.session.no_space(batch);
                if !waiting.is_empty() {
                    self.block(waiting, since);
                }
                if essential.events.is_empty() {
                    self.session.committed(essential, None);
                } else {
                    match engine.append(&essential.events) {
                        Ok(appended) => self.session.committed(essential, Some(appended)),
                        // The reserve is used up too. Its packets come first, then those of the publishes.
                        Err(AppendError::Full { .. } | AppendError::NoSpace { .. }) => {
                            let behind = self.blocked.take().map(|blocked| blocked.batch).unwrap_or_default();
                            self.block(essential.followed_by(behind), since);
                        }
                        Err(error) => return Err(log_stopped(&error)),
                    }
                }
            }
            Err(error) => return Err(log_stopped(&error)),
        }
        Ok(())
    }

    fn block(&mut self, batch: Batch, since: Instant) {
        self.session.blocked = true;
        let room = self.session.shared.engine.wait_room(&batch.events);
        self.blocked = Some(Blocked { batch, room, since });
        let due = self.timer.deadline().min(since + FULL_PATIENCE);
        self.timer.as_mut().reset(due);
    }

    /// There may be room for what waited.
    fn unblock(&mut self) -> Result<(), Close> {
        let Some(Blocked { batch, since, .. }) = self.blocked.take() else { return Ok(()) };
        self.session.blocked = false;
        self.append(batch, since)
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self) -> Result<(), Close> {
        // While it waits for room a little is read ahead, so that the end of a client that gives up is noticed.
        let may_read = self.may_read() || self.blocked.is_some() && self.input.len() < READ_CHUNK;
        let (may_take, may_deliver) = (self.session.may_take(), self.session.may_deliver());
        let Session { out, mailbox, inbox, shared, .. } = &mut self.session;
        let flushes = out.is_empty();
        if may_read && self.input.capacity() - self.input.len() < self.chunk / 8 {
            self.input.reserve(self.chunk);
        }
        let free = self.input.capacity() - self.input.len();
        tokio::select! {
            biased;
            Some(command) = self.commands.recv() => return self.on_command(command),
            () = room_or(&mut self.blocked) => return self.unblock(),
            () = pace_or(&mut self.pace) => {}
            result = pending_or(&mut self.watermark) => {
                self.watermark = None;
                result.map_err(|error| log_stopped(&error))?;
            }
            written = write_some(&mut self.writer, out), if !flushes || self.unflushed => match written {
                Err(_) => return Err(Close::lost("the connection broke while writing")),
                Ok(_) if flushes => self.unflushed = false,
                Ok(n) => {
                    shared.traffic.sent(n);
                    self.unflushed = S::BUFFERS;
                    if out.is_empty() {
                        self.session.written();
                    }
                }
            },
            result = pending_or(&mut self.job) => {
                self.job = None;
                self.session.finish_job(result?);
            }
            subscriptions = pending_or(&mut self.lookup) => {
                self.lookup = None;
                for (filter, qos) in subscriptions {
                    self.session.request(Job::subscribe_for(filter, qos, None));
                }
            }
            read = self.reader.read_buf(&mut self.input), if may_read => match read {
                Ok(0) => return Err(Close::lost("the client closed the connection")),
                Ok(n) => {
                    self.heard = self.heard.saturating_add(n);
                    if n == free {
                        // There may be more: the next read takes more at once.
                        self.chunk = (self.chunk * 4).min(READ_CHUNK);
                    }
                    shared.traffic.received(n);
                }
                Err(_) => return Err(Close::lost("the connection broke while reading")),
            },
            () = mailbox.ready(), if may_take => {}
            () = inbox.ready(), if may_deliver => {}
            () = &mut self.timer => return self.on_timer(may_read),
        }
        Ok(())
    }

    fn on_timer(&mut self, may_read: bool) -> Result<(), Close> {
        let now = Instant::now();
        if self.blocked.as_ref().is_some_and(|blocked| now >= blocked.since + FULL_PATIENCE) {
            return Err(Close::lost("the log had no room for too long"));
        }
        self.save_memory();
        let Some(keep_alive) = self.keep_alive else {
            self.timer.as_mut().reset(now + IDLE);
            return Ok(());
        };
        if !may_read || self.blocked.is_some() {
            // It is we who do not listen.
            self.last_heard = now;
        }
        let end = self.last_heard + keep_alive;
        if now >= end {
            return Err(Close {
                reason: DisconnectReason::KeepAliveTimeout,
                code: Some(reason::KEEP_ALIVE_TIMEOUT),
                text: "nothing was heard for one and a half keep alive times",
            });
        }
        self.timer.as_mut().reset(end);
        Ok(())
    }

    /// Gives back what a busier time asked for.
    fn save_memory(&mut self) {
        if self.input.is_empty() && self.chunk > READ_LITTLE {
            (self.input, self.chunk) = (BytesMut::new(), READ_LITTLE);
        }
        let out = &mut self.session.out;
        if out.is_empty() && out.capacity() > READ_LITTLE {
            *out = BytesMut::new();
        }
    }

    fn on_command(&mut self, command: Command) -> Result<(), Close> {
        let (reason, code, text) = match command {
            Command::TakeOver => {
                (DisconnectReason::TakenOver, reason::SESSION_TAKEN_OVER, "another connection has this client id")
            }
            Command::Kick => (DisconnectReason::Kicked, reason::ADMINISTRATIVE_ACTION, "an operator ended it"),
            Command::Shutdown => {
                (DisconnectReason::ServerShutdown, reason::SERVER_SHUTTING_DOWN, "the server shuts down")
            }
            Command::Subscribe { filter, qos, done } => {
                self.session.request(Job::subscribe_for(filter, qos, Some(done)));
                return Ok(());
            }
            Command::Unsubscribe { filter, done } => {
                self.session.request(Job::unsubscribe_for(filter, done));
                return Ok(());
            }
        };
        Err(Close { reason, code: Some(code), text })
    }

    /// Ends the connection: what is due is logged and the seat given back first, then the socket is closed gently.
    async fn close(mut self, close: Close, seat: registry::Seat) {
        self.last_batch(&close).await;
        let Connection { session, reader, mut writer, .. } = self;
        closing::end(session, close, seat, &mut writer).await;
        closing::drain(reader, writer).await;
    }

    /// On a full disk nobody waits at a connection's end: its client comes back to a seat that is free.
    fn give_up(&mut self) {
        let Some(Blocked { batch, .. }) = self.blocked.take() else { return };
        self.session.blocked = false;
        self.session.give_up(&batch);
        let lost = batch.events.iter().filter(|event| event.is_essential()).count();
        if lost > 0 {
            tracing::warn!(client = %self.session.info.client, events = lost, "the log has no room even for acknowledgements: what they were for is sent again");
        }
    }

    /// Events of packets taken in before the end are not lost: they were accepted in order.
    async fn last_batch(&mut self, close: &Close) {
        // As often as the log is full: an id that is remembered as received while its message is not logged would lose it.
        loop {
            if self.blocked.is_some() {
                if self.session.shared.engine.log().no_space().is_some() {
                    self.give_up();
                    continue;
                }
                room_or(&mut self.blocked).await;
                if let Err(error) = self.unblock() {
                    tracing::debug!(client = %self.session.info.client, error = error.text, "events at a connection's end");
                }
            }
            if let Err(error) = self.commit() {
                tracing::debug!(client = %self.session.info.client, error = error.text, "events at a connection's end");
            }
            if self.blocked.is_none() {
                break;
            }
        }
        // An orderly end answers what is under way; a broken one has nobody to answer.
        while close.code.is_some()
            && let Some(lsn) = self.session.waits_for()
            && self.session.shared.engine.durable(lsn).await.is_ok()
        {
            self.session.release(self.session.shared.engine.durable_end());
        }
    }
}

/// Writes some of `out`; where there is nothing, flushes what the stream holds back.
async fn write_some<S: Stream>(writer: &mut WriteHalf<S>, out: &mut BytesMut) -> io::Result<usize> {
    if out.is_empty() {
        return writer.flush().await.map(|()| 0);
    }
    match writer.write_buf(out).await? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        n => Ok(n),
    }
}

async fn room_or(blocked: &mut Option<Blocked>) {
    match blocked {
        Some(blocked) => (&mut blocked.room).await,
        None => std::future::pending().await,
    }
}

async fn pace_or(pace: &mut Option<Box<Pace>>) {
    match pace {
        Some(pace) if pace.is_held() => pace.go_on().await,
        _ => std::future::pending().await,
    }
}

fn log_stopped(error: &dyn std::fmt::Display) -> Close {
    tracing::error!(%error, "a connection ends because the log takes no more records");
    Close::log_stopped()
}

async fn pending_or<F: Future + Unpin>(slot: &mut Option<F>) -> F::Output {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

const fn version_label(version: Version) -> &'static str {
    match version {
        Version::V31 => "3.1",
        Version::V311 => "3.1.1",
        Version::V5 => "5",
    }
}
