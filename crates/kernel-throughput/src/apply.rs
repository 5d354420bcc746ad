//! The op on tensors of a safetensors file, for anyone who wants to compare it with code of their own.
//!
//! | in | shape | | out | |
//! |---|---|---|---|---|
//! | x | `[B, T, D]` | | y | |
//! | weight, or z and U | `[B, T, H, W]`; `[B, T, R]`, `[R, W D]` | | dweight, or dz and dU | with dy |
//! | static_w | `[W, D]`; optional but for static | | dstatic_w | with dy |
//! | dy | `[B, T, D]`; optional | | dx | with dy |
//! | cu_seqlens | S + 1 integers, B = 1; optional | | | |
//! | state, dfinal_state | `[S, W - 1, D]`; optional | | final_state; dstate | W > 1; with state and dy |
//!
//! Operands are rounded to the type asked for; on the CPU sums and results are f32 and rounded at the end.

mod read;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use kernels::cuda::Device;
use safetensors::tensor::{Dtype as Stored, TensorView};
use safetensors::{SafeTensors, serialize};

use crate::case::{Case, Dtype, Op};
use crate::values::Results;
use crate::{cpu, gpu};
use read::read;

/// Which op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
pub enum Kind {
    /// The same taps for every token: static_w.
    Static,
    /// A filter per token and head: weight.
    HeadWise,
    /// Taps z U.
    LowRank,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Which op.
    pub kind: Kind,
    /// The type of the operands and results.
    pub dtype: Dtype,
    /// Adds x.
    pub residual: bool,
    /// SiLU on the sum.
    pub silu: bool,
}

/// Why it could not be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// Not a safetensors file.
    #[error("{path}: {error}")]
    Format {
        /// The file.
        path: String,
        /// What the parser says.
        error: safetensors::SafeTensorError,
    },
    /// A tensor that is missing or does not fit.
    #[error("tensor {name}: {what}")]
    Tensor {
        /// Its name.
        name: &'static str,
        /// What is wrong and the remedy.
        what: String,
    },
    /// The op refused.
    #[error(transparent)]
    Cpu(#[from] kernels::Error),
    /// The GPU refused.
    #[error(transparent)]
    Gpu(#[from] kernels::cuda::CudaError),
}

/// Reads `input`, computes on the device or, without one, on the CPU, and writes `output`.
///
/// # Errors
/// [`Error`].
pub fn apply(input: &Path, output: &Path, options: Options, device: Option<&Device>) -> Result<(), Error> {
    let name = input.display().to_string();
    let bytes = std::fs::read(input).map_err(|error| Error::File { path: name.clone(), error })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::Format { path: name, error })?;
    let (case, operands) = read(&file, options)?;
    let results = match device {
        Some(device) => gpu::run(device, &case, &operands)?,
        None => cpu::run(&case, &operands)?,
    };
    let has = |name: &str| file.tensor(name).is_ok();
    let encoded = written(&case, &results, has("dy"), has("state"));
    let views: Result<Vec<_>, _> = encoded
        .iter()
        .map(|(name, (shape, bytes))| Ok((*name, TensorView::new(stored(case.dtype), shape.clone(), bytes)?)))
        .collect();
    let path = output.display().to_string();
    let format = |error| Error::Format { path: path.clone(), error };
    let bytes = views.and_then(|views| serialize(views, None)).map_err(format)?;
    std::fs::write(output, bytes).map_err(|error| Error::File { path, error })
}

fn stored(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::F32 => Stored::F32,
        Dtype::Bf16 => Stored::BF16,
        Dtype::F16 => Stored::F16,
    }
}

type Encoded = BTreeMap<&'static str, (Vec<usize>, Vec<u8>)>;

/// The results that were asked for, by name.
fn written(case: &Case, results: &Results<f32>, gradients: bool, has_state: bool) -> Encoded {
    let (b, t, d, w) = (case.batch, case.len, case.d, case.width);
    let mut all = Encoded::new();
    let mut put = |name, shape: Vec<usize>, values: &[f32]| {
        let bytes = values.iter().flat_map(|&v| match case.dtype {
            Dtype::F32 => v.to_le_bytes().to_vec(),
            Dtype::Bf16 => half::bf16::from_f32(v).to_le_bytes().to_vec(),
            Dtype::F16 => half::f16::from_f32(v).to_le_bytes().to_vec(),
        });
        all.insert(name, (shape, bytes.collect()));
    };
    put("y", vec![b, t, d], &results.y);
    let states = vec![case.sequences().len(), w - 1, d];
    if case.state {
        put("final_state", states.clone(), &results.final_state);
    }
    if !gradients {
        return all;
    }
    put("dx", vec![b, t, d], &results.dx);
    match case.op {
        Op::Static => {}
        Op::HeadWise { head_size } => put("dweight", vec![b, t, d / head_size, w], &results.dtaps),
        Op::LowRank { rank } => {
            put("dz", vec![b, t, rank], &results.dtaps);
            put("dU", vec![rank, w * d], &results.du);
        }
    }
    if case.has_static() {
        put("dstatic_w", vec![w, d], &results.dstatic_w);
    }
    if case.state && has_state {
        put("dstate", states, &results.dstate);
    }
    all
}
