//! What databases that are spoken to by HTTP have in common: servers, TLS, logins, bodies, what an answer means.

mod connect;

pub use crate::tls::TlsFiles;
pub use connect::HttpConn;
pub(crate) use connect::{Answer, connect, escaped, refused, shown};

use std::fmt;

/// Where to send to, and how.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HttpConfig {
    /// Servers (`host:port`); the first that can be reached is used.
    pub servers: Vec<String>,
    /// HTTPS with these files; `None` = HTTP.
    pub tls: Option<TlsFiles>,
    /// The login.
    pub login: Login,
    /// Bodies are compressed.
    pub gzip: bool,
}

/// A login. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Login {
    /// None.
    #[default]
    None,
    /// `Authorization: Basic`.
    Password {
        /// User.
        username: String,
        /// Password.
        password: String,
    },
    /// `Authorization: Token`.
    Token(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Login::None => f.write_str("None"),
            Login::Password { username, .. } => write!(f, "Password({username}, ***)"),
            Login::Token(_) => f.write_str("Token(***)"),
        }
    }
}

impl fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConfig")
            .field("servers", &self.servers)
            .field("login", &self.login)
            .field("gzip", &self.gzip)
            .finish_non_exhaustive()
    }
}

/// `host:port`, with this port where there is none.
pub(crate) fn server(text: &str, port: u16) -> String {
    let text = text.trim();
    let has_port = match text.rsplit_once(']') {
        Some((_, rest)) => rest.starts_with(':'),
        None => text.contains(':'),
    };
    if has_port { text.to_owned() } else { format!("{text}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_have_a_port() {
        for (text, full) in [("a", "a:1"), ("a:2", "a:2"), ("[::1]", "[::1]:1"), ("[::1]:2", "[::1]:2"), (" a ", "a:1")]
        {
            assert_eq!(server(text, 1), full);
        }
    }

    #[test]
    fn logins_are_not_shown() {
        let password = Login::Password { username: "u".into(), password: "hunter2".into() };
        let config = HttpConfig { login: password, ..HttpConfig::default() };
        assert!(!format!("{config:?} {:?}", Login::Token("hunter2".into())).contains("hunter2"));
    }
}
