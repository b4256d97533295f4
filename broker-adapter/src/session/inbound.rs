//! What a publisher has under way: QoS 2 packet ids not released, its quota, its topic aliases.

use std::collections::HashMap;

use bytestring::ByteString;

/// A topic alias that says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AliasError {
    /// 0, or more than the client was granted.
    OutOfRange,
    /// It stands for nothing yet.
    Unknown,
}

/// The inbound side of a session.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// QoS 2 packet ids received and not released; true where they count against this connection's quota.
    received: HashMap<u16, bool>,
    under_way: usize,
    receive_maximum: usize,
    alias_maximum: u16,
    /// As long as the highest alias in use: most clients use none.
    aliases: Vec<Option<ByteString>>,
}

impl Inbound {
    /// `received` are the ids that earlier connections left; each connection starts with its whole quota.
    pub(crate) fn new(received: impl IntoIterator<Item = u16>, receive_maximum: u16, topic_alias_maximum: u16) -> Self {
        Inbound {
            received: received.into_iter().map(|id| (id, false)).collect(),
            under_way: 0,
            receive_maximum: usize::from(receive_maximum),
            alias_maximum: topic_alias_maximum,
            aliases: Vec::new(),
        }
    }

    /// Counts a QoS 1/2 publish; false where the client has sent more than Receive Maximum allows.
    pub(crate) fn begin(&mut self) -> bool {
        self.under_way += 1;
        self.under_way <= self.receive_maximum
    }

    /// QoS 1/2 publishes that are not answered, and QoS 2 ones not released.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way
    }

    /// A QoS 1 publish was answered.
    pub(crate) fn answered(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// True where this QoS 2 id was received before and is not released.
    pub(crate) fn is_received(&self, id: u16) -> bool {
        self.received.contains_key(&id)
    }

    /// Takes a QoS 2 id in.
    pub(crate) fn receive(&mut self, id: u16) {
        self.received.insert(id, true);
    }

    /// PUBREL; false where the id is not known.
    pub(crate) fn release(&mut self, id: u16) -> bool {
        match self.received.remove(&id) {
            Some(counted) => {
                if counted {
                    self.answered();
                }
                true
            }
            None => false,
        }
    }

    /// Ids received and not released.
    pub(crate) fn received(&self) -> Vec<u16> {
        self.received.keys().copied().collect()
    }

    /// The topic that a PUBLISH means.
    pub(crate) fn resolve(&mut self, topic: ByteString, alias: Option<u16>) -> Result<ByteString, AliasError> {
        let Some(alias) = alias else { return Ok(topic) };
        if alias == 0 || alias > self.alias_maximum {
            return Err(AliasError::OutOfRange);
        }
        let at = usize::from(alias - 1);
        if !topic.is_empty() && at >= self.aliases.len() {
            self.aliases.resize(at + 1, None);
        }
        let Some(slot) = self.aliases.get_mut(at) else { return Err(AliasError::Unknown) };
        if topic.is_empty() {
            return slot.clone().ok_or(AliasError::Unknown);
        }
        // A copy: a part of the input would keep all of it in memory for as long as the connection lasts.
        *slot = Some(ByteString::from(topic.to_string()));
        Ok(topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_counts_what_is_unanswered_on_this_connection_only() {
        let mut inbound = Inbound::new([5], 2, 0);
        assert!(inbound.is_received(5));
        assert!(inbound.begin() && inbound.begin());
        inbound.receive(6);
        assert!(inbound.release(5), "left by an earlier connection");
        assert!(!inbound.begin(), "a third is too many");
        inbound.answered();
        assert!(inbound.release(6));
        assert!(!inbound.release(6));
        assert!(inbound.begin());
    }

    #[test]
    fn aliases_are_learned_replaced_and_bounded() {
        let mut inbound = Inbound::new([], 1, 2);
        assert_eq!(inbound.resolve("a".into(), Some(1)), Ok("a".into()));
        assert_eq!(inbound.resolve("".into(), Some(1)), Ok("a".into()));
        assert_eq!(inbound.resolve("b".into(), Some(1)), Ok("b".into()));
        assert_eq!(inbound.resolve("".into(), Some(1)), Ok("b".into()));
        assert_eq!(inbound.resolve("".into(), Some(2)), Err(AliasError::Unknown));
        assert_eq!(inbound.resolve("c".into(), Some(3)), Err(AliasError::OutOfRange));
        assert_eq!(inbound.resolve("c".into(), None), Ok("c".into()));
    }
}
