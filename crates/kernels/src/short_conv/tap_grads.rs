//! Gradients of the taps that are not products of matrices: of the static taps and of the head-wise ones.

use pulp::{Simd, WithSimd};

use super::lanes::{LANES, add_mul, dot, load, load_set, load_set_unchecked, store};
use super::plan::UNROLLED;

/// dw[k] += sum_t g[t] x[t-k] of a few tokens in a tile.
pub(super) struct StaticGrad<'a> {
    /// `[W, D]`
    pub(super) dw: &'a mut [f32],
    pub(super) width: usize,
    /// The tile's first channel.
    pub(super) start: usize,
    /// The tokens' rows of g.
    pub(super) g: &'a [&'a [f32]],
    /// x of the W - 1 tokens before and of the tokens.
    pub(super) window: &'a [&'a [f32]],
}

impl WithSimd for StaticGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let len = self.g[0].len();
        assert!(self.g.iter().all(|row| row.len() == len));
        assert!(self.window.iter().all(|row| row.len() == len));
        assert_eq!(self.window.len(), self.g.len() + self.width - 1);
        let mut i = 0;
        if self.width == UNROLLED {
            // SAFETY: the window has rows for all tokens and taps, all of `len` elements.
            unsafe {
                i = self.march::<S, 2>(s, i);
                i = self.march::<S, 1>(s, i);
            }
        }
        while i + S::F32_LANES <= len {
            self.vector::<S, true>(s, i);
            i += S::F32_LANES;
        }
        if i < len {
            self.vector::<S, false>(s, i);
        }
    }
}

impl StaticGrad<'_> {
    /// All whole sets of `V` vectors from channel `i` on, as in the sums over the taps.
    ///
    /// # Safety
    /// The width is `UNROLLED`, and `g` and `window` have rows of at least `g[0].len()` elements for every token and
    /// tap.
    #[inline(always)]
    unsafe fn march<S: Simd, const V: usize>(&mut self, s: S, mut i: usize) -> usize {
        let d = self.dw.len() / self.width;
        while i + V * S::F32_LANES <= self.g[0].len() {
            let mut sum = [[s.splat_f32s(0.0); V]; UNROLLED];
            let mut rows = sum;
            for k in 0..UNROLLED {
                sum[k] = load_set::<S, V, true>(s, self.dw, k * d + self.start + i);
            }
            for j in 1..UNROLLED {
                // SAFETY: the caller's promise, and i + V * S::F32_LANES <= len.
                rows[j] = unsafe { load_set_unchecked(s, self.window.get_unchecked(j - 1), i) };
            }
            for n in 0..self.g.len() {
                for j in 1..UNROLLED {
                    rows[j - 1] = rows[j];
                }
                // SAFETY: as above.
                let g: [_; V] = unsafe {
                    rows[UNROLLED - 1] = load_set_unchecked(s, self.window.get_unchecked(n + UNROLLED - 1), i);
                    load_set_unchecked(s, self.g[n], i)
                };
                for k in 0..UNROLLED {
                    for v in 0..V {
                        sum[k][v] = add_mul(s, sum[k][v], g[v], rows[UNROLLED - 1 - k][v]);
                    }
                }
            }
            for k in 0..UNROLLED {
                for v in 0..V {
                    store::<S, true>(s, self.dw, k * d + self.start + i + v * S::F32_LANES, sum[k][v]);
                }
            }
            i += V * S::F32_LANES;
        }
        i
    }

    #[inline(always)]
    fn vector<S: Simd, const FULL: bool>(&mut self, s: S, i: usize) {
        let d = self.dw.len() / self.width;
        for (k, dw) in self.dw.chunks_exact_mut(d).enumerate() {
            let dw = &mut dw[self.start..self.start + self.g[0].len()];
            let mut sum = load::<S, FULL>(s, dw, i);
            for n in 0..self.g.len() {
                let x = load::<S, FULL>(s, self.window[n + self.width - 1 - k], i);
                sum = add_mul(s, sum, load::<S, FULL>(s, self.g[n], i), x);
            }
            store::<S, FULL>(s, dw, i, sum);
        }
    }
}

/// dweight[t, h, k] = sum of g[t] x[t-k] over the channels of head h, for a few tokens in a tile.
pub(super) struct HeadGrad<'a> {
    /// From the tile's first head of the first token on.
    pub(super) dweight: &'a mut [f32],
    pub(super) stride: usize,
    pub(super) width: usize,
    pub(super) head_size: usize,
    /// As in [`StaticGrad`].
    pub(super) g: &'a [&'a [f32]],
    /// As in [`StaticGrad`].
    pub(super) window: &'a [&'a [f32]],
}

impl WithSimd for HeadGrad<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let (width, size) = (self.width, self.head_size);
        for (n, g) in self.g.iter().enumerate() {
            let columns = g.len() / size * width;
            let out = &mut self.dweight[n * self.stride..][..columns];
            let rows = &self.window[n..n + width];
            match size {
                1 => small_heads::<1>(out, width, g, rows),
                2 => small_heads::<2>(out, width, g, rows),
                4 => small_heads::<4>(out, width, g, rows),
                8 => small_heads::<8>(out, width, g, rows),
                _ => heads(s, out, width, size, g, rows),
            }
        }
    }
}

/// One token's dweight for heads of `SIZE` channels; row `W - 1 - k` of `rows` is x[-k].
#[inline(always)]
fn small_heads<const SIZE: usize>(out: &mut [f32], width: usize, g: &[f32], rows: &[&[f32]]) {
    for (k, x) in rows.iter().rev().enumerate() {
        let heads = g.as_chunks::<SIZE>().0.iter().zip(x.as_chunks::<SIZE>().0);
        for (out, (g, x)) in out.chunks_exact_mut(width).zip(heads) {
            let mut sum = 0.0;
            for c in 0..SIZE {
                sum += g[c] * x[c];
            }
            out[k] = sum;
        }
    }
}

/// One token's dweight for heads of any size.
#[inline(always)]
fn heads<S: Simd>(s: S, out: &mut [f32], width: usize, size: usize, g: &[f32], rows: &[&[f32]]) {
    for (head, out) in out.chunks_exact_mut(width).enumerate() {
        let channels = head * size..(head + 1) * size;
        let g = &g[channels.clone()];
        for (out, x) in out.iter_mut().rev().zip(rows) {
            let x = &x[channels.clone()];
            *out = if size.is_multiple_of(LANES) { dot(s, g, x) } else { g.iter().zip(x).map(|(g, x)| g * x).sum() };
        }
    }
}
