//! `replay <target> <file>`: runs what a fuzzer found. `seeds`: writes the seeds that the program's own encoders make.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use forebay_fuzz_checks::{TARGETS, find, folder, seeds};

#[derive(Debug, Parser)]
#[command(about = "Runs fuzz targets without a fuzzer")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs one input through a target; ends with the target's panic when it breaks the promise.
    Replay {
        /// The target.
        target: String,
        /// The input.
        file: PathBuf,
    },
    /// Lists the targets and what each promises.
    List,
    /// Writes the seeds into `fuzz/seeds/`.
    Seeds,
}

fn main() -> Result<()> {
    match Cli::parse().task {
        Task::Replay { target, file } => {
            let target = find(&target).with_context(|| format!("no target `{target}`; `list` names them"))?;
            let bytes = std::fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            (target.check)(&bytes);
            println!("{}: {} bytes, the promise holds: {}", target.name, bytes.len(), target.promise);
        }
        Task::List => {
            for target in TARGETS {
                println!("{:<14} {}", target.name, target.promise);
            }
        }
        Task::Seeds => {
            for target in TARGETS {
                let dir = folder().join("seeds").join(target.name);
                std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
                for (name, bytes) in seeds::of(target.name) {
                    let file = dir.join(name);
                    std::fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
                }
            }
        }
    }
    Ok(())
}
