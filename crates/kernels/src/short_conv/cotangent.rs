//! g = dy act'(conv(x)): what all gradients start from.

use std::ops::Range;

use super::args::Rows;
use super::plan::{BLOCK, Plan, Window, dispatch};
use super::silu::SiluGrad;
use super::sums::{BEFORE, TapSums};
use super::taps::{Block, Taps};

/// g of a range of tokens in a tile: columns of dy, or of a buffer.
pub(super) struct Cotangent<'a> {
    pub(super) rows: Rows<'a>,
    /// The token of row 0.
    pub(super) first: usize,
    pub(super) columns: Range<usize>,
}

impl<'a> Cotangent<'a> {
    /// g of a block and the tokens after it, with the activation; `buffer` holds its rows from block to block.
    pub(super) fn through_silu(
        plan: &Plan,
        dy: Rows,
        taps: &impl Taps,
        block: &Block,
        tile: &Range<usize>,
        buffer: &'a mut [f32],
    ) -> Self {
        let len = tile.len();
        if !block.newest {
            buffer.copy_within(0..block.after * len, block.tokens.len() * len);
        }
        let mut left = block.fresh();
        let mut rows = buffer.chunks_exact_mut(len);
        while !left.is_empty() {
            let (token, count) = (left.start, plan.together(&left));
            let mut g: [&mut [f32]; BLOCK] = Default::default();
            g[..count].iter_mut().zip(&mut rows).for_each(|(g, row)| *g = row);
            let g = &mut g[..count];
            let mut window = Window::default();
            let window = plan.x_window(token, count, tile, &mut window);
            let ks = 0..plan.width;
            dispatch(plan.arch, TapSums::<_, BEFORE> { taps, token, ks, window, extra: None, out: g });
            for (i, row) in g.iter_mut().enumerate() {
                let dy = dy.row(token + i, tile.clone());
                dispatch(plan.arch, SiluGrad { row, dy });
            }
            left.start += count;
        }
        Self { rows: Rows::packed(buffer, len), first: block.tokens.start, columns: 0..len }
    }

    pub(super) fn row(&self, token: usize) -> &[f32] {
        self.rows.row(token - self.first, self.columns.clone())
    }

    /// The rows of `count` tokens.
    pub(super) fn window<'w>(&'w self, token: usize, count: usize, window: &'w mut Window<'w>) -> &'w [&'w [f32]] {
        window[..count].iter_mut().enumerate().for_each(|(n, row)| *row = self.row(token + n));
        &window[..count]
    }
}
