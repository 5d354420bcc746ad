//! RMS norm over groups of the last dimension: `y = x / sqrt(mean(x^2) + eps) * gain`.
//!
//! A group is as long as the gain: all columns of a token, or one head's for QK-norm, x `[tokens, heads, head size]`
//! seen as `tokens * heads` groups. `rstd` `[groups]` keeps 1 / sqrt(mean(x^2) + eps) for the backward:
//! `dx = rstd (dy gain - xhat mean(dy gain xhat))`, `dgain = sum dy xhat`, with `xhat = x rstd`.

use rayon::prelude::*;

use crate::simd::{dot, sum, vectorized};
use crate::{Result, Store, blocks, check};

/// Normalises each group.
///
/// # Errors
/// A slice whose size does not fit; an empty gain.
pub fn forward(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32], rstd: &mut [f32]) -> Result<()> {
    let width = gain.len();
    check("rms_norm", x.len(), width, &[("y", y.len())], rstd.len())?;
    let rows = blocks::rows(width);
    let size = rows * width;
    y.par_chunks_mut(size).zip(x.par_chunks(size)).zip(rstd.par_chunks_mut(rows)).for_each(|((y, x), rstd)| {
        vectorized(
            #[inline(always)]
            || {
                for ((y, x), rstd) in y.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(rstd) {
                    let r = 1.0 / (dot(x, x) / width as f32 + eps).sqrt();
                    *rstd = r;
                    for ((y, x), g) in y.iter_mut().zip(x).zip(gain) {
                        *y = x * r * g;
                    }
                }
            },
        );
    });
    Ok(())
}

/// Gradients of x and of the gain. `dx_store` serves a residual stream, `dgain_store` a gain used more than once.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    x: &[f32],
    gain: &[f32],
    rstd: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dx_store: Store,
    dgain: &mut [f32],
    dgain_store: Store,
) -> Result<()> {
    const OP: &str = "rms_norm backward";
    let width = gain.len();
    check(OP, x.len(), width, &[("dy", dy.len()), ("dx", dx.len())], rstd.len())?;
    check::size(OP, "dgain", dgain.len(), &[("width", width)])?;
    let rows = blocks::rows_with_partials(rstd.len(), width);
    let size = rows * width;
    let mut partials = vec![0.0; rstd.len().div_ceil(rows) * width];
    let inputs = x.par_chunks(size).zip(dy.par_chunks(size)).zip(rstd.par_chunks(rows));
    dx.par_chunks_mut(size).zip(partials.par_chunks_mut(width)).zip(inputs).for_each(
        |((dx, dgain), ((x, dy), rstd))| {
            vectorized(
                #[inline(always)]
                || {
                    let groups = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width));
                    for (((dx, x), dy), &r) in groups.zip(rstd) {
                        backward_group(x, gain, r, dy, dx, dx_store, dgain);
                    }
                },
            );
        },
    );
    blocks::sum_partials(&partials, dgain, dgain_store);
    Ok(())
}

#[inline(always)]
fn backward_group(x: &[f32], gain: &[f32], r: f32, dy: &[f32], dx: &mut [f32], store: Store, dgain: &mut [f32]) {
    let width = gain.len();
    let (x, dy, dx, dgain) = (&x[..width], &dy[..width], &mut dx[..width], &mut dgain[..width]);
    let mean = sum(
        [x, dy, gain],
        #[inline(always)]
        |[x, d, g]| x * r * (d * g),
    ) / width as f32;
    for i in 0..width {
        let xhat = x[i] * r;
        dgain[i] += dy[i] * xhat;
        let d = r * (dy[i] * gain[i] - xhat * mean);
        dx[i] = if store == Store::Accumulate { dx[i] + d } else { d };
    }
}

fn check(op: &'static str, x: usize, width: usize, like_x: &[(&'static str, usize)], rstd: usize) -> Result<()> {
    check::positive(op, "width", width)?;
    check::divides(op, ("elements of x", x), ("width", width), "give whole groups, each as long as the gain")?;
    let dims = [("groups", x / width), ("width", width)];
    for (name, len) in like_x {
        check::size(op, name, *len, &dims)?;
    }
    check::size(op, "rstd", rstd, &dims[..1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::testing::*;

    const EPS: f32 = 1e-5;

    fn reference(x: &[f64], gain: &[f64]) -> Vec<f64> {
        let group = |x: &[f64]| -> Vec<f64> {
            let mean_sq = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            x.iter().zip(gain).map(|(v, g)| v * g / (mean_sq + f64::from(EPS)).sqrt()).collect()
        };
        x.chunks(gain.len()).flat_map(group).collect()
    }

    #[test]
    fn forward_and_gradients() {
        for (groups, width) in [(1, 1), (3, 7), (5, 16), (70, 33), (2, 100)] {
            let (x, gain, dy) = (random(groups * width, 1), random(width, 2), random(groups * width, 3));
            let (mut y, mut rstd) = (poisoned(x.len()), poisoned(groups));
            forward(&x, &gain, EPS, &mut y, &mut rstd).unwrap();
            assert_close("y", &y, &reference(&wide(&x), &wide(&gain)));
            let (mut dx, mut dgain) = (poisoned(x.len()), poisoned(width));
            backward(&x, &gain, &rstd, &dy, &mut dx, Store::Overwrite, &mut dgain, Store::Overwrite).unwrap();
            let dx_want = gradient(&x, |x| inner(&reference(x, &wide(&gain)), &dy));
            let dgain_want = gradient(&gain, |g| inner(&reference(&wide(&x), g), &dy));
            assert_close("dgain", &dgain, &dgain_want);
            if width > 1 {
                // In one dimension the gradient is eps times something: all cancellation.
                assert_close("dx", &dx, &dx_want);
            }
            backward(&x, &gain, &rstd, &dy, &mut dx, Store::Accumulate, &mut dgain, Store::Accumulate).unwrap();
            let twice = |v: &[f64]| v.iter().map(|v| 2.0 * v).collect::<Vec<_>>();
            assert_close("dgain accumulated", &dgain, &twice(&dgain_want));
            if width > 1 {
                assert_close("dx accumulated", &dx, &twice(&dx_want));
            }
        }
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let (groups, width) = (5000, 24);
        let (x, gain, dy) = (random(groups * width, 1), random(width, 2), random(groups * width, 3));
        assert_same_bits_at_any_thread_count(|| {
            let (mut y, mut rstd) = (poisoned(x.len()), poisoned(groups));
            forward(&x, &gain, EPS, &mut y, &mut rstd).unwrap();
            let (mut dx, mut dgain) = (poisoned(x.len()), poisoned(width));
            backward(&x, &gain, &rstd, &dy, &mut dx, Store::Overwrite, &mut dgain, Store::Overwrite).unwrap();
            vec![y, rstd, dx, dgain]
        });
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let error = forward(&[0.0; 10], &[1.0; 4], EPS, &mut [0.0; 10], &mut [0.0; 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "rms_norm: width = 4 does not divide elements of x = 10; give whole groups, each as long as the gain"
        );
        let stats = forward(&[0.0; 8], &[1.0; 4], EPS, &mut [0.0; 8], &mut [0.0; 3]);
        assert!(matches!(stats, Err(Error::Size { name: "rstd", .. })));
        assert!(matches!(forward(&[], &[], EPS, &mut [], &mut []), Err(Error::Range { .. })));
    }
}
