//! Gradients of the taps that are not products of matrices: of the static taps and of the head-wise ones.

use pulp::Simd;

use super::MAX_WIDTH;
use super::lanes::{LANES, add_mul, dot, load, store};

/// dw[k] += sum_t g[t] x[t-k] of `N` tokens. `g` and `x` are their rows in a tile that starts at channel `start`, `dw`
/// is `[W, D]`.
#[inline(always)]
pub(super) fn add_static<S: Simd, const N: usize>(
    s: S,
    dw: &mut [f32],
    d: usize,
    start: usize,
    g: &[&[f32]; N],
    x: &[[&[f32]; MAX_WIDTH]; N],
) {
    let channels = g[0].len();
    for (k, dw) in dw.chunks_exact_mut(d).enumerate() {
        let dw = &mut dw[start..start + channels];
        for i in (0..channels).step_by(S::F32_LANES) {
            let mut sum = load(s, dw, i);
            for n in 0..N {
                sum = add_mul(s, sum, load(s, g[n], i), load(s, x[n][k], i));
            }
            store(s, dw, i, sum);
        }
    }
}

/// dweight[h, k] = sum of g x[-k] over the channels of head h, for one token; `dweight` is its heads' `[heads, W]`.
#[inline(always)]
pub(super) fn dweight<S: Simd>(
    s: S,
    dweight: &mut [f32],
    width: usize,
    size: usize,
    g: &[f32],
    x: &[&[f32]; MAX_WIDTH],
) {
    for (head, out) in dweight.chunks_exact_mut(width).enumerate() {
        let channels = head * size..(head + 1) * size;
        for (k, out) in out.iter_mut().enumerate() {
            let (g, x) = (&g[channels.clone()], &x[k][channels.clone()]);
            *out = if size < LANES { g.iter().zip(x).map(|(g, x)| g * x).sum() } else { dot(s, g, x) };
        }
    }
}
