//! A relay between a sink and its server, which looks at what passes: for losses at exactly one place, which a proxy can't aim at.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What is done with bytes of the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Do {
    /// They pass, as the hook has left them.
    Pass,
    /// They pass, the server's answer does not: the connection ends when the server has answered.
    LoseAnswer,
}

type Hook = Arc<Mutex<dyn FnMut(&mut Vec<u8>) -> Do + Send>>;

/// A port of 127.0.0.1 that leads to a server.
pub struct Relay {
    pub port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// `hook` sees what clients send, as it comes: with small requests, one request at a time.
    pub async fn to(place: &str, hook: impl FnMut(&mut Vec<u8>) -> Do + Send + 'static) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (place, hook): (String, Hook) = (place.to_owned(), Arc::new(Mutex::new(hook)));
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is away refuses its client.
                if let Ok(server) = TcpStream::connect(&place).await {
                    tokio::spawn(one(client, server, Arc::clone(&hook)));
                }
            }
        });
        Relay { port, task }
    }
}

async fn one(mut client: TcpStream, mut server: TcpStream, hook: Hook) {
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(count @ 1..) = read else { return };
                let mut bytes = up[..count].to_vec();
                let what = (hook.lock())(&mut bytes);
                if server.write_all(&bytes).await.is_err() {
                    return;
                }
                if what == Do::LoseAnswer {
                    let _answered = server.read(&mut down).await;
                    return;
                }
            }
            read = server.read(&mut down) => {
                let Ok(count @ 1..) = read else { return };
                if client.write_all(&down[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
