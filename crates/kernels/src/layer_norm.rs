//! Layer norm over the last dimension: `y = (x - mean(x)) / sqrt(var(x) + eps) * gain + bias`.
//!
//! x and y `[rows, width]`. `stats` `[rows, 2]` keeps mean and 1 / sqrt(var + eps) for the backward:
//! `dx = rstd (g - mean(g) - xhat mean(g xhat))` with `g = dy gain`, `xhat = (x - mean) rstd`;
//! `dgain = sum dy xhat`, `dbias = sum dy`.

use rayon::prelude::*;

use crate::simd::{sum, vectorized};
use crate::{Result, Store, blocks, check};

/// Normalises each row.
///
/// # Errors
/// A slice whose size does not fit; an empty gain.
pub fn forward(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, y: &mut [f32], stats: &mut [f32]) -> Result<()> {
    const OP: &str = "layer_norm";
    let width = gain.len();
    check(OP, x.len(), width, &[("y", y.len())], stats.len())?;
    check::size(OP, "bias", bias.len(), &[("width", width)])?;
    let rows = blocks::rows(width);
    let size = rows * width;
    y.par_chunks_mut(size).zip(x.par_chunks(size)).zip(stats.par_chunks_mut(2 * rows)).for_each(|((y, x), stats)| {
        vectorized(
            #[inline(always)]
            || {
                let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((y, x), stats) in rows.zip(stats.chunks_exact_mut(2)) {
                    forward_row(x, gain, bias, eps, y, stats);
                }
            },
        );
    });
    Ok(())
}

#[inline(always)]
fn forward_row(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, y: &mut [f32], stats: &mut [f32]) {
    let width = x.len();
    let mean = sum(
        [x],
        #[inline(always)]
        |[v]| v,
    ) / width as f32;
    let var = sum(
        [x],
        #[inline(always)]
        |[v]| (v - mean) * (v - mean),
    ) / width as f32;
    let rstd = 1.0 / (var + eps).sqrt();
    stats.copy_from_slice(&[mean, rstd]);
    let (gain, bias, y) = (&gain[..width], &bias[..width], &mut y[..width]);
    for i in 0..width {
        y[i] = (x[i] - mean) * rstd * gain[i] + bias[i];
    }
}

/// Gradients of x, gain and bias. `dx_store` serves a residual stream, `param_store` parameters used more than once.
///
/// # Errors
/// As [`forward`].
pub fn backward(
    x: &[f32],
    gain: &[f32],
    stats: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    dx_store: Store,
    dgain: &mut [f32],
    dbias: &mut [f32],
    param_store: Store,
) -> Result<()> {
    const OP: &str = "layer_norm backward";
    let width = gain.len();
    check(OP, x.len(), width, &[("dy", dy.len()), ("dx", dx.len())], stats.len())?;
    check::size(OP, "dgain", dgain.len(), &[("width", width)])?;
    check::size(OP, "dbias", dbias.len(), &[("width", width)])?;
    let rows = blocks::rows_with_partials(x.len() / width, width);
    let size = rows * width;
    let blocks = x.len().div_ceil(size);
    let (mut dgains, mut dbiases) = (vec![0.0; blocks * width], vec![0.0; blocks * width]);
    let inputs = x.par_chunks(size).zip(dy.par_chunks(size)).zip(stats.par_chunks(2 * rows));
    let partials = dgains.par_chunks_mut(width).zip(dbiases.par_chunks_mut(width));
    dx.par_chunks_mut(size).zip(partials).zip(inputs).for_each(|((dx, (dgain, dbias)), ((x, dy), stats))| {
        vectorized(
            #[inline(always)]
            || {
                let rows = dx.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(dy.chunks_exact(width));
                for (((dx, x), dy), stats) in rows.zip(stats.chunks_exact(2)) {
                    backward_row(x, gain, [stats[0], stats[1]], dy, dx, dx_store, dgain, dbias);
                }
            },
        );
    });
    blocks::sum_partials(&dgains, dgain, param_store);
    blocks::sum_partials(&dbiases, dbias, param_store);
    Ok(())
}

#[inline(always)]
fn backward_row(
    x: &[f32],
    gain: &[f32],
    [mean, rstd]: [f32; 2],
    dy: &[f32],
    dx: &mut [f32],
    store: Store,
    dgain: &mut [f32],
    dbias: &mut [f32],
) {
    let width = x.len();
    let (gain, dy, dx) = (&gain[..width], &dy[..width], &mut dx[..width]);
    let (dgain, dbias) = (&mut dgain[..width], &mut dbias[..width]);
    let mean_g = sum(
        [dy, gain],
        #[inline(always)]
        |[d, g]| d * g,
    ) / width as f32;
    let mean_gx = sum(
        [dy, gain, x],
        #[inline(always)]
        |[d, g, x]| d * g * ((x - mean) * rstd),
    ) / width as f32;
    for i in 0..width {
        let xhat = (x[i] - mean) * rstd;
        dgain[i] += dy[i] * xhat;
        dbias[i] += dy[i];
        let d = rstd * (dy[i] * gain[i] - mean_g - xhat * mean_gx);
        dx[i] = if store == Store::Accumulate { dx[i] + d } else { d };
    }
}

fn check(op: &'static str, x: usize, width: usize, like_x: &[(&'static str, usize)], stats: usize) -> Result<()> {
    check::positive(op, "width", width)?;
    check::divides(op, ("elements of x", x), ("width", width), "give whole rows, each as long as the gain")?;
    let dims = [("rows", x / width), ("width", width)];
    for (name, len) in like_x {
        check::size(op, name, *len, &dims)?;
    }
    check::size(op, "stats", stats, &[("rows", x / width), ("mean and rstd", 2)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::testing::*;

    const EPS: f32 = 1e-5;

    fn reference(x: &[f64], gain: &[f64], bias: &[f64]) -> Vec<f64> {
        let width = gain.len() as f64;
        let row = |x: &[f64]| -> Vec<f64> {
            let mean = x.iter().sum::<f64>() / width;
            let var = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / width;
            let rstd = 1.0 / (var + f64::from(EPS)).sqrt();
            x.iter().zip(gain).zip(bias).map(|((v, g), b)| (v - mean) * rstd * g + b).collect()
        };
        x.chunks(gain.len()).flat_map(row).collect()
    }

    #[test]
    fn forward_and_gradients() {
        for (rows, width) in [(3, 7), (5, 16), (70, 33), (2, 100)] {
            let (x, dy) = (random(rows * width, 1), random(rows * width, 2));
            let (gain, bias) = (random(width, 3), random(width, 4));
            let (xw, gw, bw) = (wide(&x), wide(&gain), wide(&bias));
            let (mut y, mut stats) = (poisoned(x.len()), poisoned(2 * rows));
            forward(&x, &gain, &bias, EPS, &mut y, &mut stats).unwrap();
            assert_close("y", &y, &reference(&xw, &gw, &bw));

            let want = [
                gradient(&x, |x| inner(&reference(x, &gw, &bw), &dy)),
                gradient(&gain, |g| inner(&reference(&xw, g, &bw), &dy)),
                gradient(&bias, |b| inner(&reference(&xw, &gw, b), &dy)),
            ];
            let mut got = [x.len(), width, width].map(poisoned);
            for (store, times) in [(Store::Overwrite, 1.0), (Store::Accumulate, 2.0)] {
                let [dx, dgain, dbias] = &mut got;
                backward(&x, &gain, &stats, &dy, dx, store, dgain, dbias, store).unwrap();
                for (name, (got, want)) in ["dx", "dgain", "dbias"].iter().zip(got.iter().zip(&want)) {
                    assert_close(name, got, &want.iter().map(|w| times * w).collect::<Vec<_>>());
                }
            }
        }
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let (rows, width) = (3000, 40);
        let (x, dy) = (random(rows * width, 1), random(rows * width, 2));
        let (gain, bias) = (random(width, 3), random(width, 4));
        assert_same_bits_at_any_thread_count(|| {
            let mut out = [x.len(), 2 * rows, x.len(), width, width].map(poisoned);
            let [y, stats, dx, dgain, dbias] = &mut out;
            forward(&x, &gain, &bias, EPS, y, stats).unwrap();
            backward(&x, &gain, stats, &dy, dx, Store::Overwrite, dgain, dbias, Store::Overwrite).unwrap();
            out.into()
        });
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let error = forward(&[0.0; 8], &[1.0; 4], &[0.0; 3], EPS, &mut [0.0; 8], &mut [0.0; 4]).unwrap_err();
        assert_eq!(error.to_string(), "layer_norm: bias has 3 elements, expected 4 for shape [width=4]");
        let stats = forward(&[0.0; 8], &[1.0; 4], &[0.0; 4], EPS, &mut [0.0; 8], &mut [0.0; 3]);
        assert!(matches!(stats, Err(Error::Size { name: "stats", .. })));
        let part = forward(&[0.0; 9], &[1.0; 4], &[0.0; 4], EPS, &mut [0.0; 9], &mut [0.0; 4]);
        assert!(matches!(part, Err(Error::Divides { .. })));
    }
}
