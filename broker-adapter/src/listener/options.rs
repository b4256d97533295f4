//! Settings of one listener.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::tls::{self, TlsError};

/// How often the files of certificates are looked at by default.
pub const DEFAULT_CERTIFICATE_CHECK: Duration = Duration::from_secs(5);

/// Settings of one listener.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Where it listens; port 0 = any free port.
    pub address: SocketAddr,
    /// TLS 1.2 and 1.3; `None` = none.
    pub tls: Option<TlsOptions>,
    /// MQTT in WebSocket frames, over TLS where both are set; `None` = none.
    pub websocket: Option<WebSocketOptions>,
    /// Whether each connection begins with a header of the PROXY protocol, version 2. Whoever can reach such a listener can
    /// claim any address.
    pub proxy_protocol: bool,
    /// Connections at a time through this listener; `None` = as many as the broker takes.
    pub max_connections: Option<usize>,
    /// Whether clients that show no credentials are let in here; `None` = as for the broker.
    pub anonymous: Option<bool>,
}

/// TLS of a listener. All files are PEM.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The server's certificate, and behind it those that lead to an authority that clients know.
    pub certificate_file: PathBuf,
    /// Its private key, without a passphrase.
    pub key_file: PathBuf,
    /// Which clients must show a certificate, and what becomes of it; `None` = none is asked for.
    pub client_certificates: Option<ClientCertificates>,
    /// How often the files are looked at: new ones count from the next connection on.
    pub check_every: Duration,
}

/// Certificates of clients.
#[derive(Clone, Debug)]
pub struct ClientCertificates {
    /// The authorities they are checked against.
    pub ca_file: PathBuf,
    /// Whether a client without one is refused.
    pub required: bool,
    /// What names the user; `None` = CONNECT does, as without a certificate.
    pub user_from: Option<UserFrom>,
}

/// What in a client's certificate names its user. Where there are several the first counts; a certificate without one is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserFrom {
    /// The subject's common name.
    Cn,
    /// A DNS name of the subject's alternative names.
    SanDns,
    /// An e-mail address of the subject's alternative names.
    SanEmail,
    /// A URI of the subject's alternative names.
    SanUri,
}

/// WebSocket of a listener.
#[derive(Clone, Debug, Default)]
pub struct WebSocketOptions {
    /// The path that clients must ask for, such as `/mqtt`; `None` = any.
    pub path: Option<String>,
}

impl TlsOptions {
    /// TLS without certificates of clients.
    pub fn new(certificate_file: impl Into<PathBuf>, key_file: impl Into<PathBuf>) -> TlsOptions {
        TlsOptions {
            certificate_file: certificate_file.into(),
            key_file: key_file.into(),
            client_certificates: None,
            check_every: DEFAULT_CERTIFICATE_CHECK,
        }
    }
}

impl ListenerOptions {
    /// A plain listener.
    #[must_use]
    pub fn new(address: SocketAddr) -> ListenerOptions {
        ListenerOptions {
            address,
            tls: None,
            websocket: None,
            proxy_protocol: false,
            max_connections: None,
            anonymous: None,
        }
    }

    /// What lies between TCP and MQTT: `tcp` (nothing), `tls`, `ws` or `wss`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match (&self.tls, &self.websocket) {
            (None, None) => "tcp",
            (Some(_), None) => "tls",
            (None, Some(_)) => "ws",
            (Some(_), Some(_)) => "wss",
        }
    }

    /// Reads its files as a start does, and forgets them.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check(&self) -> Result<(), TlsError> {
        self.tls.as_ref().map_or(Ok(()), tls::check)
    }
}
