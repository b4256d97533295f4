//! Reads fields in their byte form.

use super::*;

/// Reads fields off shared bytes; every length is checked against what is there.
pub struct Fields(pub Bytes);

impl Fields {
    /// One byte.
    ///
    /// # Errors
    /// At the end of the bytes; `field` names what was being read (so in all methods here).
    pub fn u8(&mut self, field: &'static str) -> Result<u8, CodecError> {
        if self.0.is_empty() { Err(CodecError::Truncated(field)) } else { Ok(self.0.get_u8()) }
    }

    /// A byte that is 0 or 1.
    ///
    /// # Errors
    /// Also for any other byte.
    pub fn bool(&mut self, field: &'static str) -> Result<bool, CodecError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Value(field)),
        }
    }

    /// A LEB128 number.
    ///
    /// # Errors
    /// Also for more than 64 bits, and for a form longer than needed (so that one value has one form).
    pub fn int(&mut self, field: &'static str) -> Result<u64, CodecError> {
        let mut n: u64 = 0;
        for i in 0..10 {
            let b = self.u8(field)?;
            if i == 9 && b > 1 || i > 0 && b == 0 {
                return Err(CodecError::Value(field));
            }
            n |= u64::from(b & 0x7f) << (7 * i);
            if b & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(CodecError::Value(field))
    }

    /// A number below 2^32.
    ///
    /// # Errors
    /// Also for larger numbers.
    pub fn int32(&mut self, field: &'static str) -> Result<u32, CodecError> {
        u32::try_from(self.int(field)?).map_err(|_| CodecError::Value(field))
    }

    /// A number below 2^16.
    ///
    /// # Errors
    /// Also for larger numbers.
    pub fn int16(&mut self, field: &'static str) -> Result<u16, CodecError> {
        u16::try_from(self.int(field)?).map_err(|_| CodecError::Value(field))
    }

    pub(super) fn opt16(&mut self, field: &'static str) -> Result<Option<u16>, CodecError> {
        if self.bool(field)? { self.int16(field).map(Some) } else { Ok(None) }
    }

    /// A length and that many bytes, shared.
    ///
    /// # Errors
    /// Where fewer bytes are left.
    pub fn bytes(&mut self, field: &'static str) -> Result<Bytes, CodecError> {
        let len = usize::try_from(self.int(field)?).map_err(|_| CodecError::Value(field))?;
        if len > self.0.len() { Err(CodecError::Truncated(field)) } else { Ok(self.0.split_to(len)) }
    }

    /// Bytes that are UTF-8.
    ///
    /// # Errors
    /// Also where they are not.
    pub fn text(&mut self, field: &'static str) -> Result<ByteString, CodecError> {
        ByteString::try_from(self.bytes(field)?).map_err(|_| CodecError::Value(field))
    }

    pub(super) fn cursors(&mut self) -> Result<Vec<CursorAt>, CodecError> {
        let count = self.int("cursor count")?;
        let mut cursors = Vec::new();
        for _ in 0..count {
            cursors.push(CursorAt { filter: self.text("cursor filter")?, low: Lsn(self.int("cursor low")?) });
        }
        Ok(cursors)
    }

    /// What [`put_options`] wrote.
    ///
    /// # Errors
    /// For values that options can't have.
    pub fn options(&mut self) -> Result<SubscriptionOptions, CodecError> {
        let bits = self.u8("options")?;
        let retain_handling = (bits >> 4) & 3;
        if bits & 0xc0 != 0 || retain_handling == 3 {
            return Err(CodecError::Value("options"));
        }
        Ok(SubscriptionOptions {
            qos: QoS::from_u8(bits & 3).ok_or(CodecError::Value("options"))?,
            no_local: bits & 4 != 0,
            retain_as_published: bits & 8 != 0,
            retain_handling,
            identifier: self.int32("subscription identifier")?,
        })
    }

    /// What [`put_message`] wrote.
    ///
    /// # Errors
    /// For values that a message can't have.
    pub fn message(&mut self) -> Result<Message, CodecError> {
        let bits = self.u8("message flags")?;
        let qos = QoS::from_u8(bits & 3).ok_or(CodecError::Value("qos"))?;
        let topic = self.text("topic")?;
        let publisher = self.text("publisher")?;
        let username = if bits & 16 != 0 { self.text("username")? } else { ByteString::new() };
        let peer = if bits & 32 != 0 { self.text("peer")? } else { ByteString::new() };
        let origin = match bits >> 6 {
            0 => Origin::Client,
            1 => Origin::Will,
            2 => Origin::Operator,
            _ => Origin::Import {
                sink: self.text("import sink")?,
                key: self.text("import key")?,
                time_us: self.int("import time")?,
            },
        };
        let properties = if bits & 8 != 0 { self.properties()? } else { Properties::default() };
        let payload = self.bytes("payload")?;
        Ok(Message { topic, payload, qos, retain: bits & 4 != 0, publisher, username, peer, origin, properties })
    }

    pub(super) fn properties(&mut self) -> Result<Properties, CodecError> {
        let bits = self.u8("property bits")?;
        if bits & 0xe0 != 0 {
            return Err(CodecError::Value("property bits"));
        }
        let mut p = Properties::default();
        if bits & 1 != 0 {
            p.payload_format = Some(self.u8("payload format")?);
        }
        if bits & 2 != 0 {
            p.expiry_s = Some(self.int32("message expiry")?);
        }
        if bits & 4 != 0 {
            p.content_type = Some(self.text("content type")?);
        }
        if bits & 8 != 0 {
            p.response_topic = Some(self.text("response topic")?);
        }
        if bits & 16 != 0 {
            p.correlation_data = Some(self.bytes("correlation data")?);
        }
        for _ in 0..self.int("user property count")? {
            p.user.push((self.text("user property name")?, self.text("user property value")?));
        }
        Ok(p)
    }
}
