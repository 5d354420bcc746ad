//! Sums of whole tensors: `y = a + b` and `y += alpha x`; and the loop that elementwise ops share.

use rayon::prelude::*;

use crate::simd::vectorized;
use crate::{Result, blocks, check};

/// `y = a + b`.
///
/// # Errors
/// Unequal sizes.
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) -> Result<()> {
    check_equal("add", a.len(), &[("b", b.len()), ("y", y.len())])?;
    map(
        [a, b],
        y,
        #[inline(always)]
        |[a, b]| a + b,
    );
    Ok(())
}

/// `y += alpha x`.
///
/// # Errors
/// Unequal sizes.
pub fn axpy(alpha: f32, x: &[f32], y: &mut [f32]) -> Result<()> {
    check_equal("axpy", x.len(), &[("y", y.len())])?;
    y.par_chunks_mut(blocks::ELEMENTS).zip(x.par_chunks(blocks::ELEMENTS)).for_each(|(y, x)| {
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.iter_mut().zip(x) {
                    *y += alpha * x;
                }
            },
        );
    });
    Ok(())
}

/// `y[i] = f(xs[0][i], xs[1][i], ..)`. `f` must be `#[inline(always)]`; sizes are equal.
pub(crate) fn map<const K: usize>(xs: [&[f32]; K], y: &mut [f32], f: impl Fn([f32; K]) -> f32 + Sync) {
    y.par_chunks_mut(blocks::ELEMENTS).enumerate().for_each(|(b, y)| {
        vectorized(
            #[inline(always)]
            || {
                let xs = xs.map(
                    #[inline(always)]
                    |x| &x[b * blocks::ELEMENTS..][..y.len()],
                );
                for i in 0..y.len() {
                    y[i] = f(xs.map(
                        #[inline(always)]
                        |x| x[i],
                    ));
                }
            },
        );
    });
}

/// Slices that must be as long as the op's first.
pub(crate) fn check_equal(op: &'static str, len: usize, others: &[(&'static str, usize)]) -> Result<()> {
    check::sizes(op, others, &[("elements", len)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    #[test]
    fn sums_of_tensors() {
        for n in [1, 17, blocks::ELEMENTS + 5] {
            let (a, b) = (random(n, 1), random(n, 2));
            let mut y = poisoned(n);
            add(&a, &b, &mut y).unwrap();
            assert_eq!(y, a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<_>>());
            axpy(-2.0, &a, &mut y).unwrap();
            assert_eq!(y, a.iter().zip(&b).map(|(a, b)| a + b + -2.0 * a).collect::<Vec<_>>());
        }
    }

    #[test]
    fn unequal_sizes_are_refused() {
        let error = add(&[0.0; 3], &[0.0; 2], &mut [0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "add: b has 2 elements, expected 3 for shape [elements=3]");
        assert!(axpy(1.0, &[0.0; 3], &mut [0.0; 2]).is_err());
    }
}
