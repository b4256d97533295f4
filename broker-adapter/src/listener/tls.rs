//! TLS by rustls, from files that may change while the listener runs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use std::{fs, io};

use bytestring::ByteString;
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::time::MissedTickBehavior;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate;
use super::options::{TlsOptions, UserFrom};
use crate::broker::Shared;
use crate::closing;
use crate::handshake::Refusal;
use crate::metrics::{CERTIFICATE_EXPIRES, CERTIFICATE_LOADS};

/// Why a listener's files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{what} {path} can't be read: {source}")]
    Read {
        /// What it is.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{what} {path} can't be used: {why}")]
    Content {
        /// What it should be.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// Shortest pause between two looks at the files.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

const CERTIFICATE: &str = "the certificate file";
const KEY: &str = "the key file";
const CLIENT_CA: &str = "the file of client authorities";

/// Reads the files as a start does.
pub(super) fn check(options: &TlsOptions) -> Result<(), TlsError> {
    Files::read(options)?.load(options).map(drop)
}

/// TLS of a listener that runs.
pub(crate) struct Tls {
    options: TlsOptions,
    /// What new connections use.
    config: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
}

/// What the files held when they were last looked at.
struct Seen {
    mark: u64,
    /// False after the first look at files that can't be used: they may be half replaced.
    settled: bool,
}

/// What a look at the files came to.
enum Look {
    Unchanged,
    Loaded(Option<i64>),
    Refused(TlsError),
}

impl Tls {
    pub(super) fn open(options: TlsOptions, address: SocketAddr) -> Result<Tls, TlsError> {
        let files = Files::read(&options)?;
        let (config, expires_s) = files.load(&options)?;
        tell_expiry(expires_s, address);
        let seen = Mutex::new(Seen { mark: mark(&files), settled: true });
        Ok(Tls { options, config: RwLock::new(Arc::new(config)), seen })
    }

    /// The server's side of the handshake, and the user that the client's certificate names.
    pub(super) async fn accept(&self, tcp: TcpStream) -> Result<(TlsStream<TcpStream>, Option<ByteString>), Refusal> {
        let config = Arc::clone(&self.config.read());
        let stream = match TlsAcceptor::from(config).accept(tcp).into_fallible().await {
            Ok(stream) => stream,
            Err((error, tcp)) => {
                // The client is to read the alert that says why.
                let (reader, writer) = tokio::io::split(tcp);
                closing::drain(reader, writer).await;
                return Err(Refusal::silent("tls", format!("the TLS handshake failed: {error}")));
            }
        };
        let user = match (self.user_from(), stream.get_ref().1.peer_certificates()) {
            (Some(from), Some([certificate, ..])) => {
                Some(certificate::user(certificate, from).map_err(|why| Refusal::silent("tls", why))?)
            }
            _ => None,
        };
        Ok((stream, user))
    }

    fn user_from(&self) -> Option<UserFrom> {
        self.options.client_certificates.as_ref().and_then(|clients| clients.user_from)
    }

    /// Looks at the files now and then until the broker stops. Connections that are open keep what they have.
    pub(crate) async fn watch(self: Arc<Self>, shared: Arc<Shared>, address: SocketAddr) {
        let mut ticks = tokio::time::interval(self.options.check_every.max(LOOK_PAUSE));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shared.stopped() => return,
                _ = ticks.tick() => {}
            }
            let tls = Arc::clone(&self);
            let look = tokio::task::spawn_blocking(move || tls.look()).await;
            let listener = address.to_string();
            match look {
                Ok(Look::Unchanged) | Err(_) => {}
                Ok(Look::Loaded(expires_s)) => {
                    metrics::counter!(CERTIFICATE_LOADS, "listener" => listener, "result" => "ok").increment(1);
                    tell_expiry(expires_s, address);
                    tracing::info!(listener = %address, "new connections use the new certificate files");
                }
                Ok(Look::Refused(error)) => {
                    metrics::counter!(CERTIFICATE_LOADS, "listener" => listener, "result" => "refused").increment(1);
                    tracing::error!(listener = %address, %error, "the new certificate files can't be used; the old ones stay in use");
                }
            }
        }
    }

    fn look(&self) -> Look {
        let files = Files::read(&self.options);
        let mark = match &files {
            Ok(files) => mark(files),
            Err(error) => mark(&error.to_string()),
        };
        let mut seen = self.seen.lock();
        let again = seen.mark == mark;
        if again && seen.settled {
            return Look::Unchanged;
        }
        match files.and_then(|files| files.load(&self.options)) {
            Ok((config, expires_s)) => {
                *self.config.write() = Arc::new(config);
                *seen = Seen { mark, settled: true };
                Look::Loaded(expires_s)
            }
            // Certificate and key are two files: who replaces them may be between the two. What is still so at the next look counts.
            Err(error) => {
                *seen = Seen { mark, settled: again };
                if again { Look::Refused(error) } else { Look::Unchanged }
            }
        }
    }
}

/// When the certificate expires, for operators.
fn tell_expiry(expires_s: Option<i64>, address: SocketAddr) {
    let Some(expires_s) = expires_s else { return };
    metrics::gauge!(CERTIFICATE_EXPIRES, "listener" => address.to_string()).set(expires_s as f64);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if i64::try_from(now.as_secs()).is_ok_and(|now| now > expires_s) {
        tracing::warn!(listener = %address, "the server's certificate has expired: clients that check it will not connect");
    }
}

fn mark(content: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

/// Bytes of a listener's files.
#[derive(Hash)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(options: &TlsOptions) -> Result<Files, TlsError> {
        let read =
            |what, path: &Path| fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source });
        let clients = options.client_certificates.as_ref();
        Ok(Files {
            certificate: read(CERTIFICATE, &options.certificate_file)?,
            key: read(KEY, &options.key_file)?,
            client_ca: clients.map(|clients| read(CLIENT_CA, &clients.ca_file)).transpose()?,
        })
    }

    /// The configuration they make, and when the server's certificate expires.
    fn load(&self, options: &TlsOptions) -> Result<(ServerConfig, Option<i64>), TlsError> {
        let chain = certificates(CERTIFICATE, &options.certificate_file, &self.certificate)?;
        let expires_s = chain.first().and_then(|certificate| certificate::expires_s(certificate));
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| {
            let why = match error {
                pem::Error::NoItemsFound => {
                    "there is no private key in it: it must be PEM (PKCS#8, PKCS#1 or SEC1) without a passphrase".into()
                }
                other => other.to_string(),
            };
            TlsError::Content { what: KEY, path: options.key_file.clone(), why }
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |error: rustls::Error| {
            let why = match error {
                rustls::Error::InconsistentKeys(_) => {
                    format!("the key in {} belongs to another certificate", options.key_file.display())
                }
                other => other.to_string(),
            };
            TlsError::Content { what: CERTIFICATE, path: options.certificate_file.clone(), why }
        };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let Some((clients, bytes)) = options.client_certificates.as_ref().zip(self.client_ca.as_ref()) else {
            return Ok((builder.with_no_client_auth().with_single_cert(chain, key).map_err(unusable)?, expires_s));
        };
        let refused = |why: String| TlsError::Content { what: CLIENT_CA, path: clients.ca_file.clone(), why };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(CLIENT_CA, &clients.ca_file, bytes)? {
            roots.add(certificate).map_err(|error| refused(error.to_string()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
        let verifier = verifier.build().map_err(|error| refused(error.to_string()))?;
        let mut config = builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).map_err(unusable)?;
        // A resumed connection would not have its certificate checked again.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((config, expires_s))
    }
}

fn certificates(what: &'static str, path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |why: String| TlsError::Content { what, path: path.to_owned(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(content("there is no certificate in it: it must be PEM (-----BEGIN CERTIFICATE-----)".into()))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(content(error.to_string())),
    }
}
