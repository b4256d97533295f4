//! The real program with a way in of each kind.

use std::path::PathBuf;

use forebay_services::certificates::{certificates, stranger};

use crate::client::{Kind, Way};
use crate::support::{Server, free_address};

/// A server and its listeners.
pub struct Stage {
    pub server: Server,
    /// One of each kind, and a second one of TLS where clients need a certificate.
    pub ways: Vec<Way>,
    /// An authority that has signed nothing of the server's.
    pub stranger: PathBuf,
}

impl Stage {
    pub fn start() -> Stage {
        let files = certificates().unwrap();
        let mut server = Server::stopped();
        let mut text = String::new();
        let mut ways = Vec::new();
        let kinds = [(Kind::Tcp, "tcp"), (Kind::Tls, "tls"), (Kind::Tls, "tls"), (Kind::Ws, "ws"), (Kind::Wss, "wss")];
        for (kind, name) in kinds {
            let address = if kind == Kind::Tcp { server.mqtt } else { free_address() };
            let closed = kind == Kind::Tls && ways.iter().any(|way: &Way| way.kind == kind);
            let certificate = closed.then(|| [files.client.clone(), files.client_key.clone()]);
            ways.push(Way { kind, port: address.port(), authority: files.authority.clone(), certificate });
            if kind == Kind::Tcp {
                continue;
            }
            text += &format!("[[listener]]\nlisten = \"{address}\"\nkind = \"{name}\"\n");
            if matches!(kind, Kind::Tls | Kind::Wss) {
                let (certificate, key) = (files.server.display(), files.server_key.display());
                text += &format!("certificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n");
            }
            if matches!(kind, Kind::Ws | Kind::Wss) {
                text += "path = \"/mqtt\"\n";
            }
            if closed {
                let authority = files.authority.display();
                text += &format!(
                    "client_certificate = \"required\"\nclient_ca_file = \"{authority}\"\nuser_from = \"cn\"\n"
                );
            }
        }
        server.configure(&text);
        server.restart();
        Stage { server, ways, stranger: stranger().unwrap() }
    }

    /// The plain way.
    pub fn tcp(&self) -> &Way {
        &self.ways[0]
    }
}
