//! Asking a running server, from the command line.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::{Secret, Settings};
use crate::datadir::{self, Server};
use crate::exit::{Exit, Failure};

/// How long a server may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// A running server's admin HTTP.
#[derive(Debug)]
pub struct Client {
    base: String,
    agent: ureq::Agent,
    token: Option<Secret>,
}

impl Client {
    /// The server that holds the data folder; `None` where nobody does.
    ///
    /// # Errors
    /// Where somebody holds it who says no address: another command, or a server that is just starting.
    pub fn of_running_server(settings: &Settings) -> Result<Option<Client>, Failure> {
        if !datadir::is_locked(&settings.data) {
            return Ok(None);
        }
        let server = Server::read(&settings.data).ok_or_else(|| datadir::in_use(&settings.data))?;
        Ok(Some(Client::at(server.admin, settings.admin.token.clone())))
    }

    /// The server at this address.
    pub fn at(admin: std::net::SocketAddr, token: Option<Secret>) -> Client {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(ANSWER_WITHIN))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Client { base: format!("http://{}", reachable(admin)), agent: config.into(), token }
    }

    /// `GET` of a fixed path.
    ///
    /// # Errors
    /// Where the server does not answer, or says no.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        if let Some(Secret(token)) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.answer(request.call())
    }

    /// `GET` of a path with names in it, which are escaped.
    ///
    /// # Errors
    /// Where the server does not answer, or says no.
    pub fn get_path<T: DeserializeOwned>(&self, parts: &[&str]) -> Result<T, Failure> {
        self.get(&path_of(parts))
    }

    /// `POST` of a value as JSON.
    ///
    /// # Errors
    /// Where the server does not answer, or says no.
    pub fn post<T: DeserializeOwned>(&self, parts: &[&str], body: &(impl Serialize + ?Sized)) -> Result<T, Failure> {
        let mut request = self.agent.post(format!("{}{}", self.base, path_of(parts)));
        if let Some(Secret(token)) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.answer(request.send_json(body))
    }

    fn answer<T: DeserializeOwned>(
        &self,
        answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, Failure> {
        let no_answer = |source: ureq::Error| {
            let text = "does not answer (its address is the setting `admin.listen`; `--data` says which server)";
            Failure::new(Exit::NoServer, format!("the server at {} {text}: {source}", self.base))
        };
        let mut response = answer.map_err(no_answer)?;
        let body = response.body_mut().with_config().limit(u64::MAX).read_to_string().map_err(no_answer)?;
        if !response.status().is_success() {
            let fault: Option<serde_json::Value> = serde_json::from_str(&body).ok();
            let text = fault.as_ref().and_then(|fault| fault.get("error")?.as_str()).unwrap_or(&body);
            let text =
                if text.is_empty() { format!("the server answers {}", response.status()) } else { text.to_owned() };
            let hint = if response.status() == 401 { " (set `admin.token` or FOREBAY_ADMIN_TOKEN)" } else { "" };
            return Err(Failure::new(Exit::Failure, format!("{text}{hint}")));
        }
        serde_json::from_str(&body)
            .map_err(|source| Failure::new(Exit::Failure, format!("the server's answer can't be read: {source}")))
    }
}

/// A server that listens on every address is asked on the loopback one.
fn reachable(mut address: std::net::SocketAddr) -> std::net::SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn path_of(parts: &[&str]) -> String {
    let mut path = String::new();
    for part in parts {
        path.push('/');
        escape(&mut path, part);
    }
    path
}

/// A path with what is asked of it.
pub fn query_of(path: &str, values: &[(&str, &str)]) -> String {
    let mut query = path.to_owned();
    for (n, (name, value)) in values.iter().enumerate() {
        query.push(if n == 0 { '?' } else { '&' });
        query.push_str(name);
        query.push('=');
        escape(&mut query, value);
    }
    query
}

fn escape(out: &mut String, text: &str) {
    use std::fmt::Write as _;
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_a_path_are_escaped() {
        assert_eq!(path_of(&["sinks", "a b/c", "dead"]), "/sinks/a%20b%2Fc/dead");
        assert_eq!(query_of("/x", &[]), "/x");
        assert_eq!(query_of("/x", &[("after", "a&b\0é"), ("limit", "5")]), "/x?after=a%26b%00%C3%A9&limit=5");
    }
}
