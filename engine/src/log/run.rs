//! Frames one after the other in shared memory, walked one at a time.

use bytes::Bytes;

/// The frame stepped on lies at `begin..end`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    bytes: Bytes,
    begin: usize,
    end: usize,
}

impl Run {
    /// All of these bytes are ahead.
    pub fn new(bytes: Bytes) -> Run {
        Run { bytes, begin: 0, end: 0 }
    }

    /// What is behind the frame stepped on.
    #[inline]
    pub fn rest(&self) -> &[u8] {
        self.bytes.get(self.end..).unwrap_or_default()
    }

    /// Steps on the next frame, which takes `len` bytes of the rest.
    #[inline]
    pub fn step(&mut self, len: usize) {
        self.begin = self.end;
        self.end += len;
    }

    /// The frame stepped on.
    #[inline]
    pub fn current(&self) -> &[u8] {
        self.bytes.get(self.begin..self.end).unwrap_or_default()
    }

    /// The same, sharing the memory.
    #[inline]
    pub fn share(&self) -> Bytes {
        self.bytes.slice_ref(self.current())
    }
}
