//! Between a sink and DynamoDB Local: says what DynamoDB says and the local one never does.
//!
//! Everything else goes through as it is: what is stored is stored by the real thing.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    /// It goes through.
    Nothing,
    /// It is refused with this status and code.
    Refuse(u16, &'static str),
    /// Of a `BatchWriteItem` only the first half goes through, the rest is unprocessed; anything else is whole.
    Half,
}

type Judge = dyn Fn(&str, &[u8]) -> Say + Send + Sync;

/// A way to a server. It ends when it is dropped.
pub struct Wire {
    pub endpoint: String,
    judge: Arc<Mutex<Arc<Judge>>>,
    listening: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

impl Wire {
    pub async fn to(upstream: &str) -> Wire {
        let upstream = upstream.strip_prefix("http://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let judge: Arc<Mutex<Arc<Judge>>> = Arc::new(Mutex::new(Arc::new(|_: &str, _: &[u8]| Say::Nothing)));
        let asked = judge.clone();
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (asked, upstream) = (asked.clone(), upstream.clone());
                tokio::spawn(async move {
                    // Either side may go at any time.
                    let _ = serve(client, &upstream, &asked).await;
                });
            }
        });
        Wire { endpoint, judge, listening }
    }

    /// From now on each operation (`PutItem`) is judged so.
    pub fn judge(&self, judge: impl Fn(&str) -> Say + Send + Sync + 'static) {
        self.judge_requests(move |operation, _| judge(operation));
    }

    /// From now on each operation is judged by its body too.
    pub fn judge_requests(&self, judge: impl Fn(&str, &[u8]) -> Say + Send + Sync + 'static) {
        *self.judge.lock() = Arc::new(judge);
    }
}

/// One request a connection.
async fn serve(mut client: TcpStream, upstream: &str, judge: &Mutex<Arc<Judge>>) -> std::io::Result<()> {
    let (mut read, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
    let head = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let count = client.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        read.extend_from_slice(&buffer[..count]);
    };
    let lines = String::from_utf8_lossy(&read[..head]).into_owned();
    let header = |name: &str| {
        lines.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let length: usize = header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    while read.len() < head + length {
        let count = client.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        read.extend_from_slice(&buffer[..count]);
    }
    let body = read[head..head + length].to_vec();
    let target = header("x-amz-target").unwrap_or_default();
    let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
    let say = judge.lock().clone()(&operation, &body);
    let answer = match say {
        Say::Refuse(status, code) => {
            let body =
                json!({"__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "so the wire says"});
            answer(status, &body)
        }
        Say::Half if operation == "BatchWriteItem" => half(&lines, &body, upstream).await?,
        _ => forward(&lines, &body, upstream).await?,
    };
    client.write_all(&answer).await?;
    client.shutdown().await
}

fn answer(status: u16, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/x-amz-json-1.0\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// The server's answer to this, whole.
async fn forward(head: &str, body: &[u8], upstream: &str) -> std::io::Result<Vec<u8>> {
    let mut request = String::new();
    for line in head.trim_end().lines() {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        if name != "content-length" && name != "connection" {
            request += line;
            request += "\r\n";
        }
    }
    request += &format!("connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut server = TcpStream::connect(upstream).await?;
    server.write_all(request.as_bytes()).await?;
    server.write_all(body).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    Ok(answer)
}

async fn half(head: &str, body: &[u8], upstream: &str) -> std::io::Result<Vec<u8>> {
    let mut whole: Value = serde_json::from_slice(body).unwrap();
    let mut rest = json!({});
    for (table, writes) in whole["RequestItems"].as_object_mut().unwrap() {
        let writes = writes.as_array_mut().unwrap();
        let late = writes.split_off(writes.len().div_ceil(2));
        if !late.is_empty() {
            rest[table] = Value::Array(late);
        }
    }
    let said = forward(head, whole.to_string().as_bytes(), upstream).await?;
    if !said.starts_with(b"HTTP/1.1 200") {
        return Ok(said);
    }
    Ok(answer(200, &json!({ "UnprocessedItems": rest })))
}
