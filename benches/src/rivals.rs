//! Who is measured: MQTT servers, each started as it comes but for what a comparison needs.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::servers::{Server, free_address};

/// One of those measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rival {
    /// Mosquitto with persistence: acknowledges from memory, saves as it comes (every 1,800 s and at the end).
    Mosquitto,
    /// Forebay without a sink: syncs before it acknowledges.
    Forebay,
    /// Forebay with its SQLite sink.
    ForebaySqlite,
    /// NATS' MQTT with `sync_interval: always`: syncs before it acknowledges.
    NatsAlways,
    /// NATS' MQTT as it comes: syncs every two minutes.
    Nats,
    /// The rumqttd crate with the settings of its example file: memory only.
    Rumqttd,
}

/// Where their programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Forebay's.
    pub forebay: PathBuf,
    /// Mosquitto's.
    pub mosquitto: PathBuf,
    /// NATS'.
    pub nats: Option<PathBuf>,
    /// That of the package `rumqttd/`.
    pub rumqttd: PathBuf,
}

impl Rival {
    /// Its name in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Rival::Mosquitto => "mosquitto, persistence",
            Rival::Forebay => "forebay, no sink",
            Rival::ForebaySqlite => "forebay, SQLite sink",
            Rival::NatsAlways => "nats, sync always",
            Rival::Nats => "nats, default",
            Rival::Rumqttd => "rumqttd",
        }
    }

    /// Why it can't be measured; `None` where it can.
    #[must_use]
    pub fn missing(self, programs: &Programs) -> Option<String> {
        let program = match self {
            Rival::Rumqttd => &programs.rumqttd,
            Rival::NatsAlways | Rival::Nats => match &programs.nats {
                Some(program) => program,
                None => return Some("no program was given with --nats".to_owned()),
            },
            Rival::Mosquitto => &programs.mosquitto,
            Rival::Forebay | Rival::ForebaySqlite => &programs.forebay,
        };
        (!program.is_file()).then(|| format!("there is no program {}", program.display()))
    }

    /// Starts a fresh one.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn start(self, programs: &Programs) -> Result<Server> {
        match self {
            Rival::Mosquitto => Server::mosquitto(&programs.mosquitto),
            Rival::Forebay => Server::forebay(&programs.forebay, false),
            Rival::ForebaySqlite => Server::forebay(&programs.forebay, true),
            Rival::NatsAlways => nats(programs, true),
            Rival::Nats => nats(programs, false),
            Rival::Rumqttd => {
                let (folder, mqtt) = (tempfile::tempdir()?, free_address()?);
                let mut command = Command::new(&programs.rumqttd);
                command.arg(mqtt.to_string());
                Server::start(command, folder, mqtt)
            }
        }
    }
}

/// NATS with JetStream in a temporary folder and as many unacknowledged messages a subscription as Mosquitto is given.
fn nats(programs: &Programs, always: bool) -> Result<Server> {
    let program = programs.nats.as_ref().context("no program was given with --nats")?;
    let (folder, mqtt, own) = (tempfile::tempdir()?, free_address()?, free_address()?);
    let file = folder.path().join("nats.conf");
    let sync = if always { "sync_interval: always" } else { "" };
    let text = format!(
        "server_name: bench\nlisten: \"{own}\"\njetstream {{\n store_dir: \"{}\"\n {sync}\n}}\n\
         mqtt {{\n listen: \"{mqtt}\"\n max_ack_pending: 1000\n}}\n",
        folder.path().display()
    );
    std::fs::write(&file, text)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&file);
    Server::start(command, folder, mqtt)
}
