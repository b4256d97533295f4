//! Residue files on a disk that forgets: what is written reads back, every flipped byte is told, a crash leaves a whole file or none.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;
use crate::disk::ForgettingDisk;
use crate::event::{Event, Message, Published, QoS};

const ID: [u8; 16] = [7; 16];

fn dir() -> PathBuf {
    PathBuf::from("/log")
}

fn record(lsn: u64, topic: &str) -> Record {
    let message = Message {
        topic: topic.into(),
        payload: format!("{lsn}").repeat(50).into(),
        qos: QoS::AtLeastOnce,
        ..Message::default()
    };
    let event = Event::Published(Published { message, packet_id: None, epoch: 0 });
    let mut body = Vec::new();
    event.encode(&mut body);
    Record { lsn: Lsn(lsn), time_us: 1000 + lsn, kind: event.kind(), body: body.into() }
}

fn write(residue: &Residue, covers: Range<u64>, records: &[Record]) -> PathBuf {
    let mut writer = residue.begin(Lsn(covers.start), 5).unwrap();
    for record in records {
        writer.push(record).unwrap();
    }
    writer.finish(Lsn(covers.end)).unwrap()
}

fn open(disk: &ForgettingDisk) -> Result<Residue, OpenError> {
    Residue::open(Arc::new(disk.clone()), &dir(), ID, OnDamage::Refuse)
}

#[test]
fn records_read_back_by_number_and_by_filter_and_no_others() {
    let disk = ForgettingDisk::new();
    let residue = open(&disk).unwrap();
    // Enough for several marks.
    let records: Vec<Record> = (0..2000).map(|i| record(10 + 3 * i, &format!("t/{}", i % 7))).collect();
    residue.add(&write(&residue, 10..9000, &records)).unwrap();
    residue.add(&write(&residue, 9000..9100, &[record(9050, "t/1")])).unwrap();
    for residue in [&residue, &open(&disk).unwrap()] {
        for record in &records {
            assert_eq!(residue.read(record.lsn).unwrap().as_ref(), Some(record));
            assert_eq!(residue.read(record.lsn.next()).unwrap(), None);
        }
        assert_eq!(residue.read(Lsn(9)).unwrap(), None);
        assert_eq!(residue.read(Lsn(9050)).unwrap().unwrap().lsn, Lsn(9050));
        let mut at = Lsn(100);
        let mut got = Vec::new();
        while at < Lsn(9100) {
            let (some, until) = residue.matching(&["t/1", "t/3"], &(at..Lsn(9100)), 50).unwrap();
            assert!(until > at && some.len() <= 50, "{at} {until}");
            got.extend(some);
            at = until;
        }
        let wanted = records.iter().enumerate().filter(|(i, r)| (i % 7 == 1 || i % 7 == 3) && r.lsn >= Lsn(100));
        let mut wanted: Vec<Record> = wanted.map(|(_, r)| r.clone()).collect();
        wanted.push(record(9050, "t/1"));
        assert_eq!(got, wanted);
        let sizes = residue.sizes("t/1", &(Lsn(100)..Lsn(9100))).unwrap();
        assert_eq!(sizes.len(), got.iter().filter(|r| (r.lsn.0 - 10) / 3 % 7 == 1 || r.lsn.0 == 9050).count());
    }
    let report = verify_residue(&disk, &dir().join(format!("{:020}.residue", 10)), ID).unwrap();
    assert_eq!((report.records, report.from, report.to), (2000, Lsn(10), Lsn(9000)));
}

#[test]
fn a_flipped_byte_anywhere_is_told_and_a_cut_file_is_refused() {
    let disk = ForgettingDisk::new();
    let residue = open(&disk).unwrap();
    let records: Vec<Record> = (1..30).map(|i| record(i, &format!("t/{}", i % 5))).collect();
    let path = write(&residue, 1..30, &records);
    let good = disk.bytes(&path).unwrap();
    // Zeros that no checksum covers: the end's two gaps, and the index's own.
    let mut uncovered = 0;
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        disk.overwrite(&path, &bad);
        uncovered += usize::from(verify_residue(&disk, &path, ID).is_ok());
    }
    assert!(uncovered <= 8, "{uncovered} bytes of {} may change unseen", good.len());
    for len in 0..good.len() {
        disk.overwrite(&path, &good[..len]);
        assert!(verify_residue(&disk, &path, ID).is_err(), "cut to {len}");
        assert!(open(&disk).is_err(), "cut to {len}");
    }
    disk.overwrite(&path, &good);
    assert!(matches!(verify_residue(&disk, &path, [8; 16]), Err(OpenError::ForeignSegment { .. })));
    let mut newer = good.clone();
    newer[8] = 2;
    disk.overwrite(&path, &newer);
    assert!(matches!(open(&disk), Err(OpenError::NewerFormat { version: 2, .. })));
    disk.overwrite(&path, &good[..100]);
    let aside = Residue::open(Arc::new(disk.clone()), &dir(), ID, OnDamage::Quarantine).unwrap();
    assert!(aside.files().is_empty());
    assert_eq!(disk.bytes(&path.with_extension("residue.damaged")).unwrap(), &good[..100]);
}

#[test]
fn a_merged_file_takes_the_place_of_those_it_covers_whatever_step_a_crash_comes_at() {
    let records: Vec<Record> = (1..40).map(|i| record(i, "t")).collect();
    for seed in 0..4 {
        for step in 0..40 {
            let disk = ForgettingDisk::new();
            let residue = open(&disk).unwrap();
            residue.add(&write(&residue, 1..20, &records[..19])).unwrap();
            residue.add(&write(&residue, 20..40, &records[19..])).unwrap();
            disk.power_off_after(step);
            let merge = || -> io::Result<()> {
                let mut writer = residue.begin(Lsn(1), 9)?;
                for record in records.iter().filter(|r| r.lsn.0 % 3 == 0) {
                    writer.push(record)?;
                }
                residue.add(&writer.finish(Lsn(40))?).map(drop)
            };
            let done = merge().is_ok();
            disk.crash(seed);
            let after = open(&disk).unwrap_or_else(|e| panic!("step {step} seed {seed}: {e}"));
            for record in records.iter().filter(|r| r.lsn.0 % 3 == 0) {
                assert_eq!(after.read(record.lsn).unwrap().as_ref(), Some(record), "step {step} seed {seed}");
            }
            let (all, _) = after.matching(&["t"], &(Lsn(1)..Lsn(40)), 1000).unwrap();
            assert!(all.is_sorted_by(|a, b| a.lsn < b.lsn), "none twice");
            if done {
                assert_eq!(after.files().len(), 1);
                assert_eq!(all.len(), 13);
            }
            if step == 39 {
                assert!(done, "the last step lies behind the end");
            }
        }
    }
}
