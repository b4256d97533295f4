//! VictoriaMetrics: a server that takes InfluxDB's lines, `/api/v2/write` too, and OpenTSDB's puts.
//!
//! It answers success to lines and points that it can't read, and gives no details of a put: for the way there and back, not
//! for errors.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use rustix::process::Signal;

use crate::process::{Spec, answers};
use crate::{Process, Running, Service, free_port, packages};

/// The server. Its address is `http://127.0.0.1:PORT/?opentsdb=PORT`.
#[derive(Clone, Copy, Debug)]
pub struct Victoria;

impl Service for Victoria {
    fn name(&self) -> &'static str {
        "victoria-metrics"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_VICTORIA_URL"
    }

    fn install(&self) -> Result<()> {
        packages::provide(&[("victoria-metrics", "victoria-metrics")])
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let (port, opentsdb) = (free_port()?, free_port()?);
        let data = dir.join("data");
        let health = format!("http://127.0.0.1:{port}/health");
        let process = Process::start(Spec {
            name: self.name().into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(move || {
                let mut command = Command::new("victoria-metrics");
                command
                    .arg(format!("-storageDataPath={}", data.display()))
                    .arg(format!("-httpListenAddr=127.0.0.1:{port}"))
                    .arg(format!("-opentsdbHTTPListenAddr=127.0.0.1:{opentsdb}"))
                    // Points outside of it are dropped without a word.
                    .arg("-retentionPeriod=100y")
                    // A point that is sent again is there twice otherwise.
                    .arg("-dedup.minScrapeInterval=1ms")
                    .args(["-search.latencyOffset=0s", "-memory.allowedBytes=128MB"]);
                command
            }),
            ready: Box::new(move || answers(&health)),
        })?;
        Ok(Running { address: format!("http://127.0.0.1:{port}/?opentsdb={opentsdb}"), members: vec![process] })
    }
}
