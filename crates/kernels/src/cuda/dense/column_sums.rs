//! Launches of `kernels/column_sums.cu`.

use super::{Arg, Kernel, check_flat, code};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

const FILE: &str = "column_sums.cu";
/// Parts that the rows are summed in.
const PARTS: usize = 64;

/// `out[c] (+)= sum over n of x[n, c]`, f32. `parts`: at least 64 rows of x's columns, f32.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn column_sums(device: &Device, x: &Tensor, out: &Tensor, accumulate: bool, parts: &Tensor) -> CudaResult<()> {
    const OP: &str = "cuda column sums";
    check_flat(OP, "parts", parts, PARTS * x.cols, Dtype::F32)?;
    let defines = [("DTYPE", code(OP, x)?), ("VEC", 1), ("ACCUMULATE", 0)];
    let blocks = (x.cols.div_ceil(32), PARTS);
    let kernel = Kernel { file: FILE, entry: "column_sums", defines: &defines, blocks, threads: 256, shared: 0 };
    let args: &mut [Arg] = &mut [x.into(), x.stride.into(), parts.into(), x.rows.into(), x.cols.into()];
    // SAFETY: the arguments of column_sums, of the shapes checked above.
    unsafe { kernel.launch(device, args)? };
    sum_rows(device, parts, 0, x.cols, PARTS, out, accumulate)
}

/// `out[c] (+)= sum over b of parts[b * width + from + c]` for every element c of `out`.
pub(super) fn sum_rows(
    device: &Device,
    parts: &Tensor,
    from: usize,
    width: usize,
    count: usize,
    out: &Tensor,
    accumulate: bool,
) -> CudaResult<()> {
    const OP: &str = "cuda sum of parts";
    let cols = out.rows * out.cols;
    check_flat(OP, "out", out, cols, Dtype::F32)?;
    check_flat(OP, "parts", parts, count * width, Dtype::F32)?;
    let defines = [("DTYPE", 0), ("VEC", 1), ("ACCUMULATE", i64::from(accumulate))];
    let kernel = Kernel {
        file: FILE,
        entry: "sum_rows",
        defines: &defines,
        blocks: (cols.div_ceil(32), 1),
        threads: 256,
        shared: 0,
    };
    let first = Arg(parts.address() + (from * 4) as u64);
    let args = &mut [first, width.into(), out.into(), count.into(), cols.into()];
    // SAFETY: the arguments of sum_rows, of the shapes checked above.
    unsafe { kernel.launch(device, args) }
}
