//! Launches of `kernels/norm.cu`.

use super::column_sums::sum_rows;
use super::{Arg, Kernel, check, check_flat, code, refused, vector};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

const FILE: &str = "norm.cu";
/// Groups of a block.
const WARPS: usize = 8;
/// Most columns of a group: a warp keeps them in registers, a block two sums of each in shared memory.
const MAX_COLS: usize = 6144;
/// Most blocks of a backward, each with a partial sum of the gain's gradient.
pub const NORM_BLOCKS: usize = 264;

/// What is normed, and how.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Gain, f32; its length is that of a group of columns.
    pub gain: &'a Tensor,
    /// Bias, f32: a layer norm; absent: an RMS norm.
    pub bias: Option<&'a Tensor>,
    /// Added to the mean square, or to the variance.
    pub eps: f32,
}

impl Norm<'_> {
    fn cols(&self) -> usize {
        self.gain.rows * self.gain.cols
    }

    /// Statistics kept per group.
    fn layer(&self) -> usize {
        usize::from(self.bias.is_some())
    }

    fn check(&self, op: &'static str, x: &Tensor, stats: &Tensor) -> CudaResult<usize> {
        let cols = self.cols();
        if cols == 0 || !x.cols.is_multiple_of(cols) || cols > MAX_COLS {
            let what = format!("a gain of {cols} for {} columns", x.cols);
            return Err(refused(op, what, "give a gain of at most 6144 that divides the columns"));
        }
        check_flat(op, "gain", self.gain, cols, Dtype::F32)?;
        if let Some(bias) = self.bias {
            check_flat(op, "bias", bias, cols, Dtype::F32)?;
        }
        let groups = x.rows * (x.cols / cols);
        check_flat(op, "statistics", stats, groups * (1 + self.layer()), Dtype::F32)?;
        Ok(groups)
    }
}

/// `y = norm(x)`, with `stats` `[groups]` (twice for a layer norm) for the backward. With `add = (b, sum)`: `sum = x + b` is written
/// and normed.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn norm(
    device: &Device,
    norm: Norm<'_>,
    x: &Tensor,
    add: Option<(&Tensor, &Tensor)>,
    y: &Tensor,
    stats: &Tensor,
) -> CudaResult<()> {
    const OP: &str = "cuda norm";
    let groups = norm.check(OP, x, stats)?;
    let (b, sum) = add.unzip();
    let mut operands = vec![("y", y)];
    operands.extend(b.map(|b| ("b", b)));
    operands.extend(sum.map(|sum| ("sum", sum)));
    check(OP, x.rows, x.cols, x.dtype, &operands)?;
    let all: Vec<&Tensor> = operands.iter().map(|(_, t)| *t).chain([x, norm.gain]).chain(norm.bias).collect();
    let cols = norm.cols();
    let defines = [
        ("DTYPE", code(OP, x)?),
        ("VEC", vector(&all, &[cols]) as i64),
        ("COLS", cols as i64),
        ("LAYER", norm.layer() as i64),
        ("ADD", i64::from(add.is_some())),
        ("ACCUMULATE", 0),
    ];
    let kernel = Kernel {
        file: FILE,
        entry: "norm_fwd",
        defines: &defines,
        blocks: (groups.div_ceil(WARPS), 1),
        threads: 256,
        shared: 0,
    };
    let args = &mut [
        x.into(),
        x.stride.into(),
        b.into(),
        b.map_or(0, |b| b.stride).into(),
        sum.into(),
        sum.map_or(0, |s| s.stride).into(),
        norm.gain.into(),
        norm.bias.into(),
        norm.eps.into(),
        y.into(),
        y.stride.into(),
        stats.into(),
        groups.into(),
        (x.cols / cols).into(),
    ];
    // SAFETY: the arguments of norm_fwd, of the shapes checked above.
    unsafe { kernel.launch(device, args) }
}

/// `dx` (added to what it holds with `accumulate`), `dgain` and, for a layer norm, `dbias`. `parts`: at least
/// [`NORM_BLOCKS`] times the gain (twice for a layer norm), f32. dx may be dy.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn norm_backward(
    device: &Device,
    norm: Norm<'_>,
    x: &Tensor,
    stats: &Tensor,
    dy: &Tensor,
    (dx, accumulate): (&Tensor, bool),
    (dgain, dbias, accumulate_params): (&Tensor, Option<&Tensor>, bool),
    parts: &Tensor,
) -> CudaResult<()> {
    const OP: &str = "cuda norm backward";
    let groups = norm.check(OP, x, stats)?;
    check(OP, x.rows, x.cols, x.dtype, &[("dy", dy), ("dx", dx)])?;
    let (cols, blocks) = (norm.cols(), groups.div_ceil(WARPS).min(NORM_BLOCKS));
    let width = cols * (1 + norm.layer());
    check_flat(OP, "parts", parts, blocks * width, Dtype::F32)?;
    let defines = [
        ("DTYPE", code(OP, x)?),
        ("VEC", vector(&[x, dy, dx, norm.gain], &[cols]) as i64),
        ("COLS", cols as i64),
        ("LAYER", norm.layer() as i64),
        ("ADD", 0),
        ("ACCUMULATE", i64::from(accumulate)),
    ];
    let kernel =
        Kernel { file: FILE, entry: "norm_bwd", defines: &defines, blocks: (blocks, 1), threads: 256, shared: 0 };
    let args: &mut [Arg] = &mut [
        x.into(),
        x.stride.into(),
        norm.gain.into(),
        stats.into(),
        dy.into(),
        dy.stride.into(),
        dx.into(),
        dx.stride.into(),
        parts.into(),
        groups.into(),
        (x.cols / cols).into(),
    ];
    // SAFETY: the arguments of norm_bwd, of the shapes checked above; a part per block.
    unsafe { kernel.launch(device, args)? };
    sum_rows(device, parts, 0, width, blocks, dgain, accumulate_params)?;
    match dbias {
        Some(dbias) => sum_rows(device, parts, cols, width, blocks, dbias, accumulate_params),
        None => Ok(()),
    }
}
