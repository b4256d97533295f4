//! Names of keys, and where a cluster keeps them.

/// Message hash of a msgid, and sorted set of a topic: the guide gives both the same prefix.
pub(super) fn message(name: &str) -> String {
    format!("mqtt:msg:{name}")
}

pub(super) fn retain(topic: &str) -> String {
    format!("mqtt:retain:{topic}")
}

pub(super) fn acked(client: &str, topic: &str) -> String {
    format!("mqtt:acked:{client}:{topic}")
}

pub(super) fn client(client: &str) -> String {
    format!("mqtt:client:{client}")
}

pub(super) fn node(node: &str) -> String {
    format!("mqtt:node:{node}")
}

pub(super) fn subscriptions(client: &str) -> String {
    format!("mqtt:sub:{client}")
}

/// Topics of which a client has a read position: what a wildcard unsubscribe looks at.
pub(super) fn acked_topics(client: &str) -> String {
    format!("forebay:acked:{client}")
}

/// Which of a topic's messages were imported: `m:<our msgid>` -> theirs, `k:<theirs>` -> ours.
pub(super) fn imported(topic: &str) -> String {
    format!("forebay:imported:{topic}")
}

/// The node that saw the client come last.
pub(super) fn at(client: &str) -> String {
    format!("forebay:at:{client}")
}

/// Keys of one sink. They share a slot.
#[derive(Clone, Debug)]
pub(super) struct Home {
    /// Hash: lane -> position, `prefix`, `epoch` (changes whenever positions go back), `masters` (cluster).
    pub(super) positions: String,
    /// Hash: operations that are done beyond the position.
    pub(super) partial: String,
    /// Sorted set: time in ms -> `m<msgid><topic>` (message) or `r<msgid><topic>` (retained).
    pub(super) expiry: String,
    /// Sorted set (cluster): time in ms -> prefix at that time.
    pub(super) history: String,
}

impl Home {
    pub(super) fn new(log_id: u64, sink: &str) -> Home {
        let key = |what: &str| format!("forebay:{{{log_id:016x}/{sink}}}:{what}");
        Home { positions: key("position"), partial: key("partial"), expiry: key("expiry"), history: key("history") }
    }
}

/// Slots of a cluster.
pub(super) const SLOTS: usize = 16_384;

/// The slot of a key: of what stands between its first `{` and the next `}`, if anything does, else of all of it.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        let close = rest.iter().position(|b| *b == b'}')?;
        rest.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % (SLOTS as u16)
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"{user1000}.followers"));
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        let home = Home::new(7, "redis/pool1");
        assert_eq!(slot(home.positions.as_bytes()), slot(home.expiry.as_bytes()));
    }
}
