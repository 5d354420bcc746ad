//! Launches of `kernels/adamw.cu`.

use super::{Arg, Kernel, check_flat, code, refused};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

const FILE: &str = "adamw.cu";
/// BLOCKS of the kernel: partial sums of the norm.
const BLOCKS: usize = 1056;
/// Elements of a thread.
const VEC: usize = 4;

/// All parameters of a model, one row of n elements each; n and the limits are multiples of 4.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    /// Values, f32.
    pub values: &'a Tensor,
    /// First moments, f32.
    pub m: &'a Tensor,
    /// Second moments, f32.
    pub v: &'a Tensor,
    /// The values in the element type of activations, where that is not f32.
    pub copy: Option<&'a Tensor>,
    /// Gradients of the first `taps` elements, f32.
    pub gradients: &'a Tensor,
    /// Gradients of the rest, in the element type of activations.
    pub tap_gradients: &'a Tensor,
    /// Where the taps of convolutions begin.
    pub taps: usize,
    /// Elements before this one decay,
    pub decayed: usize,
    /// and those from `taps` to this one.
    pub taps_decayed: usize,
}

/// What an update needs beside the parameters.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// f32 `[8]`: lr, beta1, beta2, eps, weight decay, clip, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t).
    pub rule: &'a Tensor,
    /// f32 `[2]`, written: the global norm of the gradients, and their factor.
    pub norm: &'a Tensor,
    /// Scratch: f64 `[1056]`.
    pub parts: &'a Tensor,
}

/// Norm, clipping and one step of AdamW.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn update(device: &Device, p: Parameters<'_>, rule: Rule<'_>) -> CudaResult<()> {
    const OP: &str = "cuda adamw";
    let n = p.values.cols;
    if [n, p.taps, p.decayed, p.taps_decayed].iter().any(|v| !v.is_multiple_of(VEC)) || p.taps > n {
        let what = format!("{n} elements, limits {}, {} and {}", p.taps, p.decayed, p.taps_decayed);
        return Err(refused(OP, what, "pad each part to a multiple of 4"));
    }
    for (name, t, len) in [
        ("values", p.values, n),
        ("m", p.m, n),
        ("v", p.v, n),
        ("gradients", p.gradients, p.taps),
        ("rule", rule.rule, 8),
        ("norm", rule.norm, 2),
    ] {
        check_flat(OP, name, t, len, Dtype::F32)?;
    }
    check_flat(OP, "gradients of taps", p.tap_gradients, n - p.taps, p.tap_gradients.dtype)?;
    check_flat(OP, "parts", rule.parts, BLOCKS, Dtype::F64)?;
    if let Some(copy) = p.copy {
        check_flat(OP, "copy", copy, n, p.tap_gradients.dtype)?;
    }
    let code = code(OP, p.tap_gradients)?;
    let defines = [("DTYPE", code), ("VEC", VEC as i64), ("COPY", i64::from(p.copy.is_some()))];
    let kernel = |entry, blocks: usize, threads| Kernel {
        file: FILE,
        entry,
        defines: &defines,
        blocks: (blocks, 1),
        threads,
        shared: 0,
    };
    let (g, tap_g) = (p.gradients, p.tap_gradients);
    // SAFETY: the arguments of square_sums; sizes were checked above.
    unsafe {
        let args: &mut [Arg] = &mut [g.into(), tap_g.into(), rule.parts.into(), n.into(), p.taps.into()];
        kernel("square_sums", BLOCKS, 256).launch(device, args)?;
    }
    // SAFETY: the arguments of total_norm; sizes were checked above.
    unsafe {
        let args = &mut [rule.parts.into(), rule.rule.into(), rule.norm.into()];
        kernel("total_norm", 1, 32).launch(device, args)?;
    }
    let args: &mut [Arg] = &mut [
        p.values.into(),
        p.m.into(),
        p.v.into(),
        g.into(),
        tap_g.into(),
        p.copy.into(),
        rule.rule.into(),
        rule.norm.into(),
        n.into(),
        p.taps.into(),
        p.decayed.into(),
        p.taps_decayed.into(),
    ];
    // SAFETY: the arguments of adamw_update; sizes were checked above.
    unsafe { kernel("adamw_update", (n / VEC).div_ceil(256), 256).launch(device, args) }
}

/// Writes `values` (f32) in the element type of `copy`.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn cast(device: &Device, values: &Tensor, copy: &Tensor) -> CudaResult<()> {
    const OP: &str = "cuda cast";
    let n = copy.cols;
    check_flat(OP, "values", values, n, Dtype::F32)?;
    let defines = [("DTYPE", code(OP, copy)?), ("VEC", VEC as i64), ("COPY", 1)];
    let blocks = (n.div_ceil(VEC).div_ceil(256), 1);
    let kernel = Kernel { file: FILE, entry: "cast_params", defines: &defines, blocks, threads: 256, shared: 0 };
    // SAFETY: the arguments of cast_params; both rows have n elements, a multiple of 4.
    unsafe { kernel.launch(device, &mut [values.into(), copy.into(), n.into()]) }
}
