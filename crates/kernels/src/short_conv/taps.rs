//! The taps of a few tokens in registers, from each kind of filter.

use std::ops::Range;

use pulp::Simd;

use super::args::Rows;
use super::lanes::{LANES, add_mul, load};

/// A block of a task's tokens. The backward goes from the last block to the first.
pub(super) struct Block {
    pub(super) tokens: Range<usize>,
    /// Tokens after the block whose taps are needed too.
    pub(super) after: usize,
    /// No later block was prepared before: the tokens after this one are new.
    pub(super) newest: bool,
}

impl Block {
    /// The tokens that no later block has left behind.
    pub(super) fn fresh(&self) -> Range<usize> {
        self.tokens.start..self.tokens.end + if self.newest { self.after } else { 0 }
    }
}

/// Taps of a task's tokens in a tile of channels.
pub(super) trait Taps {
    /// Called before the taps of a block are used.
    #[inline(always)]
    fn prepare<S: Simd>(&mut self, _s: S, _block: &Block) {}

    /// Tap `k` of `N` tokens from `token` on, at channels `i..` of the tile.
    fn taps<S: Simd, const N: usize>(&self, s: S, token: usize, k: usize, i: usize) -> [S::f32s; N];
}

/// Row `k` of a `[W, D]` filter in a tile.
#[inline(always)]
fn static_row<'a>(w: &'a [f32], d: usize, k: usize, tile: &Range<usize>) -> &'a [f32] {
    &w[k * d..][tile.clone()]
}

/// The static part of tap `k`, zero where there is none.
#[inline(always)]
fn static_part<S: Simd>(s: S, w: Option<&[f32]>, d: usize, k: usize, tile: &Range<usize>, i: usize) -> S::f32s {
    w.map_or(s.splat_f32s(0.0), |w| load(s, static_row(w, d, k, tile), i))
}

/// The same taps for every token.
pub(super) struct StaticTaps<'a> {
    pub(super) w: &'a [f32],
    pub(super) d: usize,
    pub(super) tile: Range<usize>,
}

impl Taps for StaticTaps<'_> {
    #[inline(always)]
    fn taps<S: Simd, const N: usize>(&self, s: S, _token: usize, k: usize, i: usize) -> [S::f32s; N] {
        [load(s, static_row(self.w, self.d, k, &self.tile), i); N]
    }
}

/// Head-wise taps, read in place. The head size is a multiple of the vector length: a vector lies within a head.
pub(super) struct HeadTaps<'a> {
    pub(super) weight: Rows<'a>,
    pub(super) head_size: usize,
    pub(super) static_w: Option<&'a [f32]>,
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) tile: Range<usize>,
}

impl Taps for HeadTaps<'_> {
    #[inline(always)]
    fn taps<S: Simd, const N: usize>(&self, s: S, token: usize, k: usize, i: usize) -> [S::f32s; N] {
        let head = (self.tile.start + i) / self.head_size;
        let column = head * self.width + k;
        let fixed = static_part(s, self.static_w, self.d, k, &self.tile, i);
        std::array::from_fn(|n| {
            let weight = self.weight.data[(token + n) * self.weight.stride + column];
            s.add_f32s(s.splat_f32s(weight), fixed)
        })
    }
}

/// Low-rank taps z U, computed in registers from packed operands.
pub(super) struct LowRankTaps<'a> {
    /// z of the task's tokens, `[R, N]` for each group of N tokens.
    pub(super) z: &'a [f32],
    /// U by groups of channels: `[D / 16, W, R, 16]`.
    pub(super) u: &'a [f32],
    pub(super) rank: usize,
    pub(super) static_w: Option<&'a [f32]>,
    pub(super) d: usize,
    pub(super) width: usize,
    /// The first token of `z`.
    pub(super) first: usize,
    /// Starts at a multiple of 16.
    pub(super) tile: Range<usize>,
}

impl Taps for LowRankTaps<'_> {
    #[inline(always)]
    fn taps<S: Simd, const N: usize>(&self, s: S, token: usize, k: usize, i: usize) -> [S::f32s; N] {
        let (group, lane) = ((self.tile.start + i) / LANES, i % LANES);
        let z = &self.z[(token - self.first) * self.rank..][..self.rank * N];
        let u = &self.u[(group * self.width + k) * self.rank * LANES..][..self.rank * LANES];
        let mut sum = [static_part(s, self.static_w, self.d, k, &self.tile, i); N];
        for (z, u) in z.as_chunks::<N>().0.iter().zip(u.as_chunks::<LANES>().0) {
            let u = load(s, u, lane);
            for n in 0..N {
                sum[n] = add_mul(s, sum[n], s.splat_f32s(z[n]), u);
            }
        }
        sum
    }
}

/// Low-rank taps z U from the operands as they are: for a few tokens packing costs more than it saves.
pub(super) struct UnpackedTaps<'a> {
    pub(super) z: Rows<'a>,
    /// `[R, W * D]`.
    pub(super) u: &'a [f32],
    pub(super) rank: usize,
    pub(super) static_w: Option<&'a [f32]>,
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) tile: Range<usize>,
}

impl Taps for UnpackedTaps<'_> {
    #[inline(always)]
    fn taps<S: Simd, const N: usize>(&self, s: S, token: usize, k: usize, i: usize) -> [S::f32s; N] {
        let mut sum = [static_part(s, self.static_w, self.d, k, &self.tile, i); N];
        for r in 0..self.rank {
            let u = load(s, static_row(self.u, self.d, r * self.width + k, &self.tile), i);
            for n in 0..N {
                let z = self.z.data[(token + n) * self.z.stride + r];
                sum[n] = add_mul(s, sum[n], s.splat_f32s(z), u);
            }
        }
        sum
    }
}
