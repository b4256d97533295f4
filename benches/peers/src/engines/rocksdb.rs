//! RocksDB through its C interface (the system's library: no C++ build): `WriteOptions.sync`, write buffer of 64 MiB, no compression,
//! its own write groups.
//!
//! All `unsafe` of the package is here. Each call passes pointers that were made by the same interface and are freed in `drop`, and
//! slices that outlive the call: RocksDB copies keys and values before it returns. A `rocksdb_t` may be used from several threads at
//! once; its options and batches are not shared between threads.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_uchar, c_void};
use std::path::Path;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};

use super::{Engine, Mode, Native, Store};

pub const ENGINE: Engine = Engine {
    name: "rocksdb",
    groups: true,
    durable: true,
    unsynced: true,
    reads: true,
    native: Some(|dir, _| Ok(Box::new(Rocks::open(dir)?))),
    store: Some(|dir, _: Mode| Ok(Box::new(Rocks::open(dir)?))),
    flight: None,
};

/// Something that only the library looks into.
type Handle = *mut c_void;

unsafe extern "C" {
    fn rocksdb_options_create() -> Handle;
    fn rocksdb_options_destroy(options: Handle);
    fn rocksdb_options_set_create_if_missing(options: Handle, yes: c_uchar);
    fn rocksdb_options_set_write_buffer_size(options: Handle, bytes: usize);
    fn rocksdb_options_set_compression(options: Handle, kind: c_int);
    fn rocksdb_open(options: Handle, path: *const c_char, error: *mut *mut c_char) -> Handle;
    fn rocksdb_close(database: Handle);
    fn rocksdb_free(memory: *mut c_void);
    fn rocksdb_writeoptions_create() -> Handle;
    fn rocksdb_writeoptions_destroy(options: Handle);
    fn rocksdb_writeoptions_set_sync(options: Handle, yes: c_uchar);
    fn rocksdb_put(
        database: Handle,
        options: Handle,
        key: *const u8,
        key_len: usize,
        value: *const u8,
        value_len: usize,
        error: *mut *mut c_char,
    );
    fn rocksdb_writebatch_create() -> Handle;
    fn rocksdb_writebatch_destroy(batch: Handle);
    fn rocksdb_writebatch_clear(batch: Handle);
    fn rocksdb_writebatch_put(batch: Handle, key: *const u8, key_len: usize, value: *const u8, value_len: usize);
    fn rocksdb_write(database: Handle, options: Handle, batch: Handle, error: *mut *mut c_char);
    fn rocksdb_readoptions_create() -> Handle;
    fn rocksdb_readoptions_destroy(options: Handle);
    fn rocksdb_create_iterator(database: Handle, options: Handle) -> Handle;
    fn rocksdb_iter_destroy(iterator: Handle);
    fn rocksdb_iter_seek_to_first(iterator: Handle);
    fn rocksdb_iter_valid(iterator: Handle) -> c_uchar;
    fn rocksdb_iter_next(iterator: Handle);
    fn rocksdb_iter_value(iterator: Handle, len: *mut usize) -> *const u8;
}

struct Rocks {
    options: Handle,
    synced: Handle,
    unsynced: Handle,
    batch: Handle,
    database: Handle,
    next: AtomicU64,
}

// SAFETY: the library's database and write options may be used from any thread; the batch is used through `&mut` only.
unsafe impl Send for Rocks {}
// SAFETY: as above; through `&` only `rocksdb_put` is called, which the library allows from several threads at once.
unsafe impl Sync for Rocks {}

/// The library's error, if it left one.
fn check(error: *mut c_char) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the library leaves a string that ends with a zero byte and is freed with `rocksdb_free`.
    let text = unsafe { CStr::from_ptr(error).to_string_lossy().into_owned() };
    // SAFETY: as above; it is not used again.
    unsafe { rocksdb_free(error.cast()) };
    bail!("rocksdb: {text}");
}

impl Rocks {
    fn open(dir: &Path) -> Result<Rocks> {
        let path = CString::new(dir.join("rocksdb").to_string_lossy().as_bytes())?;
        let mut error = null_mut();
        // SAFETY: see the module; options and path live until `drop` and the end of this function.
        let rocks = unsafe {
            let options = rocksdb_options_create();
            rocksdb_options_set_create_if_missing(options, 1);
            rocksdb_options_set_write_buffer_size(options, 64 << 20);
            rocksdb_options_set_compression(options, 0);
            let synced = rocksdb_writeoptions_create();
            rocksdb_writeoptions_set_sync(synced, 1);
            Rocks {
                options,
                synced,
                unsynced: rocksdb_writeoptions_create(),
                batch: rocksdb_writebatch_create(),
                database: rocksdb_open(options, path.as_ptr(), &raw mut error),
                next: AtomicU64::new(0),
            }
        };
        check(error)?;
        Ok(rocks)
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        // SAFETY: each was made once and is freed once; the database goes before its options. It is null when it could not be opened.
        unsafe {
            if !self.database.is_null() {
                rocksdb_close(self.database);
            }
            rocksdb_writebatch_destroy(self.batch);
            rocksdb_writeoptions_destroy(self.synced);
            rocksdb_writeoptions_destroy(self.unsynced);
            rocksdb_options_destroy(self.options);
        }
    }
}

impl Native for Rocks {
    fn append(&self, _: usize, record: &[u8]) -> Result<()> {
        let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let mut error = null_mut();
        // SAFETY: see the module.
        unsafe {
            rocksdb_put(
                self.database,
                self.synced,
                key.as_ptr(),
                key.len(),
                record.as_ptr(),
                record.len(),
                &raw mut error,
            );
        }
        check(error)
    }
}

impl Store for Rocks {
    fn write(&mut self, records: &[u8], size: usize, sync: bool) -> Result<()> {
        let mut error = null_mut();
        // SAFETY: see the module.
        unsafe {
            rocksdb_writebatch_clear(self.batch);
            for record in records.chunks_exact(size) {
                let key = self.next.fetch_add(1, Ordering::Relaxed).to_be_bytes();
                rocksdb_writebatch_put(self.batch, key.as_ptr(), key.len(), record.as_ptr(), record.len());
            }
            let options = if sync { self.synced } else { self.unsynced };
            rocksdb_write(self.database, options, self.batch, &raw mut error);
        }
        check(error)
    }

    fn read_all(&mut self) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        // SAFETY: see the module; the iterator goes before its options, and both before the database.
        unsafe {
            let options = rocksdb_readoptions_create();
            let iterator = rocksdb_create_iterator(self.database, options);
            rocksdb_iter_seek_to_first(iterator);
            while rocksdb_iter_valid(iterator) != 0 {
                let mut len = 0;
                rocksdb_iter_value(iterator, &raw mut len);
                bytes += len as u64;
                count += 1;
                rocksdb_iter_next(iterator);
            }
            rocksdb_iter_destroy(iterator);
            rocksdb_readoptions_destroy(options);
        }
        Ok((count, bytes))
    }
}
