//! From the first byte to CONNACK: reads CONNECT, checks it, takes the client's seat, opens the session.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::BytesMut;
use bytestring::ByteString;
use forebay_engine::Message;
use forebay_engine::delivery::AttachOptions;
use forebay_engine::event::{Event, NEVER_EXPIRES, Origin, Published, SessionOpened, Will};
use forebay_engine::log::AppendError;
use forebay_engine::state::SessionView;
use forebay_engine::topic::check_name;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use crate::access::{Attempt, Denied, Gate, Identity};
use crate::broker::Shared;
use crate::codec::{ConnAck, ConnAckProperties, Connect, DecodeError, Decoder, Packet, Version, reason};
use crate::enhanced::Known;
use crate::limits::Limit;
use crate::listener::Arrival;
use crate::live_bus::LiveInbox;
use crate::registry::{ClientFacts, Command, Seat};
use crate::session::{ClientInfo, Outbound, Session, Start, payload_is_as_promised, restore};

/// A refused CONNECT: the CONNACK to send, if any, and why.
pub(crate) struct Refusal {
    pub(crate) answer: Option<(Version, u8)>,
    /// The metric's word for it (see `metrics::CONNECTS_REFUSED`).
    pub(crate) label: &'static str,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn silent(label: &'static str, text: impl Into<String>) -> Refusal {
        Refusal { answer: None, label, text: text.into() }
    }

    fn malformed(text: impl Into<String>) -> Refusal {
        Refusal::silent("malformed", text)
    }

    /// A CONNECT that can't be read: MQTT 5 has codes for what is wrong with it, before that nothing is answered.
    pub(crate) fn undecodable(asked: Option<Version>, error: DecodeError) -> Refusal {
        let text = error.to_string();
        match asked {
            Some(Version::V5) => {
                Refusal { label: "malformed", ..Refusal::coded(Version::V5, error.reason_code(), 0, &text) }
            }
            _ => Refusal::malformed(text),
        }
    }

    fn unauthorized(version: Version, v5: u8, v3: u8, text: &str) -> Refusal {
        Refusal { label: "unauthorized", ..Refusal::coded(version, v5, v3, text) }
    }

    /// Nothing is wrong with the client.
    fn unavailable(version: Version, text: &str) -> Refusal {
        Refusal { label: "unavailable", ..Refusal::coded(version, reason::SERVER_UNAVAILABLE, 3, text) }
    }

    /// The connection is over a limit. Counted by who sees it.
    pub(crate) fn over(version: Version, limit: Limit) -> Refusal {
        Refusal { label: "limit", ..Refusal::coded(version, limit.connack(), 3, limit.text()) }
    }

    /// `v5` is the reason code for MQTT 5, `v3` the return code before it.
    pub(crate) fn coded(version: Version, v5: u8, v3: u8, text: &str) -> Refusal {
        let code = if version.is_v5() { v5 } else { v3 };
        Refusal { answer: Some((version, code)), label: "refused", text: text.to_owned() }
    }
}

/// Reads until CONNECT is complete. What came with it stays in `input`.
pub(crate) async fn read_connect(
    stream: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
    decoder: &mut Decoder,
) -> Result<Box<Connect>, Refusal> {
    loop {
        match decoder.decode(input) {
            Ok(Some(Packet::Connect(connect))) => return Ok(connect),
            Ok(Some(_)) => return Err(Refusal::malformed("the first packet is not CONNECT")),
            Ok(None) => {}
            Err(DecodeError::UnsupportedVersion(level)) => {
                let version = if level > Version::V5 as u8 { Version::V5 } else { Version::V311 };
                let text = format!("protocol level {level} is not supported");
                return Err(Refusal::coded(version, reason::UNSUPPORTED_PROTOCOL_VERSION, 1, &text));
            }
            Err(error) => {
                if matches!(error, DecodeError::TooLarge { .. }) {
                    Limit::PacketBytes.hit();
                }
                return Err(Refusal::undecodable(decoder.version_asked(), error));
            }
        }
        match stream.read_buf(input).await {
            Ok(0) => return Err(Refusal::silent("closed", "the connection ended before CONNECT")),
            Ok(_) => {}
            Err(error) => return Err(Refusal::silent("closed", error.to_string())),
        }
    }
}

/// An opened session with its seat, its commands and the CONNACK to send.
pub(crate) struct Opened {
    pub(crate) session: Session,
    pub(crate) seat: Seat,
    pub(crate) commands: mpsc::UnboundedReceiver<Command>,
    pub(crate) connack: ConnAck,
}

/// Takes the client's seat (waiting for an older connection to be off) and opens its session. When it returns, the session and
/// its will are durable. While the log is full neither is possible; the client is refused when it has waited for the connect
/// timeout, so that those who try again do not pile up.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    connect: Connect,
    arrival: &Arrival,
    known: Option<Known>,
) -> Result<Opened, Refusal> {
    check(&connect, shared)?;
    let version = connect.version;
    let engine = &shared.engine;
    let now_us = engine.now_us();
    let epoch = engine.next_epoch();
    let (client, assigned) = client_id(&connect, epoch, now_us)?;
    let (identity, said) = match known {
        Some(known) => (Identity { client: client.clone(), ..known.identity }, Some((known.method, known.data))),
        None => (authenticate(shared, &connect, &client, arrival).await?, None),
    };
    let username = identity.user.clone();
    let gate = Gate::new(&shared.options.access, identity);
    if let Some(will) = connect.will.as_ref().filter(|will| !gate.may_leave_will(&will.topic)) {
        tracing::info!(%client, topic = ?will.topic, "a will is not allowed");
        return Err(Refusal::unauthorized(version, reason::NOT_AUTHORIZED, 5, "this will is not allowed"));
    }
    let entering = shared.registry.enter(client.clone(), arrival.peer, now_us);
    let (seat, commands) = tokio::time::timeout(shared.options.connect_timeout, entering)
        .await
        .map_err(|_| Refusal::unavailable(version, "an older connection of this client could not be ended in time"))?;
    // The seat is taken first: a stop that begins from here on reaches it as a command.
    if *shared.stop.borrow() {
        return Err(Refusal::unavailable(version, "the server shuts down"));
    }
    // The epoch is taken once the older connection is off, so that epochs follow the log's order.
    let info = client_info(shared, &connect, client, username, arrival, engine.next_epoch());
    seat.occupy(info.epoch, facts(&info, arrival));

    let existing = engine.session(&info.client).filter(|v| v.ends_at_us.is_none_or(|end| end > engine.now_us()));
    let resumed = existing.is_some() && !connect.clean_start;
    let last_epoch = existing.as_ref().map(|view| view.epoch);
    open_in_log(shared, &info, existing.filter(|_| !resumed), resumed).await.map_err(|why| match why {
        NotOpened::NoSpace => Refusal {
            label: "unavailable",
            ..Refusal::coded(
                version,
                reason::QUOTA_EXCEEDED,
                3,
                "the log has no room for a new session; try again later",
            )
        },
        NotOpened::Unavailable(text) => Refusal::unavailable(version, text),
    })?;
    let parked = shared.registry.unpark(&info.client).filter(|p| resumed && last_epoch == Some(p.epoch));

    let (mut outbound, mut received, mut subscriptions) = (Outbound::default(), Vec::new(), HashMap::new());
    if let Some(view) = engine.session(&info.client).filter(|_| resumed) {
        subscriptions = view.subscriptions.iter().map(|(f, o)| (f.clone(), *o)).collect();
        (outbound, received) = restore(engine, view, parked).await;
    }
    let attach = AttachOptions {
        client: info.client.clone(),
        epoch: info.epoch,
        window: info.window,
        in_flight: outbound.lsns(),
    };
    let mailbox = engine.attach_shared(&attach, &outbound.shared());
    outbound.revoke(mailbox.revoked(), mailbox.revoked_shared());
    let inbox =
        LiveInbox::new(info.client.clone(), shared.options.live_queue.max(1), shared.options.limits.live_queue_bytes);
    seat.set_inbox(&inbox);
    let mut connack = connack(shared, &connect, &info, assigned, resumed);
    if let Some((method, data)) = said {
        connack.properties.authentication_method = Some(method);
        connack.properties.authentication_data = data;
    }
    let start = Start { resumed, gate, mailbox, inbox, outbound, received, subscriptions };
    Ok(Opened { session: Session::new(Arc::clone(shared), info, start), seat, commands, connack })
}

fn check(connect: &Connect, shared: &Shared) -> Result<(), Refusal> {
    let (version, limits) = (connect.version, &shared.options.limits);
    if connect.client_id.len() > limits.client_id_bytes {
        Limit::ClientIdBytes.hit();
        let text = format!("the client id is longer than {} bytes", limits.client_id_bytes);
        return Err(Refusal::coded(version, reason::CLIENT_IDENTIFIER_NOT_VALID, 2, &text));
    }
    let Some(will) = &connect.will else { return Ok(()) };
    let refused = if let Err(error) = check_name(&will.topic) {
        Some(format!("the will's topic is refused: {error}"))
    } else {
        limits.topic(&will.topic).map(|limit| {
            limit.hit();
            format!("the will's topic is refused: {}", limit.text())
        })
    };
    if let Some(text) = refused {
        return Err(match version {
            Version::V5 => Refusal::coded(version, reason::TOPIC_NAME_INVALID, 0, &text),
            Version::V31 | Version::V311 => Refusal::malformed(text),
        });
    }
    // What follows is said by properties, which only MQTT 5 has.
    if will.properties.response_topic.as_ref().is_some_and(|topic| check_name(topic).is_err()) {
        let text = "the will's response topic is no topic name";
        return Err(Refusal::coded(version, reason::PROTOCOL_ERROR, 0, text));
    }
    if !payload_is_as_promised(&will.properties, &will.payload) {
        let text = "the will's payload is not the UTF-8 that its format indicator promises";
        return Err(Refusal::coded(version, reason::PAYLOAD_FORMAT_INVALID, 0, text));
    }
    Ok(())
}

/// The client id, and whether it was chosen here.
fn client_id(connect: &Connect, epoch: u64, now_us: u64) -> Result<(ByteString, bool), Refusal> {
    if !connect.client_id.is_empty() {
        return Ok((connect.client_id.clone(), false));
    }
    if connect.version == Version::V31 || connect.version == Version::V311 && !connect.clean_start {
        let text = "an empty client id needs a clean session";
        return Err(Refusal::coded(connect.version, reason::CLIENT_IDENTIFIER_NOT_VALID, 2, text));
    }
    Ok((format!("forebay-{now_us:x}-{epoch:x}").into(), true))
}

/// Asks who comes; for as long as the connect timeout.
async fn authenticate(
    shared: &Shared,
    connect: &Connect,
    client: &ByteString,
    arrival: &Arrival,
) -> Result<Identity, Refusal> {
    let answer = tokio::select! {
        answer = shared.options.access.authenticate(attempt(connect, client, arrival)) => answer,
        () = tokio::time::sleep(shared.options.connect_timeout) => Err(Denied::Busy),
        () = shared.stopped() => return Err(Refusal::unavailable(connect.version, "the server shuts down")),
    };
    answer.map_err(|why| denied(connect, client, arrival, why))
}

/// What a CONNECT shows of who comes.
pub(crate) fn attempt<'a>(connect: &'a Connect, client: &'a ByteString, arrival: &'a Arrival) -> Attempt<'a> {
    Attempt {
        client,
        user: connect.username.as_ref(),
        password: connect.password.as_deref(),
        certificate_user: arrival.certificate_user.as_ref(),
        peer: arrival.peer,
        listener: arrival.listener.options.address,
        anonymous: arrival.listener.options.anonymous,
    }
}

/// The refusal of who is not let in, said to the operator too.
pub(crate) fn denied(connect: &Connect, client: &ByteString, arrival: &Arrival, why: Denied) -> Refusal {
    let user = connect.username.as_deref();
    tracing::info!(peer = %arrival.peer, %client, ?user, reason = %why, "a client is not let in");
    let (v5, v3) = match why {
        Denied::BadCredentials => (reason::BAD_USER_NAME_OR_PASSWORD, 4),
        Denied::NotAuthorized => (reason::NOT_AUTHORIZED, 5),
        Denied::TooManyFailures => (reason::CONNECTION_RATE_EXCEEDED, 3),
        Denied::Busy => (reason::SERVER_BUSY, 3),
    };
    let refusal = Refusal::unauthorized(connect.version, v5, v3, &why.to_string());
    if why == Denied::Busy { Refusal { label: "unavailable", ..refusal } } else { refusal }
}

/// `user` is the verified name; where nobody verifies names it is what the client says.
fn client_info(
    shared: &Shared,
    c: &Connect,
    client: ByteString,
    user: Option<ByteString>,
    arrival: &Arrival,
    epoch: u64,
) -> ClientInfo {
    let options = &shared.options;
    let asked_expiry_s = match c.version {
        Version::V5 => c.properties.session_expiry_s.unwrap_or(0),
        Version::V31 | Version::V311 if c.clean_start => 0,
        Version::V31 | Version::V311 => NEVER_EXPIRES,
    };
    let keep_alive_s = match options.max_keep_alive {
        Some(max) if c.version.is_v5() && (c.keep_alive_s == 0 || c.keep_alive_s > max) => max,
        _ => c.keep_alive_s,
    };
    let username = user.or_else(|| c.username.clone()).unwrap_or_default();
    let peer = ByteString::from(arrival.peer.ip().to_string());
    let will = c.will.as_ref().map(|will| Will {
        delay_s: will.delay_s,
        message: Message {
            topic: will.topic.clone(),
            payload: will.payload.clone(),
            qos: will.qos,
            retain: will.retain,
            publisher: client.clone(),
            username: username.clone(),
            peer: peer.clone(),
            origin: Origin::Will,
            properties: will.properties.clone(),
        },
    });
    ClientInfo {
        client,
        username,
        peer,
        epoch,
        version: c.version,
        clean_start: c.clean_start,
        enhanced: c.properties.authentication_method.is_some(),
        keep_alive_s,
        expiry_s: asked_expiry_s.min(options.session_expiry_max),
        will,
        window: c.properties.receive_maximum.unwrap_or(u16::MAX).min(options.send_window).max(1),
        max_packet_bytes: c.max_packet_bytes(),
        topic_aliases: c.properties.topic_alias_maximum.unwrap_or(0).min(options.sent_topic_aliases),
        problem_information: c.properties.request_problem_information.unwrap_or(true),
    }
}

/// What operators see of a client.
fn facts(info: &ClientInfo, arrival: &Arrival) -> ClientFacts {
    ClientFacts {
        username: info.username.clone(),
        protocol: info.version as u8,
        keep_alive_s: info.keep_alive_s,
        clean_start: info.clean_start,
        expiry_s: info.expiry_s,
        listener: Some(arrival.listener.options.address),
    }
}

/// Why a session was not opened.
enum NotOpened {
    /// The disk is full; sessions that are there can still be resumed.
    NoSpace,
    Unavailable(&'static str),
}

/// Logs the session's opening and waits until it is applied. `discarded` is an older session that ends with it; a will of its that
/// waits out its delay is due then.
async fn open_in_log(
    shared: &Shared,
    info: &ClientInfo,
    discarded: Option<SessionView>,
    resumed: bool,
) -> Result<(), NotOpened> {
    let mut events = Vec::with_capacity(2);
    let due =
        discarded.and_then(|view| view.will.filter(|_| view.will_due_us.is_some()).map(|will| (will, view.epoch)));
    if let Some((will, epoch)) = &due {
        events.push(Event::Published(Published { message: will.message.clone(), packet_id: None, epoch: *epoch }));
    }
    events.push(Event::SessionOpened(SessionOpened {
        client: info.client.clone(),
        epoch: info.epoch,
        resumed,
        expiry_s: info.expiry_s,
        will: info.will.clone(),
        username: info.username.clone(),
        peer: info.peer.clone(),
    }));
    let stopped = |error: &dyn std::fmt::Display| {
        tracing::error!(client = %info.client, %error, "a session could not be opened in the log");
        NotOpened::Unavailable("the log takes no more records")
    };
    // Only the wait for room is bounded: a record that is in the log opens the session.
    let append = async {
        loop {
            match shared.engine.append(&events) {
                Ok(appended) => return Ok(appended),
                Err(AppendError::Full { .. }) => shared.engine.wait_room(&events).await,
                Err(AppendError::NoSpace { .. }) => return Err(NotOpened::NoSpace),
                Err(error) => return Err(stopped(&error)),
            }
        }
    };
    let appended = tokio::time::timeout(shared.options.connect_timeout, append)
        .await
        .map_err(|_| NotOpened::Unavailable("the log has no room"))??;
    shared.engine.applied(appended.last).await.map_err(|error| stopped(&error))?;
    if let Some((will, _)) = due {
        shared.fan_out_qos0(&will.message);
    }
    Ok(())
}

fn connack(shared: &Shared, connect: &Connect, info: &ClientInfo, assigned: bool, resumed: bool) -> ConnAck {
    let options = &shared.options;
    let asked = connect.properties.session_expiry_s.unwrap_or(0);
    let properties = ConnAckProperties {
        session_expiry_s: (asked != info.expiry_s).then_some(info.expiry_s),
        receive_maximum: Some(options.receive_maximum.max(1)),
        maximum_packet_size: u32::try_from(options.max_packet_bytes).ok(),
        assigned_client_id: assigned.then(|| info.client.clone()),
        topic_alias_maximum: (options.topic_alias_maximum > 0).then_some(options.topic_alias_maximum),
        server_keep_alive_s: (info.keep_alive_s != connect.keep_alive_s).then_some(info.keep_alive_s),
        ..ConnAckProperties::default()
    };
    ConnAck { session_present: resumed && info.version != Version::V31, code: 0, properties }
}
