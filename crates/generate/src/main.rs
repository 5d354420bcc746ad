//! `generate CHECKPOINT --ids 5,17`: what the model goes on with, printed as it is drawn.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use generate::{Result, Sampler, generate, open};

/// Go on from a prompt with the model of a checkpoint. Tokens go to stdout as they are drawn, all else to stderr.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// The checkpoint, a safetensors file that training wrote.
    checkpoint: PathBuf,
    /// The prompt, as token ids.
    #[arg(long, value_delimiter = ',', required = true)]
    ids: Vec<u32>,
    /// Tokens to draw.
    #[arg(long, default_value_t = 200)]
    tokens: usize,
    /// Below 1 the likely gets likelier; 0 always takes the likeliest.
    #[arg(long, default_value_t = 1.0, value_parser = temperature)]
    temperature: f64,
    /// Draw from so many of the likeliest tokens; 0 for all.
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Seed of the draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn temperature(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(t) if (0.0..f64::INFINITY).contains(&t) => Ok(t),
        _ => Err("give a number of at least 0".into()),
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let (mut decoder, _) = open(&args.checkpoint)?;
    let mut sampler = Sampler::new(args.temperature, args.top_k, args.seed);
    let mut out = io::stdout().lock();
    let mut separator = "";
    // A reader that has gone away wants no more.
    generate(&mut decoder, &args.ids, args.tokens, &mut sampler, &mut |id| {
        let written = write!(out, "{separator}{id}").and_then(|()| out.flush());
        separator = " ";
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    writeln!(out).ok();
    Ok(())
}
