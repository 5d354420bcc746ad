//! The sums over the taps: the convolution and its transpose.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::lanes::{add_mul, load, load_set_unchecked, store};
use super::plan::UNROLLED;
use super::taps::Taps;

/// [`TapSums`] that convolve: out[t] = sum of taps[t][k] row[t - k]. The window's rows end with the last token's.
pub(super) const BEFORE: bool = false;
/// [`TapSums`] of the transpose: out[t] = sum of taps[t + k][k] row[t + k]. The window's rows start with the first
/// token's.
pub(super) const AFTER: bool = true;

/// The sums over the taps `ks`, in their order, of as many tokens from `token` on as `out` has rows, plus `extra`.
/// After, the token is the one that meets the first row in the first of the `ks`.
pub(super) struct TapSums<'a, 'o, T, const SIDE: bool> {
    pub(super) taps: &'a T,
    pub(super) token: usize,
    pub(super) ks: Range<usize>,
    /// One row less than tokens and taps together.
    pub(super) window: &'a [&'a [f32]],
    pub(super) extra: Option<&'a [&'a [f32]]>,
    pub(super) out: &'a mut [&'o mut [f32]],
}

impl<T: Taps, const SIDE: bool> WithSimd for TapSums<'_, '_, T, SIDE> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let len = self.out[0].len();
        assert!(self.out.iter().all(|row| row.len() == len));
        assert!(self.window.iter().all(|row| row.len() == len));
        let mut i = 0;
        if self.ks == (0..UNROLLED) {
            assert_eq!(self.window.len(), self.out.len() + UNROLLED - 1);
            // SAFETY: the window has rows for all tokens and taps, all of `len` elements, and the vectors end by `len`.
            unsafe {
                match self.taps.vectors(S::F32_LANES) {
                    4 => i = self.march::<S, 4>(s, i),
                    2 if T::IN_HEADS => i = self.march::<S, 2>(s, i),
                    _ => {}
                }
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

impl<T: Taps, const SIDE: bool> TapSums<'_, '_, T, SIDE> {
    /// For the first token, how many tokens ahead tap `k` is, and its row in the window.
    #[inline(always)]
    fn place(k: usize, ks: &Range<usize>) -> (usize, usize) {
        if SIDE == AFTER { (k - ks.start, k - ks.start) } else { (0, ks.end - 1 - k) }
    }

    /// All whole sets of `V` vectors from channel `i` on, where the taps are `0..UNROLLED`: walks along the tokens
    /// with the rows of all taps in registers, so that each is loaded once. Returns where it ended.
    ///
    /// # Safety
    /// The window has a row of at least `out[0].len()` elements for every token and tap.
    #[inline(always)]
    unsafe fn march<S: Simd, const V: usize>(&mut self, s: S, mut i: usize) -> usize {
        while i + V * S::F32_LANES <= self.out[0].len() {
            let mut fixed = [[s.splat_f32s(0.0); V]; UNROLLED];
            let mut rows = fixed;
            for k in 0..UNROLLED {
                fixed[k] = self.taps.fixed::<S, V, true>(s, k, i);
            }
            for j in 1..UNROLLED {
                // SAFETY: the caller's promise, and i + V * S::F32_LANES <= len.
                rows[j] = unsafe { load_set_unchecked(s, self.window.get_unchecked(j - 1), i) };
            }
            for n in 0..self.out.len() {
                for j in 1..UNROLLED {
                    rows[j - 1] = rows[j];
                }
                // SAFETY: as above.
                rows[UNROLLED - 1] = unsafe { load_set_unchecked(s, self.window.get_unchecked(n + UNROLLED - 1), i) };
                let mut sum = [s.splat_f32s(0.0); V];
                for k in 0..UNROLLED {
                    let (ahead, j) = Self::place(k, &(0..UNROLLED));
                    let tap = self.taps.tap::<S, V>(s, fixed[k], self.token + n + ahead, k, i);
                    for v in 0..V {
                        sum[v] = add_mul(s, sum[v], tap[v], rows[j][v]);
                    }
                }
                for v in 0..V {
                    if let Some(extra) = self.extra {
                        sum[v] = s.add_f32s(sum[v], load::<S, true>(s, extra[n], i + v * S::F32_LANES));
                    }
                    store::<S, true>(s, self.out[n], i + v * S::F32_LANES, sum[v]);
                }
            }
            i += V * S::F32_LANES;
        }
        i
    }

    #[inline(always)]
    fn vector<S: Simd, const FULL: bool>(&mut self, s: S, i: usize) {
        for n in 0..self.out.len() {
            let mut sum = s.splat_f32s(0.0);
            for k in self.ks.clone() {
                let (ahead, row) = Self::place(k, &self.ks);
                let fixed = self.taps.fixed::<S, 1, FULL>(s, k, i);
                let [tap] = self.taps.tap(s, fixed, self.token + n + ahead, k, i);
                sum = add_mul(s, sum, tap, load::<S, FULL>(s, self.window[n + row], i));
            }
            if let Some(extra) = self.extra {
                sum = s.add_f32s(sum, load::<S, FULL>(s, extra[n], i));
            }
            store::<S, FULL>(s, self.out[n], i, sum);
        }
    }
}
