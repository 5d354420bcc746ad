//! The backward pass.
//!
//! With `delta[t] = do[t] . o[t]` and `ds[t, s] = p[t, s] (do[t] . v[s] - delta[t])`: `dv[s] = sum_t p[t, s] do[t]`,
//! `dk[s] = sum_t ds[t, s] q[t] / sqrt(head_size)`, `dq[t] = sum_s ds[t, s] k[s] / sqrt(head_size)`.

use std::ops::Range;

use rayon::prelude::*;

use super::{PANEL, Shape, TILE, lanes, mask, transpose_in};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::shared::Shared;
use crate::simd::{LANES, dot, exp, vectorized};
use crate::transpose::transpose;
use crate::{Result, Store, scratch};

/// What the forward was given and gave.
#[derive(Debug, Clone, Copy)]
pub struct Saved<'a> {
    /// Queries.
    pub q: &'a [f32],
    /// Keys.
    pub k: &'a [f32],
    /// Values.
    pub v: &'a [f32],
    /// Output.
    pub o: &'a [f32],
    /// Log of the softmax's denominator.
    pub lse: &'a [f32],
}

/// Gradients of q, k and v.
///
/// # Errors
/// As [`forward`](super::forward).
pub fn backward(s: &Shape, saved: &Saved, d_o: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) -> Result<()> {
    const OP: &str = "attention backward";
    let q_like = [("q", saved.q.len()), ("o", saved.o.len()), ("d_o", d_o.len()), ("dq", dq.len())];
    let k_like = [("k", saved.k.len()), ("v", saved.v.len()), ("dk", dk.len()), ("dv", dv.len())];
    s.check(OP, &q_like, &k_like)?;
    s.check_lse(OP, saved.lse.len())?;
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    (0..s.seqs.count() * s.kv_heads).into_par_iter().for_each(|task| {
        let (rows, kv_head) = (s.seqs.span(task / s.kv_heads), task % s.kv_heads);
        KeyHead { s, saved, d_o, rows, kv_head }.backward(&dq, &dk, &dv);
    });
    Ok(())
}

/// A key head of one sequence, with the query heads it serves.
struct KeyHead<'a> {
    s: &'a Shape<'a>,
    saved: &'a Saved<'a>,
    d_o: &'a [f32],
    rows: Range<usize>,
    kv_head: usize,
}

impl KeyHead<'_> {
    fn backward(&self, dq: &Shared, dk: &Shared, dv: &Shared) {
        let (size, width) = (self.s.head_size, self.s.kv_heads * self.s.head_size);
        for row in self.rows.clone() {
            let start = row * width + self.kv_head * size;
            for grad in [dk, dv] {
                // SAFETY: this key head's columns, which no other task touches.
                unsafe { grad.slice(start, size) }.fill(0.0);
            }
        }
        let group = self.s.heads / self.s.kv_heads;
        for head in self.kv_head * group..(self.kv_head + 1) * group {
            for first in (0..self.rows.len()).step_by(PANEL) {
                self.panel(head, first, dq, dk, dv);
            }
        }
    }

    /// The share of the queries from `first` on.
    fn panel(&self, head: usize, first: usize, dq: &Shared, dk: &Shared, dv: &Shared) {
        let Self { s, saved, d_o, rows, kv_head } = self;
        let size = s.head_size;
        let queries = PANEL.min(rows.len() - first);
        let (lanes, end) = (lanes(queries), first + queries);
        let (q_width, k_width) = (s.heads * size, s.kv_heads * size);
        let q_start = (rows.start + first) * q_width + head * size;
        let q = Mat::strided(&saved.q[q_start..], queries, size, q_width);
        let d_o_rows = Mat::strided(&d_o[q_start..], queries, size, q_width);
        let lse = &saved.lse[rows.start * s.heads + head * rows.len() + first..][..queries];
        let tile = TILE.min(end) * lanes;
        scratch::with([size * lanes, size * lanes, size * lanes, tile, tile], |[qt, d_ot, dqt, p, ds]| {
            transpose_in(q, lanes, qt);
            transpose_in(d_o_rows, lanes, d_ot);
            // The lanes beyond the queries get lse = infinity, hence p = 0.
            let (mut lse_lanes, mut delta) = ([f32::INFINITY; PANEL], [0.0; PANEL]);
            lse_lanes[..queries].copy_from_slice(lse);
            vectorized(
                #[inline(always)]
                || {
                    for (i, delta) in delta[..queries].iter_mut().enumerate() {
                        let row = q_start + i * q_width..q_start + i * q_width + size;
                        *delta = dot(&d_o[row.clone()], &saved.o[row]);
                    }
                },
            );
            for key in (0..end).step_by(TILE) {
                let keys = TILE.min(end - key);
                let (p, ds) = (&mut p[..keys * lanes], &mut ds[..keys * lanes]);
                let k_start = (rows.start + key) * k_width + kv_head * size;
                let k = Mat::strided(&saved.k[k_start..], keys, size, k_width);
                let v = Mat::strided(&saved.v[k_start..], keys, size, k_width);
                let one = Threads::One;
                gemm(one, MatMut::new(p, keys, lanes), Store::Overwrite, s.scale(), k, Mat::new(qt, size, lanes));
                gemm(one, MatMut::new(ds, keys, lanes), Store::Overwrite, 1.0, v, Mat::new(d_ot, size, lanes));
                mask(p, lanes, key, first);
                vectorized(
                    #[inline(always)]
                    || softmax_backward(p, ds, lanes, &lse_lanes, &delta),
                );
                // The products over queries leave out the lanes beyond them.
                let (p, ds) = (Mat::strided(p, keys, queries, lanes), Mat::strided(ds, keys, queries, lanes));
                // SAFETY: this key head's columns, which no other task touches.
                let (dk, dv) = unsafe { (dk.mat(k_start, keys, size, k_width), dv.mat(k_start, keys, size, k_width)) };
                gemm(one, dv, Store::Accumulate, 1.0, p, d_o_rows);
                gemm(one, dk, Store::Accumulate, s.scale(), ds, q);
                let store = if key == 0 { Store::Overwrite } else { Store::Accumulate };
                let dqt = MatMut::strided(dqt, size, queries, lanes);
                gemm(one, dqt, store, s.scale(), k.t(), ds);
            }
            // SAFETY: this query head's columns of this panel's rows, which no other task touches.
            let dq = unsafe { dq.mat(q_start, queries, size, q_width) };
            transpose(Mat::strided(dqt, size, queries, lanes), dq);
        });
    }
}

/// Scores become p = exp(score - lse), and dp becomes ds = p (dp - delta).
#[inline(always)]
fn softmax_backward(p: &mut [f32], dp: &mut [f32], lanes: usize, lse: &[f32; PANEL], delta: &[f32; PANEL]) {
    match lanes / LANES {
        1 => softmax_backward_groups::<1>(p, dp, lse, delta),
        2 => softmax_backward_groups::<2>(p, dp, lse, delta),
        3 => softmax_backward_groups::<3>(p, dp, lse, delta),
        _ => softmax_backward_groups::<4>(p, dp, lse, delta),
    }
}

/// [`softmax_backward`] for G groups of lanes.
#[inline(always)]
fn softmax_backward_groups<const G: usize>(p: &mut [f32], dp: &mut [f32], lse: &[f32; PANEL], delta: &[f32; PANEL]) {
    let (lse, delta) = (lse.as_chunks::<LANES>().0, delta.as_chunks::<LANES>().0);
    let p = p.as_chunks_mut::<LANES>().0.as_chunks_mut::<G>().0;
    let dp = dp.as_chunks_mut::<LANES>().0.as_chunks_mut::<G>().0;
    for (p, dp) in p.iter_mut().zip(dp) {
        for g in 0..G {
            for i in 0..LANES {
                p[g][i] = exp(p[g][i] - lse[g][i]);
                dp[g][i] = p[g][i] * (dp[g][i] - delta[g][i]);
            }
        }
    }
}
