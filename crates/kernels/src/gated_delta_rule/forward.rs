//! The forward pass.

use std::ops::Range;

use rayon::prelude::*;

use super::{Input, Place, Shape, normalise, solve};
use crate::decay::{CHUNK, chunks};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::shared::Shared;
use crate::simd::vectorized;
use crate::{Result, Store, scratch};

/// o, the states after the last tokens if asked for, and in `saved` what the backward needs.
///
/// # Errors
/// A slice whose size does not fit; malformed sequences; a dimension of 0.
pub fn forward(
    s: &Shape,
    input: &Input,
    o: &mut [f32],
    final_state: Option<&mut [f32]>,
    saved: &mut [f32],
) -> Result<()> {
    const OP: &str = "gated_delta_rule";
    s.check(OP, input)?;
    s.check_rows(OP, "value_size", s.value_size, &[("o", o.len())])?;
    s.check_state(OP, "final_state", final_state.as_ref().map(|f| f.len()))?;
    s.check_saved(OP, saved.len())?;
    let (o, saved, final_state) = (Shared::new(o), Shared::new(saved), final_state.map(Shared::new));
    let place = s.places();
    (0..s.seqs.count() * s.heads).into_par_iter().for_each(|task| {
        let (seq, head) = (task / s.heads, task % s.heads);
        let head = Head { s, input, rows: s.seqs.span(seq), task, head, place: place(seq, head) };
        head.forward(&o, final_state.as_ref(), &saved);
    });
    Ok(())
}

/// A head of one sequence.
struct Head<'a> {
    s: &'a Shape<'a>,
    input: &'a Input<'a>,
    rows: Range<usize>,
    /// Its position among the states.
    task: usize,
    head: usize,
    place: Place,
}

impl Head<'_> {
    fn forward(&self, o: &Shared, final_state: Option<&Shared>, saved: &Shared) {
        let Self { s, input, rows, task, place, .. } = self;
        let (key, value, size) = (s.key_size, s.value_size, s.head_state());
        let most = CHUNK.min(rows.len());
        // SAFETY: this head's part of the kept states, which no other task touches; so below.
        let state = |chunk: usize| unsafe { saved.slice(place.states + chunk * place.stride, size) };
        match input.initial_state {
            Some(initial) => state(0).copy_from_slice(&initial[task * size..][..size]),
            None => state(0).fill(0.0),
        }
        let lens = [2 * most * key, 2 * most * value, 2 * most * CHUNK, most * CHUNK, size];
        scratch::with(lens, |[kq, products, pairs, decays, last]| {
            for (chunk, row, n) in chunks(rows) {
                let after = if row + n < rows.end { state(chunk + 1) } else { &mut *last };
                self.chunk(row, n, state(chunk), after, [kq, products, pairs, decays], o, saved);
            }
            if let Some(final_state) = final_state {
                // SAFETY: this head's final state, which no other task touches.
                unsafe { final_state.slice(task * size, size) }.copy_from_slice(last);
            }
        });
    }
    /// o of the chunk's `n` rows from `row` on, their v' kept, and the state after them.
    fn chunk(
        &self,
        row: usize,
        n: usize,
        before: &[f32],
        after: &mut [f32],
        [kq, products, pairs, decays]: [&mut [f32]; 4],
        o: &Shared,
        saved: &Shared,
    ) {
        let Self { s, input, rows, head, place, .. } = self;
        let (key, value, one) = (s.key_size, s.value_size, Threads::One);
        let (k_width, v_width) = (s.heads * key, s.heads * value);
        let (kq, pairs) = (&mut kq[..2 * n * key], &mut pairs[..2 * n * CHUNK]);
        let (k, q) = kq.split_at_mut(n * key);
        let mut inverse = [0.0; CHUNK];
        let at = row * k_width + head * key;
        normalise(&input.k[at..], key, k_width, &mut inverse, k);
        normalise(&input.q[at..], key, k_width, &mut inverse, q);
        let decay = input.decay(s, *head, row, n);
        decay.pairs(decays);

        let products = &mut products[..2 * n * value];
        let kq_rows = Mat::new(kq, 2 * n, key);
        let state_rows = Mat::new(before, key, value);
        gemm(one, MatMut::new(products, 2 * n, value), Store::Overwrite, 1.0, kq_rows, state_rows);
        let k_rows = Mat::new(&kq[..n * key], n, key);
        gemm(one, MatMut::strided(pairs, 2 * n, n, CHUNK), Store::Overwrite, 1.0, kq_rows, k_rows.t());

        let scale = 1.0 / (key as f32).sqrt();
        let beta: [f32; CHUNK] =
            std::array::from_fn(|t| if t < n { input.beta((row + t) * s.heads + head) } else { 0.0 });
        let (a, p) = pairs.split_at_mut(n * CHUNK);
        let (k_products, q_products) = products.split_at(n * value);
        // SAFETY: this head's v' of the chunk and its columns of o, which no other task touches; so below.
        let written = unsafe { saved.slice(place.written + (row - rows.start) * value, n * value) };
        let o_start = row * v_width + head * value;
        vectorized(
            #[inline(always)]
            || {
                for t in 0..n {
                    let decays = &decays[t * CHUNK..][..n];
                    let (a, p) = (&mut a[t * CHUNK..][..n], &mut p[t * CHUNK..][..n]);
                    for i in 0..n {
                        a[i] *= beta[t] * decays[i];
                        p[i] *= scale * decays[i];
                    }
                    let v = &input.v[o_start + t * v_width..][..value];
                    let decay = decay.from_start[t];
                    let k_products = &k_products[t * value..][..value];
                    for (w, (v, known)) in written[t * value..][..value].iter_mut().zip(v.iter().zip(k_products)) {
                        *w = beta[t] * (v - decay * known);
                    }
                    // SAFETY: as above.
                    let o = unsafe { o.slice(o_start + t * v_width, value) };
                    for (o, x) in o.iter_mut().zip(&q_products[t * value..][..value]) {
                        *o = scale * decay * x;
                    }
                }
            },
        );
        solve::lower(a, n, written, value);
        let written = Mat::new(written, n, value);
        // SAFETY: as above.
        let o = unsafe { o.mat(o_start, n, value, v_width) };
        gemm(one, o, Store::Accumulate, 1.0, Mat::strided(p, n, n, CHUNK), written);

        let k = &mut kq[..n * key];
        vectorized(
            #[inline(always)]
            || {
                for (after, before) in after.iter_mut().zip(before.iter()) {
                    *after = decay.whole * before;
                }
                for (row, decay) in k.chunks_exact_mut(key).zip(decay.to_end) {
                    row.iter_mut().for_each(|k| *k *= decay);
                }
            },
        );
        let k = Mat::new(k, n, key);
        gemm(one, MatMut::new(after, key, value), Store::Accumulate, 1.0, k.t(), written);
    }
}
