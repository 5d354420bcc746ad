//! What every task reads: the tokens, where each stands in its sequence, and the rows before it.

use std::ops::Range;

use pulp::{Arch, WithSimd};
use rayon::prelude::*;

use super::MAX_WIDTH;
use super::args::{Filter, Input, Options, Rows, RowsMut, Shape};
use crate::Sequences;

/// Tokens whose products with U are kept in registers together, and whose rows stay in the first-level cache, where
/// the rows of more would displace each other.
pub(super) const GROUP: usize = 8;
/// Tokens of a block, a multiple of [`GROUP`]: what is kept of a block in a tile stays near the core.
pub(super) const BLOCK: usize = 16;
/// Channels of a tile: whole rows, or pieces of them long enough to be fetched ahead.
pub(super) const TILE: usize = 1024;
/// Channels of a tile with a low-rank filter: U and dU of a tile stay near the core too. A multiple of 16.
pub(super) const LOW_RANK_TILE: usize = 64;
/// Taps of the width whose loops are unrolled: the paper's.
pub(super) const UNROLLED: usize = 4;

/// Rows of one tile for up to a block of tokens and every tap.
pub(super) type Window<'a> = [&'a [f32]; BLOCK + MAX_WIDTH - 1];

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
    /// The machine's widest vectors.
    pub(super) arch: Arch,
    pub(super) seqs: Sequences<'a>,
    pub(super) tokens: usize,
    pub(super) d: usize,
    pub(super) width: usize,
    pub(super) options: Options,
    pub(super) x: Rows<'a>,
    pub(super) filter: Filter<'a>,
    pub(super) places: Vec<Place>,
    initial_state: Option<&'a [f32]>,
    zeros: Vec<f32>,
}

impl<'a> Plan<'a> {
    pub(super) fn new(shape: Shape<'a>, options: Options, input: &Input<'a>) -> Self {
        let mut places = Vec::with_capacity(shape.seqs.rows());
        for (sequence, span) in shape.seqs.spans().enumerate() {
            let len = span.len();
            places.extend((0..len).map(|before| Place { sequence, before, left: len - before }));
        }
        Self {
            arch: Arch::new(),
            seqs: shape.seqs,
            tokens: shape.seqs.rows(),
            d: shape.d,
            width: shape.width,
            options,
            x: input.x,
            filter: input.filter,
            places,
            initial_state: input.initial_state,
            zeros: vec![0.0; shape.d],
        }
    }

    /// The rows x[token - (W - 1)], ..., x[token + count - 1] in a tile, for `count` tokens of one sequence: what
    /// comes before the sequence's first token is read from the initial state, or is zero.
    pub(super) fn x_window<'w>(
        &'w self,
        token: usize,
        count: usize,
        tile: &Range<usize>,
        window: &'w mut Window<'w>,
    ) -> &'w [&'w [f32]] {
        let Place { sequence, before, .. } = self.places[token];
        let window = &mut window[..count + self.width - 1];
        for (j, row) in window.iter_mut().enumerate() {
            *row = match (before + j).checked_sub(self.width - 1) {
                Some(offset) => self.x.row(token - before + offset, tile.clone()),
                None => self.state_row(sequence, before + j, tile.clone()),
            };
        }
        window
    }

    /// How many of the `tokens` are worked on together: those of the first one's sequence, at most a group, or a block
    /// where tiles are narrow.
    pub(super) fn together(&self, tokens: &Range<usize>) -> usize {
        let most = if self.filter.rank() > 0 { BLOCK } else { GROUP };
        most.min(tokens.len()).min(self.places[tokens.start].left)
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
            let Range { start, end } = self.seqs.span(sequence);
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

/// Runs `op` compiled for `arch`: a function of its own, where the caller is not.
#[inline(never)]
pub(super) fn dispatch<T: WithSimd>(arch: Arch, op: T) -> T::Output {
    arch.dispatch(op)
}

/// Runs the tasks of one call.
pub(super) fn run<T: Send>(mut tasks: Vec<T>, task: impl Fn(T) + Sync + Send) {
    // One task is run here: handing it to the pool costs more than a small one takes.
    if tasks.len() == 1 {
        tasks.drain(..).for_each(task);
    } else {
        tasks.into_par_iter().for_each(task);
    }
}

/// `out` = the sum of the parts of its length that follow each other in `parts`, added in order.
pub(super) fn sum_parts(parts: &[f32], out: &mut [f32]) {
    const STEP: usize = 4096;
    let len = out.len();
    out.par_chunks_mut(STEP).enumerate().for_each(|(i, out)| {
        let columns = i * STEP..i * STEP + out.len();
        let mut parts = parts.chunks_exact(len).map(|part| &part[columns.clone()]);
        out.copy_from_slice(parts.next().expect("one part per task"));
        parts.for_each(|part| out.iter_mut().zip(part).for_each(|(out, part)| *out += part));
    });
}
