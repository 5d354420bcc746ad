//! One token more: decoding.

use rayon::prelude::*;

use super::{Input, Shape};
use crate::decay::{log_decay, rate, softplus};
use crate::simd::vectorized;
use crate::{Result, Sequences};

/// One token of each of `s.seqs.count()` sequences: what [`forward`](super::forward) gives for it after the tokens that
/// `state` has seen. Moves `state` on; `input.initial_state` is not read.
///
/// # Errors
/// As [`forward`](super::forward).
pub fn step(s: &Shape, input: &Input, state: &mut [f32], y: &mut [f32]) -> Result<()> {
    const OP: &str = "ssd step";
    let one = Sequences::Equal { batch: s.seqs.count(), len: 1 };
    let s = &Shape { seqs: one, ..*s };
    s.check(OP, input)?;
    s.check_x(OP, &[("y", y.len())])?;
    s.check_state(OP, "state", Some(state.len()))?;
    let (size, states) = (s.head_size, s.state_size);
    let heads = state.par_chunks_exact_mut(states * size).zip(y.par_chunks_exact_mut(size)).enumerate();
    heads.for_each(|(task, (state, y))| {
        let (seq, head) = (task / s.heads, task % s.heads);
        let group = (seq * s.groups + head / (s.heads / s.groups)) * states;
        let (b, c) = (&input.b[group..][..states], &input.c[group..][..states]);
        let x = &input.x[task * size..][..size];
        let dt = softplus(input.dt[task] + input.dt_bias[head]);
        let decay = log_decay(rate(input.a_log[head]), dt).exp();
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = input.d[head] * x;
                }
                for (row, (b, c)) in state.chunks_exact_mut(size).zip(b.iter().zip(c)) {
                    for ((s, x), y) in row.iter_mut().zip(x).zip(y.iter_mut()) {
                        *s = decay * *s + dt * b * x;
                        *y += c * *s;
                    }
                }
            },
        );
    });
    Ok(())
}
