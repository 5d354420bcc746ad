//! Linear layer: `y[n, o] = sum_i x[n, i] w[o, i] + bias[o]`, weights `[outputs, inputs]` as PyTorch keeps them.
//!
//! x `[rows, inputs]`, y `[rows, outputs]`. With [`Store::Accumulate`] the product is added to what y holds, which is
//! how a residual stream is updated in place. 2 rows inputs outputs FLOP, and twice that backward.

use rayon::prelude::*;

use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::simd::{add_to, vectorized};
use crate::transpose::transpose;
use crate::{Result, Store, blocks, check, scratch};

/// Rows from which on the weight is transposed before the product. The product would otherwise gather its columns
/// itself, on one thread and, of rows a power of two apart, at 8 times the cost.
const MIN_ROWS: usize = 64;
/// Elements of the largest weight that is: 16 MiB of scratch.
const MAX_TRANSPOSED: usize = 1 << 22;
/// Columns of the weight that a task transposes.
const STRIP: usize = 64;

/// Dimensions of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens.
    pub rows: usize,
    /// Columns of x.
    pub inputs: usize,
    /// Columns of y.
    pub outputs: usize,
}

impl Shape {
    fn check(
        &self,
        op: &'static str,
        x: (&'static str, usize),
        w: (&'static str, usize),
        y: (&'static str, usize),
    ) -> Result<()> {
        check::positive(op, "rows", self.rows)?;
        check::positive(op, "inputs", self.inputs)?;
        check::positive(op, "outputs", self.outputs)?;
        let (rows, inputs, outputs) = (("rows", self.rows), ("inputs", self.inputs), ("outputs", self.outputs));
        check::size(op, x.0, x.1, &[rows, inputs])?;
        check::size(op, w.0, w.1, &[outputs, inputs])?;
        check::size(op, y.0, y.1, &[rows, outputs])
    }
}

/// `y = x w^T + bias`, or `y += x w^T + bias`.
///
/// # Errors
/// A slice whose size does not fit the shape; a dimension of 0.
pub fn forward(s: Shape, x: &[f32], w: &[f32], bias: Option<&[f32]>, y: &mut [f32], store: Store) -> Result<()> {
    const OP: &str = "linear";
    s.check(OP, ("x", x.len()), ("w", w.len()), ("y", y.len()))?;
    let mut store = store;
    if let Some(bias) = bias {
        check::size(OP, "bias", bias.len(), &[("outputs", s.outputs)])?;
        y.par_chunks_mut(blocks::rows(s.outputs) * s.outputs).for_each(|y| match store {
            Store::Overwrite => y.chunks_exact_mut(s.outputs).for_each(|row| row.copy_from_slice(bias)),
            Store::Accumulate => vectorized(
                #[inline(always)]
                || y.chunks_exact_mut(s.outputs).for_each(|row| add_to(row, bias)),
            ),
        });
        store = Store::Accumulate;
    }
    let y = MatMut::new(y, s.rows, s.outputs);
    let (x, weight) = (Mat::new(x, s.rows, s.inputs), Mat::new(w, s.outputs, s.inputs));
    if s.rows < MIN_ROWS || w.len() > MAX_TRANSPOSED {
        gemm(Threads::Pool, y, store, 1.0, x, weight.t());
        return Ok(());
    }
    scratch::with([w.len()], |[wt]| {
        wt.par_chunks_mut(STRIP * s.outputs).enumerate().for_each(|(strip, wt)| {
            let inputs = wt.len() / s.outputs;
            transpose(weight.columns(strip * STRIP, inputs), MatMut::new(wt, inputs, s.outputs));
        });
        gemm(Threads::Pool, y, store, 1.0, x, Mat::new(wt, s.inputs, s.outputs));
    });
    Ok(())
}

/// `dx = dy w`, or `dx += dy w`.
///
/// # Errors
/// As [`forward`].
pub fn backward_input(s: Shape, w: &[f32], dy: &[f32], dx: &mut [f32], store: Store) -> Result<()> {
    s.check("linear backward", ("dx", dx.len()), ("w", w.len()), ("dy", dy.len()))?;
    let (dy, w) = (Mat::new(dy, s.rows, s.outputs), Mat::new(w, s.outputs, s.inputs));
    gemm(Threads::Pool, MatMut::new(dx, s.rows, s.inputs), store, 1.0, dy, w);
    Ok(())
}

/// `dw = dy^T x`, or `dw += dy^T x`.
///
/// # Errors
/// As [`forward`].
pub fn backward_weight(s: Shape, x: &[f32], dy: &[f32], dw: &mut [f32], store: Store) -> Result<()> {
    s.check("linear backward", ("x", x.len()), ("dw", dw.len()), ("dy", dy.len()))?;
    let (x, dy) = (Mat::new(x, s.rows, s.inputs), Mat::new(dy, s.rows, s.outputs));
    gemm(Threads::Pool, MatMut::new(dw, s.outputs, s.inputs), store, 1.0, dy.t(), x);
    Ok(())
}

/// `db = sum over rows of dy`, or `db +=` it.
///
/// # Errors
/// As [`forward`].
pub fn backward_bias(s: Shape, dy: &[f32], db: &mut [f32], store: Store) -> Result<()> {
    const OP: &str = "linear backward";
    check::positive(OP, "rows", s.rows)?;
    check::positive(OP, "outputs", s.outputs)?;
    check::size(OP, "dy", dy.len(), &[("rows", s.rows), ("outputs", s.outputs)])?;
    check::size(OP, "db", db.len(), &[("outputs", s.outputs)])?;
    let block = blocks::rows_with_partials(s.rows, s.outputs) * s.outputs;
    let mut partials = vec![0.0; dy.len().div_ceil(block) * s.outputs];
    partials.par_chunks_mut(s.outputs).zip(dy.par_chunks(block)).for_each(|(sum, dy)| {
        vectorized(
            #[inline(always)]
            || dy.chunks_exact(s.outputs).for_each(|row| add_to(sum, row)),
        );
    });
    blocks::sum_partials(&partials, db, store);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::testing::*;

    /// `y = x w^T + bias` in f64.
    fn reference(s: Shape, x: &[f64], w: &[f64], bias: &[f64]) -> Vec<f64> {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let row = |x| w.chunks(s.inputs).zip(bias).map(move |(w, b)| dot(x, w) + b);
        x.chunks(s.inputs).flat_map(row).collect()
    }

    #[test]
    fn forward_and_gradients() {
        for (rows, inputs, outputs) in [(1, 1, 1), (1, 7, 5), (33, 17, 9), (5, 64, 48), (70, 3, 33)] {
            let s = Shape { rows, inputs, outputs };
            let (x, w, bias, dy) =
                (random(rows * inputs, 1), random(outputs * inputs, 2), random(outputs, 3), random(rows * outputs, 4));
            let (xw, ww, bw) = (wide(&x), wide(&w), wide(&bias));

            let mut y = poisoned(rows * outputs);
            forward(s, &x, &w, Some(&bias), &mut y, Store::Overwrite).unwrap();
            assert_close("y", &y, &reference(s, &xw, &ww, &bw));
            let zero = vec![0.0; outputs];
            let without_bias = reference(s, &xw, &ww, &zero);
            let mut y = poisoned(rows * outputs);
            forward(s, &x, &w, None, &mut y, Store::Overwrite).unwrap();
            assert_close("y without bias", &y, &without_bias);
            let mut residual = dy.clone();
            forward(s, &x, &w, Some(&bias), &mut residual, Store::Accumulate).unwrap();
            let want: Vec<f64> = reference(s, &xw, &ww, &bw).iter().zip(&dy).map(|(y, &r)| y + f64::from(r)).collect();
            assert_close("y with residual", &residual, &want);

            let (mut dx, mut dw, mut db) = (poisoned(x.len()), poisoned(w.len()), poisoned(outputs));
            backward_input(s, &w, &dy, &mut dx, Store::Overwrite).unwrap();
            backward_weight(s, &x, &dy, &mut dw, Store::Overwrite).unwrap();
            backward_bias(s, &dy, &mut db, Store::Overwrite).unwrap();
            let dx_want = gradient(&x, |x| inner(&reference(s, x, &ww, &bw), &dy));
            let dw_want = gradient(&w, |w| inner(&reference(s, &xw, w, &bw), &dy));
            let db_want = gradient(&bias, |b| inner(&reference(s, &xw, &ww, b), &dy));
            assert_close("dx", &dx, &dx_want);
            assert_close("dw", &dw, &dw_want);
            assert_close("db", &db, &db_want);

            backward_input(s, &w, &dy, &mut dx, Store::Accumulate).unwrap();
            backward_weight(s, &x, &dy, &mut dw, Store::Accumulate).unwrap();
            backward_bias(s, &dy, &mut db, Store::Accumulate).unwrap();
            let twice = |v: &[f64]| v.iter().map(|v| 2.0 * v).collect::<Vec<_>>();
            assert_close("dx accumulated", &dx, &twice(&dx_want));
            assert_close("dw accumulated", &dw, &twice(&dw_want));
            assert_close("db accumulated", &db, &twice(&db_want));
        }
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let s = Shape { rows: 1000, inputs: 100, outputs: 130 };
        let (x, w, bias, dy) = (random(100_000, 1), random(13_000, 2), random(130, 3), random(130_000, 4));
        assert_same_bits_at_any_thread_count(|| {
            let mut out = [130_000, 100_000, 13_000, 130].map(poisoned);
            let [y, dx, dw, db] = &mut out;
            forward(s, &x, &w, Some(&bias), y, Store::Overwrite).unwrap();
            backward_input(s, &w, &dy, dx, Store::Overwrite).unwrap();
            backward_weight(s, &x, &dy, dw, Store::Overwrite).unwrap();
            backward_bias(s, &dy, db, Store::Overwrite).unwrap();
            out.into()
        });
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let s = Shape { rows: 2, inputs: 3, outputs: 4 };
        let error = forward(s, &[0.0; 6], &[0.0; 11], None, &mut [0.0; 8], Store::Overwrite).unwrap_err();
        assert_eq!(error.to_string(), "linear: w has 11 elements, expected 12 for shape [outputs=4, inputs=3]");
        let bias = forward(s, &[0.0; 6], &[0.0; 12], Some(&[0.0; 3]), &mut [0.0; 8], Store::Overwrite);
        assert!(matches!(bias, Err(Error::Size { name: "bias", .. })));
        let empty = backward_bias(Shape { rows: 0, ..s }, &[], &mut [0.0; 4], Store::Overwrite);
        assert!(matches!(empty, Err(Error::Range { name: "rows", .. })));
    }
}
