//! One authority for all tests, a server's certificate and a client's.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

/// The name in the client's certificate (CN), which databases map to a user.
pub const CLIENT: &str = "forebay";

/// Where the files are. Keys are PKCS#8 of curve P-256, all of it PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// The authority.
    pub authority: PathBuf,
    /// The server's certificate, for `localhost` and `127.0.0.1`.
    pub server: PathBuf,
    /// Its key.
    pub server_key: PathBuf,
    /// The client's certificate, CN [`CLIENT`].
    pub client: PathBuf,
    /// Its key.
    pub client_key: PathBuf,
}

/// The certificate of an authority that has signed nothing; made at the first call.
///
/// # Errors
/// Where it can't be made or written.
pub fn stranger() -> Result<PathBuf> {
    let base = crate::base()?;
    let file = base.join("certificates").join("stranger.crt");
    let lock = fs::File::create(base.join("certificates.lock")).context("creating a lock file")?;
    lock.lock().context("locking the certificates")?;
    if !file.exists() {
        crate::make(&base.join("certificates"))?;
        let (key, params) = authority("somebody else")?;
        let certificate = params.self_signed(&key).context("making an authority's certificate")?;
        fs::write(&file, certificate.pem()).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(file)
}

fn authority(name: &str) -> Result<(KeyPair, CertificateParams)> {
    let key = KeyPair::generate().context("making a key")?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((key, params))
}

/// The certificates, made at the first call.
///
/// # Errors
/// Where they can't be made or written.
pub fn certificates() -> Result<Certificates> {
    let base = crate::base()?;
    let dir = base.join("certificates");
    let files = Certificates {
        authority: dir.join("ca.crt"),
        server: dir.join("server.crt"),
        server_key: dir.join("server.key"),
        client: dir.join("client.crt"),
        client_key: dir.join("client.key"),
    };
    let lock = fs::File::create(base.join("certificates.lock")).context("creating a lock file")?;
    lock.lock().context("locking the certificates")?;
    if files.client_key.exists() {
        return Ok(files);
    }
    crate::make(&dir)?;
    let (authority_key, params) = authority("Forebay's tests")?;
    let authority = params.self_signed(&authority_key).context("making the authority's certificate")?;
    let issuer = Issuer::new(params, authority_key);
    let write =
        |path: &PathBuf, text: String| fs::write(path, text).with_context(|| format!("writing {}", path.display()));
    write(&files.authority, authority.pem())?;
    for (name, usage, certificate, key) in [
        ("localhost", ExtendedKeyUsagePurpose::ServerAuth, &files.server, &files.server_key),
        (CLIENT, ExtendedKeyUsagePurpose::ClientAuth, &files.client, &files.client_key),
    ] {
        let own = KeyPair::generate().context("making a key")?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).context("naming a certificate")?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        write(certificate, params.signed_by(&own, &issuer).context("signing a certificate")?.pem())?;
        write(key, own.serialize_pem())?;
        // Clients of PostgreSQL refuse a key that others may read.
        fs::set_permissions(key, fs::Permissions::from_mode(0o600)).context("closing a key file")?;
    }
    Ok(files)
}
