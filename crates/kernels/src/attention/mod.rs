//! Causal softmax attention that never holds a `[T, T]` matrix.
//!
//! `o[t] = sum_{s <= t} p[t, s] v[s]`, `p[t, s] = exp(q[t].k[s] / sqrt(head_size) - lse[t])`, per head, within each
//! sequence. q and o `[rows, heads, head_size]`; k and v `[rows, kv_heads, head_size]`, each serving
//! `heads / kv_heads` consecutive query heads; lse, the log of the softmax's denominator, `[heads, T]` per sequence,
//! one sequence after the other (`[B, heads, T]`).
//!
//! A panel of 64 queries meets 512 keys at a time. Scores are held key by key, the panel's queries side by side in
//! vector lanes: maxima and sums over keys are then lane by lane, and products need no transposed operand but the
//! panel's own rows. The forward runs over tiles with a running maximum (Milakov and Gimelshein, 2018); the backward
//! recomputes p from lse (Dao et al., 2022). 4 and 10 head_size FLOP per head and (query, key) pair.
//!
//! Threads share panels forward, and pairs of sequence and key head backward, where each one adds its panels' shares
//! of dk and dv in order.

mod backward;
mod forward;
mod step;
#[cfg(test)]
mod tests;

pub use backward::{Saved, backward};
pub use forward::forward;
pub use step::step;

use crate::gemm::{Mat, MatMut};
use crate::simd::LANES;
use crate::transpose::transpose;
use crate::{Result, Sequences, check};

/// Queries of a panel.
const PANEL: usize = 64;
/// Keys of a tile: a multiple of PANEL, so that each query sees at least the first key of every tile its panel meets.
const TILE: usize = 512;

/// Dimensions of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape<'a> {
    /// The sequences; queries see keys of their own only.
    pub seqs: Sequences<'a>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; must divide `heads`.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_size: usize,
}

impl Shape<'_> {
    fn check(
        &self,
        op: &'static str,
        q_like: &[(&'static str, usize)],
        k_like: &[(&'static str, usize)],
    ) -> Result<()> {
        self.seqs.check(op)?;
        check::positive(op, "heads", self.heads)?;
        check::positive(op, "head_size", self.head_size)?;
        let remedy = "give each key head the same number of query heads";
        check::divides(op, ("heads", self.heads), ("kv_heads", self.kv_heads), remedy)?;
        let (rows, head_size) = (("rows", self.seqs.rows()), ("head_size", self.head_size));
        for &(name, len) in q_like {
            check::size(op, name, len, &[rows, ("heads", self.heads), head_size])?;
        }
        for &(name, len) in k_like {
            check::size(op, name, len, &[rows, ("kv_heads", self.kv_heads), head_size])?;
        }
        Ok(())
    }

    fn check_lse(&self, op: &'static str, lse: usize) -> Result<()> {
        check::size(op, "lse", lse, &[("heads", self.heads), ("rows", self.seqs.rows())])
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_size as f32).sqrt()
    }
}

/// Lanes that hold `queries` queries.
fn lanes(queries: usize) -> usize {
    queries.next_multiple_of(LANES)
}

/// A panel's rows turned to columns, `[head_size, lanes]`, 0 in the lanes beyond.
fn transpose_in(rows: Mat, lanes: usize, out: &mut [f32]) {
    for out in out.chunks_exact_mut(lanes) {
        out[rows.rows()..].fill(0.0);
    }
    transpose(rows, MatMut::strided(out, rows.cols(), rows.rows(), lanes));
}

/// Hides keys from the queries before them: -inf in their lanes. `scores` begin with key `first_key`, which the panel's
/// first query sees.
fn mask(scores: &mut [f32], lanes: usize, first_key: usize, first_query: usize) {
    let seen_by_all = first_query - first_key;
    for (i, row) in scores.chunks_exact_mut(lanes).skip(seen_by_all).enumerate() {
        row[..i].fill(f32::NEG_INFINITY);
    }
}
