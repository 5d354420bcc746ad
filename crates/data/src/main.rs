//! `data prepare` and `data prepare-books`: text files to token shards.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use data::text::{Done, Index, Options, Tokenizer};

/// Text to token shards.
#[derive(Parser)]
#[command(name = "data", version, max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Turn text files into a folder of checked token shards
    Prepare {
        /// .txt, .jsonl (both also .xz, .gz, .zst) or .parquet files, which train
        #[arg(required = true)]
        inputs: Vec<PathBuf>,
        /// A tokenizer.json file, or bytes, r50k, cl100k
        #[arg(long)]
        tokenizer: String,
        /// The folder of the shards
        #[arg(long)]
        out: PathBuf,
        /// Files of the validation split, instead of a share of the inputs
        #[arg(long)]
        val: Vec<PathBuf>,
        /// Share of the documents held out for validation
        #[arg(long, default_value_t = 0.01)]
        val_share: f64,
        /// Name of the text in a record
        #[arg(long, default_value = "text")]
        field: String,
        /// Keep the inputs that an earlier run has finished
        #[arg(long)]
        resume: bool,
    },
    /// Rebuild the book streams from a clone of github.com/mlschmitt/classic-books-markdown, at commit 944882722e9a, and
    /// check their hashes
    PrepareBooks {
        /// The clone's folder
        clone: PathBuf,
        /// The folder of the shards: DATA/books/tok16k, where DATA is what --data names afterwards
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    let started = Instant::now();
    let (out, index) = match Args::parse().command {
        Command::Prepare { inputs, tokenizer, out, val, val_share, field, resume } => {
            ensure!((0.0..1.0).contains(&val_share), "--val-share {val_share}: give a share from 0 up to 1");
            let tokenizer = Tokenizer::named(&tokenizer).context("--tokenizer")?;
            let options = Options { out: out.clone(), field, val, val_share, resume };
            (out, data::text::prepare(&inputs, &tokenizer, &options, &mut tell)?)
        }
        Command::PrepareBooks { clone, out } => {
            let mut tell = |split: &str, done: usize, all: usize| eprintln!("[{done}/{all}] {split}");
            let index = data::text::prepare_books(&clone, &out, &mut tell)?;
            (out, index)
        }
    };
    print(&index);
    eprintln!("{}: {:.0} s", out.display(), started.elapsed().as_secs_f64());
    Ok(())
}

fn tell(done: &Done) {
    let state = match done.finished {
        None => "",
        Some(false) => ", done",
        Some(true) => ", done before",
    };
    let [number, all] = done.number;
    let (input, documents, tokens) = (done.input.display(), done.documents, done.tokens);
    eprintln!("[{number}/{all}] {input}: {documents} documents, {tokens} tokens{state}");
}

fn print(index: &Index) {
    for (name, split) in &index.splits {
        println!("{name}: {} tokens, {} documents, {} bytes of text", split.tokens, split.docs, split.bytes_text);
    }
}
