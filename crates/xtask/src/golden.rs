//! `cargo xtask golden accept`: the one way a golden changes.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Packages whose tests keep snapshots.
const PACKAGES: [&str; 5] = ["golden", "data", "report", "cli", "generate"];
const LOG: &str = "golden/CHANGES.md";

/// Accepts what the snapshot tests print today and logs which files changed, and why.
pub(crate) fn accept(because: &str) -> Result<()> {
    ensure!(!because.trim().is_empty(), "--because is empty: say why the snapshots change");
    // Tables and figures render from the golden metrics, so they follow in a second pass.
    snapshot_tests()?;
    ensure!(snapshot_tests()?, "the tests fail for another reason than a snapshot: mend that first");

    let changed = output(&["git", "status", "--porcelain", "--untracked-files=all"])?;
    let changed: Vec<&str> = changed
        .lines()
        .filter_map(|l| l.get(3..))
        .filter(|p| p.ends_with(".snap") || p.contains("golden/snapshots/"))
        .collect();
    if changed.is_empty() {
        println!("no snapshot changed");
        return Ok(());
    }
    let mut log =
        fs::read_to_string(LOG).with_context(|| format!("{LOG} cannot be read: run from the repository root"))?;
    log.push_str(&format!("- {}: {} ({})\n", cli::today(), because.trim(), changed.join(", ")));
    fs::write(LOG, log).with_context(|| format!("{LOG} cannot be written"))?;
    println!("accepted {} snapshots; commit them with {LOG}", changed.len());
    Ok(())
}

/// Runs the tests that keep snapshots, taking what they print as golden; whether all passed.
fn snapshot_tests() -> Result<bool> {
    let mut test = Command::new(env!("CARGO"));
    test.args(["test", "--quiet", "--no-fail-fast"]).env("INSTA_UPDATE", "always").env("INSTA_FORCE_PASS", "1");
    for package in PACKAGES {
        test.args(["-p", package]);
    }
    Ok(test.status().context("cargo test did not start")?.success())
}

fn output(command: &[&str]) -> Result<String> {
    let out = Command::new(command[0])
        .args(&command[1..])
        .output()
        .with_context(|| format!("{} did not start", command[0]))?;
    ensure!(out.status.success(), "{} failed", command.join(" "));
    Ok(String::from_utf8(out.stdout)?)
}
