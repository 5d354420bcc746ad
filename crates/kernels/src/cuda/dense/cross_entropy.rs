//! Launches of `kernels/cross_entropy.cu`.

use super::{Arg, Kernel, check_flat, code, vector};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

/// `nll` (f32) and `argmax` (u32) of each row against `targets` (u32); with `weight` (one f32: 1 / labelled rows) the logits become
/// their gradient.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn cross_entropy(
    device: &Device,
    logits: &Tensor,
    targets: &Tensor,
    nll: &Tensor,
    argmax: &Tensor,
    weight: Option<&Tensor>,
) -> CudaResult<()> {
    const OP: &str = "cuda cross entropy";
    for (name, list, dtype) in
        [("targets", targets, Dtype::U32), ("nll", nll, Dtype::F32), ("argmax", argmax, Dtype::U32)]
    {
        check_flat(OP, name, list, logits.rows, dtype)?;
    }
    if let Some(weight) = weight {
        check_flat(OP, "weight", weight, 1, Dtype::F32)?;
    }
    let vec = vector(&[logits], &[logits.cols]);
    let threads = (logits.cols / vec).div_ceil(32 * 4).next_power_of_two().clamp(1, 16) * 32;
    let defines = [
        ("DTYPE", code(OP, logits)?),
        ("VEC", vec as i64),
        ("THREADS", threads as i64),
        ("GRAD", i64::from(weight.is_some())),
    ];
    let blocks = (logits.rows, 1);
    let kernel =
        Kernel { file: "cross_entropy.cu", entry: "cross_entropy", defines: &defines, blocks, threads, shared: 0 };
    let args: &mut [Arg] = &mut [
        logits.into(),
        logits.stride.into(),
        targets.into(),
        nll.into(),
        argmax.into(),
        weight.into(),
        logits.cols.into(),
    ];
    // SAFETY: the arguments of cross_entropy, of the shapes checked above; targets lie below the vocabulary or are ignored.
    unsafe { kernel.launch(device, args) }
}
