//! `cargo xtask simulate` runs this.

use std::process::ExitCode;

use clap::Parser;
use forebay_simulator::fault::Fault;
use forebay_simulator::runner::{run_many, run_one, shrink};

/// Runs the engine on a disk that forgets, against a model of what it promises.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask simulate")]
struct Cli {
    /// Schedules to run.
    #[arg(long, default_value_t = 2_000)]
    schedules: u64,
    /// Seed of the first one; the others follow.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads [default: one per core].
    #[arg(long)]
    jobs: Option<usize>,
    /// A mistake put in on purpose: succeeds when the schedules find it.
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Runs the schedule of `seed` alone and shows what happens.
    #[arg(long)]
    replay: bool,
    /// With `replay`: only these operations, as printed with a failure (`3,7,9`).
    #[arg(long, value_delimiter = ',')]
    keep: Option<Vec<usize>>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A panic is a finding like others, told with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    if cli.replay {
        return replay(&cli);
    }
    let jobs = cli.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, Into::into));
    let outcome = run_many(cli.seed, cli.schedules, jobs, cli.fault);
    let seconds = outcome.took.as_secs_f64();
    let rate = outcome.done as f64 / seconds.max(0.001);
    match (outcome.failure, cli.fault) {
        (None, None) => {
            println!("{} schedules from seed {}, nothing broken, {seconds:.1} s, {rate:.0}/s", outcome.done, cli.seed);
            let seen: Vec<String> = outcome.seen.iter().map(|(what, n)| format!("{what} {n}")).collect();
            println!("in them: {}", seen.join(", "));
            ExitCode::SUCCESS
        }
        (None, Some(fault)) => {
            println!("{} schedules did not find the fault {fault:?}", outcome.done);
            ExitCode::FAILURE
        }
        (Some(found), Some(fault)) => {
            println!("fault {fault:?} found by seed {} after {} schedules: {}", found.seed, outcome.done, found.what);
            ExitCode::SUCCESS
        }
        (Some(found), None) => {
            println!("seed {}: {}", found.seed, found.what);
            let keep = shrink(found.seed, None);
            let list = keep.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            print(found.seed, &keep, None);
            println!("replay: cargo xtask simulate --seed {} --replay --keep {list}", found.seed);
            ExitCode::FAILURE
        }
    }
}

fn replay(cli: &Cli) -> ExitCode {
    let all: Vec<usize> = (0..forebay_simulator::plan::Plan::of(cli.seed).ops.len()).collect();
    if print(cli.seed, cli.keep.as_deref().unwrap_or(&all), cli.fault) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the schedule and shows what happens; true where nothing breaks.
fn print(seed: u64, keep: &[usize], fault: Option<Fault>) -> bool {
    println!("{:?}", forebay_simulator::plan::Plan::of(seed).settings);
    match run_one(seed, Some(keep), fault, true) {
        Ok(()) => {
            println!("nothing broken");
            true
        }
        Err((what, trace)) => {
            trace.iter().for_each(|line| println!("{line}"));
            println!("BROKEN: {what}");
            false
        }
    }
}
