//! `step-throughput ROW...`: times rows of table 4 alone, with a profile by kernel or the memory they need.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context;
use backend::{Backend, CudaBackend, MemoryPlan, Precision};
use clap::Parser;
use cli::DeviceArg;
use step_throughput::{Row, batch, measure, peak_flops, plan, state};

/// Times training steps of rows of table 4.
#[derive(Parser)]
struct Args {
    /// Rows, such as 300m.none; all of the scale if none is given.
    rows: Vec<String>,
    /// Scale of the plan.
    #[arg(long, default_value = "small")]
    scale: String,
    /// Where to run: auto (the CPU), cpu, cuda or cuda:N.
    #[arg(long, default_value = "auto", value_parser = DeviceArg::parse)]
    device: DeviceArg,
    /// CPU threads; all cores if absent.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Steps that are timed.
    #[arg(long)]
    steps: Option<usize>,
    /// Passes that the batch is taken in, instead of the row's.
    #[arg(long)]
    accumulate: Option<usize>,
    /// Makes activations again in the backward pass instead of keeping them.
    #[arg(long)]
    recompute: bool,
    /// Prints the time of each kind of launch.
    #[arg(long)]
    profile: bool,
    /// Times the library's algorithms for the row's matrix products: lines for crates/kernels/src/cuda/matmul/choices.csv.
    #[arg(long)]
    tune: bool,
    /// Prints the memory a step needs and runs nothing.
    #[arg(long)]
    print_memory: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let cuda = args.device.gpu()?;
    let plan = report::plan::Plan::parse(plan())?;
    let only = (!args.rows.is_empty()).then_some(&args.rows[..]);
    for planned in plan.resolve(&args.scale, only)? {
        let row: Row = planned.config.clone().try_into().context(planned.id.clone())?;
        let row = Row {
            steps: args.steps.unwrap_or(row.steps),
            accumulate: args.accumulate.unwrap_or(row.accumulate),
            recompute: args.recompute || row.recompute,
            ..row
        };
        if args.print_memory {
            println!("{}\n{}", planned.id, MemoryPlan::new(&row.tape()?, Precision::Bf16, row.accumulate > 1)?);
        } else if args.tune {
            let ordinal = cuda.context("--tune times products on a GPU: give --device cuda")?;
            let tape = row.tape()?;
            let mut backend = CudaBackend::new(ordinal, Precision::Bf16)?;
            backend.load(state(&tape))?;
            backend.tune(&tape, &batch(tape.tokens(), row.model.vocab))?.iter().for_each(|line| println!("{line}"));
        } else if args.profile {
            let ordinal = cuda.context("--profile times launches of a GPU: give --device cuda")?;
            profile(&planned.id, &row, ordinal)?;
        } else {
            let threads = args.threads.map_or_else(rayon::current_num_threads, usize::from);
            let timing = measure(&row, cuda, threads)?;
            let name = cuda.map(kernels::cuda::Device::new).transpose()?.map_or("cpu".into(), |d| d.name().to_string());
            let mfu = peak_flops(&name).map_or("-".into(), |p| format!("{:.1}", 100.0 * timing.flops_per_second / p));
            println!(
                "{}: {:.2} ms, {:.0} tok/s, mfu {mfu} %, {} GiB, loss {} to {}",
                planned.id,
                timing.ms_per_step,
                timing.tokens_per_second,
                timing.peak_gib.map_or("-".into(), |g| format!("{g:.2}")),
                timing.loss.0,
                timing.loss.1
            );
        }
    }
    Ok(())
}

/// Time and number of each kind of step, the longest first.
fn profile(id: &str, row: &Row, ordinal: usize) -> anyhow::Result<()> {
    let tape = row.tape()?;
    let mut backend = CudaBackend::new(ordinal, Precision::Bf16)?;
    backend.load(state(&tape))?;
    let steps = backend.profile(&tape, &batch(tape.tokens(), row.model.vocab), 3)?;
    let mut by_name: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for (name, ms) in &steps {
        let entry = by_name.entry(name).or_default();
        *entry = (entry.0 + 1, entry.1 + ms);
    }
    let mut sorted: Vec<_> = by_name.into_iter().collect();
    sorted.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
    println!("{id}: {} launches, {:.2} ms", steps.len(), steps.iter().map(|s| s.1).sum::<f64>());
    for (name, (count, ms)) in sorted {
        println!("  {name:18} {count:4} {ms:8.3} ms {:8.1} us each", 1e3 * ms / count as f64);
    }
    Ok(())
}
