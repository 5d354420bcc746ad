//! Attention on the GPU: checked against the CPU op, then timed.
//!
//! ```text
//! cargo run --release -p kernels --example cuda_attention          # checks, then times; exit code 1 if a check fails
//! cargo run --release -p kernels --example cuda_attention -- check      # or: check [tokens at most], time [sizes at most]
//! cargo run --release -p kernels --example cuda_attention -- compile    # every variant into the cache; needs NVRTC, no GPU
//! python3 crates/kernels/examples/cuda_attention/peer.py           # PyTorch's times at the same sizes
//! ```
//!
//! A check draws inputs, poisons every output with NaN, runs forward and backward twice and compares o, lse, dq, dk and dv
//! with the CPU op on the same rounded inputs: `|ours - cpu| / |cpu|` over each tensor, and bit for bit between the runs.

mod check;
#[path = "../gpu/mod.rs"]
mod gpu;
mod time;

use std::process::ExitCode;

use kernels::cuda::{CudaResult, Device, attention, compile};

fn main() -> ExitCode {
    gpu::ended(run())
}

fn run() -> CudaResult<ExitCode> {
    let only = gpu::asked(&["check", "time", "compile"]);
    if only.as_deref() == Some("compile") {
        for variant in attention::variants() {
            let image = compile::cubin(variant.file, &variant.defines, "sm_90a")?;
            println!("{} {}: {} bytes", variant.file, variant.defines, image.len());
        }
        return Ok(ExitCode::SUCCESS);
    }
    let device = Device::new(0)?;
    let most = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    println!("{}, {}", device.name(), device.arch());
    if only.as_deref() != Some("time") && !check::all(&device, most)? {
        return Ok(ExitCode::FAILURE);
    }
    if only.as_deref() != Some("check") {
        time::all(&device, most)?;
    }
    Ok(ExitCode::SUCCESS)
}
