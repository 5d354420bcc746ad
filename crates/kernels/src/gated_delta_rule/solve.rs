//! Triangular systems of a chunk, in place: substitution within blocks of 16 tokens, products between blocks.

use crate::Store;
use crate::decay::CHUNK;
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::simd::vectorized;

const BLOCK: usize = 16;

/// Solves `(I + A) x = b` for the columns of b `[tokens, cols]`; A strictly lower triangular, its rows [`CHUNK`] apart.
pub(super) fn lower(a: &[f32], tokens: usize, x: &mut [f32], cols: usize) {
    for first in (0..tokens).step_by(BLOCK) {
        let rows = BLOCK.min(tokens - first);
        let (done, rest) = x.split_at_mut(first * cols);
        let block = &mut rest[..rows * cols];
        if first > 0 {
            let a = Mat::strided(&a[first * CHUNK..], rows, first, CHUNK);
            let c = MatMut::new(block, rows, cols);
            gemm(Threads::One, c, Store::Accumulate, -1.0, a, Mat::new(done, first, cols));
        }
        vectorized(
            #[inline(always)]
            || {
                for t in 1..rows {
                    let (before, row) = block.split_at_mut(t * cols);
                    for (s, other) in before.chunks_exact(cols).enumerate() {
                        subtract(&mut row[..cols], a[(first + t) * CHUNK + first + s], other);
                    }
                }
            },
        );
    }
}

/// Solves `(I + A)^T x = b`, as [`lower`].
pub(super) fn lower_transposed(a: &[f32], tokens: usize, x: &mut [f32], cols: usize) {
    for first in (0..tokens).step_by(BLOCK).rev() {
        let rows = BLOCK.min(tokens - first);
        let (block, done) = x[first * cols..].split_at_mut(rows * cols);
        let later = tokens - first - rows;
        if later > 0 {
            let a = Mat::strided(&a[(first + rows) * CHUNK + first..], later, rows, CHUNK).t();
            let c = MatMut::new(block, rows, cols);
            gemm(Threads::One, c, Store::Accumulate, -1.0, a, Mat::new(&done[..later * cols], later, cols));
        }
        vectorized(
            #[inline(always)]
            || {
                for t in (1..rows).rev() {
                    let (before, row) = block.split_at_mut(t * cols);
                    for (s, other) in before.chunks_exact_mut(cols).enumerate() {
                        subtract(other, a[(first + t) * CHUNK + first + s], &row[..cols]);
                    }
                }
            },
        );
    }
}

/// `y -= alpha x`.
#[inline(always)]
fn subtract(y: &mut [f32], alpha: f32, x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y -= alpha * x;
    }
}
