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

use std::collections::BTreeMap;
use std::path::Path;

use kernels::cuda::Device;
use safetensors::tensor::{Dtype as Stored, TensorView};
use safetensors::{SafeTensors, serialize};

use crate::case::{Case, Dtype, Op};
use crate::values::{Operands, Results};
use crate::{cpu, gpu};

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

/// Shape and values in f32.
type Values = (Vec<usize>, Vec<f32>);

/// A tensor of the file, or none.
fn tensor(file: &SafeTensors, name: &'static str, dtype: Dtype) -> Result<Option<Values>, Error> {
    let Ok(view) = file.tensor(name) else { return Ok(None) };
    let pairs = || view.data().chunks_exact(2).map(|b| [b[0], b[1]]);
    let values: Vec<f32> = match view.dtype() {
        Stored::F32 => view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Stored::BF16 => pairs().map(|b| half::bf16::from_le_bytes(b).to_f32()).collect(),
        Stored::F16 => pairs().map(|b| half::f16::from_le_bytes(b).to_f32()).collect(),
        other => return Err(Error::Tensor { name, what: format!("type {other:?}: store it as F32, BF16 or F16") }),
    };
    Ok(Some((view.shape().to_vec(), values.into_iter().map(|v| dtype.round(v)).collect())))
}

fn offsets(file: &SafeTensors) -> Result<Option<Vec<usize>>, Error> {
    let Ok(view) = file.tensor("cu_seqlens") else { return Ok(None) };
    let wide: Vec<i64> = match view.dtype() {
        Stored::I32 => {
            view.data().chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
        }
        Stored::I64 => {
            let eight = |b: &[u8]| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
            view.data().chunks_exact(8).map(eight).collect()
        }
        other => {
            let what = format!("type {other:?}: store it as I32 or I64");
            return Err(Error::Tensor { name: "cu_seqlens", what });
        }
    };
    Ok(Some(wide.into_iter().map(|at| usize::try_from(at).unwrap_or(usize::MAX)).collect()))
}

fn read(file: &SafeTensors, options: Options) -> Result<(Case, Operands), Error> {
    let get = |name| tensor(file, name, options.dtype);
    let need = |name| get(name)?.ok_or_else(|| Error::Tensor { name, what: "missing: this op reads it".into() });
    let bad = |name, shape: &[usize], layout: &str| {
        Err(Error::Tensor { name, what: format!("shape {shape:?}: store it as {layout}") })
    };
    let (shape, x) = need("x")?;
    let [batch, len, d] = shape[..] else { return bad("x", &shape, "[B, T, D]") };
    let static_w = get("static_w")?;
    let (op, width, taps, u) = match options.kind {
        Kind::Static => match &static_w {
            Some((shape, _)) if shape.len() == 2 && shape[1] == d => (Op::Static, shape[0], Vec::new(), Vec::new()),
            Some((shape, _)) => return bad("static_w", shape, "[W, D]"),
            None => return Err(Error::Tensor { name: "static_w", what: "missing: this op reads it".into() }),
        },
        Kind::HeadWise => {
            let (shape, weight) = need("weight")?;
            match shape[..] {
                [b, t, heads, width] if (b, t) == (batch, len) && heads > 0 && d % heads == 0 => {
                    (Op::HeadWise { head_size: d / heads }, width, weight, Vec::new())
                }
                _ => return bad("weight", &shape, "[B, T, H, W], H a divisor of D"),
            }
        }
        Kind::LowRank => {
            let ((z_shape, z), (u_shape, u)) = (need("z")?, need("U")?);
            let [b, t, rank] = z_shape[..] else { return bad("z", &z_shape, "[B, T, R]") };
            if (b, t) != (batch, len) {
                return bad("z", &z_shape, "[B, T, R]");
            }
            match u_shape[..] {
                [r, columns] if r == rank && d > 0 && columns % d == 0 => (Op::LowRank { rank }, columns / d, z, u),
                _ => return bad("U", &u_shape, "[R, W D]"),
            }
        }
    };
    let cu_seqlens = offsets(file)?;
    if let Some(cu) = &cu_seqlens {
        let rises = cu.first() == Some(&0) && cu.is_sorted() && cu.last() == Some(&len);
        if batch != 1 || !rises {
            let what = format!("{cu:?} with x [{batch}, {len}, {d}]: use B = 1 and offsets that rise from 0 to T");
            return Err(Error::Tensor { name: "cu_seqlens", what });
        }
    }
    let case = Case {
        op,
        static_w: static_w.is_some() && op != Op::Static,
        residual: options.residual,
        silu: options.silu,
        batch,
        len,
        d,
        width,
        cu_seqlens,
        state: width > 1,
        streams: 1,
        gap: 0,
        dtype: options.dtype,
    };
    let or_zeros = |name, like: &[usize]| -> Result<Vec<f32>, Error> {
        match get(name)? {
            None => Ok(vec![0.0; like.iter().product()]),
            Some((shape, values)) if shape == like => Ok(values),
            Some((shape, _)) => Err(Error::Tensor { name, what: format!("shape {shape:?}: store it as {like:?}") }),
        }
    };
    let states = if case.state { vec![case.sequences().len(), width - 1, d] } else { vec![0] };
    let operands = Operands {
        dy: or_zeros("dy", &[batch, len, d])?,
        state: or_zeros("state", &states)?,
        dfinal: or_zeros("dfinal_state", &states)?,
        x,
        taps,
        u,
        static_w: match static_w {
            Some((shape, _)) if shape != [width, d] => return bad("static_w", &shape, "[W, D]"),
            other => other.map(|(_, values)| values).unwrap_or_default(),
        },
    };
    Ok((case, operands))
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
