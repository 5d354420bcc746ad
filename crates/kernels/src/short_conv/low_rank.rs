//! The low-rank filter's taps, z U, a block of tokens and a tile of channels at a time.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::args::Rows;
use super::lanes::{LANES, add_mul, store, vectors};
use super::plan::GROUP;
use super::taps::{StaticTaps, Taps};

/// z of a task's tokens.
pub(super) struct GroupedZ<'a> {
    rows: Rows<'a>,
    rank: usize,
    tokens: Range<usize>,
    /// z of the whole groups of 8 in `tokens`, each `[R, 8]`.
    groups: Vec<f32>,
}

impl<'a> GroupedZ<'a> {
    pub(super) fn new(rows: Rows<'a>, rank: usize, tokens: Range<usize>) -> Self {
        let mut groups = vec![0.0; tokens.len() / GROUP * GROUP * rank];
        for (i, group) in groups.chunks_exact_mut(GROUP * rank).enumerate() {
            for n in 0..GROUP {
                let row = rows.row(tokens.start + i * GROUP + n, 0..rank);
                group.chunks_exact_mut(GROUP).zip(row).for_each(|(out, &value)| out[n] = value);
            }
        }
        Self { rows, rank, tokens, groups }
    }

    /// The tokens up to the end of the last one's group: a whole group is as cheap as one token.
    pub(super) fn in_groups(&self, tokens: Range<usize>) -> Range<usize> {
        let groups = (tokens.end - self.tokens.start).next_multiple_of(GROUP);
        tokens.start..(self.tokens.start + groups).min(self.tokens.end)
    }
}

/// U in a tile of channels.
pub(super) struct PackedU {
    rank: usize,
    width: usize,
    /// `[tile / 16, W, R, 16]`, zero past the tile's end.
    data: Vec<f32>,
}

impl PackedU {
    /// `u` is `[R, W * D]`.
    pub(super) fn new(u: &[f32], rank: usize, width: usize, tile: &Range<usize>) -> Self {
        let d = u.len() / (rank * width);
        let mut data = vec![0.0; tile.len().div_ceil(LANES) * width * rank * LANES];
        for (i, row) in u.chunks_exact(d).enumerate() {
            let (r, k) = (i / width, i % width);
            for (group, values) in row[tile.clone()].chunks(LANES).enumerate() {
                data[((group * width + k) * rank + r) * LANES..][..values.len()].copy_from_slice(values);
            }
        }
        Self { rank, width, data }
    }
}

/// Writes the taps z U (+ the static ones) of `tokens` in a tile.
pub(super) struct TapProduct<'a> {
    pub(super) z: &'a GroupedZ<'a>,
    pub(super) u: &'a PackedU,
    pub(super) fixed: Option<&'a StaticTaps<'a>>,
    /// `[tokens, W, row / W]`
    pub(super) data: &'a mut [f32],
    pub(super) row: usize,
    pub(super) channels: usize,
    /// From the start of a group to the end of one, or of all tokens of `z`.
    pub(super) tokens: Range<usize>,
}

impl WithSimd for TapProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let whole = self.tokens.len() / GROUP * GROUP;
        let z = self.z;
        for n in (0..whole).step_by(GROUP) {
            let first = (self.tokens.start - z.tokens.start + n) * z.rank;
            self.group::<S, GROUP>(s, n, &z.groups[first..first + GROUP * z.rank]);
        }
        for n in whole..self.tokens.len() {
            self.group::<S, 1>(s, n, z.rows.row(self.tokens.start + n, 0..z.rank));
        }
    }
}

impl TapProduct<'_> {
    /// The taps of `N` tokens from the `n`-th on; `z` is theirs, `[R, N]`.
    #[inline(always)]
    fn group<S: Simd, const N: usize>(&mut self, s: S, n: usize, z: &[f32]) {
        for i in (0..self.channels).step_by(S::F32_LANES) {
            let (group, j) = (i / LANES, i % LANES / S::F32_LANES);
            for k in 0..self.u.width {
                let mut sum = [s.splat_f32s(0.0); N];
                if let Some(fixed) = self.fixed {
                    let whole = i + S::F32_LANES <= self.channels;
                    let [tap] =
                        if whole { fixed.fixed::<S, 1, true>(s, k, i) } else { fixed.fixed::<S, 1, false>(s, k, i) };
                    sum = [tap; N];
                }
                let u = &self.u.data[(group * self.u.width + k) * self.u.rank * LANES..][..self.u.rank * LANES];
                for (z, u) in z.as_chunks::<N>().0.iter().zip(u.as_chunks::<LANES>().0) {
                    let u = vectors::<S>(u)[j];
                    for n in 0..N {
                        sum[n] = add_mul(s, sum[n], s.splat_f32s(z[n]), u);
                    }
                }
                let at = n * self.row + k * (self.row / self.u.width) + i;
                for n in 0..N {
                    store::<S, true>(s, self.data, at + n * self.row, sum[n]);
                }
            }
        }
    }
}
