//! One token more: decoding.

use rayon::prelude::*;

use super::{Input, Shape, normalise};
use crate::simd::vectorized;
use crate::{Result, Sequences};

/// One token of each of `s.seqs.count()` sequences: what [`forward`](super::forward) gives for it after the tokens that
/// `state` has seen. Moves `state` on; `input.initial_state` is not read.
///
/// # Errors
/// As [`forward`](super::forward).
pub fn step(s: &Shape, input: &Input, state: &mut [f32], o: &mut [f32]) -> Result<()> {
    const OP: &str = "gated_delta_rule step";
    let one = Sequences::Equal { batch: s.seqs.count(), len: 1 };
    let s = &Shape { seqs: one, ..*s };
    s.check(OP, input)?;
    s.check_rows(OP, "value_size", s.value_size, &[("o", o.len())])?;
    s.check_state(OP, "state", Some(state.len()))?;
    let (key, value, scale) = (s.key_size, s.value_size, 1.0 / (s.key_size as f32).sqrt());
    let heads = state.par_chunks_exact_mut(s.head_state()).zip(o.par_chunks_exact_mut(value)).enumerate();
    heads.for_each(|(task, (state, o))| {
        let head = task % s.heads;
        let (mut k, mut q, mut inverse) = (vec![0.0; key], vec![0.0; key], [0.0]);
        normalise(&input.k[task * key..], key, key, &mut inverse, &mut k);
        normalise(&input.q[task * key..], key, key, &mut inverse, &mut q);
        let decay = input.log_decay(head, task).exp();
        let beta = input.beta(task);
        let v = &input.v[task * value..][..value];
        let mut written = vec![0.0; value];
        vectorized(
            #[inline(always)]
            || {
                for (row, k) in state.chunks_exact_mut(value).zip(&k) {
                    for (x, w) in row.iter_mut().zip(&mut written) {
                        *x *= decay;
                        *w += k * *x;
                    }
                }
                for (w, v) in written.iter_mut().zip(v) {
                    *w = beta * (v - *w);
                }
                o.fill(0.0);
                for (row, (k, q)) in state.chunks_exact_mut(value).zip(k.iter().zip(&q)) {
                    for ((x, w), o) in row.iter_mut().zip(&written).zip(o.iter_mut()) {
                        *x += k * w;
                        *o += scale * q * *x;
                    }
                }
            },
        );
    });
    Ok(())
}
