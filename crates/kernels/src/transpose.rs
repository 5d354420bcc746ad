//! Transposition, block by block.
//!
//! Row by row, a matrix whose rows lie a power of two apart is read through a handful of cache sets: 3 ns an element at
//! 4 KiB apart. Blocks of 16 rows and 16 columns, a cache line each, take 0.4.

use crate::gemm::{Mat, MatMut};
use crate::simd::vectorized;

/// `dst[j][i] = src[i][j]`; src has unit column stride.
pub(crate) fn transpose(src: Mat, mut dst: MatMut) {
    assert!(dst.rows() == src.cols() && dst.cols() == src.rows(), "transposition to unequal dimensions");
    vectorized(
        #[inline(always)]
        || {
            let mut i = 0;
            while i + 16 <= src.rows() {
                transpose_rows::<16>(src, i, &mut dst);
                i += 16;
            }
            while i + 8 <= src.rows() {
                transpose_rows::<8>(src, i, &mut dst);
                i += 8;
            }
            while i < src.rows() {
                transpose_rows::<1>(src, i, &mut dst);
                i += 1;
            }
        },
    );
}

/// R rows from row i on.
#[inline(always)]
fn transpose_rows<const R: usize>(src: Mat, i: usize, dst: &mut MatMut) {
    let mut j = 0;
    while j + 16 <= src.cols() {
        transpose_block::<R, 16>(src, i, j, dst);
        j += 16;
    }
    while j + 8 <= src.cols() {
        transpose_block::<R, 8>(src, i, j, dst);
        j += 8;
    }
    while j < src.cols() {
        transpose_block::<R, 1>(src, i, j, dst);
        j += 1;
    }
}

/// R rows and C columns from row i and column j on.
#[inline(always)]
fn transpose_block<const R: usize, const C: usize>(src: Mat, i: usize, j: usize, dst: &mut MatMut) {
    let mut block = [[0.0; C]; R];
    for r in 0..R {
        block[r].copy_from_slice(&src.row(i + r)[j..j + C]);
    }
    for c in 0..C {
        let out = &mut dst.row_mut(j + c)[i..i + R];
        for r in 0..R {
            out[r] = block[r][c];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn elements_change_places_and_gaps_stay() {
        for (rows, cols) in [(1, 1), (16, 16), (16, 5), (5, 16), (8, 64), (64, 8), (45, 59)] {
            let (src_stride, dst_stride) = (cols + 3, rows + 2);
            let src = random(rows * src_stride, 1);
            let mut dst = vec![7.0; cols * dst_stride];
            transpose(Mat::strided(&src, rows, cols, src_stride), MatMut::strided(&mut dst, cols, rows, dst_stride));
            for (j, row) in dst.chunks(dst_stride).enumerate() {
                for (i, &v) in row.iter().enumerate() {
                    assert_eq!(v, if i < rows { src[i * src_stride + j] } else { 7.0 });
                }
            }
        }
    }
}
