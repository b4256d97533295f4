//! The header that a proxy puts before a connection's bytes, so that the client's address is known behind it: PROXY protocol,
//! version 2.
//!
//! ```text
//! 0          12        13      14       16                                          16 + length
//! | signature | 2 | cmd | family | length | from address | to address | ports | extensions |
//! |  12 bytes |   u8    |   u8   | u16 be |    4 or 16   |   4 or 16  | 2 x u16 be |        |
//! ```
//!
//! Command 0 (`LOCAL`) is a connection of the proxy itself, 1 (`PROXY`) one of a client. The extensions are skipped.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::handshake::Refusal;

/// Bytes of the part that says how long the rest is.
pub const FIXED_BYTES: usize = 16;
/// Longest rest taken: addresses, and extensions with room to spare.
pub const REST_BYTES_MAX: usize = 4096;
/// What each header begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Why a header is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The bytes are something else; a client that came past the proxy, usually.
    #[error("the connection does not begin with a PROXY protocol header of version 2")]
    Signature,
    /// Another version or an unknown command.
    #[error("version and command {0:#04x} of the PROXY protocol are not known")]
    Command(u8),
    /// Neither TCP over IPv4 nor over IPv6.
    #[error("family {0:#04x} in the PROXY protocol header is not TCP over IPv4 or IPv6")]
    Family(u8),
    /// The rest is shorter than its addresses, or longer than [`REST_BYTES_MAX`].
    #[error("{0} bytes can't be the rest of this PROXY protocol header")]
    Length(usize),
}

/// The first part of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    local: bool,
    family: u8,
    rest: usize,
}

impl Fixed {
    /// Reads it.
    ///
    /// # Errors
    /// It is no header, or one that is not understood.
    pub fn decode(bytes: [u8; FIXED_BYTES]) -> Result<Fixed, HeaderError> {
        let [signature @ .., command, family, high, low] = bytes;
        let rest = usize::from(u16::from_be_bytes([high, low]));
        let local = match command {
            _ if signature != SIGNATURE => return Err(HeaderError::Signature),
            0x20 => true,
            0x21 => false,
            other => return Err(HeaderError::Command(other)),
        };
        let addresses = match family {
            _ if local => 0,
            0x00 => 0,
            0x11 => 12,
            0x21 => 36,
            other => return Err(HeaderError::Family(other)),
        };
        if !(addresses..=REST_BYTES_MAX).contains(&rest) {
            return Err(HeaderError::Length(rest));
        }
        Ok(Fixed { local, family, rest })
    }

    /// Bytes behind it that belong to the header.
    #[must_use]
    pub fn rest_bytes(&self) -> usize {
        self.rest
    }

    /// The client's address; `None` where the proxy speaks for itself or does not say.
    ///
    /// # Errors
    /// `rest` is not [`Fixed::rest_bytes`] long.
    pub fn client(&self, rest: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
        let wrong = HeaderError::Length(rest.len());
        if rest.len() != self.rest {
            return Err(wrong);
        }
        let (ip, behind) = match self.family {
            _ if self.local => return Ok(None),
            0x11 => {
                let (from, behind) = rest.split_first_chunk::<4>().ok_or(wrong)?;
                (IpAddr::from(*from), behind.get(4..).ok_or(wrong)?)
            }
            0x21 => {
                let (from, behind) = rest.split_first_chunk::<16>().ok_or(wrong)?;
                (Ipv6Addr::from(*from).to_canonical(), behind.get(16..).ok_or(wrong)?)
            }
            _ => return Ok(None),
        };
        let port = behind.first_chunk::<2>().ok_or(wrong)?;
        Ok(Some(SocketAddr::new(ip, u16::from_be_bytes(*port))))
    }
}

/// Reads the header and not a byte more. The client's address, where the proxy says it.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, Refusal> {
    let refused = |error: HeaderError| Refusal::silent("proxy", error.to_string());
    let broken = |error: std::io::Error| Refusal::silent("closed", format!("in the PROXY protocol header: {error}"));
    // The signature is read apart: what is no header at all may be shorter than one, and would be waited for.
    let mut fixed = [0; FIXED_BYTES];
    let mut filled = 0;
    while let Some(space) = fixed.get_mut(filled..).filter(|space| !space.is_empty()) {
        match stream.read(space).await.map_err(broken)? {
            0 => return Err(Refusal::silent("closed", "the connection ended before its PROXY protocol header")),
            n => filled += n,
        }
        let known = filled.min(SIGNATURE.len());
        if fixed.get(..known) != SIGNATURE.get(..known) {
            return Err(refused(HeaderError::Signature));
        }
    }
    let fixed = Fixed::decode(fixed).map_err(refused)?;
    let mut rest = vec![0; fixed.rest_bytes()];
    stream.read_exact(&mut rest).await.map_err(broken)?;
    fixed.client(&rest).map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut out = SIGNATURE.to_vec();
        out.extend([command, family]);
        out.extend((rest.len() as u16).to_be_bytes());
        out.extend(rest);
        out
    }

    /// What a proxy sends for this client.
    fn of_client(client: SocketAddr, extensions: &[u8]) -> Vec<u8> {
        let (family, mut rest) = match client.ip() {
            IpAddr::V4(ip) => (0x11, [ip.octets(), [10, 0, 0, 1]].concat()),
            IpAddr::V6(ip) => (0x21, [ip.octets(), [7; 16]].concat()),
        };
        rest.extend(client.port().to_be_bytes());
        rest.extend(1883u16.to_be_bytes());
        rest.extend(extensions);
        header(0x21, family, &rest)
    }

    /// The answer of [`read`], and the bytes it left. They come in two parts.
    fn read_from(bytes: &[u8], cut: usize) -> (Result<Option<SocketAddr>, String>, Vec<u8>) {
        let (one, two) = bytes.split_at(cut.min(bytes.len()));
        let mut stream = one.chain(two);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let answer = read(&mut stream).await.map_err(|refusal| refusal.label.to_owned());
            let mut left = Vec::new();
            stream.read_to_end(&mut left).await.unwrap();
            (answer, left)
        })
    }

    proptest! {
        #[test]
        fn the_address_is_read_and_not_a_byte_more(
            ip: IpAddr,
            port: u16,
            extensions in proptest::collection::vec(any::<u8>(), 0..40),
            behind in proptest::collection::vec(any::<u8>(), 0..40),
            cut in 0..120usize,
        ) {
            let client = SocketAddr::new(ip, port);
            let bytes = [of_client(client, &extensions), behind.clone()].concat();
            let expected = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(read_from(&bytes, cut), (Ok(Some(expected)), behind));
        }

        #[test]
        fn a_header_cut_short_is_no_address(ip: IpAddr, cut in 0..28usize) {
            let bytes = of_client(SocketAddr::new(ip, 1), &[]);
            prop_assert_eq!(read_from(&bytes[..cut], 3).0, Err("closed".to_owned()));
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..60), command: u8, family: u8) {
            let _ = read_from(&bytes, 1);
            let _ = read_from(&header(command, family, &bytes), 1);
        }
    }

    #[test]
    fn the_proxy_speaks_for_itself_or_does_not_say() {
        assert_eq!(read_from(&header(0x20, 0x11, &[1; 12]), 0).0, Ok(None));
        assert_eq!(read_from(&header(0x20, 0x00, &[]), 0).0, Ok(None));
        assert_eq!(read_from(&header(0x21, 0x00, &[9; 5]), 0).0, Ok(None));
    }

    #[test]
    fn what_is_no_header_of_version_2_is_refused_at_its_first_wrong_byte() {
        let refused = Err("proxy".to_owned());
        assert_eq!(read_from(b"\x10\x0c", 0).0, refused, "CONNECT");
        assert_eq!(read_from(b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", 0).0, refused, "version 1");
        for bytes in [
            header(0x31, 0x11, &[0; 12]),
            header(0x22, 0x11, &[0; 12]),
            header(0x21, 0x12, &[0; 12]),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x11, &[0; 11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x11, &[0; REST_BYTES_MAX + 1]),
        ] {
            assert_eq!(read_from(&bytes, 0).0, refused, "{bytes:?}");
        }
    }
}
