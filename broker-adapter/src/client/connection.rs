//! One connection of a client.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use forebay_engine::QoS;
use forebay_engine::event::SubscriptionOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::session::{ClientSession, Completion};
use crate::codec::{
    Ack, ConnAck, Connect, ConnectProperties, ConnectWill, DecodeError, Decoder, Disconnect, EncodeError,
    PACKET_BYTES_MAX, Packet, Publish, RequestedFilter, SubAck, Subscribe, Unsubscribe, Version, encode,
};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Protocol version.
    pub version: Version,
    /// Client id, empty where the server is to choose one.
    pub client_id: ByteString,
    /// Clean start (clean session).
    pub clean_start: bool,
    /// Keep alive in seconds, 0 = off. The caller sends [`Client::ping`] himself.
    pub keep_alive_s: u16,
    /// Will.
    pub will: Option<ConnectWill>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password.
    pub password: Option<Bytes>,
    /// MQTT 5 properties.
    pub properties: ConnectProperties,
    /// PUBACK, PUBREC and PUBCOMP are sent by [`Client::next`]; without, PUBACK and PUBREC by [`Client::acknowledge`].
    pub automatic_acks: bool,
    /// How long connecting may take, CONNACK included.
    pub timeout: Duration,
}

impl ConnectOptions {
    /// A clean session of MQTT 5 with this id.
    #[must_use]
    pub fn clean(client_id: &str) -> ConnectOptions {
        ConnectOptions {
            version: Version::V5,
            client_id: client_id.into(),
            clean_start: true,
            keep_alive_s: 0,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
            automatic_acks: true,
            timeout: Duration::from_secs(10),
        }
    }

    /// A session of MQTT 5 that is resumed where there is one and outlives its connection by `expiry_s`.
    #[must_use]
    pub fn persistent(client_id: &str, expiry_s: u32) -> ConnectOptions {
        let properties = ConnectProperties { session_expiry_s: Some(expiry_s), ..ConnectProperties::default() };
        ConnectOptions { clean_start: false, properties, ..ConnectOptions::clean(client_id) }
    }

    /// The same with MQTT 3.1.1 (where a session that is not clean never expires).
    #[must_use]
    pub fn v311(self) -> ConnectOptions {
        ConnectOptions { version: Version::V311, properties: ConnectProperties::default(), ..self }
    }
}

/// What went wrong. The connection is of no use afterwards; the session is.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The server sent what is no packet.
    #[error("the server sent a malformed packet: {0}")]
    Decode(#[from] DecodeError),
    /// A packet can't be written.
    #[error("the packet can't be written: {0}")]
    Encode(#[from] EncodeError),
    /// The server refused CONNECT.
    #[error("the server refused the connection with code {0:#04x}")]
    Refused(u8),
    /// The server sent DISCONNECT.
    #[error("the server disconnected with reason {0:#04x}")]
    Disconnected(u8),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// No CONNACK in time.
    #[error("no answer to CONNECT in time")]
    Timeout,
    /// All packet ids are in use.
    #[error("all 65535 packet ids are in use")]
    NoPacketId,
}

/// What [`Client::next`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A message; QoS 2 messages once, however often they are sent.
    Message(Publish),
    /// A publish of this client is completed.
    Completed(Completion),
    /// SUBACK.
    Subscribed(SubAck),
    /// UNSUBACK.
    Unsubscribed(SubAck),
    /// PINGRESP.
    Pong,
}

/// A connection. Writes are buffered until [`Client::flush`] or [`Client::next`].
pub struct Client {
    stream: TcpStream,
    version: Version,
    decoder: Decoder,
    input: BytesMut,
    out: BytesMut,
    session: ClientSession,
    automatic_acks: bool,
    connack: ConnAck,
}

impl Client {
    /// Connects. Where the server resumes the session, what `session` has unacknowledged is sent again; where it does not,
    /// QoS 2 ids received are forgotten and the publishes are sent as new ones under their old ids.
    ///
    /// # Errors
    /// The connection fails, is refused, or takes too long.
    pub async fn connect(
        address: SocketAddr,
        options: ConnectOptions,
        session: ClientSession,
    ) -> Result<Client, ClientError> {
        let timeout = options.timeout;
        let connecting = Self::connect_now(address, options, session);
        tokio::time::timeout(timeout, connecting).await.map_err(|_| ClientError::Timeout)?
    }

    async fn connect_now(
        address: SocketAddr,
        options: ConnectOptions,
        session: ClientSession,
    ) -> Result<Client, ClientError> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let version = options.version;
        let mut client = Client {
            stream,
            version,
            decoder: Decoder::client(version, PACKET_BYTES_MAX),
            input: BytesMut::with_capacity(16 * 1024),
            out: BytesMut::with_capacity(4096),
            session,
            automatic_acks: options.automatic_acks,
            connack: ConnAck::default(),
        };
        client.send(&Packet::Connect(Box::new(Connect {
            version,
            client_id: options.client_id,
            clean_start: options.clean_start,
            keep_alive_s: options.keep_alive_s,
            will: options.will,
            username: options.username,
            password: options.password,
            properties: options.properties,
        })))?;
        match client.read_packet().await? {
            Packet::ConnAck(ack) if ack.code == 0 => client.connack = *ack,
            Packet::ConnAck(ack) => return Err(ClientError::Refused(ack.code)),
            _ => return Err(ClientError::Decode(DecodeError::ConnectExpected)),
        }
        if !client.connack.session_present {
            client.session.forget_received();
        }
        for packet in client.session.resend(client.connack.session_present) {
            client.send(&packet)?;
        }
        client.flush().await?;
        Ok(client)
    }

    /// The server's CONNACK.
    #[must_use]
    pub fn connack(&self) -> &ConnAck {
        &self.connack
    }

    /// Publishes that are not completed.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        self.session.unacknowledged()
    }

    /// Buffers a PUBLISH; its packet id (0 with QoS 0) is what the [`Completion`] names. The caller keeps the window.
    ///
    /// # Errors
    /// All packet ids are in use, or the message can't be written.
    pub fn publish(&mut self, topic: &str, payload: Bytes, qos: QoS, retain: bool) -> Result<u16, ClientError> {
        self.publish_packet(Publish { qos, retain, topic: topic.into(), payload, ..Publish::default() })
    }

    /// As [`Client::publish`], with properties. The packet id is chosen here.
    ///
    /// # Errors
    /// All packet ids are in use, or the message can't be written.
    pub fn publish_packet(&mut self, mut publish: Publish) -> Result<u16, ClientError> {
        publish.packet_id = 0;
        if publish.qos != QoS::AtMostOnce {
            publish.packet_id = self.session.next_id().ok_or(ClientError::NoPacketId)?;
        }
        let packet = Packet::Publish(publish);
        self.send(&packet)?;
        if let Packet::Publish(publish) = packet
            && publish.packet_id != 0
        {
            let id = publish.packet_id;
            self.session.remember(publish);
            return Ok(id);
        }
        Ok(0)
    }

    /// Buffers a SUBSCRIBE; the SUBACK comes as [`Incoming::Subscribed`].
    ///
    /// # Errors
    /// The packet can't be written.
    pub fn subscribe(&mut self, filters: &[(&str, SubscriptionOptions)]) -> Result<u16, ClientError> {
        let packet_id = self.session.next_id().ok_or(ClientError::NoPacketId)?;
        let requested = |(filter, options): &(&str, SubscriptionOptions)| RequestedFilter {
            filter: (*filter).into(),
            options: *options,
        };
        let filters = filters.iter().map(requested).collect();
        self.send(&Packet::Subscribe(Subscribe { packet_id, filters, user: Vec::new() }))?;
        Ok(packet_id)
    }

    /// Buffers an UNSUBSCRIBE; the UNSUBACK comes as [`Incoming::Unsubscribed`].
    ///
    /// # Errors
    /// The packet can't be written.
    pub fn unsubscribe(&mut self, filters: &[&str]) -> Result<u16, ClientError> {
        let packet_id = self.session.next_id().ok_or(ClientError::NoPacketId)?;
        let filters = filters.iter().map(|f| ByteString::from(*f)).collect();
        self.send(&Packet::Unsubscribe(Unsubscribe { packet_id, filters, user: Vec::new() }))?;
        Ok(packet_id)
    }

    /// Buffers a PINGREQ.
    ///
    /// # Errors
    /// None in practice: the packet has a fixed size.
    pub fn ping(&mut self) -> Result<(), ClientError> {
        self.send(&Packet::PingReq)
    }

    /// Buffers the first acknowledgement of a message (PUBACK or PUBREC), where acks are not automatic.
    ///
    /// # Errors
    /// None in practice: the packet has a fixed size.
    pub fn acknowledge(&mut self, message: &Publish) -> Result<(), ClientError> {
        match message.qos {
            QoS::AtMostOnce => Ok(()),
            QoS::AtLeastOnce => self.send(&Packet::PubAck(Ack::new(message.packet_id, 0))),
            QoS::ExactlyOnce => self.send(&Packet::PubRec(Ack::new(message.packet_id, 0))),
        }
    }

    /// Buffers any packet as it is.
    ///
    /// # Errors
    /// The packet can't be written.
    pub fn send(&mut self, packet: &Packet) -> Result<(), ClientError> {
        Ok(encode(packet, self.version, &mut self.out)?)
    }

    /// Writes what is buffered.
    ///
    /// # Errors
    /// The connection fails.
    pub async fn flush(&mut self) -> Result<(), ClientError> {
        while !self.out.is_empty() {
            self.stream.write_buf(&mut self.out).await?;
        }
        Ok(())
    }

    /// Writes what is buffered and waits for the next thing that concerns the caller. Cancellation safe.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn next(&mut self) -> Result<Incoming, ClientError> {
        loop {
            let packet = self.read_packet().await?;
            if let Some(incoming) = self.on_packet(packet)? {
                return Ok(incoming);
            }
        }
    }

    /// Ends the connection with DISCONNECT; the session for the next one.
    ///
    /// # Errors
    /// The connection fails; the session is lost with it, so use [`Client::into_session`] where it matters.
    pub async fn disconnect(mut self, reason: u8) -> Result<ClientSession, ClientError> {
        self.send(&Packet::Disconnect(Disconnect::new(reason)))?;
        self.flush().await?;
        self.stream.shutdown().await?;
        Ok(self.session)
    }

    /// Drops the connection without a word; the session for the next one.
    #[must_use]
    pub fn into_session(self) -> ClientSession {
        self.session
    }

    async fn read_packet(&mut self) -> Result<Packet, ClientError> {
        loop {
            if let Some(packet) = self.decoder.decode(&mut self.input)? {
                return Ok(packet);
            }
            self.flush().await?;
            self.input.reserve(16 * 1024);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(ClientError::Closed);
            }
        }
    }

    fn on_packet(&mut self, packet: Packet) -> Result<Option<Incoming>, ClientError> {
        Ok(match packet {
            Packet::Publish(publish) => {
                let new = self.session.is_new(&publish);
                // One seen before is acknowledged again in any case: its first acknowledgement was lost.
                if self.automatic_acks || !new {
                    self.acknowledge(&publish)?;
                }
                new.then_some(Incoming::Message(publish))
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => self.session.acknowledged(&ack).map(Incoming::Completed),
            Packet::PubRec(ack) => match self.session.received(&ack) {
                Ok(release) => {
                    self.send(&release)?;
                    None
                }
                Err(completion) => completion.map(Incoming::Completed),
            },
            Packet::PubRel(ack) => {
                let complete = self.session.released(ack.packet_id);
                self.send(&complete)?;
                None
            }
            Packet::SubAck(ack) => Some(Incoming::Subscribed(ack)),
            Packet::UnsubAck(ack) => Some(Incoming::Unsubscribed(ack)),
            Packet::PingResp => Some(Incoming::Pong),
            Packet::Disconnect(disconnect) => return Err(ClientError::Disconnected(disconnect.reason)),
            _ => return Err(ClientError::Decode(DecodeError::UnknownType(0))),
        })
    }
}
