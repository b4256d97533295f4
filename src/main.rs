//! The program `forebay`: configuration, command line and admin HTTP round the engine, the sinks and the broker.

use std::process::ExitCode;

use clap::Parser as _;

mod admin;
mod banner;
mod cli;
mod config;
mod datadir;
mod demo;
mod exit;
mod offline;
mod out;
mod run;
mod server;
mod telemetry;

use cli::{Cli, Command};
use exit::Exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let options = &cli.options;
    let result = match cli.command.as_ref().unwrap_or(&Command::Run) {
        Command::Run => server::run(options),
        Command::Check { connect } => cli::check::run(options, *connect),
        Command::Explain(example) => cli::explain::run(options, example),
        Command::Schema { database } => cli::explain::schema(database),
        Command::Status => cli::admin::status(options),
        Command::Log { what } => cli::log::run(options, what),
        Command::Cursor { what } => cli::log::cursors(options, what),
        Command::Sink { what } => cli::admin::sink(options, what),
        Command::Dlq { what } => cli::admin::dlq(options, what),
        Command::Client { what } => cli::operate::client(options, what),
        Command::Session { what } => cli::operate::session(options, what),
        Command::Subscription { what } => cli::operate::subscription(options, what),
        Command::Retained { what } => cli::operate::retained(options, what),
        Command::Publish(message) => cli::operate::publish(options, message),
        Command::User { users, what } => cli::user::run(options, users.as_deref(), what),
        Command::Demo => demo::run(options),
    };
    match result {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            if options.json {
                let fault = serde_json::json!({ "error": failure.message, "exit": failure.exit as u8 });
                eprintln!("{}", out::json(&fault.to_string()));
            } else {
                eprintln!("forebay: {}", out::lines(&failure.message));
            }
            failure.exit.into()
        }
    }
}
