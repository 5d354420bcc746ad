//! The low-rank filter's operands packed for the vector loops, and the products of its backward.
//!
//! With P[t, k, d] = g[t, d] x[t-k, d], the gradient of the taps: dU[r, k, d] = sum_t z[t, r] P[t, k, d] and
//! dz[t, r] = sum_{k, d} U[r, k, d] P[t, k, d]. P exists for a block of tokens and a tile of channels only.

use std::ops::Range;

use pulp::Simd;

use super::args::{Rows, RowsMut};
use super::lanes::{LANES, add_mul, load, store};
use super::plan::{BLOCK, GROUP, Plan};

/// Ranks worked on together in dU.
const RANKS: usize = 8;

/// U by groups of channels, `[D / 16, W, R, 16]`, zero past D.
pub(super) fn pack_u(plan: &Plan, u: &[f32], rank: usize) -> Vec<f32> {
    let mut packed = vec![0.0; plan.d.div_ceil(LANES) * plan.width * rank * LANES];
    for (i, out) in packed.chunks_exact_mut(LANES).enumerate() {
        let (r, k, channel) = (i % rank, i / rank % plan.width, i / rank / plan.width * LANES);
        let row = &u[(r * plan.width + k) * plan.d..][..plan.d];
        let row = &row[channel..(channel + LANES).min(plan.d)];
        out[..row.len()].copy_from_slice(row);
    }
    packed
}

/// U with the ranks innermost, `[D / 16, W, 16, R']`, R' = R rounded up to 16, zero past D and R.
pub(super) fn transpose_u(plan: &Plan, u: &[f32], rank: usize) -> Vec<f32> {
    let (width, padded) = (plan.width, rank.next_multiple_of(LANES));
    let mut out = vec![0.0; plan.d.next_multiple_of(LANES) * width * padded];
    for (i, row) in u.chunks_exact(plan.d).enumerate() {
        let (r, k) = (i / width, i % width);
        for (channel, &value) in row.iter().enumerate() {
            out[((channel / LANES * width + k) * LANES + channel % LANES) * padded + r] = value;
        }
    }
    out
}

/// z of `tokens`, `[R, 8]` for each group of 8 tokens and `[R]` for each token after the last group.
pub(super) fn pack_z(z: Rows, rank: usize, tokens: Range<usize>) -> Vec<f32> {
    let mut packed = vec![0.0; tokens.len() * rank];
    let whole = tokens.len() / GROUP * GROUP;
    for (i, token) in tokens.enumerate() {
        let row = z.row(token, 0..rank);
        if i < whole {
            let group = &mut packed[i / GROUP * GROUP * rank..][..GROUP * rank];
            for (out, &value) in group.chunks_exact_mut(GROUP).zip(row) {
                out[i % GROUP] = value;
            }
        } else {
            packed[i * rank..][..rank].copy_from_slice(row);
        }
    }
    packed
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
pub(super) struct Products {
    rank: usize,
    width: usize,
    /// `[tile / 16, W, BLOCK, 16]`
    p: Vec<f32>,
    /// `[tile / 16, W, R'', 16]`, R'' = R rounded up to [`RANKS`].
    du: Vec<f32>,
}

impl Products {
    pub(super) fn new(channels: usize, width: usize, rank: usize) -> Self {
        let groups = channels.div_ceil(LANES) * width;
        let du = vec![0.0; groups * rank.next_multiple_of(RANKS) * LANES];
        Self { rank, width, p: vec![0.0; groups * BLOCK * LANES], du }
    }

    /// Writes P of `N` tokens from row `row` of the block on: `g` and `x` are their rows in the tile.
    #[inline(always)]
    pub(super) fn fill<S: Simd, const N: usize, const M: usize>(
        &mut self,
        s: S,
        row: usize,
        g: &[&[f32]; N],
        x: &[[&[f32]; M]; N],
    ) {
        for i in (0..g[0].len()).step_by(S::F32_LANES) {
            for k in 0..self.width {
                let at = ((i / LANES * self.width + k) * BLOCK + row) * LANES + i % LANES;
                for n in 0..N {
                    let product = s.mul_f32s(load(s, g[n], i), load(s, x[n][k], i));
                    store(s, &mut self.p[at + n * LANES..][..S::F32_LANES], 0, product);
                }
            }
        }
    }

    /// dU += z^T P over the block's `tokens` tokens; `z` holds the task's padded z, the block's from row `row` on.
    #[inline(always)]
    pub(super) fn add_du<S: Simd>(&mut self, s: S, z: &[f32], row: usize, tokens: usize) {
        let padded = self.rank.next_multiple_of(RANKS);
        let z = &z[row * padded..][..tokens * padded];
        let blocks = self.p.chunks_exact(BLOCK * LANES).zip(self.du.chunks_exact_mut(padded * LANES));
        for (p, du) in blocks {
            let p = &p[..tokens * LANES];
            for (r, du) in du.chunks_exact_mut(RANKS * LANES).enumerate() {
                for lane in (0..LANES).step_by(S::F32_LANES) {
                    let mut sum: [_; RANKS] = std::array::from_fn(|q| load(s, &du[q * LANES..][..LANES], lane));
                    for (p, z) in p.as_chunks::<LANES>().0.iter().zip(z.chunks_exact(padded)) {
                        let p = load(s, p, lane);
                        let z = &z[r * RANKS..][..RANKS];
                        for q in 0..RANKS {
                            sum[q] = add_mul(s, sum[q], s.splat_f32s(z[q]), p);
                        }
                    }
                    for q in 0..RANKS {
                        store(s, &mut du[q * LANES..][..LANES], lane, sum[q]);
                    }
                }
            }
        }
    }

    /// Writes the tile's dU to its columns of `du`, `[R, W * D]`.
    #[inline(always)]
    pub(super) fn write_du(&self, plan: &Plan, du: &mut [f32], tile: &Range<usize>) {
        let padded = self.rank.next_multiple_of(RANKS);
        for (i, out) in du.chunks_exact_mut(plan.d).enumerate() {
            let (r, k) = (i / self.width, i % self.width);
            for (group, out) in out[tile.clone()].chunks_mut(LANES).enumerate() {
                let from = ((group * self.width + k) * padded + r) * LANES;
                out.copy_from_slice(&self.du[from..][..out.len()]);
            }
        }
    }

    /// The tile's part of dz of the block's `tokens` tokens, the rows of `dz` from `row` on: written by the first tile,
    /// added by the others.
    #[inline(always)]
    pub(super) fn dz<S: Simd>(
        &self,
        s: S,
        transposed_u: &[f32],
        tile: &Range<usize>,
        row: usize,
        tokens: usize,
        dz: &mut RowsMut,
    ) {
        let mut i = 0;
        while i + GROUP <= tokens {
            self.dz_group::<S, GROUP>(s, transposed_u, tile, i, row + i, dz);
            i += GROUP;
        }
        while i < tokens {
            self.dz_group::<S, 1>(s, transposed_u, tile, i, row + i, dz);
            i += 1;
        }
    }

    #[inline(always)]
    fn dz_group<S: Simd, const N: usize>(
        &self,
        s: S,
        transposed_u: &[f32],
        tile: &Range<usize>,
        block_row: usize,
        row: usize,
        dz: &mut RowsMut,
    ) {
        let padded = self.rank.next_multiple_of(LANES);
        let u = &transposed_u[tile.start * self.width * padded..];
        for r in (0..self.rank).step_by(S::F32_LANES) {
            let mut sum = [s.splat_f32s(0.0); N];
            let blocks = self.p.chunks_exact(BLOCK * LANES).zip(u.chunks_exact(LANES * padded));
            for (i, (p, u)) in blocks.enumerate() {
                let p = &p[block_row * LANES..][..N * LANES];
                let lanes = LANES.min(tile.len() - i / self.width * LANES);
                for (lane, u) in u.chunks_exact(padded).take(lanes).enumerate() {
                    let u = load(s, u, r);
                    for n in 0..N {
                        sum[n] = add_mul(s, sum[n], s.splat_f32s(p[n * LANES + lane]), u);
                    }
                }
            }
            for n in 0..N {
                let out = &mut dz.data[(row + n) * dz.stride..][..self.rank];
                let value = if tile.start > 0 { s.add_f32s(load(s, out, r), sum[n]) } else { sum[n] };
                store(s, out, r, value);
            }
        }
    }
}
