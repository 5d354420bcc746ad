//! How the experts' work is divided, and what forward and backward share of it.

use rayon::prelude::*;

use super::args::{Saved, Shape};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::simd::vectorized;
use crate::transpose::transpose;
use crate::{Store, blocks};

/// Rows of a task. Each transposes its expert's weights, so few are better (256: 1.5 % of a step more).
const ROWS: usize = 512;
/// Rows from which on a weight is transposed before the product: as in [`crate::linear`].
const MIN_ROWS: usize = 64;

/// The slots of one task: at most [`ROWS`], all of one expert.
pub(super) struct Block {
    pub(super) expert: usize,
    /// First slot.
    pub(super) first: usize,
    pub(super) rows: usize,
}

/// All slots in order.
pub(super) fn blocks(firsts: &[usize]) -> Vec<Block> {
    let of = |(expert, range): (usize, &[usize])| {
        let end = range[1];
        let starts = (range[0]..end).step_by(ROWS);
        starts.map(move |first| Block { expert, first, rows: ROWS.min(end - first) })
    };
    firsts.windows(2).enumerate().flat_map(of).collect()
}

/// The next `rows` rows of a buffer that the blocks share out in order.
pub(super) fn rows_of<'a>(buffer: &mut &'a mut [f32], rows: usize, width: usize) -> &'a mut [f32] {
    buffer.split_off_mut(..rows * width).expect("the blocks make up the buffer")
}

/// `c = a w^T`; `wt` holds w's transpose meanwhile.
pub(super) fn times_transposed(c: &mut [f32], a: Mat, w: Mat, wt: &mut [f32]) {
    let (rows, inputs, outputs) = (a.rows(), w.cols(), w.rows());
    let c = MatMut::new(c, rows, outputs);
    if rows < MIN_ROWS {
        gemm(Threads::One, c, Store::Overwrite, 1.0, a, w.t());
        return;
    }
    transpose(w, MatMut::new(wt, inputs, outputs));
    gemm(Threads::One, c, Store::Overwrite, 1.0, a, Mat::new(wt, inputs, outputs));
}

/// Copies the token's row of `src [N, D]` to each of a block's slots.
pub(super) fn gather(s: Shape, pairs: &[u32], src: &[f32], dst: &mut [f32]) {
    for (dst, &pair) in dst.chunks_exact_mut(s.d).zip(pairs) {
        let n = pair as usize / s.top_k;
        dst.copy_from_slice(&src[n * s.d..][..s.d]);
    }
}

/// `dst[n] = sum_j scale(pair) out[slot of (n, j)]`, in the order of j; dst `[N, D]`.
pub(super) fn combine(s: Shape, saved: &Saved, scale: impl Fn(usize) -> f32 + Sync, dst: &mut [f32]) {
    let block = blocks::rows(s.d * s.top_k);
    dst.par_chunks_mut(block * s.d).enumerate().for_each(|(b, dst)| {
        vectorized(
            #[inline(always)]
            || {
                for (i, row) in dst.chunks_exact_mut(s.d).enumerate() {
                    row.fill(0.0);
                    let n = b * block + i;
                    for pair in n * s.top_k..(n + 1) * s.top_k {
                        let scale = scale(pair);
                        let out = &saved.out[saved.slots[pair] as usize * s.d..][..s.d];
                        for (y, o) in row.iter_mut().zip(out) {
                            *y += scale * o;
                        }
                    }
                }
            },
        );
    });
}
