//! Times one training step on the CPU, to be set beside `step_peer.py` (PyTorch eager, same models and shapes):
//!
//! ```text
//! cargo run --release -p model --example step -- gpt 2
//! python3 crates/model/examples/step_peer.py gpt 2
//! ```
//!
//! Prints `model,threads,fwdbwd_ms,step_ms`, each the minimum over the repeats.

use std::time::Instant;

use backend::{AdamW, Backend, Batch, CpuBackend, Params, State};
use model::{Conv, ConvKind, GatedDeltaNet, Mamba2, Mixer, Mlp, Moe, Norm, Positions, Transformer};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args == ["--list"] {
        MODELS.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    let [name, threads, rest @ ..] = args.as_slice() else {
        return Err(
            format!("usage: step MODEL THREADS [REPEATS], or --list; MODEL is one of {}", MODELS.join(", ")).into()
        );
    };
    let threads: usize = threads.parse()?;
    let repeats = rest.first().map_or(Ok(12), |r| r.parse())?;
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;

    let (batch, len, model) = model(name).ok_or_else(|| format!("unknown model {name}: {}", MODELS.join(", ")))?;
    let tape = model.record(batch, len)?;
    let mut cpu = CpuBackend::new();
    cpu.load(State::new(Params::init(tape.specs(), 0)))?;
    let (n, v) = (batch * len, model.vocab);
    let ids = (0..n).map(|i| (i * 7919 % v) as u32).collect();
    let targets = (0..n).map(|i| ((i * 104_729 + 1) % v) as u32).collect();
    let data = Batch::new(ids, targets);
    let rule = AdamW { lr: 1e-4, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, clip: 1.0 };

    let (mut pass, mut step) = (f64::MAX, f64::MAX);
    for _ in 0..repeats {
        let start = Instant::now();
        cpu.gradients(&tape, &data)?;
        pass = pass.min(start.elapsed().as_secs_f64());
        cpu.update(&rule)?;
        step = step.min(start.elapsed().as_secs_f64());
    }
    println!("{name},{threads},{:.3},{:.3}", pass * 1e3, step * 1e3);
    Ok(())
}

const MODELS: [&str; 11] = [
    "gpt",
    "lm-none",
    "lm-lowrank",
    "deltanet",
    "mamba",
    "moe",
    "moe-many",
    "recall-none",
    "recall-static",
    "recall-headwise",
    "recall-lowrank",
];

/// Batch, length and model of a name; the sizes are those of the peer script.
fn model(name: &str) -> Option<(usize, usize, Transformer)> {
    let kind = match name {
        "gpt" | "lm-none" | "deltanet" | "mamba" | "moe" | "moe-many" | "recall-none" => ConvKind::None,
        "recall-static" => ConvKind::Static,
        "recall-headwise" => ConvKind::HeadWise,
        "lm-lowrank" | "recall-lowrank" => ConvKind::LowRank,
        _ => return None,
    };
    let recall = Transformer {
        vocab: 64,
        d_model: 64,
        layers: 2,
        heads: 2,
        mixer: Mixer::Attention,
        mlp: Mlp::None,
        ffn: 0,
        norm: Norm::Rms,
        positions: Positions::Rope,
        rope_theta: 1e4,
        max_len: 0,
        tied: false,
        qk_norm: false,
        conv: Conv { kind, ..Conv::default() },
        init_std: 0.02,
        depth_scaled_init: true,
    };
    if name.starts_with("recall") {
        return Some((32, 64, recall));
    }
    let lm = Transformer { vocab: 1024, d_model: 256, layers: 4, heads: 4, ..recall };
    let swiglu = Transformer { ffn: 688, mlp: Mlp::Swiglu, ..lm.clone() };
    if name.starts_with("lm") {
        return Some((8, 256, swiglu));
    }
    if let "deltanet" | "mamba" = name {
        // The published sizes, a quarter as wide.
        let mixer = if name == "deltanet" {
            Mixer::GatedDeltaNet(GatedDeltaNet { heads: 2, key_size: 64, value_size: 128 })
        } else {
            Mixer::Mamba2(Mamba2 { heads: 16, intermediate: 304, state_size: 54, groups: 1 })
        };
        return Some((8, 256, Transformer { mixer, ..swiglu }));
    }
    if name != "gpt" {
        let (experts, top_k, ffn, shared_ffn) = if name == "moe" { (8, 2, 512, 256) } else { (64, 8, 64, 256) };
        let (renormalize, aux_weight, z_weight, loss_free_gamma) = (true, 0.01, 0.001, 0.0);
        let moe = Moe { experts, top_k, ffn, shared_ffn, renormalize, aux_weight, z_weight, loss_free_gamma };
        return Some((8, 256, Transformer { mlp: Mlp::Moe(moe), ..lm }));
    }
    let gpt = Transformer { mlp: Mlp::Gelu, ffn: 1024, norm: Norm::Layer, positions: Positions::None, ..lm };
    Some((8, 256, gpt))
}
