//! Development tasks: `cargo xtask test`, `crash`, `soak`, `simulate`, `fuzz`, `services`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod counts;
mod fuzz;
mod provision;
mod services;
mod shell;
mod soak;
mod steps;

/// Development tasks of Forebay.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Provisions what the tests need and runs every check and test.
    Test {
        /// Run only this step (may be given several times).
        #[arg(long, value_enum)]
        only: Vec<steps::Step>,
        /// Rounds of the crash test.
        #[arg(long, default_value_t = 30)]
        rounds: u32,
    },
    /// Runs the crash test alone: SIGKILL at random moments, that many rounds.
    Crash {
        /// Rounds.
        #[arg(long, default_value_t = 1000)]
        rounds: u32,
    },
    /// Kills each database's servers and Forebay at random moments under load, and takes the database away under heavy load.
    Soak(soak::Options),
    /// Runs the engine on a simulated disk against a model: `--schedules N --seed S --jobs J`, `--fault F`, `--replay`, `--keep LIST`.
    Simulate {
        /// What the simulator is to do; `--help` lists it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Runs the fuzz targets, each for some seconds.
    Fuzz(fuzz::Options),
    /// Servers for people who work on Forebay, on 127.0.0.1 and free ports.
    Services {
        /// What to do.
        #[command(subcommand)]
        action: services::Action,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Test { only, rounds } => steps::test(&only, rounds),
        Task::Crash { rounds } => steps::crash(rounds).map(|()| true),
        Task::Soak(options) => soak::run(&options).map(|()| true),
        Task::Simulate { arguments } => steps::simulate(&arguments).map(|()| true),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Services { action } => services::run(&action).map(|()| true),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        // What failed was said.
        Ok(false) => ExitCode::FAILURE,
        Err(fault) => {
            eprintln!("xtask: {fault:#}");
            ExitCode::FAILURE
        }
    }
}
