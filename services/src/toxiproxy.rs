//! Toxiproxy: links that tests cut, hold up and break.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::process::{Spec, accepts};
use crate::{Process, Running, Service, free_port, packages};

/// A release of 2025; built from its source by the Go tools.
const MODULE: &str = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0";

/// The proxy's server. Its address is that of its HTTP interface.
#[derive(Clone, Copy, Debug)]
pub struct Toxiproxy;

impl Service for Toxiproxy {
    fn name(&self) -> &'static str {
        "toxiproxy"
    }

    fn variable(&self) -> &'static str {
        "FOREBAY_TEST_TOXIPROXY"
    }

    fn install(&self) -> Result<()> {
        let program = program()?;
        let dir = program.parent().context("the cache folder has a parent")?;
        crate::make(dir)?;
        let lock = std::fs::File::create(dir.join("toxiproxy.lock")).context("creating a lock file")?;
        lock.lock().context("locking the build")?;
        if program.is_file() {
            return Ok(());
        }
        packages::provide(&[("go", "golang-go")])?;
        let go = packages::find("go").context("go is not installed")?;
        packages::shown(Command::new(go).args(["install", MODULE]).env("GOBIN", dir))
    }

    fn start(&self, dir: &Path) -> Result<Running> {
        let port = free_port()?;
        let program = program()?;
        let process = Process::start(Spec {
            name: "toxiproxy".into(),
            dir: dir.to_owned(),
            port,
            signal: Signal::TERM,
            command: Box::new(move || {
                let mut command = Command::new(&program);
                command.args(["-host", "127.0.0.1", "-port", &port.to_string()]).env("LOG_LEVEL", "warn");
                command
            }),
            ready: Box::new(move || accepts(port)),
        })?;
        Ok(Running { address: format!("127.0.0.1:{port}"), members: vec![process] })
    }
}

fn program() -> Result<PathBuf> {
    Ok(packages::cache()?.join("tools").join("toxiproxy-2.12.0").join("server"))
}

/// A link that can be broken. Removed when it is dropped.
#[derive(Debug)]
pub struct Link {
    api: String,
    name: String,
    port: u16,
}

impl Link {
    /// A new link to `upstream` (`127.0.0.1:PORT`) through the shared proxy.
    ///
    /// # Errors
    /// Where the proxy does not run, or refuses.
    pub fn to(upstream: &str) -> Result<Link> {
        Link::through(&crate::address("toxiproxy")?, upstream)
    }

    /// A new link through the proxy at that address.
    ///
    /// # Errors
    /// Where the proxy does not run, or refuses.
    pub fn through(proxy: &str, upstream: &str) -> Result<Link> {
        let port = free_port()?;
        let link = Link { api: format!("http://{proxy}"), name: format!("link-{port}"), port };
        let body =
            json!({"name": link.name, "listen": format!("127.0.0.1:{port}"), "upstream": upstream, "enabled": true});
        link.post("proxies", &body)?;
        Ok(link)
    }

    /// Where clients connect to: a port of 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks every connection and refuses new ones.
    ///
    /// # Errors
    /// Where the proxy does not answer.
    pub fn cut(&self) -> Result<()> {
        self.post(&format!("proxies/{}", self.name), &json!({"enabled": false}))
    }

    /// Takes connections again, and ends all that was set up by the other calls.
    ///
    /// # Errors
    /// Where the proxy does not answer.
    pub fn heal(&self) -> Result<()> {
        let url = format!("{}/proxies/{}/toxics", self.api, self.name);
        let toxics: Value = ureq::get(&url).call().context("asking for toxics")?.body_mut().read_json()?;
        for toxic in toxics.as_array().into_iter().flatten() {
            if let Some(name) = toxic.get("name").and_then(Value::as_str) {
                ureq::delete(&format!("{url}/{name}")).call().context("removing a toxic")?;
            }
        }
        self.post(&format!("proxies/{}", self.name), &json!({"enabled": true}))
    }

    /// The server's answers are swallowed from now on; connections stay.
    ///
    /// # Errors
    /// Where the proxy does not answer.
    pub fn silence(&self) -> Result<()> {
        self.toxic("timeout", "downstream", &json!({"timeout": 0}))
    }

    /// Every connection is reset after so many ms.
    ///
    /// # Errors
    /// Where the proxy does not answer.
    pub fn reset_after(&self, ms: u64) -> Result<()> {
        self.toxic("reset_peer", "downstream", &json!({"timeout": ms}))
    }

    /// Each answer takes so many ms longer.
    ///
    /// # Errors
    /// Where the proxy does not answer.
    pub fn delay(&self, ms: u64) -> Result<()> {
        self.toxic("latency", "downstream", &json!({"latency": ms, "jitter": 0}))
    }

    /// The connection is closed after so many bytes to the server (`upstream`) or from it (`downstream`).
    ///
    /// # Errors
    /// Where the proxy does not answer.
    pub fn close_after_bytes(&self, stream: &str, bytes: u64) -> Result<()> {
        self.toxic("limit_data", stream, &json!({"bytes": bytes}))
    }

    /// Any toxic of the proxy's.
    ///
    /// # Errors
    /// Where the proxy does not answer, or does not know it.
    pub fn toxic(&self, kind: &str, stream: &str, attributes: &Value) -> Result<()> {
        let body = json!({"type": kind, "stream": stream, "toxicity": 1.0, "attributes": attributes});
        self.post(&format!("proxies/{}/toxics", self.name), &body)
    }

    fn post(&self, path: &str, body: &Value) -> Result<()> {
        let url = format!("{}/{path}", self.api);
        let response = ureq::post(&url).send_json(body).with_context(|| format!("asking {url} for {body}"))?;
        ensure!(response.status().is_success(), "{url} answered {} to {body}", response.status());
        Ok(())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // A proxy that is gone has no links.
        let _ = ureq::delete(&format!("{}/proxies/{}", self.api, self.name)).call();
    }
}
