//! 200 training steps on books on a GPU in bf16 beside the same steps on the CPU in f32: same model, seed and batches.
//!
//! `cargo run --release -p lm-scaling --example cuda_follows`, on a machine with a GPU. One line per placement of the convolutions: the losses
//! of the last step and the largest relative distance of the training loss over all steps; exit code 1 above 0.5 %.

use std::process::ExitCode;

use lm_scaling::{Row, measure};
use train::{Device, Options};

const PLACEMENTS: [(&str, &str); 4] = [
    ("none", ""),
    ("static", "conv = { kind = \"static\" }"),
    ("low-rank on q, k, v", "conv = { kind = \"low-rank\" }"),
    (
        "low-rank after every linear",
        "conv = { kind = \"low-rank\", on = [\"q\", \"k\", \"v\", \"o\", \"gate\", \"up\", \"down\"] }",
    ),
];
const BOUND: f64 = 0.005;

fn row(conv: &str) -> Result<Row, toml::de::Error> {
    toml::from_str(&format!(
        "model = {{ vocab = 16384, d_model = 128, layers = 4, heads = 2, ffn = 344, tied = true, {conv} }}
data = {{ text = \"books-mini\", tokenizer = \"bpe16384\", context = 256 }}
train = {{ steps = 200, batch = 8, lr = 2e-3, warmup = 0.1, weight_decay = 0.1, eval_every = 200, eval_examples = 32, log_every = 1 }}"
    ))
}

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut good = true;
    for (name, conv) in PLACEMENTS {
        let row = row(conv)?;
        let losses = |device| {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            let options = Options { device, threads, out: None, resume: false, keep: false, deadline: None };
            let measured = measure(name, &row, &[0], None, &[], &options, &|_| {})?;
            let losses = measured.points.into_iter().filter(|point| point.metric == "train_loss");
            Ok::<Vec<f64>, lm_scaling::Error>(losses.map(|point| point.value).collect())
        };
        let (cpu, cuda) = (losses(Device::Cpu)?, losses(Device::Cuda(cli::Gpus::one(0)))?);
        let far = cpu.iter().zip(&cuda).map(|(a, b)| (a - b).abs() / a).fold(0.0, f64::max);
        let last = |losses: &[f64]| losses.last().copied().unwrap_or(f64::NAN);
        println!(
            "{name}: {} steps, loss {:.4} on the CPU, {:.4} on the GPU, at most {:.2} % apart",
            cpu.len(),
            last(&cpu),
            last(&cuda),
            100.0 * far
        );
        good &= cpu.len() == 200 && cuda.len() == 200 && far <= BOUND;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
