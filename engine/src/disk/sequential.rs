//! A file read or written from its beginning to its end, over positional access.

use std::io::{self, Read, Write};

use super::DiskFile;

/// A place in an open file that moves with each read and write.
#[derive(Debug)]
pub struct Sequential<'a> {
    file: &'a dyn DiskFile,
    at: u64,
}

impl<'a> Sequential<'a> {
    /// At the file's beginning.
    #[must_use]
    pub fn new(file: &'a dyn DiskFile) -> Sequential<'a> {
        Sequential { file, at: 0 }
    }
}

impl Read for Sequential<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buf, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Write for Sequential<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(buf, self.at)?;
        self.at += buf.len() as u64;
        Ok(buf.len())
    }

    /// Nothing is held back here; durable is what `sync_data` of the file has made so.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
