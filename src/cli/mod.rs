//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::admin::status::ResetTo;
use crate::config::Overrides;

pub mod admin;
pub mod check;
pub mod damage;
pub mod explain;
pub mod log;
pub mod operate;
pub mod user;

/// A durable log between an MQTT broker and its databases.
///
/// Without a command it runs the server: a broker on 127.0.0.1:1883, data in ./forebay-data, everything stored in SQLite
/// there, admin HTTP on 127.0.0.1:18830.
///
/// Exit codes: 0 ok, 1 failure, 2 wrong usage or configuration, 3 data folder in use, 4 address in use, 5 data damaged or
/// of a newer version, 6 disk full, 7 no server answers.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, subcommand_precedence_over_arg = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Options of every command. Each is a setting in the file and the environment too; the command line wins.
#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Configuration file [env: FOREBAY_CONFIG] [default: forebay.toml where there is one]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Data folder [env: FOREBAY_DATA] [default: forebay-data]
    #[arg(long, value_name = "DIR", global = true)]
    data: Option<String>,
    /// Address of the MQTT listener [env: FOREBAY_MQTT] [default: 127.0.0.1:1883]
    #[arg(long, value_name = "ADDR", global = true)]
    mqtt: Option<String>,
    /// Address of the admin HTTP listener [env: FOREBAY_ADMIN] [default: 127.0.0.1:18830]
    #[arg(long, value_name = "ADDR", global = true)]
    admin: Option<String>,
    /// EMQ X `.conf` files with rules and pools [env: FOREBAY_BACKENDS]
    #[arg(long, value_name = "FILE", num_args = 1.., global = true)]
    backends: Vec<PathBuf>,
    /// Name of this node in the databases [env: FOREBAY_NODE_NAME] (default: forebay@ and this host's name)
    #[arg(long, value_name = "NAME", global = true)]
    node_name: Option<String>,
    /// Form of messages on stderr: text or json [env: FOREBAY_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORM", global = true)]
    log_format: Option<String>,
    /// Prints results as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Options {
    /// The options as settings.
    pub fn overrides(&self) -> Overrides {
        let options = [
            ("--data", "data", &self.data),
            ("--mqtt", "mqtt.listen", &self.mqtt),
            ("--admin", "admin.listen", &self.admin),
            ("--node-name", "node.name", &self.node_name),
            ("--log-format", "messages.format", &self.log_format),
        ];
        let options =
            options.into_iter().filter_map(|(option, key, value)| Some((option, key, value.clone()?))).collect();
        Overrides { config: self.config.clone(), options, backends: self.backends.clone() }
    }
}

/// Commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Runs the server (the default).
    Run,
    /// Reads the whole configuration as `run` does, and says all that is wrong with it.
    Check {
        /// Connects to each database too: logins, tables and rights. Changes nothing there.
        #[arg(long)]
        connect: bool,
    },
    /// What the rules do with a message: which fire, what they would execute, and how often at worst. Connects to nothing.
    Explain(explain::Example),
    /// What a database is expected to hold: the tables that are made when they are missing, or the keys.
    Schema {
        /// sqlite, mysql, pgsql, timescale, redis, …
        database: String,
    },
    /// What the running server does.
    Status,
    /// The log.
    Log {
        /// What of it.
        #[command(subcommand)]
        what: LogCommand,
    },
    /// Cursors: how far each subscriber and sink has come.
    Cursor {
        /// What of them.
        #[command(subcommand)]
        what: CursorCommand,
    },
    /// The database sinks of the running server.
    Sink {
        /// What of them.
        #[command(subcommand)]
        what: SinkCommand,
    },
    /// Dead letters: records that a database refused for good.
    Dlq {
        /// What of them.
        #[command(subcommand)]
        what: DlqCommand,
    },
    /// Clients that are connected to the running server.
    Client {
        /// What of them.
        #[command(subcommand)]
        what: operate::ClientCommand,
    },
    /// Sessions of the running server, their clients connected or not.
    Session {
        /// What of them.
        #[command(subcommand)]
        what: operate::SessionCommand,
    },
    /// Subscriptions in the running server.
    Subscription {
        /// What of them.
        #[command(subcommand)]
        what: operate::SubscriptionCommand,
    },
    /// Retained messages of the running server.
    Retained {
        /// What of them.
        #[command(subcommand)]
        what: operate::RetainedCommand,
    },
    /// Publishes a message through the running server; what is stored of it is durable then.
    Publish(operate::Publish),
    /// Users and their passwords: the lines of the users file. A running server takes changes within seconds.
    User {
        /// The users file [default: the setting `access.users`]
        #[arg(long, value_name = "FILE", global = true)]
        users: Option<PathBuf>,
        /// What of them.
        #[command(subcommand)]
        what: UserCommand,
    },
    /// Plays an outage and a crash on free ports and a temporary folder, and counts what arrived.
    Demo,
}

/// `forebay log …`
#[derive(Clone, Debug, Subcommand)]
pub enum LogCommand {
    /// The segments.
    Ls,
    /// Records as text; with --json, and the server stopped, every byte of the segments as one JSON object a line.
    Dump {
        /// First record.
        #[arg(long, value_name = "LSN", default_value_t = 1)]
        from: u64,
        /// Most records printed.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        limit: u64,
    },
    /// Reads every byte and says what is damaged. The server must be stopped.
    Verify,
    /// Shows what is to be done about damage: what reads is kept, what does not becomes a gap. Changes nothing without
    /// --apply. The server must be stopped.
    Repair {
        /// Does it. Every file that is changed is kept as it was, as `*.damaged`.
        #[arg(long)]
        apply: bool,
    },
}

/// `forebay cursor …`
#[derive(Clone, Debug, Subcommand)]
pub enum CursorCommand {
    /// All cursors.
    Ls,
}

/// `forebay sink …`
#[derive(Clone, Debug, Subcommand)]
pub enum SinkCommand {
    /// All sinks with their state and lag.
    Ls,
    /// Stops writing to a database; records wait in the log.
    Pause {
        /// The sink.
        sink: String,
    },
    /// Goes on writing.
    Resume {
        /// The sink.
        sink: String,
    },
    /// Sets the position in the database: records from there on are stored (again), those before it no more.
    Reset {
        /// The sink.
        sink: String,
        /// A record's number, `earliest` or `latest`.
        #[arg(long, value_name = "LSN|earliest|latest")]
        to: ResetTo,
    },
}

/// `forebay user …`
#[derive(Clone, Debug, Subcommand)]
pub enum UserCommand {
    /// Adds a user; makes the file where there is none.
    Add {
        /// The user's name.
        name: String,
        #[command(flatten)]
        password: user::PasswordFrom,
    },
    /// Gives a user another password.
    Passwd {
        /// The user's name.
        name: String,
        #[command(flatten)]
        password: user::PasswordFrom,
    },
    /// Removes a user. Connections he has stay.
    Rm {
        /// The user's name.
        name: String,
    },
    /// All users' names.
    List,
}

/// `forebay dlq …`
#[derive(Clone, Debug, Subcommand)]
pub enum DlqCommand {
    /// How many dead letters each sink has, or those of one sink.
    Ls {
        /// The sink.
        sink: Option<String>,
    },
    /// One dead letter in full.
    Show {
        /// The sink.
        sink: String,
        /// Its number.
        id: u64,
    },
    /// Gives dead letters to the database again.
    Replay {
        /// The sink.
        sink: String,
        /// Numbers; all where none is given.
        ids: Vec<u64>,
    },
    /// Forgets dead letters.
    Drop {
        /// The sink.
        sink: String,
        /// Numbers.
        #[arg(required = true)]
        ids: Vec<u64>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn backends_take_several_files_and_leave_the_command_alone() {
        let cli = Cli::parse_from(["forebay", "--backends", "a.conf", "b.conf", "run"]);
        assert_eq!(cli.options.backends.len(), 2);
        assert!(matches!(cli.command, Some(Command::Run)));
    }
}
