//! The low-rank filter's gradients.
//!
//! With P[t, k, d] = g[t, d] x[t-k, d], the gradient of the taps: dU[r, k, d] = sum_t z[t, r] P[t, k, d] and
//! dz[t, r] = sum_{k, d} U[r, k, d] P[t, k, d]. P exists for a block of tokens and a tile of channels only.

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};

use super::args::{Rows, RowsMut};
use super::lanes::{LANES, add_mul, load, store, vectors, vectors_mut};
use super::plan::{BLOCK, GROUP, dispatch};

/// Ranks worked on together in dU.
const RANKS: usize = 8;

/// U with the ranks innermost, `[D / 16, W, 16, R']`, R' = R rounded up to 16, zero past D and R.
pub(super) fn transpose_u(u: &[f32], rank: usize, width: usize) -> Vec<f32> {
    let (d, padded) = (u.len() / (rank * width), rank.next_multiple_of(LANES));
    let mut out = vec![0.0; d.next_multiple_of(LANES) * width * padded];
    for (i, row) in u.chunks_exact(d).enumerate() {
        let (r, k) = (i / width, i % width);
        for (channel, &value) in row.iter().enumerate() {
            out[((channel / LANES * width + k) * LANES + channel % LANES) * padded + r] = value;
        }
    }
    out
}

/// z of `tokens` with rows padded by zeros to a multiple of [`RANKS`].
pub(super) fn pad_z(z: Rows, rank: usize, tokens: Range<usize>) -> Vec<f32> {
    let padded = rank.next_multiple_of(RANKS);
    let mut out = vec![0.0; tokens.len() * padded];
    for (out, token) in out.chunks_exact_mut(padded).zip(tokens) {
        out[..rank].copy_from_slice(z.row(token, 0..rank));
    }
    out
}

/// P of a block of tokens in a tile, and the tile's dU.
pub(super) struct Products<'a> {
    rank: usize,
    width: usize,
    tile: Range<usize>,
    /// `[tile / 16, W, BLOCK, 16]`
    p: Vec<f32>,
    /// `[tile / 16, W, R'', 16]`, R'' = R rounded up to [`RANKS`].
    du: Vec<f32>,
    /// The task's z with padded rows.
    z: &'a [f32],
    /// U of the tile, ranks innermost.
    u: &'a [f32],
}

impl<'a> Products<'a> {
    /// `z` is the task's z with padded rows, `transposed_u` is U with the ranks innermost.
    pub(super) fn new(rank: usize, width: usize, tile: Range<usize>, z: &'a [f32], transposed_u: &'a [f32]) -> Self {
        let groups = tile.len().div_ceil(LANES) * width;
        let u = &transposed_u[tile.start * width * rank.next_multiple_of(LANES)..];
        let du = vec![0.0; groups * rank.next_multiple_of(RANKS) * LANES];
        Self { rank, width, tile, p: vec![0.0; groups * BLOCK * LANES], du, z, u }
    }

    /// Writes P of the tokens of `g` from row `row` of the block on; `g` and `window` are as in `StaticGrad`.
    pub(super) fn fill(&mut self, arch: Arch, row: usize, g: &[&[f32]], window: &[&[f32]]) {
        dispatch(arch, Fill { p: &mut self.p, width: self.width, row, g, window });
    }

    /// Adds a block of `tokens` tokens, from row `row` of the task on, to dU, and to their dz, the rows of `dz` from
    /// `row` on; the first tile writes dz.
    pub(super) fn add(&mut self, arch: Arch, row: usize, tokens: usize, dz: &mut RowsMut) {
        let padded = self.rank.next_multiple_of(RANKS);
        let z = &self.z[row * padded..][..tokens * padded];
        dispatch(arch, AddDu { p: &self.p, z, du: &mut self.du, padded });
        let dz = RowsMut { data: &mut dz.data[row * dz.stride..], stride: dz.stride };
        let (rank, width, channels, add) = (self.rank, self.width, self.tile.len(), self.tile.start > 0);
        dispatch(arch, AddDz { p: &self.p, u: self.u, rank, width, channels, tokens, add, dz });
    }

    /// Writes the tile's dU to its columns of `du`, `[R, W * D]`.
    pub(super) fn write_du(&self, d: usize, du: &mut [f32]) {
        let padded = self.rank.next_multiple_of(RANKS);
        for (i, out) in du.chunks_exact_mut(d).enumerate() {
            let (r, k) = (i / self.width, i % self.width);
            for (group, out) in out[self.tile.clone()].chunks_mut(LANES).enumerate() {
                let from = ((group * self.width + k) * padded + r) * LANES;
                out.copy_from_slice(&self.du[from..][..out.len()]);
            }
        }
    }
}

struct Fill<'a> {
    p: &'a mut [f32],
    width: usize,
    row: usize,
    g: &'a [&'a [f32]],
    window: &'a [&'a [f32]],
}

impl WithSimd for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let len = self.g[0].len();
        let whole = len / S::F32_LANES * S::F32_LANES;
        for i in (0..whole).step_by(S::F32_LANES) {
            self.vector::<S, true>(s, i);
        }
        if whole < len {
            self.vector::<S, false>(s, whole);
        }
    }
}

impl Fill<'_> {
    #[inline(always)]
    fn vector<S: Simd, const FULL: bool>(&mut self, s: S, i: usize) {
        let groups = &mut self.p[i / LANES * self.width * BLOCK * LANES..][..self.width * BLOCK * LANES];
        for (n, g) in self.g.iter().enumerate() {
            let g = load::<S, FULL>(s, g, i);
            for (x, group) in self.window[n..n + self.width].iter().rev().zip(groups.chunks_exact_mut(BLOCK * LANES)) {
                let product = s.mul_f32s(g, load::<S, FULL>(s, x, i));
                store::<S, true>(s, group, (self.row + n) * LANES + i % LANES, product);
            }
        }
    }
}

/// dU += z^T P.
struct AddDu<'a> {
    p: &'a [f32],
    /// The block's, `padded` to a token.
    z: &'a [f32],
    du: &'a mut [f32],
    padded: usize,
}

impl WithSimd for AddDu<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { p, z, du, padded } = self;
        for (p, du) in p.chunks_exact(BLOCK * LANES).zip(du.chunks_exact_mut(padded * LANES)) {
            let p = p.as_chunks::<LANES>().0;
            for (r, du) in du.as_chunks_mut::<LANES>().0.as_chunks_mut::<RANKS>().0.iter_mut().enumerate() {
                for j in 0..LANES / S::F32_LANES {
                    let mut sum: [_; RANKS] = std::array::from_fn(|q| vectors::<S>(&du[q])[j]);
                    for (p, z) in p.iter().zip(z.chunks_exact(padded)) {
                        let (p, z) = (vectors::<S>(p)[j], &z.as_chunks::<RANKS>().0[r]);
                        for q in 0..RANKS {
                            sum[q] = add_mul(s, sum[q], s.splat_f32s(z[q]), p);
                        }
                    }
                    for q in 0..RANKS {
                        vectors_mut::<S>(&mut du[q])[j] = sum[q];
                    }
                }
            }
        }
    }
}

/// dz = P U^T of a tile, written or added.
struct AddDz<'a> {
    p: &'a [f32],
    u: &'a [f32],
    rank: usize,
    width: usize,
    channels: usize,
    tokens: usize,
    add: bool,
    dz: RowsMut<'a>,
}

impl WithSimd for AddDz<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, s: S) {
        let whole = self.tokens / GROUP * GROUP;
        for row in (0..whole).step_by(GROUP) {
            self.group::<S, GROUP>(s, row);
        }
        for row in whole..self.tokens {
            self.group::<S, 1>(s, row);
        }
    }
}

impl AddDz<'_> {
    #[inline(always)]
    fn group<S: Simd, const N: usize>(&mut self, s: S, row: usize) {
        let padded = self.rank.next_multiple_of(LANES);
        for r in (0..self.rank).step_by(S::F32_LANES) {
            let mut sum = [s.splat_f32s(0.0); N];
            let blocks = self.p.chunks_exact(BLOCK * LANES).zip(self.u.chunks_exact(LANES * padded));
            for (i, (p, u)) in blocks.enumerate() {
                let p: &[_; N] = p.as_chunks::<LANES>().0[row..].first_chunk().expect("rows of the block");
                let lanes = LANES.min(self.channels - i / self.width * LANES);
                for (lane, u) in u.chunks_exact(padded).take(lanes).enumerate() {
                    let u = load::<S, true>(s, u, r);
                    for n in 0..N {
                        sum[n] = add_mul(s, sum[n], s.splat_f32s(p[n][lane]), u);
                    }
                }
            }
            for n in 0..N {
                let out = &mut self.dz.data[(row + n) * self.dz.stride..][..self.rank];
                if r + S::F32_LANES <= self.rank {
                    put::<S, true>(s, out, r, sum[n], self.add);
                } else {
                    put::<S, false>(s, out, r, sum[n], self.add);
                }
            }
        }
    }
}

/// row[i..] = value, or += value where `add`.
#[inline(always)]
fn put<S: Simd, const FULL: bool>(s: S, row: &mut [f32], i: usize, value: S::f32s, add: bool) {
    let value = if add { s.add_f32s(load::<S, FULL>(s, row, i), value) } else { value };
    store::<S, FULL>(s, row, i, value);
}
