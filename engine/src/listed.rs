//! Lists that are given a part at a time.

use bytestring::ByteString;

/// Part of a list, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<T, K = ByteString> {
    /// The rows.
    pub rows: Vec<T>,
    /// The next part is what comes behind this place; `None`: this is the last one.
    pub next: Option<K>,
}
