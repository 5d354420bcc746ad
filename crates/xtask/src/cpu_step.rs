//! `cargo xtask cpu-step`: our training steps beside PyTorch's on this machine's CPU, as a record.
//!
//! Each model runs as a process of its own, ours (`crates/model/examples/step.rs`, dev profile: what users run) and
//! the peer (`step_peer.py`, same models and shapes, eager) by turns, so that a busy moment hits both; the fastest
//! pass of all rounds counts. The record has per row `<model>.<threads>t` the metrics `fwdbwd_ms`, `step_ms`,
//! `peer_fwdbwd_ms`, `peer_step_ms`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use report::measured::Metric;
use report::plan::config_hash;
use report::record::{RowRecord, Run, RunRecord, SCHEMA, write};

const PEER: &str = "crates/model/examples/step_peer.py";
const STEP: &str = "target/debug/examples/step";

/// Measures every model at each number of threads and writes golden/records/cpu-step.smoke.<device>.
pub(crate) fn record(python: &str, device: &str, rounds: usize, threads: &[usize]) -> Result<()> {
    ensure!(Path::new(PEER).exists(), "{PEER} is not here: run from the repository root");
    run(&[env!("CARGO"), "build", "--quiet", "-p", "model", "--example", "step"])?;
    let models = run(&[STEP, "--list"])?;
    let source = cli::source();
    let host = cli::host_device(cli::DeviceArg::Auto, &["cpu"], threads.iter().copied().max().unwrap_or(1))?;
    let torch = run(&[python, "-c", "import torch; print(torch.__version__)"])?;
    let (mut rows, mut metrics, began) = (Vec::new(), Vec::new(), Instant::now());
    for model in models.lines() {
        for &threads in threads {
            let (id, row_began) = (format!("{model}.{threads}t"), Instant::now());
            let mut best = [f64::INFINITY; 4];
            for _ in 0..rounds {
                let times = [
                    times(&[STEP, model, &threads.to_string()])?,
                    times(&[python, PEER, model, &threads.to_string()])?,
                ];
                for (best, time) in best.iter_mut().zip(times.concat()) {
                    *best = best.min(time);
                }
            }
            let [pass, step, peer_pass, peer_step] = best;
            println!("{id}: {step:.2} ms a step, PyTorch {peer_step:.2} ms: {:.2} of its time", step / peer_step);
            let named =
                [("fwdbwd_ms", pass), ("step_ms", step), ("peer_fwdbwd_ms", peer_pass), ("peer_step_ms", peer_step)];
            metrics.extend(named.map(|(metric, value)| Metric {
                row: id.clone(),
                seed: 0,
                step: 0,
                metric: metric.into(),
                value,
            }));
            let number = |n: usize| toml::Value::Integer(n as i64);
            let config =
                toml::Table::from_iter([("rounds".into(), number(rounds)), ("threads".into(), number(threads))]);
            rows.push(RowRecord {
                id,
                seeds: vec![0],
                git_rev: source.git_rev.clone(),
                wall_s: row_began.elapsed().as_secs_f64(),
                config_sha256: config_hash(&config),
                config,
                remarks: Vec::new(),
            });
        }
    }
    let record = RunRecord {
        schema: SCHEMA,
        item: "cpu-step".into(),
        scale: "smoke".into(),
        device: host,
        source,
        date: cli::today(),
        dtype: "f32".into(),
        seeds: vec![0],
        command: format!("{}; PyTorch {}", command(device, rounds, threads), torch.trim()),
        wall_s: began.elapsed().as_secs_f64(),
        kernels_sha256: Default::default(),
        data_sha256: BTreeMap::new(),
        rows,
        files: BTreeMap::new(),
    };
    let folder = format!("golden/records/cpu-step.smoke.{device}");
    write(Path::new(&folder), Run { record, metrics, curve: Vec::new() })?;
    println!("{folder}");
    Ok(())
}

/// The command that measures the same again, but for the Python at hand.
fn command(device: &str, rounds: usize, threads: &[usize]) -> String {
    let threads: Vec<String> = threads.iter().map(usize::to_string).collect();
    let threads = threads.join(",");
    format!("cargo xtask cpu-step --python PYTHON --device {device} --rounds {rounds} --threads {threads}")
}

/// The pass and step times of one process, in milliseconds: the last two columns of what it prints.
fn times(command: &[&str]) -> Result<[f64; 2]> {
    let printed = run(command)?;
    let columns: Vec<&str> = printed.trim().split(',').collect();
    let [.., pass, step] = columns.as_slice() else { bail!("{} printed {printed:?}", command.join(" ")) };
    Ok([pass.parse()?, step.parse()?])
}

fn run(command: &[&str]) -> Result<String> {
    let out = Command::new(command[0])
        .args(&command[1..])
        .output()
        .with_context(|| format!("{} did not start", command[0]))?;
    ensure!(out.status.success(), "{} failed:\n{}", command.join(" "), String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8(out.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_has_every_flag_that_changes_a_number() {
        let written = "cargo xtask cpu-step --python PYTHON --device x --rounds 5 --threads 1,2";
        assert_eq!(command("x", 5, &[1, 2]), written);
    }
}
