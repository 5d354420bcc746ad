//! Launches of `kernels/pointwise.cu`. An output may be one of the inputs.

use super::{Arg, Kernel, check, code, vector};
use crate::cuda::{CudaResult, Device, Tensor};

/// Launches `entry` over operands of one shape; each is passed as its address and stride, in order.
fn each(device: &Device, op: &'static str, entry: &'static str, operands: &[(&str, &Tensor)]) -> CudaResult<()> {
    let first = operands[0].1;
    check(op, first.rows, first.cols, first.dtype, operands)?;
    let all: Vec<&Tensor> = operands.iter().map(|(_, t)| *t).collect();
    let vec = vector(&all, &[first.cols]);
    let defines = [("DTYPE", code(op, first)?), ("VEC", vec as i64)];
    let blocks = ((first.rows * (first.cols / vec)).div_ceil(256), 1);
    let kernel = Kernel { file: "pointwise.cu", entry, defines: &defines, blocks, threads: 256, shared: 0 };
    let mut args: Vec<Arg> = operands.iter().flat_map(|(_, t)| [Arg::from(*t), t.stride.into()]).collect();
    args.extend([Arg::from(first.rows), first.cols.into()]);
    // SAFETY: the arguments of every kernel of this file: matrices with their strides, then rows and columns.
    unsafe { kernel.launch(device, &mut args) }
}

/// `y = silu(gate) up`.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn swiglu(device: &Device, gate: &Tensor, up: &Tensor, y: &Tensor) -> CudaResult<()> {
    each(device, "cuda swiglu", "swiglu_fwd", &[("gate", gate), ("up", up), ("y", y)])
}

/// The gradients of gate and up.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn swiglu_backward(
    device: &Device,
    gate: &Tensor,
    up: &Tensor,
    dy: &Tensor,
    dgate: &Tensor,
    dup: &Tensor,
) -> CudaResult<()> {
    let operands = [("gate", gate), ("up", up), ("dy", dy), ("dgate", dgate), ("dup", dup)];
    each(device, "cuda swiglu backward", "swiglu_bwd", &operands)
}

/// `y = gelu(x)`.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn gelu(device: &Device, x: &Tensor, y: &Tensor) -> CudaResult<()> {
    each(device, "cuda gelu", "gelu_fwd", &[("x", x), ("y", y)])
}

/// The gradient of x.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn gelu_backward(device: &Device, x: &Tensor, dy: &Tensor, dx: &Tensor) -> CudaResult<()> {
    each(device, "cuda gelu backward", "gelu_bwd", &[("x", x), ("dy", dy), ("dx", dx)])
}

/// `y = a + b`.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn add(device: &Device, a: &Tensor, b: &Tensor, y: &Tensor) -> CudaResult<()> {
    each(device, "cuda add", "add", &[("a", a), ("b", b), ("y", y)])
}

/// `y = x`.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn copy(device: &Device, x: &Tensor, y: &Tensor) -> CudaResult<()> {
    each(device, "cuda copy", "copy", &[("x", x), ("y", y)])
}

/// `y = 0`; what lies between the rows is left alone.
///
/// # Errors
/// Types that do not fit.
pub fn clear(device: &Device, y: &Tensor) -> CudaResult<()> {
    each(device, "cuda clear", "clear", &[("y", y)])
}
