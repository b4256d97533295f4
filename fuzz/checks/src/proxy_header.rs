//! The header that a proxy puts before a connection's bytes.

use std::net::{IpAddr, SocketAddr};

use forebay_broker_adapter::proxy_protocol::{FIXED_BYTES, Fixed, HeaderError, REST_BYTES_MAX, SIGNATURE};

/// A header and what follows it.
pub(crate) fn check(data: &[u8]) {
    let Some((fixed, behind)) = data.split_first_chunk::<FIXED_BYTES>() else { return };
    let Ok(header) = Fixed::decode(*fixed) else { return };
    assert!(fixed.starts_with(&SIGNATURE), "only a header is taken for one");
    assert!(header.rest_bytes() <= REST_BYTES_MAX, "a header is bounded");
    let Some((rest, _)) = behind.split_at_checked(header.rest_bytes()) else {
        assert_eq!(header.client(behind), Err(HeaderError::Length(behind.len())), "a header cut short says nothing");
        return;
    };
    let client = header.client(rest).expect("a header that is whole can be read");
    assert_eq!(client, header.client(rest).unwrap(), "it says the same each time");
    if let Some(client) = client {
        let written = of_client(client);
        let own: [u8; FIXED_BYTES] = written[..FIXED_BYTES].try_into().unwrap();
        let again = Fixed::decode(own).expect("a header for an address that was read");
        assert_eq!(again.client(&written[FIXED_BYTES..]), Ok(Some(client)), "an address reads as another");
    }
}

/// What a proxy sends for this client.
pub(crate) fn of_client(client: SocketAddr) -> Vec<u8> {
    let (family, mut rest) = match client.ip() {
        IpAddr::V4(ip) => (0x11, [ip.octets(), [10, 0, 0, 1]].concat()),
        IpAddr::V6(ip) => (0x21, [ip.octets(), [1; 16]].concat()),
    };
    rest.extend(client.port().to_be_bytes());
    rest.extend(1883u16.to_be_bytes());
    of(0x21, family, &rest)
}

/// A header of this command, family and rest.
pub(crate) fn of(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    out.extend([command, family]);
    out.extend((rest.len() as u16).to_be_bytes());
    out.extend(rest);
    out
}
