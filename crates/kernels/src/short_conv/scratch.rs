//! Taps of a block of tokens and a tile of channels kept in a buffer: head-wise ones where no vector fits a head, and
//! low-rank ones.

use std::ops::Range;

use pulp::{Arch, Simd};

use super::args::Rows;
use super::lanes::{LANES, load_set};
use super::low_rank::{GroupedZ, PackedU, TapProduct};
use super::plan::{BLOCK, GROUP, dispatch};
use super::taps::{Block, StaticTaps, Taps};

/// Rows of a buffer: a block and the tokens after it, in whole groups.
pub(super) const ROWS: usize = BLOCK + GROUP;

/// The taps of a block.
pub(super) struct Scratch<'a> {
    /// `[ROWS, W, channels]`, channels rounded up to 16.
    data: Vec<f32>,
    width: usize,
    channels: usize,
    tile: Range<usize>,
    /// The token of row 0.
    first: usize,
    source: Source<'a>,
}

/// Where the taps of a block come from.
pub(super) enum Source<'a> {
    /// Head-wise taps, spread over their channels. The tile starts and ends between heads.
    Heads { weight: Rows<'a>, head_size: usize, fixed: Option<StaticTaps<'a>> },
    /// Low-rank taps.
    LowRank { z: &'a GroupedZ<'a>, u: PackedU, fixed: Option<StaticTaps<'a>> },
}

impl<'a> Scratch<'a> {
    pub(super) fn new(width: usize, tile: Range<usize>, source: Source<'a>) -> Self {
        let channels = tile.len().next_multiple_of(LANES);
        Self { data: vec![0.0; ROWS * width * channels], width, channels, tile, first: 0, source }
    }
}

impl Taps for Scratch<'_> {
    /// Makes the block's first token row 0, moves the rows of the tokens after the block, which were the first ones of
    /// the block before, to their places, and computes the others.
    fn prepare(&mut self, arch: Arch, block: &Block) {
        let row = self.width * self.channels;
        if !block.newest {
            self.data.copy_within(0..block.after * row, block.tokens.len() * row);
        }
        self.first = block.tokens.start;
        let fresh = block.fresh();
        match &self.source {
            Source::Heads { weight, head_size, fixed } => {
                let heads = self.tile.start / head_size * self.width..self.tile.end / head_size * self.width;
                for (token, out) in fresh.zip(self.data.chunks_exact_mut(row)) {
                    spread(out, weight.row(token, heads.clone()), self.width, self.channels, *head_size);
                    for (k, out) in out.chunks_exact_mut(self.channels).enumerate() {
                        if let Some(fixed) = fixed {
                            out.iter_mut().zip(fixed.row(k)).for_each(|(out, w)| *out += w);
                        }
                    }
                }
            }
            Source::LowRank { z, u, fixed } => {
                let fixed = fixed.as_ref();
                let (data, channels) = (&mut self.data[..], self.tile.len());
                dispatch(arch, TapProduct { z, u, fixed, data, row, channels, tokens: z.in_groups(fresh) });
            }
        }
    }

    #[inline(always)]
    fn fixed<S: Simd, const V: usize, const FULL: bool>(&self, s: S, _k: usize, _i: usize) -> [S::f32s; V] {
        [s.splat_f32s(0.0); V]
    }

    #[inline(always)]
    fn tap<S: Simd, const V: usize>(
        &self,
        s: S,
        _fixed: [S::f32s; V],
        token: usize,
        k: usize,
        i: usize,
    ) -> [S::f32s; V] {
        load_set::<S, V, true>(s, &self.data, ((token - self.first) * self.width + k) * self.channels + i)
    }
}

/// Spreads a token's `weight`, `[heads, W]`, to `out`, `[W, channels]`: each head's tap `size` times.
fn spread(out: &mut [f32], weight: &[f32], width: usize, channels: usize, size: usize) {
    fn fixed<const SIZE: usize>(out: &mut [f32], weight: &[f32], width: usize, channels: usize) {
        for (head, taps) in weight.chunks_exact(width).enumerate() {
            for (k, &tap) in taps.iter().enumerate() {
                out[k * channels + head * SIZE..][..SIZE].copy_from_slice(&[tap; SIZE]);
            }
        }
    }
    match size {
        1 => fixed::<1>(out, weight, width, channels),
        2 => fixed::<2>(out, weight, width, channels),
        4 => fixed::<4>(out, weight, width, channels),
        8 => fixed::<8>(out, weight, width, channels),
        _ => {
            for (head, taps) in weight.chunks_exact(width).enumerate() {
                for (k, &tap) in taps.iter().enumerate() {
                    out[k * channels + head * size..][..size].fill(tap);
                }
            }
        }
    }
}
