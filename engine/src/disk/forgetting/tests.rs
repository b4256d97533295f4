//! What is lost at a crash, what stays, and how failures look.

use super::*;

fn disk_with(path: &Path) -> (ForgettingDisk, Box<dyn DiskFile>) {
    let disk = ForgettingDisk::new();
    let file = disk.open(path, OpenHow::Create).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    (disk, file)
}

#[test]
fn synced_bytes_survive_every_crash_and_others_may_not() {
    let path = Path::new("/d/f");
    let mut lost = false;
    let mut kept = false;
    for seed in 0..50 {
        let (disk, file) = disk_with(path);
        file.write_all_at(&[1; 2048], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[2; 2048], 2048).unwrap();
        disk.crash(seed);
        assert!(file.len().is_err(), "a handle outlived the crash");
        let bytes = disk.bytes(path).unwrap();
        assert_eq!(bytes[..2048], [1; 2048]);
        lost |= bytes.len() < 4096 || bytes[2048..] != [2; 2048];
        kept |= bytes.len() == 4096 && bytes[2048..] == [2; 2048];
    }
    assert!(lost && kept);
}

#[test]
fn a_name_that_was_not_synced_may_be_gone() {
    let gone = (0..50).filter(|seed| {
        let disk = ForgettingDisk::new();
        disk.open(Path::new("/d/f"), OpenHow::Create).unwrap().sync_data().unwrap();
        disk.crash(*seed);
        disk.bytes(Path::new("/d/f")).is_none()
    });
    assert!((1..50).contains(&gone.count()));
}

#[test]
fn pages_of_a_failed_sync_read_back_but_are_gone_after_a_crash_even_when_a_later_sync_succeeds() {
    let path = Path::new("/d/f");
    let (disk, file) = disk_with(path);
    file.write_all_at(&[7; 100], 0).unwrap();
    disk.inject(Fault { operation: Operation::Sync, nth: 1, kind: FaultKind::Io });
    assert!(file.sync_data().is_err());
    assert!(file.sync_data().is_ok());
    assert_eq!(disk.bytes(path).unwrap(), vec![7; 100]);
    disk.crash(1);
    assert_eq!(disk.bytes(path).unwrap(), Vec::<u8>::new());
}

#[test]
fn a_full_disk_takes_what_fits_no_new_name_and_bytes_over_old_ones() {
    let path = Path::new("/d/f");
    let (disk, file) = disk_with(path);
    disk.set_capacity(Some(1000));
    file.write_all_at(&[1; 600], 0).unwrap();
    assert_eq!(disk.free_bytes(path).unwrap(), Some(400));
    assert!(super::super::is_no_space(&file.write_all_at(&[2; 600], 600).unwrap_err()));
    assert_eq!((file.len().unwrap(), disk.used_bytes()), (1000, 1000), "as much as fits was written");
    file.write_all_at(&[3; 1000], 0).unwrap();
    assert!(disk.open(Path::new("/d/g"), OpenHow::Create).is_err());
    disk.rename(path, Path::new("/d/h")).unwrap();
    disk.set_capacity(None);
    file.write_all_at(&[4; 600], 1000).unwrap();
}

#[test]
fn a_folder_whose_name_was_not_synced_may_be_gone_with_its_files() {
    let (dir, file) = (Path::new("/d/e"), Path::new("/d/e/f"));
    for synced in [false, true] {
        let left = (0..50).filter(|seed| {
            let disk = ForgettingDisk::new();
            disk.create_dir(dir).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            if synced {
                disk.sync_dir(Path::new("/d")).unwrap();
            }
            disk.open(file, OpenHow::Create).unwrap().sync_data().unwrap();
            disk.sync_dir(dir).unwrap();
            disk.crash(*seed);
            disk.bytes(file).is_some()
        });
        assert!(if synced { left.count() == 50 } else { (1..50).contains(&left.count()) });
    }
}

#[test]
fn bytes_on_their_way_when_the_power_fails_may_arrive() {
    let arrived = (0..50).filter(|seed| {
        let (disk, file) = disk_with(Path::new("/d/f"));
        disk.power_off_after(0);
        assert!(file.write_all_at(&[1; 100], 0).is_err() && disk.is_off());
        disk.crash(*seed);
        !disk.bytes(Path::new("/d/f")).unwrap().is_empty()
    });
    assert!((1..50).contains(&arrived.count()));
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let image = |seed| {
        let (disk, file) = disk_with(Path::new("/d/f"));
        for n in 0..20 {
            file.write_all_at(&[n as u8; 700], n * 600).unwrap();
        }
        disk.crash(seed);
        disk.bytes(Path::new("/d/f"))
    };
    assert_eq!(image(9), image(9));
    assert_ne!(image(9), image(10));
}
