//! TLS to Cassandra, in builds with the feature `cassandra-tls`.
//!
//! The driver asks for rustls with its default features, and so for aws-lc. Nothing in it is used here: what the driver is given is rustls
//! with ring, as everywhere else in this program. It is compiled and linked all the same, so no other build has it. A pool that asks for TLS
//! is refused there: nothing is ever sent in clear that was to be encrypted.

use scylla::client::session::TlsContext;

use crate::sink::WriteError;
use crate::sql::TlsFiles;

/// What is said to who asks for TLS in a build that has none.
const ABSENT: &str = "this build has no TLS to Cassandra: build it with `--features cassandra-tls` (which brings a second crypto library along), \
                      or remove `ssl` where the network needs none";

/// What the driver encrypts by; files are read at each connect, so that renewed certificates need no restart.
#[cfg(feature = "cassandra-tls")]
pub(super) fn context(files: &TlsFiles) -> Result<TlsContext, WriteError> {
    let files = crate::tls::TlsFiles {
        authority: files.authority.clone(),
        client: files.certificate.clone().zip(files.key.clone()),
        only_1_3: false,
    };
    Ok(std::sync::Arc::new(crate::tls::client(&files)?).into())
}

/// Refused: this build has no TLS.
#[cfg(not(feature = "cassandra-tls"))]
pub(super) fn context(_: &TlsFiles) -> Result<TlsContext, WriteError> {
    Err(WriteError::busy(ABSENT))
}

/// Whether a pool with these files can be had in this build.
///
/// # Errors
/// What is to be done about it.
pub(super) fn usable(files: &TlsFiles) -> Result<(), String> {
    if files.certificate.is_some() != files.key.is_some() {
        return Err("`certfile` and `keyfile` belong together: give both, or none of them".to_owned());
    }
    if cfg!(feature = "cassandra-tls") { Ok(()) } else { Err(ABSENT.to_owned()) }
}
