//! `kernel-throughput check` and `kernel-throughput apply`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use cli::DeviceArg;
use kernel_throughput::apply::{self, Kind, Options, apply};
use kernel_throughput::check::{Outcome, check, check_decode};
use kernel_throughput::{Dtype, large, sample};
use kernels::cuda::Device;

/// The dynamic short convolution on a GPU, checked; and on tensors of a file.
#[derive(Debug, Parser)]
#[command(name = "kernel-throughput", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare the GPU's results with an f64 reference and the CPU op over a pairwise sample of all options
    Check {
        /// The GPU: cuda or cuda:N
        #[arg(long, default_value = "cuda", value_parser = DeviceArg::parse)]
        device: DeviceArg,
        /// Only cases I, I + N, I + 2 N, ...: several processes share the work
        #[arg(long, value_name = "I/N", value_parser = shard, default_value = "0/1")]
        shard: (usize, usize),
        /// Begin no further case after this many seconds
        #[arg(long, value_name = "N")]
        seconds: Option<u64>,
        /// Only a few cases of few tokens and odd sizes, for a run under compute-sanitizer
        #[arg(long)]
        small: bool,
        /// Only the test above 2^31 elements (about 20 GB)
        #[arg(long, conflicts_with = "small")]
        large: bool,
    },
    /// Run the op on the tensors of a safetensors file
    #[command(after_help = "In: x, weight | z and U, static_w, dy, cu_seqlens, state, dfinal_state. \
                            Out: y, final_state, and with dy dx, dweight | dz and dU, dstatic_w, dstate.")]
    Apply {
        /// Which op
        #[arg(long, value_enum)]
        op: Kind,
        /// The file read
        #[arg(long, value_name = "FILE")]
        input: PathBuf,
        /// The file written
        #[arg(long, value_name = "FILE")]
        output: PathBuf,
        /// Where to run: auto (the CPU), cpu, cuda or cuda:N
        #[arg(long, default_value = "auto", value_parser = DeviceArg::parse)]
        device: DeviceArg,
        /// The type of operands and results
        #[arg(long, value_enum, default_value = "f32")]
        dtype: Type,
        /// Add x
        #[arg(long)]
        residual: bool,
        /// SiLU on the sum, before x is added
        #[arg(long)]
        silu: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
    F16,
}

fn shard(text: &str) -> Result<(usize, usize), String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    parts.filter(|(i, n)| i < n).ok_or_else(|| "use I/N with I below N, such as 0/4".into())
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Check { device, shard, seconds, small, large } => run_check(device, shard, seconds, small, large),
        Command::Apply { op, input, output, device, dtype, residual, silu } => {
            let dtype = match dtype {
                Type::F32 => Dtype::F32,
                Type::Bf16 => Dtype::Bf16,
                Type::F16 => Dtype::F16,
            };
            let options = Options { kind: op, dtype, residual, silu };
            open(device).and_then(|device| {
                let done = apply(&input, &output, options, device.as_ref());
                done.map(|()| ExitCode::SUCCESS).map_err(|e: apply::Error| (2, e.to_string()))
            })
        }
    };
    done.unwrap_or_else(|(code, message)| {
        let _ = writeln!(std::io::stderr(), "error: {message}");
        ExitCode::from(code)
    })
}

/// The GPU asked for, if it is one.
fn open(device: DeviceArg) -> Result<Option<Device>, (u8, String)> {
    let gpu = device.gpu().map_err(|e| (2, e.to_string()))?;
    gpu.map(Device::new).transpose().map_err(|e| (3, e.to_string()))
}

fn run_check(
    device: DeviceArg,
    (index, shards): (usize, usize),
    seconds: Option<u64>,
    small: bool,
    large: bool,
) -> Result<ExitCode, (u8, String)> {
    let gpu = open(device)?;
    let device = gpu.ok_or_else(|| (2, "check compares a GPU with the CPU: give --device cuda".to_string()))?;
    if large {
        let wrong = large::check(&device).map_err(|e| (2, e.to_string()))?;
        wrong.iter().for_each(|line| println!("WRONG {line}"));
        println!("above 2^31 elements: {}", if wrong.is_empty() { "ok" } else { "wrong" });
        return Ok(ExitCode::from(u8::from(!wrong.is_empty())));
    }
    let mut failures = 0;
    let mut worst: Vec<(Dtype, f64)> = [Dtype::F32, Dtype::Bf16, Dtype::F16].map(|d| (d, 0.0)).to_vec();
    let mut tell = |dtype: Dtype, outcome: &Outcome| {
        if let Some(known) = worst.iter_mut().find(|w| w.0 == dtype) {
            known.1 = if outcome.worst() > known.1 { outcome.worst() } else { known.1 };
        }
        if !outcome.wrong.is_empty() {
            failures += 1;
            println!("WRONG {}: {}", outcome.case, outcome.wrong.join("; "));
        }
    };
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let late = || deadline.is_some_and(|deadline| Instant::now() >= deadline);
    let cases = if small { sample::small() } else { sample::sample() };
    let decoded = sample::decoded();
    let all = decoded.iter().map(|case| (case, true)).chain(cases.iter().map(|case| (case, false)));
    let mine: Vec<_> = all.enumerate().skip(index).step_by(shards).collect();
    let mut count = 0;
    for (i, (case, decode)) in mine.iter().take_while(|_| !late()) {
        let run = if *decode { check_decode } else { check };
        tell(case.dtype, &run(&device, case, *i as u64));
        count += 1;
    }
    let worst: Vec<String> = worst.iter().map(|(d, e)| format!("{} {e:.1e}", d.name())).collect();
    let left = mine.len() - count;
    let left = if left > 0 { format!(", {left} not begun") } else { String::new() };
    println!("{} of {count} cases ok on {}{left}; worst errors {}", count - failures, device.name(), worst.join(", "));
    Ok(ExitCode::from(u8::from(failures > 0)))
}
