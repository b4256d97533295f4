//! TLS by rustls, from the files that a pool names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::sink::WriteError;

/// Files of a TLS connection, PEM, read at each connect. The server's certificate and name are always checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// What servers are checked against; `None` = the public authorities.
    pub authority: Option<PathBuf>,
    /// The client's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// TLS 1.3 and nothing older.
    pub only_1_3: bool,
}

/// The client's side of TLS.
pub(crate) fn client(files: &TlsFiles) -> Result<ClientConfig, WriteError> {
    let mut roots = RootCertStore::empty();
    match &files.authority {
        Some(path) => {
            for certificate in certificates("cacertfile", path)? {
                roots.add(certificate).map_err(|e| unusable("cacertfile", path, &e))?;
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let versions: &[_] =
        if files.only_1_3 { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS12, &rustls::version::TLS13] };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|e| WriteError::busy(format!("TLS: {e}")))?
        .with_root_certificates(roots);
    match &files.client {
        None => Ok(builder.with_no_client_auth()),
        Some((certificate, key)) => {
            let chain = certificates("certfile", certificate)?;
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| unusable("keyfile", key, &e))?;
            builder.with_client_auth_cert(chain, secret).map_err(|e| unusable("certfile", certificate, &e))
        }
    }
}

fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, WriteError> {
    let read = CertificateDer::pem_file_iter(path).and_then(|all| all.collect::<Result<Vec<_>, _>>());
    let found = read.map_err(|e| unusable(setting, path, &e))?;
    if found.is_empty() {
        return Err(unusable(setting, path, &"there is no certificate in it"));
    }
    Ok(found)
}

fn unusable(setting: &str, path: &Path, why: &dyn std::fmt::Display) -> WriteError {
    WriteError::busy(format!("the pool's {setting} {} can't be used: {why}", path.display()))
}
