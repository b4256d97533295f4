//! A small MQTT 3.1.1 client, blocking and on the standard library alone.
//!
//! The demonstration and the end-to-end tests use it because it shares no code with the broker: a fault of the broker's
//! codec can't hide behind the same fault here. It keeps what a client has to keep over a broken connection (packet ids in
//! flight, QoS 2 ids received), in a [`Session`] that outlives the connection.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long the server may take to answer a CONNECT or SUBSCRIBE.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What a client remembers between connections.
#[derive(Debug)]
pub struct Session {
    id: String,
    clean: bool,
    /// Topic and payload of the will, published with QoS 1.
    will: Option<(String, String)>,
    next_packet_id: u16,
    next_order: u64,
    /// Publishes not complete, in the order in which they were made.
    outgoing: BTreeMap<u64, Outgoing>,
    /// QoS 2 packet ids received and not released.
    incoming: BTreeSet<u16>,
}

#[derive(Clone, Debug)]
struct Outgoing {
    packet_id: u16,
    tag: u64,
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    /// True when PUBREC came: from then on only PUBREL is sent.
    received: bool,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The server has taken a publish over: PUBACK, or the first PUBREC.
    Acknowledged(u64),
    /// A publish is complete: PUBACK or PUBCOMP.
    Completed(u64),
    /// A message for this client. A QoS 2 message is given once.
    Message {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Vec<u8>,
        /// The QoS it was delivered with.
        qos: u8,
    },
    /// A QoS 2 message is complete: PUBREL came.
    Released,
}

/// An open connection.
#[derive(Debug)]
pub struct Connection<'s> {
    session: &'s mut Session,
    stream: TcpStream,
    input: Vec<u8>,
    events: Vec<Event>,
    /// True when the server knew this session.
    pub session_present: bool,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

impl Session {
    /// A client of this id. `clean` = the server forgets it at the end of the connection.
    pub fn new(id: &str, clean: bool) -> Session {
        Session {
            id: id.to_owned(),
            clean,
            will: None,
            next_packet_id: 1,
            next_order: 0,
            outgoing: BTreeMap::new(),
            incoming: BTreeSet::new(),
        }
    }

    /// The server publishes this, with QoS 1, when a connection of this session ends without a goodbye.
    #[allow(dead_code, reason = "one of the programs that include this file has no use for it")]
    pub fn with_will(mut self, topic: &str, payload: &str) -> Session {
        self.will = Some((topic.to_owned(), payload.to_owned()));
        self
    }

    /// Publishes not complete.
    pub fn in_flight(&self) -> usize {
        self.outgoing.len()
    }

    /// Connects, and sends again what is in flight.
    ///
    /// # Errors
    /// Where the server can't be reached or refuses.
    pub fn connect(&mut self, server: SocketAddr) -> io::Result<Connection<'_>> {
        let stream = TcpStream::connect_timeout(&server, ANSWER_WITHIN)?;
        stream.set_nodelay(true)?;
        let flags = if self.clean { 2 } else { 0 } | if self.will.is_some() { 0x0c } else { 0 };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0];
        put_text(&mut body, &self.id);
        if let Some((topic, payload)) = &self.will {
            put_text(&mut body, topic);
            put_text(&mut body, payload);
        }
        let mut connection =
            Connection { session: self, stream, input: Vec::new(), events: Vec::new(), session_present: false };
        connection.send(0x10, &body)?;
        let answer = connection.answer(0x20)?;
        match answer.as_slice() {
            [present, 0] => connection.session_present = present & 1 == 1,
            _ => return Err(broken("CONNACK refuses the connection")),
        }
        if !connection.session_present {
            connection.session.incoming.clear();
        }
        connection.resend()?;
        Ok(connection)
    }

    fn free_packet_id(&mut self) -> u16 {
        loop {
            let id = self.next_packet_id;
            self.next_packet_id = if id == u16::MAX { 1 } else { id + 1 };
            if !self.outgoing.values().any(|out| out.packet_id == id) {
                return id;
            }
        }
    }

    fn order_of(&self, packet_id: u16) -> Option<u64> {
        self.outgoing.iter().find(|(_, out)| out.packet_id == packet_id).map(|(order, _)| *order)
    }
}

impl Connection<'_> {
    /// Publishes not complete.
    pub fn in_flight(&self) -> usize {
        self.session.in_flight()
    }

    /// Publishes; `tag` names the message in [`Event`]s. QoS 0 has none.
    ///
    /// # Errors
    /// Where the connection is broken; the message stays in flight and is sent again on the next one.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: u8, tag: u64) -> io::Result<()> {
        let packet_id = if qos == 0 { 0 } else { self.session.free_packet_id() };
        let out = Outgoing { packet_id, tag, topic: topic.to_owned(), payload: payload.to_vec(), qos, received: false };
        if qos > 0 {
            self.session.outgoing.insert(self.session.next_order, out.clone());
            self.session.next_order += 1;
        }
        self.send_publish(&out, false)
    }

    /// Subscribes, and waits for the answer.
    ///
    /// # Errors
    /// Where the connection is broken or the server refuses.
    pub fn subscribe(&mut self, filter: &str, qos: u8) -> io::Result<()> {
        let mut body = vec![0, 1];
        put_text(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body)?;
        match self.answer(0x90)?.last() {
            Some(granted) if *granted <= 2 => Ok(()),
            _ => Err(broken("SUBACK refuses the subscription")),
        }
    }

    /// Unsubscribes, and waits for the answer.
    ///
    /// # Errors
    /// Where the connection is broken.
    #[allow(dead_code, reason = "one of the programs that include this file has no use for it")]
    pub fn unsubscribe(&mut self, filter: &str) -> io::Result<()> {
        let mut body = vec![0, 1];
        put_text(&mut body, filter);
        self.send(0xa2, &body)?;
        self.answer(0xb0).map(drop)
    }

    /// What happened since the last call; waits at most `patience` for something.
    ///
    /// # Errors
    /// Where the connection is broken. Events that came before are given first.
    pub fn poll(&mut self, patience: Duration) -> io::Result<Vec<Event>> {
        match self.gather(Instant::now() + patience) {
            // A message whose acknowledgement could not be sent was received all the same; the next call meets the fault again.
            Err(fault) if self.events.is_empty() => Err(fault),
            _ => Ok(std::mem::take(&mut self.events)),
        }
    }

    fn gather(&mut self, end: Instant) -> io::Result<()> {
        while self.events.is_empty() {
            match self.packet(end)? {
                Some((first, body)) => self.take(first, &body)?,
                None => break,
            }
            // Take along what has arrived already.
            while let Some((first, body)) = self.buffered()? {
                self.take(first, &body)?;
            }
        }
        Ok(())
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// Where the connection is broken.
    pub fn disconnect(mut self) -> io::Result<()> {
        self.send(0xe0, &[])
    }

    /// The local port.
    #[allow(dead_code, reason = "one of the programs that include this file has no use for it")]
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.stream.local_addr()?.port())
    }

    fn resend(&mut self) -> io::Result<()> {
        let outgoing: Vec<Outgoing> = self.session.outgoing.values().cloned().collect();
        for out in outgoing {
            if out.received {
                self.send(0x62, &out.packet_id.to_be_bytes())?;
            } else {
                self.send_publish(&out, true)?;
            }
        }
        Ok(())
    }

    fn send_publish(&mut self, out: &Outgoing, again: bool) -> io::Result<()> {
        let mut body = Vec::with_capacity(out.topic.len() + out.payload.len() + 4);
        put_text(&mut body, &out.topic);
        if out.qos > 0 {
            body.extend_from_slice(&out.packet_id.to_be_bytes());
        }
        body.extend_from_slice(&out.payload);
        self.send(0x30 | (out.qos << 1) | (u8::from(again) << 3), &body)
    }

    fn send(&mut self, first: u8, body: &[u8]) -> io::Result<()> {
        let mut packet = vec![first];
        let mut length = body.len();
        loop {
            let low = (length % 128) as u8;
            length /= 128;
            packet.push(if length > 0 { low | 0x80 } else { low });
            if length == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        self.stream.write_all(&packet)
    }

    /// Reads until a packet of this type comes; everything else is dealt with on the way.
    fn answer(&mut self, first: u8) -> io::Result<Vec<u8>> {
        let end = Instant::now() + ANSWER_WITHIN;
        loop {
            match self.packet(end)? {
                Some((got, body)) if got == first => return Ok(body),
                Some((got, body)) => self.take(got, &body)?,
                None => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
    }

    fn take(&mut self, first: u8, body: &[u8]) -> io::Result<()> {
        if first & 0xf0 == 0x30 {
            return self.take_publish(first, body);
        }
        let [high, low, ..] = body else { return Ok(()) };
        let packet_id = u16::from_be_bytes([*high, *low]);
        match first & 0xf0 {
            0x40 | 0x70 => {
                if let Some(out) =
                    self.session.order_of(packet_id).and_then(|order| self.session.outgoing.remove(&order))
                {
                    if !out.received {
                        self.events.push(Event::Acknowledged(out.tag));
                    }
                    self.events.push(Event::Completed(out.tag));
                }
            }
            0x50 => {
                if let Some(out) =
                    self.session.order_of(packet_id).and_then(|order| self.session.outgoing.get_mut(&order))
                    && !out.received
                {
                    out.received = true;
                    self.events.push(Event::Acknowledged(out.tag));
                }
                self.send(0x62, &packet_id.to_be_bytes())?;
            }
            0x60 => {
                self.session.incoming.remove(&packet_id);
                self.events.push(Event::Released);
                self.send(0x70, &packet_id.to_be_bytes())?;
            }
            _ => {}
        }
        Ok(())
    }

    fn take_publish(&mut self, first: u8, body: &[u8]) -> io::Result<()> {
        let qos = (first >> 1) & 3;
        let short = || broken("PUBLISH is too short");
        let (length, rest) = body.split_first_chunk::<2>().ok_or_else(short)?;
        let (topic, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(short)?;
        let (packet_id, payload) = if qos == 0 {
            (0, rest)
        } else {
            let (id, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
            (u16::from_be_bytes(*id), rest)
        };
        if qos < 2 || self.session.incoming.insert(packet_id) {
            let topic = String::from_utf8_lossy(topic).into_owned();
            self.events.push(Event::Message { topic, payload: payload.to_vec(), qos });
        }
        match qos {
            1 => self.send(0x40, &packet_id.to_be_bytes()),
            2 => self.send(0x50, &packet_id.to_be_bytes()),
            _ => Ok(()),
        }
    }

    /// The next packet; `None` where none comes before `end`.
    fn packet(&mut self, end: Instant) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            if let Some(packet) = self.buffered()? {
                return Ok(Some(packet));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.input.extend_from_slice(chunk.get(..read).unwrap_or_default()),
                Err(fault) if matches!(fault.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) => return Err(fault),
            }
        }
    }

    /// A packet that has arrived in full.
    fn buffered(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut length = 0_usize;
        for (at, byte) in self.input.iter().skip(1).enumerate() {
            if at == 4 {
                return Err(broken("the remaining length has more than four bytes"));
            }
            length |= usize::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 != 0 {
                continue;
            }
            let head = at + 2;
            if self.input.len() < head + length {
                return Ok(None);
            }
            let rest = self.input.split_off(head + length);
            let packet = std::mem::replace(&mut self.input, rest);
            let body = packet.get(head..).unwrap_or_default().to_vec();
            return Ok(packet.first().map(|first| (*first, body)));
        }
        Ok(None)
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
