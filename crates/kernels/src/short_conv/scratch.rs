//! Taps of a block of tokens and a tile of channels kept in a buffer: for head sizes that no vector fits, and for the
//! low-rank backward, which uses each tap more than once.

use std::ops::Range;

use pulp::Simd;

use super::args::Rows;
use super::lanes::{LANES, load, store};
use super::plan::{BLOCK, GROUP};
use super::taps::{Block, LowRankTaps, Taps};

/// Rows of a buffer: a block and the tokens after it, in whole groups.
pub(super) const ROWS: usize = BLOCK + GROUP;

/// Taps by groups of channels: `[tile / 16, W, ROWS, 16]`.
struct Scratch {
    data: Vec<f32>,
    width: usize,
    /// The token of row 0.
    first: usize,
}

impl Scratch {
    fn new(channels: usize, width: usize) -> Self {
        Self { data: vec![0.0; channels.div_ceil(LANES) * width * ROWS * LANES], width, first: 0 }
    }

    #[inline(always)]
    fn index(&self, token: usize, k: usize, i: usize) -> usize {
        ((i / LANES * self.width + k) * ROWS + token - self.first) * LANES + i % LANES
    }

    /// Makes the block's first token row 0, and moves the rows of the tokens after it, which were the first ones of
    /// the block before, to their places.
    #[inline(always)]
    fn advance(&mut self, block: &Block) {
        if !block.newest {
            for rows in self.data.chunks_exact_mut(ROWS * LANES) {
                rows.copy_within(0..block.after * LANES, block.tokens.len() * LANES);
            }
        }
        self.first = block.tokens.start;
    }

    /// Tap `k` of `N` tokens at channels `i..` of the tile.
    #[inline(always)]
    fn taps<S: Simd, const N: usize>(&self, s: S, token: usize, k: usize, i: usize) -> [S::f32s; N] {
        let rows = &self.data[self.index(token, k, i)..][..(N - 1) * LANES + S::F32_LANES];
        std::array::from_fn(|n| load(s, &rows[n * LANES..][..S::F32_LANES], 0))
    }
}

/// Head-wise taps spread over their channels.
pub(super) struct SpreadTaps<'a> {
    scratch: Scratch,
    weight: Rows<'a>,
    head_size: usize,
    static_w: Option<&'a [f32]>,
    d: usize,
    /// Starts and ends between heads.
    tile: Range<usize>,
}

impl<'a> SpreadTaps<'a> {
    pub(super) fn new(
        weight: Rows<'a>,
        head_size: usize,
        static_w: Option<&'a [f32]>,
        d: usize,
        width: usize,
        tile: Range<usize>,
    ) -> Self {
        Self { scratch: Scratch::new(tile.len(), width), weight, head_size, static_w, d, tile }
    }
}

impl Taps for SpreadTaps<'_> {
    #[inline(always)]
    fn prepare<S: Simd>(&mut self, _s: S, block: &Block) {
        self.scratch.advance(block);
        let (width, size) = (self.scratch.width, self.head_size);
        let columns = self.tile.start / size * width..self.tile.end / size * width;
        for token in block.fresh() {
            let weight = self.weight.row(token, columns.clone());
            for (head, weight) in weight.chunks_exact(width).enumerate() {
                for (k, &weight) in weight.iter().enumerate() {
                    for i in head * size..(head + 1) * size {
                        let fixed = self.static_w.map_or(0.0, |w| w[k * self.d + self.tile.start + i]);
                        let at = self.scratch.index(token, k, i);
                        self.scratch.data[at] = weight + fixed;
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn taps<S: Simd, const N: usize>(&self, s: S, token: usize, k: usize, i: usize) -> [S::f32s; N] {
        self.scratch.taps(s, token, k, i)
    }
}

/// Low-rank taps, computed once per token.
pub(super) struct KeptTaps<'a> {
    scratch: Scratch,
    taps: LowRankTaps<'a>,
    /// The end of the tokens whose z is packed: a whole group after the task is as cheap as one token.
    end: usize,
}

impl<'a> KeptTaps<'a> {
    pub(super) fn new(taps: LowRankTaps<'a>, end: usize) -> Self {
        Self { scratch: Scratch::new(taps.tile.len(), taps.width), taps, end }
    }

    #[inline(always)]
    fn compute<S: Simd, const N: usize>(&mut self, s: S, token: usize) {
        for i in (0..self.taps.tile.len()).step_by(S::F32_LANES) {
            for k in 0..self.taps.width {
                let at = self.scratch.index(token, k, i);
                let taps = self.taps.taps::<S, N>(s, token, k, i);
                for n in 0..N {
                    store(s, &mut self.scratch.data[at + n * LANES..][..S::F32_LANES], 0, taps[n]);
                }
            }
        }
    }
}

impl Taps for KeptTaps<'_> {
    #[inline(always)]
    fn prepare<S: Simd>(&mut self, s: S, block: &Block) {
        self.scratch.advance(block);
        let fresh = block.fresh();
        let end = if fresh.end > block.tokens.end { self.end } else { fresh.end };
        let mut token = fresh.start;
        while token + GROUP <= end {
            self.compute::<S, GROUP>(s, token);
            token += GROUP;
        }
        while token < end {
            self.compute::<S, 1>(s, token);
            token += 1;
        }
    }

    #[inline(always)]
    fn taps<S: Simd, const N: usize>(&self, s: S, token: usize, k: usize, i: usize) -> [S::f32s; N] {
        self.scratch.taps(s, token, k, i)
    }
}
