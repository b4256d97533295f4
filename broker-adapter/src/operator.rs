//! What an operator does to clients and messages: look, end, remove, publish.

use std::sync::Arc;
use std::time::Duration;

use bytestring::ByteString;
use forebay_engine::event::{Event, Origin, Properties, Published, SessionClosed, Will};
use forebay_engine::log::{AppendError, Appended};
use forebay_engine::topic::{TopicError, check_name};
use forebay_engine::{Engine, Message, QoS};

use crate::broker::Shared;
use crate::janitor;
use crate::registry::{ClientView, Command};

/// How long a client may take to be off, and the log to have room.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The client is not connected.
    #[error("client `{0}` is not connected")]
    NotConnected(ByteString),
    /// There is no such session.
    #[error("client `{0}` has no session")]
    NoSession(ByteString),
    /// Nothing is retained there.
    #[error("topic `{0}` has no retained message")]
    NotRetained(ByteString),
    /// What was published has a topic that nobody can publish to.
    #[error("topic `{topic}`: {source}")]
    Topic {
        /// The topic.
        topic: ByteString,
        /// What is wrong with it.
        source: TopicError,
    },
    /// The message is larger than a client's may be.
    #[error("the message is larger than the {max} bytes that a packet may have (`mqtt.packet_bytes_max`)")]
    TooLarge {
        /// The limit, bytes.
        max: usize,
    },
    /// The client comes back again and again.
    #[error("client `{0}` comes back faster than it can be ended; refuse it first (rules, users), or stop it")]
    ComesBack(ByteString),
    /// The client's connection is ended, and its session goes on.
    #[error("the connection of client `{client}` is ended, its session is not: {why}")]
    HalfDone {
        /// The client.
        client: ByteString,
        /// Why the session's end was not logged.
        why: String,
    },
    /// Nothing was appended.
    #[error("nothing was done: {0}")]
    Log(String),
}

/// Acts for an operator. Cheap to clone; lives as long as the broker is of use.
#[derive(Clone)]
pub struct Operator {
    shared: Arc<Shared>,
}

/// What became of a session that was to be ended.
enum Closed {
    NoSession,
    /// With the will that was published.
    Logged(Appended, Option<Arc<Will>>),
    /// There will be room for these.
    Full(Vec<Event>),
    Refused(AppendError),
}

/// What a message takes as an MQTT 5 packet, bytes, and a few more: its lengths count as if they were the longest.
fn packet_bytes(message: &Message) -> usize {
    /// A header with its length, the topic's length, a packet id, and the length of the properties.
    const FRAME: usize = 5 + 2 + 2 + 4;
    let Properties { payload_format, expiry_s, content_type, response_topic, correlation_data, user } =
        &message.properties;
    let text = |text: &ByteString| 3 + text.len();
    let properties = payload_format.map_or(0, |_| 2)
        + expiry_s.map_or(0, |_| 5)
        + content_type.as_ref().map_or(0, text)
        + response_topic.as_ref().map_or(0, text)
        + correlation_data.as_ref().map_or(0, |data| 3 + data.len())
        + user.iter().map(|(name, value)| 5 + name.len() + value.len()).sum::<usize>();
    FRAME + message.topic.len() + message.payload.len() + properties
}

impl Operator {
    pub(crate) fn new(shared: Arc<Shared>) -> Operator {
        Operator { shared }
    }

    fn engine(&self) -> &Engine {
        &self.shared.engine
    }

    /// Connected clients by client id: those behind `after` (empty: from the first), at most `limit`.
    #[must_use]
    pub fn clients_after(&self, after: &str, limit: usize) -> Vec<ClientView> {
        self.shared.registry.clients_after(after, limit)
    }

    /// A connected client.
    #[must_use]
    pub fn client(&self, client: &str) -> Option<ClientView> {
        self.shared.registry.client(client)
    }

    /// Ends a client's connection (DISCONNECT 0x98 to MQTT 5) and waits until it is off: its end is durable then. Its session stays,
    /// and nothing keeps it from coming back.
    ///
    /// # Errors
    /// It is not connected, or does not get off.
    pub async fn kick(&self, client: &str) -> Result<(), OperatorError> {
        match tokio::time::timeout(PATIENCE, self.shared.registry.end(client, Command::Kick)).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(OperatorError::NotConnected(client.into())),
            Err(_) => Err(OperatorError::Log("the connection's end waits for the log".into())),
        }
    }

    /// Ends a client's session, and its connection before that; a will that still waits is published with it. Durable when it
    /// returns. Read positions of rules (`pubsub/...`) belong to the client and stay.
    ///
    /// # Errors
    /// There is no such session, or it can't be ended now.
    pub async fn drop_session(&self, client: &str) -> Result<(), OperatorError> {
        let work = async {
            let mut kicked = false;
            loop {
                kicked |= self.shared.registry.end(client, Command::Kick).await;
                // Who comes back is either seen or opens his session behind this record.
                match self.shared.registry.unless_online(client, || self.close_session(client)) {
                    None => {}
                    // It ended with its connection.
                    Some(Closed::NoSession) if kicked => return Ok(()),
                    Some(Closed::NoSession) => return Err(OperatorError::NoSession(client.into())),
                    Some(Closed::Logged(appended, will)) => {
                        if let Some(will) = will {
                            self.shared.fan_out_qos0(&will.message);
                        }
                        return self.applied(appended).await;
                    }
                    Some(Closed::Full(events)) => self.engine().wait_room(&events).await,
                    Some(Closed::Refused(error)) if kicked => {
                        return Err(OperatorError::HalfDone { client: client.into(), why: error.to_string() });
                    }
                    Some(Closed::Refused(error)) => return Err(OperatorError::Log(error.to_string())),
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, work).await;
        ended.unwrap_or_else(|_| Err(OperatorError::ComesBack(client.into())))
    }

    /// Logs the end of a client's session, with the will that waits. The client is not online and does not come back meanwhile.
    fn close_session(&self, client: &str) -> Closed {
        let Some(view) = self.engine().session(client) else { return Closed::NoSession };
        let mut events: Vec<Event> = janitor::will_event(&view).into_iter().collect();
        events.push(Event::SessionClosed(SessionClosed { client: view.client.clone(), epoch: view.epoch }));
        match self.engine().append(&events) {
            Ok(appended) => {
                self.shared.registry.forget(client);
                Closed::Logged(appended, view.will)
            }
            Err(AppendError::Full { .. }) => Closed::Full(events),
            Err(error) => Closed::Refused(error),
        }
    }

    /// Publishes as a client would: rules fire, it is retained where it says so, subscribers get it. `publisher`, `username`, `peer`
    /// and `origin` are the operator's. Where it was logged its record is given, and durable; `None` where nobody has asked for it
    /// to be stored (no rule, no subscriber of QoS 1 or 2, not retained): it went to those who are connected.
    ///
    /// # Errors
    /// It can't be published, or the log takes no records now.
    pub async fn publish(&self, message: Message) -> Result<Option<Appended>, OperatorError> {
        let topic = message.topic.clone();
        check_name(&topic).map_err(|source| OperatorError::Topic { topic: topic.clone(), source })?;
        let max = self.shared.options.max_packet_bytes;
        if packet_bytes(&message) > max {
            return Err(OperatorError::TooLarge { max });
        }
        let message =
            Message { publisher: "".into(), username: "".into(), peer: "".into(), origin: Origin::Operator, ..message };
        if !self.engine().wants(&message) {
            self.shared.fan_out(message);
            return Ok(None);
        }
        let events = [Event::Published(Published { message: message.clone(), packet_id: None, epoch: 0 })];
        let appended = match tokio::time::timeout(PATIENCE, self.engine().append_wait(&events)).await {
            Ok(Ok(appended)) => appended,
            Ok(Err(error)) => return Err(OperatorError::Log(error.to_string())),
            Err(_) => return Err(OperatorError::Log("the log has no room".into())),
        };
        self.shared.fan_out_qos0(&message);
        self.applied(appended).await?;
        Ok(Some(appended))
    }

    /// Removes the retained message of a topic, as publishing an empty one with the retain flag does. Durable when it returns.
    ///
    /// # Errors
    /// Nothing is retained there, or the log takes no records now.
    pub async fn clear_retained(&self, topic: &str) -> Result<Option<Appended>, OperatorError> {
        if self.engine().retained(topic).is_none() {
            return Err(OperatorError::NotRetained(topic.into()));
        }
        let message = Message { topic: topic.into(), qos: QoS::AtLeastOnce, retain: true, ..Message::default() };
        self.publish(message).await
    }

    /// Waits until a record is durable and in state.
    async fn applied(&self, appended: Appended) -> Result<(), OperatorError> {
        let applied = self.engine().applied(appended.last).await;
        applied.map_err(|error| OperatorError::Log(error.to_string()))
    }
}
