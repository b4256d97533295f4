//! What the tests of the points' databases share: pools from `.conf` lines, servers asked by HTTP.
#![allow(dead_code, reason = "each test uses some of it")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use forebay_engine::Lsn;
use forebay_services::toxiproxy::Link;
use forebay_sinks::conformance::{Bench, caught_up};
use forebay_sinks::rule::{Pool, parse_conf};
use forebay_sinks::runtime::SinkHandle;
use tempfile::TempDir;

/// The pool of these lines and the folder that its files are in.
pub fn pool(lines: &str, template: &str) -> (Pool, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("templates")).unwrap();
    for name in ["influxdb", "opentsdb"] {
        std::fs::write(dir.path().join(format!("templates/emqx_backend_{name}.tmpl")), template).unwrap();
    }
    let parsed = parse_conf(Path::new("test.conf"), lines);
    assert_eq!(parsed.faults, vec![]);
    (parsed.rules.pools.into_iter().next().unwrap(), dir)
}

/// A name that no other test of this run or the last has.
pub fn unique(prefix: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
    format!("{prefix}_{now}_{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Status (0 where there is no answer) and body of a request by curl, which speaks TLS too.
pub fn http(words: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--noproxy", "*", "--max-time", "60", "--write-out", "\n%{http_code}"]).args(words);
    let answer = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let (body, status) = answer.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

/// How often each text is there.
pub fn counted(texts: impl IntoIterator<Item = String>) -> BTreeMap<Vec<u8>, u64> {
    let mut counts = BTreeMap::new();
    for text in texts {
        *counts.entry(text.into_bytes()).or_default() += 1;
    }
    counts
}

/// Waits until a check holds.
pub fn until(what: &str, mut check: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !check() {
        assert!(start.elapsed().as_secs() < 120, "did not happen: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Cuts, silences and resets a link to a server in mid batch, again and again. `publish` appends so many messages and returns the last;
/// `small` is a part of a batch's bytes.
pub async fn troubled<F>(link: &Link, bench: &Bench, sink: &SinkHandle, small: u64, publish: F)
where
    F: Fn(&Bench, usize) -> Lsn,
{
    let last = publish(bench, 100);
    caught_up(bench, sink, last).await;
    for trouble in 0..8 {
        match trouble % 4 {
            0 => link.cut(),
            1 => link.silence(),
            2 => link.reset_after(5),
            _ => link.close_after_bytes("upstream", small),
        }
        .unwrap();
        publish(bench, 500);
        tokio::time::sleep(std::time::Duration::from_millis(700)).await;
        link.heal().unwrap();
        let last = publish(bench, 10);
        caught_up(bench, sink, last).await;
    }
    assert!(sink.dead_letters().is_empty());
}
