//! `generate CHECKPOINT --prompt "It was"`: what the model goes on with, printed as it is drawn.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgGroup, Parser};
use cli::DeviceArg;
use data::text::Tokenizer;
use generate::{Checkpoint, Error, Result, Sampler, Stream, generate, open};
use train::{Device, find_device};

/// Go on from a prompt with the model of a checkpoint. Prompt and text go to stdout as they are drawn, all else to stderr.
#[derive(Debug, Parser)]
#[command(version, group(ArgGroup::new("start").required(true).args(["prompt", "ids"])))]
struct Args {
    /// The checkpoint of a run, which reproduce-* leaves with --keep-checkpoints: out/ITEM.SCALE/ROW.seed-0.safetensors.
    checkpoint: PathBuf,
    /// The prompt.
    #[arg(long)]
    prompt: Option<String>,
    /// The prompt as token ids; prints ids, and not the prompt.
    #[arg(long, value_delimiter = ',')]
    ids: Vec<u32>,
    /// bytes, or a tokenizer.json file; by default that of the text the model was trained on.
    #[arg(long)]
    tokenizer: Option<String>,
    /// The folder of prepared texts, for the tokenizer of a text that is not built in [default: the environment's DYNCONV_DATA].
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,
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
    /// auto (the CPU), cpu, dfdx, cuda or cuda:N. The CPU keeps what it needs of the tokens so far; the others, made for
    /// training, run all of them again for each token, a GPU as long as a pass has at most 256 MiB of values.
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = one_device)]
    device: DeviceArg,
}

fn one_device(text: &str) -> std::result::Result<DeviceArg, String> {
    let device = DeviceArg::parse(text)?;
    device.single().map_err(|e| e.to_string())?;
    Ok(device)
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
        Err(Error::Device(e)) => {
            eprint!("{}", e.text());
            ExitCode::from(e.exit_code())
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<()> {
    let device = match args.device {
        DeviceArg::Auto | DeviceArg::Cpu => Device::Cpu,
        DeviceArg::Dfdx => Device::Dfdx,
        DeviceArg::Cuda(gpus) => Device::Cuda(gpus),
    };
    if let Device::Cuda(_) = device {
        find_device(args.device, &Device::KINDS, 1)?;
    }
    let Checkpoint { mut model, text } = open(&args.checkpoint, device)?;
    let mut sampler = Sampler::new(args.temperature, args.top_k, args.seed);
    let mut out = io::stdout().lock();
    // A reader that has gone away wants no more.
    let mut show = move |text: &str| match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    let Some(prompt) = &args.prompt else {
        let vocab = model.vocab();
        let mut separator = "";
        generate(&mut model, &args.ids, args.tokens, vocab, &mut sampler, &mut |id| {
            let shown = show(&format!("{separator}{id}"));
            separator = " ";
            Ok(shown)
        })?;
        show("\n").is_break();
        return Ok(());
    };
    let tokenizer = match &args.tokenizer {
        Some(name) => Tokenizer::named(name)?,
        None => {
            let text = text.ok_or_else(|| Error::Prompt {
                what: "the checkpoint has no tokenizer of its own".into(),
                remedy: "name one with --tokenizer, or give --ids",
            })?;
            let data = args.data.clone().or_else(|| std::env::var_os("DYNCONV_DATA").map(PathBuf::from));
            text.tokenizer_of(data.as_deref())?
        }
    };
    let mut ids = Vec::new();
    tokenizer.encode(prompt, &mut ids)?;
    if show(prompt).is_break() {
        return Ok(());
    }
    let (vocab, mut stream) = (tokenizer.vocab() as usize, Stream::new(&tokenizer));
    generate(&mut model, &ids, args.tokens, vocab, &mut sampler, &mut |id| {
        if tokenizer.end_of_text() == Some(id) {
            return Ok(ControlFlow::Break(()));
        }
        Ok(show(&stream.push(id)?))
    })?;
    show("\n").is_break();
    Ok(())
}
