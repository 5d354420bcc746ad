//! The gated delta rule, the recurrence of Gated DeltaNet (Yang, Kautz and Hatamizadeh, 2024).
//!
//! Per head, with a state S `[key_size, value_size]` that starts at 0 or is given:
//! ```text
//! S <- e^g S;  v' = beta (v - k^T S);  S <- S + k v'^T;  o = q^T S / sqrt(key_size)
//! beta = sigmoid(b);  g = -e^a_log softplus(a + dt_bias);  q and k divided by sqrt(sum of squares + 1e-6)
//! ```
//! q and k `[rows, heads, key_size]`; v and o `[rows, heads, value_size]`; a and b `[rows, heads]`; a_log and dt_bias
//! `[heads]`; states `[sequences, heads, key_size, value_size]`.
//!
//! Chunks of 64 tokens run one after the other, pairs of sequence and head in parallel. In a chunk, G the running sum of g
//! and `A[t][s] = beta[t] (k[t].k[s]) e^(G[t] - G[s])` below the diagonal, the v' solve the triangular system
//! `(I + A) v' = beta (v - e^G k S)`, by substitution in blocks of 16; then
//! `o = e^G q S + tril(q k^T e^(G[t] - G[s])) v'` and `S <- e^G[last] S + (e^(G[last] - G) k)^T v'`. The forward keeps S at
//! the chunks' starts and v'; the backward recomputes the rest, chunk by chunk in reverse.
//! Per token and head, with K and V the sizes and C = 64: 6 K V + 4 C K + 3 C V FLOP forward, about 2.5 times that backward.

mod backward;
mod forward;
mod solve;
mod step;
#[cfg(test)]
mod tests;

pub use backward::{Grads, backward};
pub use forward::forward;
pub use step::step;

use crate::decay::{Decay, first_chunks, log_decay, rate, softplus};
use crate::simd::{dot, sigmoid, vectorized};
use crate::{Result, Sequences, check};

/// Added to a sum of squares before its root.
const NORM_EPS: f32 = 1e-6;

/// Dimensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape<'a> {
    /// The sequences; each has a state of its own.
    pub seqs: Sequences<'a>,
    /// Heads.
    pub heads: usize,
    /// Columns of a head's query and key.
    pub key_size: usize,
    /// Columns of a head's value.
    pub value_size: usize,
}

/// What the op reads.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Before `dt_bias` and softplus: how much is forgotten.
    pub a: &'a [f32],
    /// Before the sigmoid: how much is written.
    pub b: &'a [f32],
    /// Log of each head's rate of decay.
    pub a_log: &'a [f32],
    /// Added to a.
    pub dt_bias: &'a [f32],
    /// The states before the first tokens; 0 if none.
    pub initial_state: Option<&'a [f32]>,
}

impl Shape<'_> {
    /// Elements that the forward keeps for the backward.
    pub fn saved_len(&self) -> usize {
        let (_, chunks) = first_chunks(self.seqs);
        chunks * self.heads * self.head_state() + self.seqs.rows() * self.heads * self.value_size
    }

    /// Elements of the states of all sequences.
    pub fn state_len(&self) -> usize {
        self.seqs.count() * self.heads * self.head_state()
    }

    fn head_state(&self) -> usize {
        self.key_size * self.value_size
    }

    fn check(&self, op: &'static str, input: &Input) -> Result<()> {
        self.seqs.check(op)?;
        for (name, value) in [("heads", self.heads), ("key_size", self.key_size), ("value_size", self.value_size)] {
            check::positive(op, name, value)?;
        }
        self.check_rows(op, "key_size", self.key_size, &[("q", input.q.len()), ("k", input.k.len())])?;
        self.check_rows(op, "value_size", self.value_size, &[("v", input.v.len())])?;
        self.check_rows(op, "1", 1, &[("a", input.a.len()), ("b", input.b.len())])?;
        self.check_heads(op, &[("a_log", input.a_log.len()), ("dt_bias", input.dt_bias.len())])?;
        self.check_state(op, "initial_state", input.initial_state.map(<[f32]>::len))
    }

    fn check_rows(&self, op: &'static str, dim: &str, size: usize, found: &[(&'static str, usize)]) -> Result<()> {
        let dims = [("rows", self.seqs.rows()), ("heads", self.heads), (dim, size)];
        check::sizes(op, found, &dims)
    }

    fn check_heads(&self, op: &'static str, found: &[(&'static str, usize)]) -> Result<()> {
        check::sizes(op, found, &[("heads", self.heads)])
    }

    fn check_state(&self, op: &'static str, name: &'static str, found: Option<usize>) -> Result<()> {
        let sizes = [("key_size", self.key_size), ("value_size", self.value_size)];
        let dims = [("sequences", self.seqs.count()), ("heads", self.heads), sizes[0], sizes[1]];
        found.map_or(Ok(()), |len| check::size(op, name, len, &dims))
    }

    fn check_saved(&self, op: &'static str, saved: usize) -> Result<()> {
        check::size(op, "saved", saved, &[("saved_len", self.saved_len())])
    }
}

/// Where a sequence's head lies in the kept memory.
struct Place {
    /// Elements before its first chunk's state; a chunk's states lie head after head.
    states: usize,
    /// Elements from one chunk to the next.
    stride: usize,
    /// Elements before its first v'.
    written: usize,
}

impl Shape<'_> {
    fn places(&self) -> impl Fn(usize, usize) -> Place {
        let (firsts, chunks) = first_chunks(self.seqs);
        let (heads, state, value_size) = (self.heads, self.head_state(), self.value_size);
        let starts: Vec<_> = self.seqs.spans().collect();
        move |seq, head| Place {
            states: (firsts[seq] * heads + head) * state,
            stride: heads * state,
            written: chunks * heads * state + (starts[seq].start * heads + head * starts[seq].len()) * value_size,
        }
    }
}

impl Input<'_> {
    /// The log of the decay of a token's head.
    fn log_decay(&self, head: usize, at: usize) -> f32 {
        log_decay(rate(self.a_log[head]), softplus(self.a[at] + self.dt_bias[head]))
    }

    /// beta of a token's head.
    fn beta(&self, at: usize) -> f32 {
        sigmoid(self.b[at])
    }

    /// The decays of a head in the chunk whose first row is `row`.
    fn decay(&self, s: &Shape, head: usize, row: usize, tokens: usize) -> Decay {
        Decay::new(tokens, |t| self.log_decay(head, (row + t) * s.heads + head))
    }
}

/// Copies a head's rows, each divided by its norm; returns `1 / norm` of each in `inverse`.
fn normalise(rows: &[f32], size: usize, stride: usize, inverse: &mut [f32], out: &mut [f32]) {
    vectorized(
        #[inline(always)]
        || {
            for (t, (out, inverse)) in out.chunks_exact_mut(size).zip(inverse).enumerate() {
                let row = &rows[t * stride..][..size];
                *inverse = 1.0 / (dot(row, row) + NORM_EPS).sqrt();
                for (o, x) in out.iter_mut().zip(row) {
                    *o = x * *inverse;
                }
            }
        },
    );
}
