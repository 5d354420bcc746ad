//! The state space recurrence of Mamba-2 (Dao and Gu, 2024), chunked by its duality with attention.
//!
//! Per head, with a state S `[state_size, head_size]` that starts at 0 or is given:
//! ```text
//! S <- e^(A dt) S + dt b x^T;  y = c^T S + d x;  dt = softplus(dt + dt_bias);  A = -e^a_log
//! ```
//! x and y `[rows, heads, head_size]`; b and c `[rows, groups, state_size]`, each serving `heads / groups` consecutive
//! heads; dt `[rows, heads]`; a_log, dt_bias and d `[heads]`; states `[sequences, heads, state_size, head_size]`.
//!
//! Chunks of 64 tokens run one after the other. With G the running sum of A dt in the chunk,
//! `y = e^G c S + tril(c b^T e^(G[t] - G[s])) (dt x) + d x` and `S <- e^G[last] S + b^T (e^(G[last] - G) dt x)`. Products
//! with the state take the heads of a group side by side, up to 512 columns: a tile, which with its sequence is what threads
//! share. The forward keeps S at the chunks' starts; the backward recomputes the rest and adds the tiles' shares of db and
//! dc in order. Per token, head and column, with S the state's size and C = 64: 4 S + 2 C FLOP forward, 10 S + 4 C backward.

mod backward;
mod forward;
mod step;
#[cfg(test)]
mod tests;

use std::ops::Range;

pub use backward::{Grads, backward};
pub use forward::forward;
pub use step::step;

use crate::decay::{CHUNK, Decay, first_chunks, log_decay, rate, softplus};
use crate::{Result, Sequences, check};

/// Most columns of a tile of several heads.
const TILE: usize = 512;

/// Dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape<'a> {
    /// The sequences; each has a state of its own.
    pub seqs: Sequences<'a>,
    /// Heads.
    pub heads: usize,
    /// Columns of a head.
    pub head_size: usize,
    /// Groups of heads that share b and c; must divide `heads`.
    pub groups: usize,
    /// Rows of a state.
    pub state_size: usize,
}

/// What the op reads.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// What is written to the state.
    pub x: &'a [f32],
    /// Where it is written.
    pub b: &'a [f32],
    /// Where it is read.
    pub c: &'a [f32],
    /// Step sizes before `dt_bias` and softplus.
    pub dt: &'a [f32],
    /// Log of each head's -A.
    pub a_log: &'a [f32],
    /// Added to dt.
    pub dt_bias: &'a [f32],
    /// What x is multiplied by past the state.
    pub d: &'a [f32],
    /// The states before the first tokens; 0 if none.
    pub initial_state: Option<&'a [f32]>,
}

impl Shape<'_> {
    /// Elements that the forward keeps for the backward.
    pub fn saved_len(&self) -> usize {
        first_chunks(self.seqs).1 * self.state_size * self.width()
    }

    /// Elements of the states of all sequences.
    pub fn state_len(&self) -> usize {
        self.seqs.count() * self.state_size * self.width()
    }

    /// Columns of x.
    fn width(&self) -> usize {
        self.heads * self.head_size
    }

    fn check(&self, op: &'static str, input: &Input) -> Result<()> {
        self.seqs.check(op)?;
        let sizes = [("heads", self.heads), ("head_size", self.head_size), ("state_size", self.state_size)];
        for (name, value) in sizes {
            check::positive(op, name, value)?;
        }
        let remedy = "give each group the same number of heads";
        check::divides(op, ("heads", self.heads), ("groups", self.groups), remedy)?;
        self.check_x(op, &[("x", input.x.len())])?;
        self.check_bc(op, &[("b", input.b.len()), ("c", input.c.len())])?;
        self.check_dt(op, &[("dt", input.dt.len())])?;
        self.check_heads(op, &[("a_log", input.a_log.len()), ("dt_bias", input.dt_bias.len()), ("d", input.d.len())])?;
        self.check_state(op, "initial_state", input.initial_state.map(<[f32]>::len))
    }

    fn check_x(&self, op: &'static str, found: &[(&'static str, usize)]) -> Result<()> {
        let dims = [("rows", self.seqs.rows()), ("heads", self.heads), ("head_size", self.head_size)];
        check::sizes(op, found, &dims)
    }

    fn check_bc(&self, op: &'static str, found: &[(&'static str, usize)]) -> Result<()> {
        let dims = [("rows", self.seqs.rows()), ("groups", self.groups), ("state_size", self.state_size)];
        check::sizes(op, found, &dims)
    }

    fn check_dt(&self, op: &'static str, found: &[(&'static str, usize)]) -> Result<()> {
        check::sizes(op, found, &[("rows", self.seqs.rows()), ("heads", self.heads)])
    }

    fn check_heads(&self, op: &'static str, found: &[(&'static str, usize)]) -> Result<()> {
        check::sizes(op, found, &[("heads", self.heads)])
    }

    fn check_state(&self, op: &'static str, name: &'static str, found: Option<usize>) -> Result<()> {
        let sizes = [("state_size", self.state_size), ("head_size", self.head_size)];
        let dims = [("sequences", self.seqs.count()), ("heads", self.heads), sizes[0], sizes[1]];
        found.map_or(Ok(()), |len| check::size(op, name, len, &dims))
    }

    fn check_saved(&self, op: &'static str, saved: usize) -> Result<()> {
        check::size(op, "saved", saved, &[("saved_len", self.saved_len())])
    }

    /// Tiles of a group.
    fn tiles(&self) -> usize {
        let heads = self.heads / self.groups;
        heads.div_ceil(self.tile_heads())
    }

    /// Heads of a tile, the last of a group apart.
    fn tile_heads(&self) -> usize {
        (TILE / self.head_size).clamp(1, self.heads / self.groups)
    }

    /// The work of each thread at a time: sequence after sequence, group after group, tile after tile.
    fn tasks(&self) -> Vec<Task> {
        let (firsts, _) = first_chunks(self.seqs);
        let in_group = self.heads / self.groups;
        let mut tasks = Vec::with_capacity(self.seqs.count() * self.groups * self.tiles());
        for (seq, rows) in self.seqs.spans().enumerate() {
            for group in 0..self.groups {
                for tile in 0..self.tiles() {
                    let first = tile * self.tile_heads();
                    let heads = group * in_group + first..group * in_group + in_group.min(first + self.tile_heads());
                    tasks.push(Task { seq, rows: rows.clone(), group, tile, heads, first_chunk: firsts[seq] });
                }
            }
        }
        tasks
    }
}

/// A tile of one sequence.
struct Task {
    seq: usize,
    rows: Range<usize>,
    group: usize,
    /// Its number in the group.
    tile: usize,
    heads: Range<usize>,
    first_chunk: usize,
}

impl Task {
    /// Columns of the tile.
    fn cols(&self, s: &Shape) -> usize {
        self.heads.len() * s.head_size
    }

    /// Where the state `[state_size, cols]` before a chunk lies in the kept memory.
    fn saved(&self, s: &Shape, chunk: usize) -> Range<usize> {
        let start = ((self.first_chunk + chunk) * s.width() + self.heads.start * s.head_size) * s.state_size;
        start..start + s.state_size * self.cols(s)
    }

    /// Where rows of the tile's states lie among the sequences' states: (there, in the tile's), each `head_size` long.
    fn state_rows(&self, s: &Shape) -> impl Iterator<Item = (usize, usize)> {
        let (seq, heads, cols) = (self.seq * s.heads, self.heads.clone(), self.cols(s));
        let (state, size) = (s.state_size, s.head_size);
        heads.clone().flat_map(move |head| {
            (0..state).map(move |n| (((seq + head) * state + n) * size, n * cols + (head - heads.start) * size))
        })
    }

    /// dt of each head and token from `row` on, `[heads, CHUNK]`, and the decays of each head.
    fn gates(&self, s: &Shape, input: &Input, row: usize, n: usize, dt: &mut [f32], decays: &mut Vec<Decay>) {
        decays.clear();
        for (head, dt) in self.heads.clone().zip(dt.chunks_exact_mut(CHUNK)) {
            for (t, dt) in dt[..n].iter_mut().enumerate() {
                *dt = softplus(input.dt[(row + t) * s.heads + head] + input.dt_bias[head]);
            }
            let rate = rate(input.a_log[head]);
            decays.push(Decay::new(n, |t| log_decay(rate, dt[t])));
        }
    }
}
