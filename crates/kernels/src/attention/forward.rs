//! The forward pass.

use std::ops::Range;

use rayon::prelude::*;

use super::{PANEL, Shape, TILE, lanes, mask, transpose_in};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::shared::Shared;
use crate::simd::{LANES, exp, vectorized};
use crate::transpose::transpose;
use crate::{Result, Store, scratch};

/// A panel's running maximum and sum, a lane per query.
type Lanes = [[f32; LANES]; PANEL / LANES];

/// `o = softmax(q k^T / sqrt(head_size)) v`, causal, and lse for the backward.
///
/// # Errors
/// A slice whose size does not fit; key heads that do not divide the heads; malformed sequences.
pub fn forward(s: &Shape, q: &[f32], k: &[f32], v: &[f32], o: &mut [f32], lse: &mut [f32]) -> Result<()> {
    const OP: &str = "attention";
    s.check(OP, &[("q", q.len()), ("o", o.len())], &[("k", k.len()), ("v", v.len())])?;
    s.check_lse(OP, lse.len())?;
    let mut panels = Vec::new();
    for rows in s.seqs.spans() {
        for head in 0..s.heads {
            let firsts = (0..rows.len()).step_by(PANEL);
            panels.extend(firsts.map(|first| Panel { rows: rows.clone(), head, first }));
        }
    }
    let (o, lse) = (Shared::new(o), Shared::new(lse));
    // The last panels of a sequence see the most keys: taken first, they leave short ones to even out the threads.
    panels.into_par_iter().rev().for_each(|panel| panel.forward(s, q, k, v, &o, &lse));
    Ok(())
}

/// At most [`PANEL`] queries of one head of one sequence.
struct Panel {
    /// The sequence.
    rows: Range<usize>,
    head: usize,
    /// First query, counted in the sequence.
    first: usize,
}

impl Panel {
    fn forward(&self, s: &Shape, q: &[f32], k: &[f32], v: &[f32], o: &Shared, lse: &Shared) {
        let Panel { rows, head, first } = self;
        let (first, size) = (*first, s.head_size);
        let queries = PANEL.min(rows.len() - first);
        let (lanes, end) = (lanes(queries), first + queries);
        let (q_width, k_width) = (s.heads * size, s.kv_heads * size);
        let q_start = (rows.start + first) * q_width + head * size;
        let k_column = head / (s.heads / s.kv_heads) * size;
        scratch::with([size * lanes, size * lanes, TILE.min(end) * lanes], |[qt, ot, scores]| {
            transpose_in(Mat::strided(&q[q_start..], queries, size, q_width), lanes, qt);
            let mut max: Lanes = [[f32::NEG_INFINITY; LANES]; PANEL / LANES];
            let mut total: Lanes = [[0.0; LANES]; PANEL / LANES];
            for key in (0..end).step_by(TILE) {
                let keys = TILE.min(end - key);
                let scores = &mut scores[..keys * lanes];
                let k_start = (rows.start + key) * k_width + k_column;
                let k = Mat::strided(&k[k_start..], keys, size, k_width);
                let v = Mat::strided(&v[k_start..], keys, size, k_width);
                let qt = Mat::new(qt, size, lanes);
                gemm(Threads::One, MatMut::new(scores, keys, lanes), Store::Overwrite, s.scale(), k, qt);
                mask(scores, lanes, key, first);
                vectorized(
                    #[inline(always)]
                    || softmax_tile(scores, lanes, &mut max, &mut total, ot, key > 0),
                );
                let store = if key == 0 { Store::Overwrite } else { Store::Accumulate };
                gemm(Threads::One, MatMut::new(ot, size, lanes), store, 1.0, v.t(), Mat::new(scores, keys, lanes));
            }
            vectorized(
                #[inline(always)]
                || divide(ot, total.as_flattened(), lanes),
            );
            // SAFETY: this head's columns of this panel's rows, which no other panel writes.
            let o = unsafe { o.mat(q_start, queries, size, q_width) };
            transpose(Mat::strided(ot, size, queries, lanes), o);
            // SAFETY: this panel's queries of this head, which no other panel writes.
            let lse = unsafe { lse.slice(rows.start * s.heads + head * rows.len() + first, queries) };
            for ((lse, max), total) in lse.iter_mut().zip(max.as_flattened()).zip(total.as_flattened()) {
                *lse = max + total.ln();
            }
        });
    }
}

/// Divides the output of each query by its sum.
#[inline(always)]
fn divide(ot: &mut [f32], total: &[f32], lanes: usize) {
    for row in ot.chunks_exact_mut(lanes) {
        for (o, t) in row.iter_mut().zip(total) {
            *o /= t;
        }
    }
}

/// Scores become exp(score - max) with the maximum so far; sums and, if there is one, the output so far follow a
/// maximum that grew.
#[inline(always)]
fn softmax_tile(scores: &mut [f32], lanes: usize, max: &mut Lanes, total: &mut Lanes, ot: &mut [f32], rescale: bool) {
    // The number of lanes is fixed at compile time so that maxima and sums stay in registers.
    match lanes / LANES {
        1 => softmax_groups::<1>(scores, max, total, ot, rescale),
        2 => softmax_groups::<2>(scores, max, total, ot, rescale),
        3 => softmax_groups::<3>(scores, max, total, ot, rescale),
        _ => softmax_groups::<4>(scores, max, total, ot, rescale),
    }
}

/// [`softmax_tile`] for G groups of lanes.
#[inline(always)]
fn softmax_groups<const G: usize>(
    scores: &mut [f32],
    max: &mut Lanes,
    total: &mut Lanes,
    ot: &mut [f32],
    rescale: bool,
) {
    let scores = scores.as_chunks_mut::<LANES>().0.as_chunks_mut::<G>().0;
    let ot = ot.as_chunks_mut::<LANES>().0.as_chunks_mut::<G>().0;
    for g in 0..G {
        let mut new_max = max[g];
        for row in scores.iter() {
            for i in 0..LANES {
                new_max[i] = if row[g][i] > new_max[i] { row[g][i] } else { new_max[i] };
            }
        }
        let mut shrink = [0.0; LANES];
        let mut sum = [0.0; LANES];
        for i in 0..LANES {
            shrink[i] = exp(max[g][i] - new_max[i]);
            sum[i] = total[g][i] * shrink[i];
        }
        for row in scores.iter_mut() {
            for i in 0..LANES {
                row[g][i] = exp(row[g][i] - new_max[i]);
                sum[i] += row[g][i];
            }
        }
        if rescale {
            for row in ot.iter_mut() {
                for i in 0..LANES {
                    row[g][i] *= shrink[i];
                }
            }
        }
        (max[g], total[g]) = (new_max, sum);
    }
}
