//! Matrix products `C = alpha A B` and `C += alpha A B` of strided f32 matrices, over the `gemm` crate.
//!
//! Bits: each element of C is one chain of fused multiply-adds over k, in blocks of at most 512, taken by one thread:
//! the same at any thread count, and the same with AVX-512 as with AVX2 (the `avx512` feature off), except for products
//! with a vector and those of at most 256 elements, whose sums run in as many lanes as a register has.

use std::marker::PhantomData;

use crate::Store;

/// A matrix seen through strides: element (i, j) at `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy)]
pub(crate) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix whose rows lie `row_stride` apart.
    pub(crate) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "matrix out of bounds");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// A row-major matrix without gaps.
    pub(crate) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// A row of a matrix of unit column stride.
    #[inline(always)]
    pub(crate) fn row(&self, i: usize) -> &'a [f32] {
        debug_assert!(self.col_stride == 1);
        &self.data[i * self.row_stride..][..self.cols]
    }

    /// Columns from `first` on of a matrix of unit column stride.
    pub(crate) fn columns(self, first: usize, cols: usize) -> Self {
        assert!(self.col_stride == 1 && first + cols <= self.cols, "columns out of bounds");
        Self { data: &self.data[first..], cols, ..self }
    }

    /// The transpose, without moving anything.
    pub(crate) fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }
}

/// A row-major matrix to write to. It may share a buffer with others as long as no element is shared.
pub(crate) struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

impl<'a> MatMut<'a> {
    /// A matrix whose rows lie `row_stride` apart.
    pub(crate) fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        // SAFETY: `data` is borrowed for 'a, so its elements are nobody else's.
        unsafe { Self::from_raw(data.as_mut_ptr(), data.len(), rows, cols, row_stride) }
    }

    /// A matrix without gaps.
    pub(crate) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// A matrix in the `len` elements at `data`.
    ///
    /// # Safety
    /// `data` is valid for `len` elements during 'a, in which nobody else reads or writes the matrix's elements.
    pub(crate) unsafe fn from_raw(data: *mut f32, len: usize, rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(len, rows, cols, row_stride), "matrix out of bounds");
        Self { data, rows, cols, row_stride, lifetime: PhantomData }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    #[inline(always)]
    pub(crate) fn row_mut(&mut self, i: usize) -> &mut [f32] {
        assert!(i < self.rows, "row out of bounds");
        // SAFETY: the rows lie inside the buffer and apart from each other (checked at construction), and nobody else
        // uses their elements while self lives.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(i * self.row_stride), self.cols) }
    }
}

/// Whether the rows lie inside `len` elements and apart from each other.
fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (row_stride >= cols && (rows - 1) * row_stride + cols <= len)
}

/// Who computes a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread.
    One,
    /// The threads of the current rayon pool.
    Pool,
}

/// `C = alpha A B`, or `C += alpha A B`.
pub(crate) fn gemm(threads: Threads, c: MatMut, store: Store, alpha: f32, a: Mat, b: Mat) {
    assert!(c.rows == a.rows && c.cols == b.cols && a.cols == b.rows, "matrix product of unequal dimensions");
    let pool = if threads == Threads::Pool { rayon::current_num_threads() } else { 1 };
    let parallelism = if pool > 1 { gemm::Parallelism::Rayon(pool) } else { gemm::Parallelism::None };
    // SAFETY: every index (i, j) of A, B and C is inside its buffer (checked at construction), C's elements are
    // distinct and borrowed by nobody else, and strides fit in isize because the buffers do.
    unsafe {
        gemm::gemm(
            c.rows,
            c.cols,
            a.cols,
            c.data,
            1,
            c.row_stride as isize,
            store == Store::Accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    fn reference(
        m: usize,
        n: usize,
        k: usize,
        a: impl Fn(usize, usize) -> f32,
        b: impl Fn(usize, usize) -> f32,
    ) -> Vec<f64> {
        let element = |i: usize, j: usize| (0..k).map(|l| f64::from(a(i, l)) * f64::from(b(l, j))).sum();
        (0..m * n).map(|e| element(e / n, e % n)).collect()
    }

    #[test]
    fn products_of_strided_and_transposed_matrices() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (1, 40, 33), (40, 1, 33), (65, 17, 600), (64, 64, 2), (130, 70, 65)] {
            let stride = k.max(m) + 3;
            let (a, b) = (random(m.max(k) * stride, 1), random(n * k, 2));
            let plain = Mat::strided(&a, m, k, stride);
            let transposed = Mat::strided(&a, k, m, stride).t();
            for (name, view) in [("plain", plain), ("transposed", transposed)] {
                let at = |i: usize, l: usize| a[i * view.row_stride + l * view.col_stride];
                let want = reference(m, n, k, at, |l, j| b[j * k + l]);
                let mut c = poisoned(m * n);
                gemm(Threads::One, MatMut::new(&mut c, m, n), Store::Overwrite, 1.0, view, Mat::new(&b, n, k).t());
                assert_close(&format!("{name} {m} {n} {k}"), &c, &want);
                gemm(Threads::One, MatMut::new(&mut c, m, n), Store::Accumulate, -0.5, view, Mat::new(&b, n, k).t());
                let half: Vec<f64> = want.iter().map(|w| 0.5 * w).collect();
                assert_close(&format!("accumulated {name} {m} {n} {k}"), &c, &half);
            }
        }
    }

    #[test]
    fn rows_apart_leave_what_lies_between() {
        let (a, b) = (random(6, 1), random(6, 2));
        let mut c = vec![7.0; 3 * 5];
        gemm(
            Threads::One,
            MatMut::strided(&mut c, 3, 3, 5),
            Store::Overwrite,
            1.0,
            Mat::new(&a, 3, 2),
            Mat::new(&b, 2, 3),
        );
        assert!(c.chunks(5).all(|row| row[3..] == [7.0, 7.0] && row[..3].iter().all(|&v| v != 7.0)));
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        for (m, n, k) in [(300, 200, 100), (2048, 64, 64), (64, 64, 2048), (1000, 7, 513), (33, 1000, 700)] {
            let (a, b) = (random(m * k, 1), random(n * k, 2));
            assert_same_bits_at_any_thread_count(|| {
                let mut c = poisoned(m * n);
                let (a, b) = (Mat::new(&a, m, k), Mat::new(&b, n, k).t());
                gemm(Threads::Pool, MatMut::new(&mut c, m, n), Store::Overwrite, 1.0, a, b);
                vec![c]
            });
        }
    }

    #[test]
    #[should_panic(expected = "matrix out of bounds")]
    fn a_matrix_outside_of_its_buffer_is_refused() {
        Mat::strided(&[0.0; 10], 2, 5, 6);
    }
}
