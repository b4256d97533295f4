//! The examples do what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../examples/embed_in_a_broker.rs"]
mod embed_in_a_broker;
#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../examples/tailing_reader.rs"]
mod tailing_reader;
#[allow(dead_code, reason = "its `main` is not called")]
#[path = "../examples/work_queue.rs"]
mod work_queue;

#[test]
fn the_broker_delivers_what_it_acknowledged_before_it_died() {
    let dir = tempfile::tempdir().unwrap();
    let mut received = embed_in_a_broker::run(dir.path()).unwrap();
    received.dedup();
    assert_eq!(received, ["soup", "bread", "fish"]);
}

#[test]
fn the_work_queue_has_each_job_done_and_hands_on_those_of_a_worker_that_left() {
    let dir = tempfile::tempdir().unwrap();
    let outcome = work_queue::run(dir.path()).unwrap();
    let mut jobs: Vec<&str> = outcome.done.iter().map(|(_, job)| job.as_str()).collect();
    jobs.sort_by_key(|job| job.trim_start_matches("frame ").parse::<u32>().unwrap());
    let expected: Vec<String> = (1..=10).map(|n| format!("frame {n}")).collect();
    assert_eq!(jobs, expected, "each once");
    assert_eq!(outcome.done[0].0, "ada");
    assert_eq!(outcome.handed_on.len(), 1, "{:?}", outcome.handed_on);
}

#[test]
fn the_tailing_reader_goes_on_where_it_was_and_stores_each_record_once() {
    let dir = tempfile::tempdir().unwrap();
    for run in 1..=3 {
        let rows = tailing_reader::run(dir.path()).unwrap();
        assert_eq!(rows.len(), 10 * run);
        let numbers: Vec<u64> = rows.iter().map(|row| row.split(' ').next().unwrap().parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    }
}
