//! Repository chores: `cargo xtask tidy`, `cargo xtask golden accept --because "..."`.

mod golden;
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
        Command::Golden(Golden::Accept { because }) => golden::accept(&because),
    }
}
