//! One publish at a time over MQTT 3.1.1, to a Forebay server of its own: from PUBLISH to PUBACK everything that a broker adds to its log.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a start may take.
const START: Duration = Duration::from_secs(30);
const CONNECT: &[u8] = b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05bench";
const TOPIC: &[u8] = b"bench/0";

/// A server and a connection to it.
pub struct Publisher {
    server: Child,
    connection: TcpStream,
    packet: Vec<u8>,
    /// Where the packet id lies in the packet.
    id_at: usize,
    id: u16,
}

impl Publisher {
    /// Starts `program` without a database in `dir` and connects.
    ///
    /// # Errors
    /// It does not start, or refuses the client.
    pub fn start(program: &Path, dir: &Path, payload: usize) -> Result<Publisher> {
        let (mqtt, admin) = (free_address()?, free_address()?);
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FOREBAY_")) {
            command.env_remove(name);
        }
        command.env("FOREBAY_SINKS_ENABLED", "false").current_dir(dir);
        command.arg("run").arg("--data").arg(dir.join("data"));
        command.args(["--mqtt", &mqtt.to_string(), "--admin", &admin.to_string()]);
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let (packet, id_at) = publish(payload);
        let connection = match connect(mqtt) {
            Ok(connection) => connection,
            Err(error) => {
                stop(server);
                return Err(error);
            }
        };
        Ok(Publisher { server, connection, packet, id_at, id: 0 })
    }

    /// Publishes and waits for the PUBACK.
    ///
    /// # Errors
    /// The server answers something else.
    pub fn publish(&mut self) -> Result<()> {
        // A packet id is never 0.
        self.id = self.id % u16::MAX + 1;
        let id = self.id.to_be_bytes();
        if let Some(place) = self.packet.get_mut(self.id_at..self.id_at + 2) {
            place.copy_from_slice(&id);
        }
        self.connection.write_all(&self.packet)?;
        let mut answer = [0; 4];
        self.connection.read_exact(&mut answer)?;
        if answer != [0x40, 2, id[0], id[1]] {
            bail!("the server answered {answer:?} to publish {}", self.id);
        }
        Ok(())
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

fn stop(mut server: Child) {
    let _ = server.kill();
    let _ = server.wait();
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Ok(mut connection) => {
                connection.set_nodelay(true)?;
                connection.write_all(CONNECT)?;
                let mut answer = [0; 4];
                connection.read_exact(&mut answer)?;
                if answer != [0x20, 2, 0, 0] {
                    bail!("the server answered {answer:?} to CONNECT");
                }
                return Ok(connection);
            }
            Err(error) if begun.elapsed() > START => return Err(error.into()),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// A PUBLISH with QoS 1, and where its packet id is.
fn publish(payload: usize) -> (Vec<u8>, usize) {
    let mut packet = vec![0x32];
    let mut rest = 2 + TOPIC.len() + 2 + payload;
    while rest > 127 {
        packet.push((rest & 127) as u8 | 128);
        rest >>= 7;
    }
    packet.push(rest as u8);
    packet.extend_from_slice(&(TOPIC.len() as u16).to_be_bytes());
    packet.extend_from_slice(TOPIC);
    let id_at = packet.len();
    packet.resize(id_at + 2 + payload, b'x');
    (packet, id_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_have_the_length_that_they_say() {
        assert_eq!(usize::from(CONNECT[1]), CONNECT.len() - 2);
        let (packet, id_at) = publish(128);
        assert_eq!(packet[..3], [0x32, (139 & 127) | 128, 1]);
        assert_eq!((packet.len(), id_at), (3 + 139, 3 + 2 + TOPIC.len()));
    }
}
