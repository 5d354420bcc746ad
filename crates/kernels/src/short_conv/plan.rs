//! What every task reads: the tokens, where each stands in its sequence, and the rows before it.

use std::ops::Range;

use pulp::WithSimd;
use rayon::prelude::*;

use super::MAX_WIDTH;
use super::args::{Filter, Input, Options, Rows, RowsMut, Shape};

/// Tokens whose sums are kept in registers together.
pub(super) const GROUP: usize = 8;
/// Tokens of a block: its rows in a tile stay in the second-level cache.
pub(super) const BLOCK: usize = 32;
/// Channels of a tile.
pub(super) const TILE: usize = 512;
/// Channels of a tile with taps in a buffer or packed operands.
pub(super) const PACKED_TILE: usize = 64;

/// Where a token stands in its sequence.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) sequence: usize,
    /// Tokens of the sequence before this one.
    pub(super) before: usize,
    /// Tokens of the sequence from this one on, itself included.
    pub(super) left: usize,
}

/// The checked arguments of one call. Tokens are numbered through the batch.
pub(super) struct Plan<'a> {
    pub(super) tokens: usize,
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) options: Options,
    pub(super) x: Rows<'a>,
    pub(super) filter: Filter<'a>,
    /// Sequence s is the tokens `bounds[s]..bounds[s + 1]`.
    pub(super) bounds: Vec<usize>,
    pub(super) places: Vec<Place>,
    initial_state: Option<&'a [f32]>,
    zeros: Vec<f32>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(shape: Shape, options: Options, input: &Input<'a>) -> Self {
        let bounds = match input.cu_seqlens {
            Some(bounds) => bounds.to_vec(),
            None => (0..=shape.batch).map(|b| b * shape.len).collect(),
        };
        let mut places = Vec::with_capacity(shape.batch * shape.len);
        for (sequence, bound) in bounds.windows(2).enumerate() {
            let len = bound[1] - bound[0];
            places.extend((0..len).map(|before| Place { sequence, before, left: len - before }));
        }
        Self {
            tokens: shape.batch * shape.len,
            d: shape.d,
            width: shape.width,
            options,
            x: input.x,
            filter: input.filter,
            bounds,
            places,
            initial_state: input.initial_state,
            zeros: vec![0.0; shape.d],
        }
    }

    /// x[token - k], from the initial state (or zero) before the sequence's first token.
    #[inline(always)]
    pub(super) fn x_before(&self, token: usize, k: usize, channels: Range<usize>) -> &[f32] {
        let place = self.places[token];
        if k <= place.before {
            return self.x.row(token - k, channels);
        }
        self.state_row(place.sequence, self.width - 1 + place.before - k, channels)
    }

    /// The rows x[token + i - k] of `N` tokens and every tap k.
    #[inline(always)]
    pub(super) fn x_rows<const N: usize>(&self, token: usize, channels: &Range<usize>) -> [[&[f32]; MAX_WIDTH]; N] {
        let mut rows = [[&[][..]; MAX_WIDTH]; N];
        for (i, rows) in rows.iter_mut().enumerate() {
            for (k, row) in rows[..self.width].iter_mut().enumerate() {
                *row = self.x_before(token + i, k, channels.clone());
            }
        }
        rows
    }

    /// Row `j` of the initial state of a sequence: its input at position j - (W - 1).
    #[inline(always)]
    fn state_row(&self, sequence: usize, j: usize, channels: Range<usize>) -> &[f32] {
        match self.initial_state {
            Some(state) => &state[(sequence * (self.width - 1) + j) * self.d..][channels],
            None => &self.zeros[channels],
        }
    }

    /// Writes the last W - 1 inputs of every sequence.
    pub(super) fn final_state(&self, state: &mut [f32]) {
        if state.is_empty() {
            return;
        }
        for (sequence, state) in state.chunks_exact_mut((self.width - 1) * self.d).enumerate() {
            let (start, end) = (self.bounds[sequence], self.bounds[sequence + 1]);
            for (j, row) in state.chunks_exact_mut(self.d).enumerate() {
                // The row's position, counted from W - 1 before the sequence's first token.
                let position = end - start + j;
                row.copy_from_slice(match position.checked_sub(self.width - 1) {
                    Some(offset) => self.x.row(start + offset, 0..self.d),
                    None => self.state_row(sequence, position, 0..self.d),
                });
            }
        }
    }

    /// Ranges of channels worked on together: about `aim` channels, a multiple of `unit`.
    pub(super) fn tiles(&self, aim: usize, unit: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (d, step) = (self.d, unit * (aim / unit).max(1));
        (0..d).step_by(step).map(move |start| start..(start + step).min(d))
    }

    /// Tokens of a task: a multiple of 64, at most about `most` tasks. Never a matter of the number of threads.
    pub(super) fn task_tokens(&self, most: usize) -> usize {
        const UNIT: usize = 64;
        self.tokens.div_ceil(most).div_ceil(UNIT).max(1) * UNIT
    }

    /// The rows of each task's tokens, `columns` wide.
    pub(super) fn split<'o>(&self, rows: RowsMut<'o>, columns: usize, task_tokens: usize) -> Vec<RowsMut<'o>> {
        // The stride of a single row means nothing and may be huge.
        let stride = if self.tokens == 1 { columns } else { rows.stride };
        let data = &mut rows.data[..(self.tokens - 1) * stride + columns];
        let step = task_tokens.min(self.tokens) * stride;
        data.chunks_mut(step).map(|data| RowsMut { data, stride }).collect()
    }
}

/// Runs the tasks of one call, each compiled for the machine's widest vectors.
pub(super) fn run<T: WithSimd + Send>(mut tasks: Vec<T>) {
    // One task is run here: handing it to the pool costs more than a small one takes.
    if tasks.len() == 1 {
        tasks.drain(..).for_each(|task| drop(pulp::Arch::new().dispatch(task)));
    } else {
        tasks.into_par_iter().for_each(|task| drop(pulp::Arch::new().dispatch(task)));
    }
}
