//! Repository chores: `cargo xtask tidy`, `golden accept --because "..."`, `readme`, `kernels check`, `cpu-step`.

mod cpu_step;
mod golden;
mod kernels;
mod readme;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Chores of this repository.
#[derive(Parser)]
#[command(name = "cargo xtask", version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the house rules that neither rustfmt nor clippy knows.
    Tidy,
    /// Golden snapshots.
    #[command(subcommand)]
    Golden(Golden),
    /// Write the README's result table from golden/records.
    Readme {
        /// Change nothing; fail if the table is not up to date.
        #[arg(long)]
        check: bool,
    },
    /// GPU kernels.
    #[command(subcommand)]
    Kernels(Kernels),
    /// Time our training steps beside PyTorch's on this machine's CPU and record both.
    CpuStep {
        /// A Python that has torch.
        #[arg(long, default_value = "python3")]
        python: String,
        /// A short name of this CPU, the last part of the record's name.
        #[arg(long)]
        device: String,
        /// Processes of each side; the fastest pass counts.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Numbers of threads.
        #[arg(long, value_delimiter = ',', default_value = "1,2")]
        threads: Vec<usize>,
    },
}

#[derive(Subcommand)]
enum Kernels {
    /// Compile every kernel with NVRTC, which needs no GPU, and compare what it uses with kernels/resources.txt.
    Check {
        /// Write kernels/resources.txt instead.
        #[arg(long)]
        accept: bool,
    },
}

#[derive(Subcommand)]
enum Golden {
    /// Re-run every snapshot test, accept what it prints and log the reason in golden/CHANGES.md.
    Accept {
        /// Why the snapshots change.
        #[arg(long)]
        because: String,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Tidy => tidy::run(),
        Command::Kernels(Kernels::Check { accept }) => kernels::check(accept),
        Command::Golden(Golden::Accept { because }) => golden::accept(&because),
        Command::Readme { check } => readme::run(check),
        Command::CpuStep { python, device, rounds, threads } => cpu_step::record(&python, &device, rounds, &threads),
    }
}
