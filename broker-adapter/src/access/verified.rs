//! Credentials that were verified: a connect storm costs one argon2 a user and not one a connection.

use std::collections::HashMap;

use bytestring::ByteString;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;

use super::password::Hash;
use super::users::Users;
use crate::metrics::VERIFIED_CREDENTIALS;

/// Remembers of each user that a password was verified against his hash: an HMAC-SHA-256 of all three under a key that this process made
/// and never gives away. In memory only.
pub(crate) struct Verified {
    key: Option<hmac::Key>,
    limit: usize,
    tags: Mutex<HashMap<ByteString, Entry>>,
}

struct Entry {
    tag: hmac::Tag,
    /// The hash it was verified against.
    hash: Box<str>,
}

impl Verified {
    /// Remembers at most `limit` users; none where the system gives no random bytes.
    pub(crate) fn new(limit: usize) -> Verified {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new()).ok().filter(|_| limit > 0);
        if key.is_none() && limit > 0 {
            tracing::warn!("no random bytes: verified credentials are not remembered, every connection costs a hash");
        }
        Verified { key, limit, tags: Mutex::default() }
    }

    /// Whether this password was verified against this very hash.
    pub(crate) fn has(&self, user: &str, password: &[u8], hash: &Hash) -> bool {
        let Some(key) = &self.key else { return false };
        let tags = self.tags.lock();
        let Some(entry) = tags.get(user) else { return false };
        let tag = entry.tag;
        drop(tags);
        hmac::verify(key, &message(user, password, hash), tag.as_ref()).is_ok()
    }

    pub(crate) fn insert(&self, user: &str, password: &[u8], hash: &Hash) {
        let Some(key) = &self.key else { return };
        let entry = Entry { tag: hmac::sign(key, &message(user, password, hash)), hash: hash.text().into() };
        let mut tags = self.tags.lock();
        if tags.len() >= self.limit && !tags.contains_key(user) {
            // Any of them: the order of a HashMap is random. Its user pays for one more hash.
            let victim = tags.keys().next().cloned();
            victim.map(|victim| tags.remove(&victim));
        }
        // A copy: the name given is a part of the connection's input.
        tags.insert(ByteString::from(user), entry);
        metrics::gauge!(VERIFIED_CREDENTIALS).set(tags.len() as f64);
    }

    /// Forgets users whose line has gone or changed.
    pub(crate) fn keep(&self, users: &Users) {
        let mut tags = self.tags.lock();
        tags.retain(|user, entry| users.get(user).is_some_and(|hash| hash.text() == &*entry.hash));
        metrics::gauge!(VERIFIED_CREDENTIALS).set(tags.len() as f64);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.tags.lock().len()
    }
}

/// What is signed: lengths go before what they measure, so that no two sets of credentials give the same bytes.
fn message(user: &str, password: &[u8], hash: &Hash) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + user.len() + password.len() + hash.text().len());
    for part in [user.as_bytes(), hash.text().as_bytes(), password] {
        out.extend((part.len() as u64).to_le_bytes());
        out.extend(part);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Cost;
    use std::path::Path;

    const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

    #[test]
    fn only_the_same_user_password_and_hash_are_known() {
        let (one, two) = (Hash::of(b"x", CHEAP).unwrap(), Hash::of(b"x", CHEAP).unwrap());
        let verified = Verified::new(10);
        verified.insert("ab", b"cd", &one);
        assert!(verified.has("ab", b"cd", &one));
        assert!(!verified.has("ab", b"cd", &two), "the user's line has changed");
        assert!(!verified.has("ab", b"c", &one) && !verified.has("a", b"bcd", &one));
        assert!(!Verified::new(0).has("ab", b"cd", &one));
    }

    #[test]
    fn it_is_bounded_and_forgets_users_who_went_or_changed() {
        let (one, two) = (Hash::of(b"x", CHEAP).unwrap(), Hash::of(b"x", CHEAP).unwrap());
        let verified = Verified::new(3);
        for n in 0..20 {
            verified.insert(&format!("u{n}"), b"x", &one);
            assert!(verified.len() <= 3 && verified.has(&format!("u{n}"), b"x", &one));
        }
        let verified = Verified::new(3);
        for name in ["stays", "changed", "gone"] {
            verified.insert(name, b"x", &one);
        }
        let text = format!("stays:{}\nchanged:{}\n", one.text(), two.text());
        verified.keep(&Users::parse(Path::new("u"), &text).unwrap());
        assert_eq!(verified.len(), 1);
        assert!(verified.has("stays", b"x", &one));
    }
}
