//! Connections, requests and answers.

use std::io::Write;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, StatusCode};
use tokio::net::TcpStream;

use super::{HttpConfig, Login};
use crate::sink::WriteError;
use crate::tls;

/// How long one server may take to be connected to, so that a dead one does not use up the deadline of all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Most of an answer that is read.
const ANSWER_BYTES: usize = 16 << 20;

/// A connection that is kept alive.
#[derive(Clone, Debug)]
pub struct HttpConn {
    client: Client,
    base: String,
    login: Login,
    gzip: bool,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// How long the server asks to wait.
    pub(crate) wait: Option<Duration>,
    pub(crate) body: String,
}

/// Reaches the first of the servers that can be reached. Nothing is asked of it yet.
pub(crate) async fn connect(config: &HttpConfig) -> Result<HttpConn, WriteError> {
    let mut why = "the pool names no server".to_owned();
    for server in &config.servers {
        match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(server)).await {
            Ok(Ok(_)) => return open(config, server),
            Ok(Err(error)) => why = format!("{server}: {error}"),
            Err(_) => why = format!("{server}: no connection within {} s", CONNECT_TIMEOUT.as_secs()),
        }
    }
    Err(WriteError::Disconnected(why.into()))
}

fn open(config: &HttpConfig, server: &str) -> Result<HttpConn, WriteError> {
    // A database is not behind the proxy that web pages are; and an answer that leads elsewhere is none.
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(1)
        .tcp_nodelay(true)
        .user_agent(concat!("forebay/", env!("CARGO_PKG_VERSION")));
    // Without files there is no TLS; something has to be given all the same, or a provider is looked for.
    let files = config.tls.clone().unwrap_or_default();
    builder = builder.tls_backend_preconfigured(tls::client(&files)?);
    let client = builder.build().map_err(|e| WriteError::busy(format!("setting up HTTP: {}", chain(&e))))?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    Ok(HttpConn { client, base: format!("{scheme}://{server}"), login: config.login.clone(), gzip: config.gzip })
}

impl HttpConn {
    /// Sends a body.
    pub(crate) async fn post(&self, path: &str, kind: &'static str, body: Vec<u8>) -> Result<Answer, WriteError> {
        let request = self.request(path)?.header(CONTENT_TYPE, kind);
        if !self.gzip {
            return answer(request.body(body)).await;
        }
        let packed = gzip(&body).map_err(|e| WriteError::busy(format!("compressing: {e}")))?;
        answer(request.header(CONTENT_ENCODING, "gzip").body(packed)).await
    }

    fn request(&self, path: &str) -> Result<RequestBuilder, WriteError> {
        let request = self.client.post(format!("{}{path}", self.base));
        Ok(match &self.login {
            Login::None => request,
            Login::Password { username, password } => request.basic_auth(username, Some(password)),
            Login::Token(token) => {
                let mut value = HeaderValue::from_str(&format!("Token {token}"))
                    .map_err(|_| WriteError::busy("the pool's token has characters that no HTTP header can have"))?;
                value.set_sensitive(true);
                request.header(AUTHORIZATION, value)
            }
        })
    }
}

async fn answer(request: RequestBuilder) -> Result<Answer, WriteError> {
    let lost = |e: reqwest::Error| WriteError::Disconnected(chain(&e).into());
    let mut response = request.send().await.map_err(lost)?;
    let status = response.status();
    let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(lost)? {
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err(WriteError::Disconnected("an answer of more than 16 MiB".into()));
        }
        body.extend_from_slice(&chunk);
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Ok(Answer { status, wait: wait.map(Duration::from_secs), body })
}

/// What every database means by these: the login, the address, a server that is busy or ill. `None` where the status says nothing
/// by itself.
pub(crate) fn refused(answer: &Answer, what: &str) -> Option<WriteError> {
    let Answer { status, wait, body } = answer;
    let said = shown(body);
    let remedy = match *status {
        StatusCode::UNAUTHORIZED => {
            "the login is wrong or missing: set the pool's user name and password, or its token"
        }
        StatusCode::FORBIDDEN => "the user may not write here: grant it",
        StatusCode::TOO_MANY_REQUESTS => "it asks for patience",
        status if status.is_server_error() => "the server is busy or ill",
        status if status.is_redirection() => "it points to another address: name that one in the pool",
        _ => return None,
    };
    Some(WriteError::Busy { wait: *wait, cause: format!("{what}: {status}: {said}: {remedy}").into() })
}

/// The beginning of an answer, in one line.
pub(crate) fn shown(body: &str) -> String {
    let line: String = body.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(2_000).collect();
    if line.is_empty() { "(no text)".to_owned() } else { line }
}

/// An error with its causes: reqwest's own words say little.
fn chain(error: &reqwest::Error) -> String {
    use std::error::Error;
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn gzip(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

/// A value in a query string.
pub(crate) fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            text.push(char::from(byte));
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_queries_are_escaped() {
        assert_eq!(escaped("a b&c=ä"), "a%20b%26c%3D%C3%A4");
    }

    #[test]
    fn answers_are_shown_in_one_short_line() {
        assert_eq!(shown("a\nb\t"), "a b");
        assert_eq!(shown(&"x".repeat(5_000)).len(), 2_000);
    }
}
