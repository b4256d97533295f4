//! Enhanced authentication (MQTT 5): AUTH back and forth between CONNECT and CONNACK, as [`Access::exchange`](crate::access::Access) leads it.
//!
//! ```text
//! CONNECT method, data > exchange > AUTH 0x18 data > AUTH 0x18 data > exchange > ... > CONNACK method, data
//! ```

use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use crate::access::{Identity, Step};
use crate::broker::Shared;
use crate::codec::{Connect, Decoder, Disconnect, Packet, encode_fitting, reason};
use crate::handshake::{Refusal, attempt, denied};
use crate::listener::{Arrival, Stream};

/// Who comes, as an exchange found it out.
pub(crate) struct Known {
    pub(crate) identity: Identity,
    pub(crate) method: ByteString,
    /// Its last word, for CONNACK.
    pub(crate) data: Option<Bytes>,
}

/// A connection before its CONNACK.
pub(crate) struct Ends<'a, S> {
    pub(crate) reader: &'a mut ReadHalf<S>,
    pub(crate) writer: &'a mut WriteHalf<S>,
    pub(crate) input: &'a mut BytesMut,
    pub(crate) decoder: &'a mut Decoder,
}

/// Finds out who comes by the method that CONNECT names; `None` where it names none.
pub(crate) async fn authenticate<S: Stream>(
    shared: &Shared,
    connect: &Connect,
    arrival: &Arrival,
    mut ends: Ends<'_, S>,
) -> Result<Option<Known>, Refusal> {
    let Some(method) = connect.properties.authentication_method.clone() else { return Ok(None) };
    let attempt = attempt(connect, &connect.client_id, arrival);
    let Some(mut exchange) = shared.options.access.exchange(&method, attempt) else {
        let text = "this method of authentication is not known";
        return Err(Refusal::coded(connect.version, reason::BAD_AUTHENTICATION_METHOD, 5, text));
    };
    let mut data = connect.properties.authentication_data.clone();
    loop {
        match exchange.next(data.take()).await {
            Err(why) => return Err(denied(connect, &connect.client_id, arrival, why)),
            Ok(Step::Done(identity, data)) => return Ok(Some(Known { identity, method, data })),
            Ok(Step::Continue(challenge)) => {
                ends.ask(connect, &method, challenge).await?;
                data = ends.answer(connect, &method).await?;
            }
        }
    }
}

impl<S: Stream> Ends<'_, S> {
    async fn ask(&mut self, connect: &Connect, method: &ByteString, data: Option<Bytes>) -> Result<(), Refusal> {
        let mut auth = Disconnect::new(reason::CONTINUE_AUTHENTICATION);
        auth.properties.authentication_method = Some(method.clone());
        auth.properties.authentication_data = data;
        let mut out = BytesMut::new();
        if !encode_fitting(&[Packet::Auth(auth)], connect.version, connect.max_packet_bytes(), &mut out) {
            return Err(Refusal::coded(
                connect.version,
                reason::PACKET_TOO_LARGE,
                5,
                "AUTH is larger than the client takes",
            ));
        }
        let written = async {
            self.writer.write_all(&out).await?;
            self.writer.flush().await
        };
        written.await.map_err(|error| Refusal::silent("closed", error.to_string()))
    }

    /// The data of the client's AUTH. It may leave instead, and say nothing else.
    async fn answer(&mut self, connect: &Connect, method: &ByteString) -> Result<Option<Bytes>, Refusal> {
        loop {
            match self.decoder.decode(self.input) {
                Ok(Some(Packet::Auth(auth)))
                    if auth.reason == reason::CONTINUE_AUTHENTICATION
                        && auth.properties.authentication_method.as_ref() == Some(method) =>
                {
                    return Ok(auth.properties.authentication_data);
                }
                Ok(Some(Packet::Disconnect(_))) => {
                    return Err(Refusal::silent("closed", "the client left its authentication"));
                }
                Ok(Some(_)) => {
                    let text = "only AUTH of the same method is taken before CONNACK";
                    return Err(Refusal::coded(connect.version, reason::PROTOCOL_ERROR, 5, text));
                }
                Ok(None) => {}
                Err(error) => return Err(Refusal::undecodable(Some(connect.version), error)),
            }
            match self.reader.read_buf(self.input).await {
                Ok(0) => return Err(Refusal::silent("closed", "the connection ended in its authentication")),
                Ok(_) => {}
                Err(error) => return Err(Refusal::silent("closed", error.to_string())),
            }
        }
    }
}
