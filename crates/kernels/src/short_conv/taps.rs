//! The taps of a token in registers, from each kind of filter.

use std::ops::Range;

use pulp::{Arch, Simd};

use super::args::Rows;
use super::lanes::load_set;

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
    /// Sets of vectors that lie in one head are worked on together.
    const IN_HEADS: bool = false;

    /// Called before the taps of a block are used.
    fn prepare(&mut self, _arch: Arch, _block: &Block) {}

    /// How many vectors of `lanes` channels are worked on together: 1, 2 (in heads) or 4.
    #[inline(always)]
    fn vectors(&self, _lanes: usize) -> usize {
        4
    }

    /// What tap `k` of all tokens has in common, at channels `i..` of the tile: whole vectors where `FULL`.
    fn fixed<S: Simd, const V: usize, const FULL: bool>(&self, s: S, k: usize, i: usize) -> [S::f32s; V];

    /// Tap `k` of a token, from its fixed part.
    fn tap<S: Simd, const V: usize>(&self, s: S, fixed: [S::f32s; V], token: usize, k: usize, i: usize)
    -> [S::f32s; V];
}

/// A `[W, D]` filter in a tile: the same taps for every token.
pub(super) struct StaticTaps<'a> {
    pub(super) w: &'a [f32],
    pub(super) d: usize,
    pub(super) tile: Range<usize>,
}

impl<'a> StaticTaps<'a> {
    /// The static part of a dynamic filter.
    pub(super) fn part(w: Option<&'a [f32]>, d: usize, tile: &Range<usize>) -> Option<Self> {
        w.map(|w| Self { w, d, tile: tile.clone() })
    }

    /// Tap `k` of the tile.
    #[inline(always)]
    pub(super) fn row(&self, k: usize) -> &[f32] {
        &self.w[k * self.d..][self.tile.clone()]
    }
}

impl Taps for StaticTaps<'_> {
    #[inline(always)]
    fn fixed<S: Simd, const V: usize, const FULL: bool>(&self, s: S, k: usize, i: usize) -> [S::f32s; V] {
        load_set::<S, V, FULL>(s, self.row(k), i)
    }

    #[inline(always)]
    fn tap<S: Simd, const V: usize>(
        &self,
        _s: S,
        fixed: [S::f32s; V],
        _token: usize,
        _k: usize,
        _i: usize,
    ) -> [S::f32s; V] {
        fixed
    }
}

/// Head-wise taps, read in place. The head size is a multiple of 16, so that a vector lies within a head.
pub(super) struct HeadTaps<'a> {
    pub(super) weight: Rows<'a>,
    pub(super) head_size: usize,
    pub(super) fixed: Option<StaticTaps<'a>>,
    pub(super) width: usize,
    /// The tile's first channel.
    pub(super) start: usize,
}

impl Taps for HeadTaps<'_> {
    const IN_HEADS: bool = true;

    #[inline(always)]
    fn vectors(&self, lanes: usize) -> usize {
        match self.head_size / lanes {
            count if count % 4 == 0 => 4,
            count if count % 2 == 0 => 2,
            _ => 1,
        }
    }

    #[inline(always)]
    fn fixed<S: Simd, const V: usize, const FULL: bool>(&self, s: S, k: usize, i: usize) -> [S::f32s; V] {
        match &self.fixed {
            Some(fixed) => fixed.fixed::<S, V, FULL>(s, k, i),
            None => [s.splat_f32s(0.0); V],
        }
    }

    #[inline(always)]
    fn tap<S: Simd, const V: usize>(
        &self,
        s: S,
        fixed: [S::f32s; V],
        token: usize,
        k: usize,
        i: usize,
    ) -> [S::f32s; V] {
        let head = (self.start + i) / self.head_size;
        let dynamic = s.splat_f32s(self.weight.data[token * self.weight.stride + head * self.width + k]);
        let mut tap = [dynamic; V];
        if self.fixed.is_some() {
            for v in 0..V {
                tap[v] = s.add_f32s(dynamic, fixed[v]);
            }
        }
        tap
    }
}
