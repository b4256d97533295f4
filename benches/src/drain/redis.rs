//! Redis by hand: the protocol, and `redis-cli --pipe`.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use forebay_services::redis::{PASSWORD, Redis as Service};
use forebay_services::{Private, private};
use tempfile::NamedTempFile;

use super::rows::{Rows, SECONDS, SENDER};
use super::side::{Side, Work};

/// One server.
#[derive(Debug)]
pub(super) struct Redis {
    durable: bool,
    file: Option<NamedTempFile>,
}

impl Redis {
    pub(super) fn new(durable: bool) -> Redis {
        Redis { durable, file: None }
    }
}

impl Side for Redis {
    fn names(&self) -> (&'static str, &'static str) {
        (if self.durable { "Redis, appendfsync always" } else { "Redis" }, "redis-cli --pipe")
    }

    fn start(&self) -> Result<Option<Private>> {
        private(&Service { tls: false, durable: self.durable }).map(Some)
    }

    fn words(&self) -> (&'static str, &'static str) {
        ("redis", "redis")
    }

    fn pool(&self, port: u16) -> Vec<String> {
        vec![format!("server = 127.0.0.1:{port}"), "type = single".to_owned(), format!("password = {PASSWORD}")]
    }

    fn clear(&self, port: u16) -> Work<'_, ()> {
        Box::pin(async move { clear(port) })
    }

    fn count(&self, port: u16) -> Work<'_, u64> {
        Box::pin(async move { count(port) })
    }

    fn prepare(&mut self, rows: Rows, _connections: usize) -> Result<()> {
        self.file = Some(file(rows)?);
        Ok(())
    }

    fn bulk(&self, port: u16) -> Work<'_, f64> {
        Box::pin(async move { pipe(port, self.file.as_ref().context("the bulk way was not prepared")?.path()) })
    }

    fn plain(&self, port: u16, rows: Rows) -> Work<'_, f64> {
        Box::pin(async move {
            let mut link = Resp::open(port)?;
            let begun = Instant::now();
            for n in 0..rows.messages {
                for command in commands(&rows, n) {
                    link.ask(&command)?;
                }
            }
            Ok(begun.elapsed().as_secs_f64())
        })
    }
}

/// A connection that waits for each answer.
struct Resp(BufReader<TcpStream>);

impl Resp {
    fn open(port: u16) -> Result<Resp> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        let mut link = Resp(BufReader::new(stream));
        link.ask(&packed(&[b"AUTH", PASSWORD.as_bytes()]))?;
        Ok(link)
    }

    /// Sends a command whose answer is one line, and returns that.
    fn ask(&mut self, command: &[u8]) -> Result<String> {
        self.0.get_mut().write_all(command)?;
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        ensure!(!line.is_empty(), "Redis has closed the connection");
        if let Some(refused) = line.strip_prefix('-') {
            bail!("Redis: {refused}");
        }
        Ok(line.trim_end().to_owned())
    }
}

fn packed(words: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// What stores a message as the guide has it: its hash and its member of the topic's sorted set.
fn commands(rows: &Rows, n: u64) -> [Vec<u8>; 2] {
    let (id, topic, payload) = (Rows::msgid(n), rows.topic(n), rows.payload(n));
    let (hash, set, ts) = (format!("mqtt:msg:{id}"), format!("mqtt:msg:{topic}"), SECONDS.to_string());
    let fields = [
        "HSET", &hash, "id", &id, "from", SENDER, "qos", "1", "topic", &topic, "payload", &payload, "ts", &ts,
        "retain", "false",
    ];
    let [hash, set] = [&fields[..], &["ZADD", &set, "1", &id]].map(|words| {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        packed(&words)
    });
    [hash, set]
}

/// The commands of all rows as a file.
fn file(rows: Rows) -> Result<NamedTempFile> {
    let file = NamedTempFile::new()?;
    let mut out = BufWriter::with_capacity(1 << 20, file.as_file());
    for n in 0..rows.messages {
        for command in commands(&rows, n) {
            out.write_all(&command)?;
        }
    }
    out.flush()?;
    drop(out);
    Ok(file)
}

/// `redis-cli --pipe < file`; seconds.
fn pipe(port: u16, file: &Path) -> Result<f64> {
    let begun = Instant::now();
    let output = Command::new("redis-cli")
        .args(["-p", &port.to_string(), "-a", PASSWORD, "--no-auth-warning", "--pipe"])
        .stdin(Stdio::from(std::fs::File::open(file)?))
        .output()?;
    let took = begun.elapsed();
    ensure!(output.status.success(), "redis-cli --pipe: {}", String::from_utf8_lossy(&output.stdout));
    Ok(took.as_secs_f64())
}

fn clear(port: u16) -> Result<()> {
    Resp::open(port)?.ask(&packed(&[b"FLUSHALL", b"SYNC"])).map(|_| ())
}

/// Messages: all keys but the topics' sets and the sink's own.
fn count(port: u16) -> Result<u64> {
    let script = "local n = 0 local c = '0' repeat local r = redis.call('SCAN', c, 'MATCH', 'mqtt:msg:????????????????????', \
                  'COUNT', 10000, 'TYPE', 'hash') c = r[1] n = n + #r[2] until c == '0' return n";
    let answer = Resp::open(port)?.ask(&packed(&[b"EVAL", script.as_bytes(), b"0"]))?;
    answer.trim_start_matches(':').parse().context("an answer that is no number")
}
