//! Launches of `kernels/rope.cu`.

use super::{Arg, Kernel, check, check_flat, code, refused, vector};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

/// Which way to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// By each row's position.
    Forward,
    /// Back by it: the gradient.
    Back,
}

/// Turns every head of x. `table` `[positions, head size]`, f32: cosine and sine of each pair side by side; `positions` `[N]`.
/// y may be x.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn rope(
    device: &Device,
    turn: Turn,
    heads: usize,
    table: &Tensor,
    positions: &Tensor,
    x: &Tensor,
    y: &Tensor,
) -> CudaResult<()> {
    const OP: &str = "cuda rope";
    check(OP, x.rows, x.cols, x.dtype, &[("y", y)])?;
    if heads == 0 || !x.cols.is_multiple_of(2 * heads) || table.cols * heads != x.cols {
        let what = format!("{heads} heads of {} columns, a table for heads of {}", x.cols, table.cols);
        return Err(refused(OP, what, "choose heads that divide the columns into even parts"));
    }
    check_flat(OP, "table", table, table.rows * table.cols, Dtype::F32)?;
    check_flat(OP, "positions", positions, x.rows, Dtype::U32)?;
    let half = table.cols / 2;
    let vec = vector(&[x, y], &[half]);
    let sign = if turn == Turn::Forward { 1 } else { -1 };
    // Heads of a thread: what its angles and its registers are good for.
    let shared = if heads.is_multiple_of(4) {
        4
    } else if heads.is_multiple_of(2) {
        2
    } else {
        1
    };
    let defines = [("DTYPE", code(OP, x)?), ("VEC", vec as i64), ("SIGN", sign), ("HEADS", shared as i64)];
    let blocks = ((x.rows * (heads / shared * half / vec)).div_ceil(256), 1);
    let kernel = Kernel { file: "rope.cu", entry: "rope", defines: &defines, blocks, threads: 256, shared: 0 };
    let args: &mut [Arg] = &mut [
        x.into(),
        x.stride.into(),
        y.into(),
        y.stride.into(),
        table.into(),
        positions.into(),
        x.rows.into(),
        heads.into(),
        half.into(),
    ];
    // SAFETY: the arguments of rope, of the shapes checked above; positions lie below the table's rows by the caller's plan.
    unsafe { kernel.launch(device, args) }
}
