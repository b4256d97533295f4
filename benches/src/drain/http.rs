//! HTTP by hand: a connection that stays open, and bodies posted over several at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A connection.
pub(super) struct Http(BufReader<TcpStream>);

impl Http {
    pub(super) async fn open(port: u16) -> Result<Http> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        Ok(Http(BufReader::with_capacity(64 << 10, stream)))
    }

    /// The body of the answer, where that is a success.
    pub(super) async fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.0.write_all(head.as_bytes()).await?;
        self.0.write_all(body).await?;
        self.0.flush().await?;
        let status = self.line().await?;
        let code = status.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line().await?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(bytes) = line.strip_prefix("content-length:") {
                length = bytes.trim().parse().context("a length that is no number")?;
            }
            chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
        let mut answer = Vec::new();
        if chunked {
            loop {
                let size = usize::from_str_radix(&self.line().await?, 16).context("a chunk without a size")?;
                self.take(size, &mut answer).await?;
                self.line().await?;
                if size == 0 {
                    break;
                }
            }
        } else if code != "204" {
            self.take(length, &mut answer).await?;
        }
        ensure!(code.starts_with('2'), "{path}: {status}: {}", String::from_utf8_lossy(&answer));
        Ok(answer)
    }

    async fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.0.read_line(&mut line).await? == 0 {
            bail!("the server has closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }

    async fn take(&mut self, bytes: usize, out: &mut Vec<u8>) -> Result<()> {
        let begin = out.len();
        out.resize(begin + bytes, 0);
        self.0.read_exact(out.get_mut(begin..).unwrap_or_default()).await?;
        Ok(())
    }
}

/// Posts bodies until there is none of a number, each when a connection is free; seconds until the last is answered.
pub(super) async fn post_all(
    port: u16,
    path: &str,
    connections: usize,
    body: impl Fn(usize) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Result<f64> {
    let (body, next, path) = (Arc::new(body), Arc::new(AtomicUsize::new(0)), Arc::<str>::from(path));
    let begun = Instant::now();
    let mut posting = JoinSet::new();
    for _ in 0..connections {
        let (body, next, path) = (body.clone(), next.clone(), path.clone());
        posting.spawn(async move {
            let mut link = Http::open(port).await?;
            while let Some(body) = body(next.fetch_add(1, Ordering::Relaxed)) {
                link.ask("POST", &path, &body).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = posting.join_next().await {
        ended??;
    }
    Ok(begun.elapsed().as_secs_f64())
}
