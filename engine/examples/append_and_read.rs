//! Opens a log, appends durably, reads back, closes. `cargo run -p forebay-engine --example append_and_read -- FOLDER`

use std::error::Error;

use forebay_engine::log::{Log, LogOptions, NewRecord};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("give a folder for the log")?;
    let (log, report) = Log::open(LogOptions::new(dir))?;
    println!("log {} has records {} to {}", report.log_id, report.first, report.next);

    // When this returns, the records are on disk.
    let records = ["first", "second"].map(|text| NewRecord { kind: 1, body: text.as_bytes() });
    let appended = log.append_durable(records)?;
    println!("records {} to {} are durable", appended.first, appended.last);

    let mut reader = log.reader(log.first())?;
    let mut batch = Vec::new();
    while reader.read_batch(100, 1 << 20, &mut batch)? > 0 {
        for record in batch.drain(..) {
            println!("{} {} {}", record.lsn, record.time_us, String::from_utf8_lossy(&record.body));
        }
    }
    log.close();
    Ok(())
}
