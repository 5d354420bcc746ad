//! Launches of `kernels/plan.cu` for recurrences by chunks: where each chunk lies, in device memory alone.

use super::{Kernel, check_flat, refused};
use crate::cuda::{CudaResult, Device, Dtype, Tensor};

/// Tokens of a chunk of a recurrence.
pub const CHUNK: usize = 64;

/// Most chunks of packed sequences of so many rows in all; of `equal` ones exactly as many.
pub fn chunk_count(rows: usize, sequences: usize, equal: bool) -> usize {
    if equal { sequences * (rows / sequences.max(1)).div_ceil(CHUNK) } else { rows / CHUNK + sequences }
}

/// The `plan` `[4 chunks]`, u32, of sequences with these borders: a chunk is {first row, the sequence's start and end, its number}, an
/// absent one starts with -1.
///
/// # Errors
/// Shapes or types that do not fit.
pub fn plan_chunks(device: &Device, cu_seqlens: &Tensor, plan: &Tensor) -> CudaResult<()> {
    const OP: &str = "cuda plan of chunks";
    let borders = cu_seqlens.cols;
    check_flat(OP, "cu_seqlens", cu_seqlens, borders, Dtype::U32)?;
    check_flat(OP, "plan", plan, plan.cols, Dtype::U32)?;
    if cu_seqlens.rows != 1 || borders < 2 || plan.rows != 1 || !plan.cols.is_multiple_of(4) {
        let what = format!("{borders} borders and a plan of {} words", plan.cols);
        return Err(refused(OP, what, "pass at least 2 borders and 4 words a chunk"));
    }
    let kernel =
        Kernel { file: "plan.cu", entry: "plan_chunks", defines: &[], blocks: (1, 1), threads: 1024, shared: 0 };
    let args = &mut [cu_seqlens.into(), (borders - 1).into(), CHUNK.into(), plan.into(), (plan.cols / 4).into()];
    // SAFETY: the arguments of plan_chunks, of the shapes checked above; its ints are the low halves of these words.
    unsafe { kernel.launch(device, args) }
}
