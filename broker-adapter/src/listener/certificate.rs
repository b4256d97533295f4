//! What is read from certificates: names of users, and when they expire.

use bytestring::ByteString;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::options::UserFrom;

/// The user that a client's certificate names. The certificate has been verified: its authority answers for the name.
pub(super) fn user(der: &[u8], from: UserFrom) -> Result<ByteString, String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else {
        return Err("the client's certificate can't be read".into());
    };
    let what = match from {
        UserFrom::Cn => "common name",
        UserFrom::SanDns => "DNS name",
        UserFrom::SanEmail => "e-mail address",
        UserFrom::SanUri => "URI",
    };
    let name = match from {
        UserFrom::Cn => certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok()),
        _ => alternative(&certificate, from),
    };
    match name {
        // As in the user name of CONNECT, no NUL.
        Some(name) if !name.is_empty() && !name.contains('\0') => Ok(ByteString::from(name)),
        Some(_) => Err(format!("the {what} of the client's certificate can't be a user name")),
        None => Err(format!("the client's certificate has no {what}, which would name the user")),
    }
}

fn alternative<'c>(certificate: &'c X509Certificate<'_>, from: UserFrom) -> Option<&'c str> {
    let names = &certificate.subject_alternative_name().ok()??.value.general_names;
    names.iter().find_map(|name| match (name, from) {
        (GeneralName::DNSName(name), UserFrom::SanDns)
        | (GeneralName::RFC822Name(name), UserFrom::SanEmail)
        | (GeneralName::URI(name), UserFrom::SanUri) => Some(*name),
        _ => None,
    })
}

/// The last second in which a certificate is valid, since 1970.
pub(super) fn expires_s(der: &[u8]) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some(certificate.validity().not_after.timestamp())
}
