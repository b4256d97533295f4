//! Who may connect, and what he may publish and subscribe to.
//!
//! One trait, [`Access`], asked at CONNECT, at a will, at each filter of a SUBSCRIBE and at each PUBLISH. [`FileAccess`] is what the
//! program uses: a users file with argon2id hashes and a file of rules, both read again when they change. Programs that embed
//! the broker plug their own into [`BrokerOptions::access`](crate::BrokerOptions).
//!
//! ```text
//! CONNECT > remembered? > slowed down after failures > authenticate > Identity > will, SUBSCRIBE, PUBLISH: may?
//! ```
//!
//! What operators and databases subscribe to on a client's behalf is not checked: who may give such orders is theirs to decide.

mod acl;
mod fault;
mod files;
mod gate;
mod password;
mod pattern;
mod throttle;
mod users;
mod verified;

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::BoxFuture;

pub use acl::Acl;
pub use fault::{AccessError, Fault};
pub use files::{FileAccess, FileAccessOptions};
pub use password::{Cost, Hash, HashError};
pub use users::{NameError, Users, UsersError, UsersFile, check_user_name};

pub(crate) use gate::Gate;
pub(crate) use throttle::network;

/// What a client wants to do with a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish to a topic name; a will is a publish.
    Publish,
    /// Subscribe to a topic filter.
    Subscribe,
}

/// Who a connection belongs to, as far as it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Client id: what the client says, or what it was given. Nobody has verified it.
    pub client: ByteString,
    /// User name, verified by a password or a certificate; `None` = anonymous.
    pub user: Option<ByteString>,
}

/// A CONNECT, as far as it says who comes.
#[derive(Clone, Copy)]
pub struct Attempt<'a> {
    /// Client id; where the client left it to the server, the one it was given.
    pub client: &'a ByteString,
    /// User name.
    pub user: Option<&'a ByteString>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// The user that a verified client certificate names.
    pub certificate_user: Option<&'a ByteString>,
    /// The client's address.
    pub peer: SocketAddr,
    /// The listener's address.
    pub listener: SocketAddr,
    /// Whether the listener lets clients in that show no credentials; `None` = as everywhere.
    pub anonymous: Option<bool>,
}

impl fmt::Debug for Attempt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.map(|_| "***");
        f.debug_struct("Attempt")
            .field("client", &self.client)
            .field("user", &self.user)
            .field("password", &password)
            .field("certificate_user", &self.certificate_user)
            .field("peer", &self.peer)
            .field("listener", &self.listener)
            .field("anonymous", &self.anonymous)
            .finish()
    }
}

/// Why nobody was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// User name or password is wrong. Which of them is said to nobody. (MQTT 5: 0x86, before: 4.)
    #[error("the user name or the password is wrong")]
    BadCredentials,
    /// Credentials are needed, or these do not suffice. (MQTT 5: 0x87, before: 5.)
    #[error("not authorized")]
    NotAuthorized,
    /// Too many attempts failed from there; this one was not looked at. (MQTT 5: 0x9F, before: 3.)
    #[error("too many failed attempts; try again later")]
    TooManyFailures,
    /// It could not be found out in time. (MQTT 5: 0x89, before: 3.)
    #[error("the server is busy; try again later")]
    Busy,
}

/// What an [`Exchange`] wants next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An answer of the client to this data.
    Continue(Option<Bytes>),
    /// Nothing: it is known who comes. The data goes with CONNACK.
    Done(Identity, Option<Bytes>),
}

/// An enhanced authentication of MQTT 5 under way, of one connection. It is dropped where the connection ends.
pub trait Exchange: Send {
    /// Goes on with the client's data: first that of CONNECT, then that of each AUTH. It may take its time as [`Access::authenticate`]
    /// may; the connect timeout holds for all of it.
    fn next(&mut self, data: Option<Bytes>) -> BoxFuture<'_, Result<Step, Denied>>;
}

/// Decides who may connect and what he may do. All methods but [`Access::authenticate`] are asked in the middle of other work and must
/// not wait.
pub trait Access: fmt::Debug + Send + Sync {
    /// Finds out who comes. May take its time, up to the connect timeout of the broker, and keeps nobody else waiting; it must not block
    /// its thread. Slowing down who guesses is its own business.
    fn authenticate<'a>(&'a self, attempt: Attempt<'a>) -> BoxFuture<'a, Result<Identity, Denied>>;

    /// Begins an enhanced authentication by the method that a CONNECT names, `None` where it is not known (0x8C). The exchange then
    /// stands in for [`Access::authenticate`], which is not asked. The client id is empty where the server is to choose it.
    fn exchange(&self, _method: &str, _attempt: Attempt<'_>) -> Option<Box<dyn Exchange>> {
        None
    }

    /// False where everything is allowed to this client for as long as it is connected: nothing is asked then.
    fn restricts(&self, _identity: &Identity) -> bool {
        true
    }

    /// Whether a client may publish to a topic name or subscribe to a topic filter (of a shared subscription: without its
    /// `$share/group/`). A filter may be granted only if all topics it matches are.
    fn may(&self, identity: &Identity, action: Action, topic: &str) -> bool;

    /// Changes whenever [`Access::may`] may answer otherwise than before: a connection remembers the last answer till then.
    fn generation(&self) -> u64 {
        0
    }
}
