//! `[[listener]]`: a way in with settings of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use forebay_broker_adapter::{ClientCertificates, ListenerOptions, TlsOptions, UserFrom, WebSocketOptions};

use super::Settings;
use super::fault::{Fault, Place};
use super::fields::{Field, Slot, field};

/// The name of the tables.
pub const TABLE: &str = "listener";
/// The setting that each has.
pub const ADDRESS: &str = "listen";

/// A listener.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Where it stands in the file; none for the plain one, `mqtt.listen`.
    pub place: Option<Place>,
    /// Where to listen.
    pub listen: SocketAddr,
    /// What lies between TCP and MQTT: one of [`KINDS`].
    pub kind: &'static str,
    /// The path of a WebSocket; none = any.
    pub path: Option<String>,
    /// The server's certificate.
    pub certificate_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Which clients must show a certificate: one of [`CLIENT_CERTIFICATE`].
    pub client_certificate: &'static str,
    /// The authorities of clients' certificates.
    pub client_ca_file: Option<PathBuf>,
    /// What in a client's certificate names the user: one of [`USER_FROM`].
    pub user_from: Option<&'static str>,
    /// Whether each connection begins with a header of the PROXY protocol.
    pub proxy_protocol: bool,
    /// Connections at a time through it; none = as many as `mqtt.connections_max` says.
    pub connections_max: Option<u64>,
    /// Whether clients that show no credentials are let in; none = as for the plain listener.
    pub anonymous: Option<bool>,
}

impl ListenerSettings {
    /// A plain one.
    pub fn plain(listen: SocketAddr) -> ListenerSettings {
        ListenerSettings {
            place: None,
            listen,
            kind: "tcp",
            path: None,
            certificate_file: None,
            key_file: None,
            client_certificate: "none",
            client_ca_file: None,
            user_from: None,
            proxy_protocol: false,
            connections_max: None,
            anonymous: None,
        }
    }

    fn is_tls(&self) -> bool {
        matches!(self.kind, "tls" | "wss")
    }

    fn is_websocket(&self) -> bool {
        matches!(self.kind, "ws" | "wss")
    }

    /// The broker's form of it. [`check`] has seen it.
    pub fn options(&self) -> ListenerOptions {
        let files = self.certificate_file.as_ref().zip(self.key_file.as_ref()).filter(|_| self.is_tls());
        let ca_file = self.client_ca_file.as_ref().filter(|_| self.client_certificate != "none");
        let client_certificates = ca_file.map(|ca_file| ClientCertificates {
            ca_file: ca_file.clone(),
            required: self.client_certificate == "required",
            user_from: self.user_from.map(|word| match word {
                "san_dns" => UserFrom::SanDns,
                "san_email" => UserFrom::SanEmail,
                "san_uri" => UserFrom::SanUri,
                _ => UserFrom::Cn,
            }),
        });
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        ListenerOptions {
            tls: files
                .map(|(certificate, key)| TlsOptions { client_certificates, ..TlsOptions::new(certificate, key) }),
            websocket: self.is_websocket().then(|| WebSocketOptions { path: self.path.clone() }),
            proxy_protocol: self.proxy_protocol,
            max_connections: self.connections_max.map(size),
            anonymous: self.anonymous,
            ..ListenerOptions::new(self.listen)
        }
    }

    /// What is wrong with it, and what to do.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let kind = self.kind;
        let clients = self.client_certificate != "none";
        let files = [("certificate_file", &self.certificate_file), ("key_file", &self.key_file)];
        if self.is_tls() {
            for (key, _) in files.iter().filter(|(_, file)| file.is_none()) {
                faults.push(format!("a listener with `kind = \"{kind}\"` needs `{key}`, a PEM file"));
            }
        } else {
            let given = [
                ("certificate_file", self.certificate_file.is_some()),
                ("key_file", self.key_file.is_some()),
                ("client_certificate", clients),
                ("client_ca_file", self.client_ca_file.is_some()),
                ("user_from", self.user_from.is_some()),
            ];
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                let secure = if self.is_websocket() { "wss" } else { "tls" };
                faults.push(format!(
                    "`{key}` does nothing with `kind = \"{kind}\"`: write `kind = \"{secure}\"`, or remove it"
                ));
            }
        }
        if self.is_tls() && clients && self.client_ca_file.is_none() {
            faults.push(
                "`client_certificate` needs `client_ca_file`: the authorities that clients' certificates are of".into(),
            );
        }
        if self.is_tls() && !clients {
            let given = [("client_ca_file", self.client_ca_file.is_some()), ("user_from", self.user_from.is_some())];
            for (key, _) in given.iter().filter(|(_, given)| *given) {
                faults.push(format!(
                    "`{key}` does nothing while no certificate is asked for: add `client_certificate = \"required\"` or \
                     `\"optional\"`, or remove it"
                ));
            }
        }
        match &self.path {
            Some(_) if !self.is_websocket() => {
                faults.push(format!("`path` does nothing with `kind = \"{kind}\"`: it is a WebSocket's (`ws`, `wss`)"));
            }
            Some(path) if !path.starts_with('/') => {
                faults.push(format!("`path` begins with a slash: write `path = \"/{path}\"`"));
            }
            _ => {}
        }
        faults
    }
}

/// What lies between TCP and MQTT.
pub const KINDS: &[&str] = &["tcp", "tls", "ws", "wss"];
/// Which clients must show a certificate.
pub const CLIENT_CERTIFICATE: &[&str] = &["none", "optional", "required"];
/// What in a client's certificate names the user.
pub const USER_FROM: &[&str] = &["cn", "san_dns", "san_email", "san_uri"];
const BOOLEAN: &[&str] = &["true", "false"];

/// Every setting of a listener.
pub const FIELDS: &[Field<ListenerSettings>] = &[
    field(ADDRESS, Slot::Address(|l| &mut l.listen)),
    field("kind", Slot::Word { words: KINDS, set: |l, word| l.kind = one_of(KINDS, word), get: |l| l.kind }),
    field("path", Slot::OptionalText(|l| &mut l.path)),
    field("certificate_file", Slot::OptionalPath(|l| &mut l.certificate_file)),
    field("key_file", Slot::OptionalPath(|l| &mut l.key_file)),
    field(
        "client_certificate",
        Slot::Word {
            words: CLIENT_CERTIFICATE,
            set: |l, word| l.client_certificate = one_of(CLIENT_CERTIFICATE, word),
            get: |l| l.client_certificate,
        },
    ),
    field("client_ca_file", Slot::OptionalPath(|l| &mut l.client_ca_file)),
    field(
        "user_from",
        Slot::Word {
            words: USER_FROM,
            set: |l, word| l.user_from = Some(one_of(USER_FROM, word)),
            get: |l| l.user_from.unwrap_or("not set"),
        },
    ),
    field(
        "proxy_protocol",
        Slot::Word {
            words: BOOLEAN,
            set: |l, word| l.proxy_protocol = word == "true",
            get: |l| if l.proxy_protocol { "true" } else { "false" },
        },
    ),
    field("connections_max", Slot::OptionalNumber { min: 1, max: 10_000_000, place: |l| &mut l.connections_max }),
    field(
        "anonymous",
        Slot::Word {
            words: BOOLEAN,
            set: |l, word| l.anonymous = Some(word == "true"),
            get: |l| l.anonymous.map_or("not set", |set| if set { "true" } else { "false" }),
        },
    ),
];

/// The word of the list; a field's words were looked up in the same list before.
fn one_of(words: &'static [&'static str], word: &str) -> &'static str {
    words.iter().find(|known| **known == word).copied().unwrap_or_default()
}

/// What single values can't show.
pub fn check(settings: &Settings, faults: &mut Vec<Fault>) {
    let mut taken = Vec::new();
    for listener in settings.ways_in() {
        let place = listener.place.clone().unwrap_or(Place::Whole);
        if listener.listen.port() != 0 && taken.contains(&listener.listen) {
            let message = format!(
                "two listeners have the address {}: give each its own (`mqtt.listen`, where it is set, is one of them)",
                listener.listen
            );
            faults.push(Fault { place: place.clone(), message, nearest: None });
        }
        let own = listener.faults().into_iter();
        faults.extend(own.map(|message| Fault { place: place.clone(), message, nearest: None }));
        taken.push(listener.listen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{MQTT_LISTEN, Overrides, load};

    /// Settings from a file of this text.
    fn loaded(source: &str) -> Result<Settings, Vec<String>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("forebay.toml");
        std::fs::write(&path, source).unwrap();
        let overrides = Overrides { config: Some(path), ..Overrides::default() };
        let strip = |fault: &Fault| fault.to_string().replace(&format!("{}/", dir.path().display()), "");
        load(&overrides, std::iter::empty())
            .map(|loaded| loaded.settings)
            .map_err(|faults| faults.iter().map(strip).collect())
    }

    fn addresses(settings: &Settings) -> Vec<String> {
        settings.ways_in().iter().map(|listener| listener.listen.to_string()).collect()
    }

    #[test]
    fn the_plain_listener_is_there_where_it_is_set_or_alone() {
        assert_eq!(addresses(&loaded("").unwrap()), [MQTT_LISTEN.to_string()]);
        let table = "[[listener]]\nlisten = \"127.0.0.1:1884\"\n";
        assert_eq!(addresses(&loaded(table).unwrap()), ["127.0.0.1:1884"]);
        let both = format!("mqtt.listen = \"[::1]:1883\"\n{table}[[listener]]\nlisten = \"0.0.0.0:1885\"\n");
        assert_eq!(addresses(&loaded(&both).unwrap()), ["[::1]:1883", "127.0.0.1:1884", "0.0.0.0:1885"]);
    }

    #[test]
    fn each_listener_has_settings_of_its_own() {
        let source = "[[listener]]\nlisten = \"127.0.0.1:1\"\nconnections_max = 3\nanonymous = false\n\
                      [[listener]]\nlisten = \"127.0.0.1:2\"\n";
        let settings = loaded(source).unwrap();
        let [one, two] = settings.listeners.as_slice() else { panic!("two listeners") };
        assert_eq!((one.connections_max, one.anonymous), (Some(3), Some(false)));
        assert_eq!((two.connections_max, two.anonymous), (None, None));
    }

    #[test]
    fn a_wrong_listener_is_refused_with_its_place_and_a_remedy() {
        let faults = loaded("[[listener]]\nlissen = 1\nconnections_max = 0\n").unwrap_err();
        let starts = [
            "forebay.toml:2:1: a listener has no setting `lissen`; did you mean `listen`?",
            "forebay.toml:3:19: `connections_max` takes a whole number from 1 to 10000000, not 0",
            "forebay.toml:1:1: this listener has no address: add `listen = \"127.0.0.1:8883\"`, for example",
        ];
        assert_eq!(faults.len(), starts.len(), "{faults:?}");
        for start in starts {
            assert!(faults.iter().any(|fault| fault.starts_with(start)), "{start}: {faults:?}");
        }
        let faults = loaded("[listener]\nlisten = \"127.0.0.1:1\"\n").unwrap_err();
        assert!(faults[0].contains("write `[[listener]]`"), "{faults:?}");
    }

    #[test]
    fn an_address_belongs_to_one_listener() {
        let twice = "[[listener]]\nlisten = \"127.0.0.1:1\"\n[[listener]]\nlisten = \"127.0.0.1:1\"\n";
        let faults = loaded(twice).unwrap_err();
        assert!(faults[0].starts_with("forebay.toml:4:10: two listeners have the address 127.0.0.1:1"), "{faults:?}");
        assert!(loaded(&twice.replace(":1\"", ":0\"")).is_ok());
        assert!(loaded("mqtt.listen = \"127.0.0.1:1\"\n[[listener]]\nlisten = \"127.0.0.1:1\"\n").is_err());
    }

    #[test]
    fn every_setting_of_a_listener_has_a_row_in_the_documentation() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
        let plain = ListenerSettings::plain(MQTT_LISTEN);
        for field in FIELDS {
            let default = if field.key == ADDRESS { "needed".to_owned() } else { field.shown(&plain) };
            let start = format!("| `{}` | {} | {default} |", field.key, field.takes());
            assert!(
                page.lines().any(|line| line.starts_with(&start)),
                "docs/CONFIG.md lacks a row that starts with: {start}"
            );
        }
    }

    /// A listener of this kind with these settings; what is wrong with it.
    fn faults_of(kind: &str, more: &str) -> Vec<String> {
        let source = format!("[[listener]]\nlisten = \"127.0.0.1:1\"\nkind = \"{kind}\"\n{more}\n");
        loaded(&source).err().unwrap_or_default()
    }

    const FILES: &str = "certificate_file = \"c\"\nkey_file = \"k\"\n";

    #[test]
    fn a_setting_that_would_do_nothing_is_refused() {
        for (kind, more, key) in [
            ("tcp", "certificate_file = \"c\"", "certificate_file"),
            ("ws", "key_file = \"k\"", "key_file"),
            ("tcp", "client_ca_file = \"a\"", "client_ca_file"),
            ("ws", "client_certificate = \"required\"", "client_certificate"),
            ("tcp", "user_from = \"cn\"", "user_from"),
            ("tcp", "path = \"/mqtt\"", "path"),
            ("tls", &format!("{FILES}path = \"/mqtt\""), "path"),
            ("tls", &format!("{FILES}client_ca_file = \"a\""), "client_ca_file"),
            ("wss", &format!("{FILES}user_from = \"cn\""), "user_from"),
        ] {
            let faults = faults_of(kind, more);
            assert_eq!(faults.len(), 1, "{kind} {more}: {faults:?}");
            assert!(faults[0].starts_with(&format!("forebay.toml:2:10: `{key}` does nothing")), "{faults:?}");
        }
    }

    #[test]
    fn what_a_kind_needs_is_said_with_the_remedy() {
        assert_eq!(faults_of("tls", "").len(), 2);
        assert!(faults_of("wss", "key_file = \"k\"")[0].contains("`kind = \"wss\"` needs `certificate_file`"));
        let ca = faults_of("tls", &format!("{FILES}client_certificate = \"optional\""));
        assert!(ca[0].contains("needs `client_ca_file`"), "{ca:?}");
        assert!(faults_of("ws", "path = \"mqtt\"")[0].contains("write `path = \"/mqtt\"`"));
        let kind = faults_of("ssl", "");
        assert!(kind[0].contains("`kind` takes one of tcp, tls, ws, wss, not `ssl`"), "{kind:?}");
    }

    #[test]
    fn files_are_beside_the_configuration_and_all_settings_reach_the_broker() {
        let all = format!(
            "{FILES}client_certificate = \"optional\"\nclient_ca_file = \"/a\"\nuser_from = \"san_dns\"\npath = \"/mqtt\"\n\
             proxy_protocol = true\nconnections_max = 7\nanonymous = true"
        );
        let source = format!("[[listener]]\nlisten = \"127.0.0.1:1\"\nkind = \"wss\"\n{all}\n");
        let settings = loaded(&source).unwrap();
        let options = settings.ways_in()[0].options();
        assert_eq!(options.kind(), "wss");
        assert_eq!((options.proxy_protocol, options.max_connections, options.anonymous), (true, Some(7), Some(true)));
        assert_eq!(options.websocket.unwrap().path.unwrap(), "/mqtt");
        let tls = options.tls.unwrap();
        assert!(tls.certificate_file.is_absolute() && tls.certificate_file.ends_with("c"), "{tls:?}");
        let clients = tls.client_certificates.unwrap();
        assert_eq!((clients.required, clients.user_from), (false, Some(UserFrom::SanDns)));
        assert_eq!(clients.ca_file, PathBuf::from("/a"));
    }
}
