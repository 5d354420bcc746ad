//! The backward pass: the chunks in reverse.
//!
//! With dS the gradient by the state after the chunk, do scaled by `1 / sqrt(key_size)`, and P the
//! pairs of q and k with their decays: `dv' = P^T do + (e^(G[last] - G) k) dS`, `(I + A)^T dr = dv'`,
//! `dP = do v'^T`, `dA = -dr v'^T`, and the state before gets `e^G[last] dS + (e^G q)^T do - (beta e^G k)^T dr`.

mod chunk;

use std::ops::Range;

use rayon::prelude::*;

use super::{Input, Place, Shape};
use crate::decay::{CHUNK, chunks};
use crate::shared::Shared;
use crate::{Result, scratch};
use chunk::Buffers;

/// Gradients, overwritten in full.
#[derive(Debug)]
pub struct Grads<'a> {
    /// By the queries.
    pub dq: &'a mut [f32],
    /// By the keys.
    pub dk: &'a mut [f32],
    /// By the values.
    pub dv: &'a mut [f32],
    /// By a.
    pub da: &'a mut [f32],
    /// By b.
    pub db: &'a mut [f32],
    /// By a_log.
    pub da_log: &'a mut [f32],
    /// By dt_bias.
    pub ddt_bias: &'a mut [f32],
    /// By the initial states, if asked for.
    pub dinitial_state: Option<&'a mut [f32]>,
}

/// Gradients of everything the forward read, from those of o and, if there are any, of the final states.
///
/// # Errors
/// As [`forward`](super::forward).
pub fn backward(
    s: &Shape,
    input: &Input,
    saved: &[f32],
    d_o: &[f32],
    dfinal_state: Option<&[f32]>,
    grads: Grads,
) -> Result<()> {
    const OP: &str = "gated_delta_rule backward";
    s.check(OP, input)?;
    s.check_saved(OP, saved.len())?;
    s.check_rows(OP, "key_size", s.key_size, &[("dq", grads.dq.len()), ("dk", grads.dk.len())])?;
    s.check_rows(OP, "value_size", s.value_size, &[("d_o", d_o.len()), ("dv", grads.dv.len())])?;
    s.check_rows(OP, "1", 1, &[("da", grads.da.len()), ("db", grads.db.len())])?;
    s.check_heads(OP, &[("da_log", grads.da_log.len()), ("ddt_bias", grads.ddt_bias.len())])?;
    s.check_state(OP, "dfinal_state", dfinal_state.map(<[f32]>::len))?;
    s.check_state(OP, "dinitial_state", grads.dinitial_state.as_ref().map(|d| d.len()))?;
    let by_row = ByRow {
        dq: Shared::new(grads.dq),
        dk: Shared::new(grads.dk),
        dv: Shared::new(grads.dv),
        da: Shared::new(grads.da),
        db: Shared::new(grads.db),
    };
    let dinitial_state = grads.dinitial_state.map(Shared::new);
    let place = s.places();
    let run = |task: usize| {
        let (seq, head) = (task / s.heads, task % s.heads);
        let (rows, place) = (s.seqs.span(seq), place(seq, head));
        let head = Head { s, input, saved, d_o, dfinal_state, rows, task, head, place };
        head.backward(&by_row, dinitial_state.as_ref())
    };
    let partials: Vec<[f64; 2]> = (0..s.seqs.count() * s.heads).into_par_iter().map(run).collect();
    for head in 0..s.heads {
        let of_head = || partials.iter().skip(head).step_by(s.heads);
        grads.da_log[head] = of_head().map(|p| p[0]).sum::<f64>() as f32;
        grads.ddt_bias[head] = of_head().map(|p| p[1]).sum::<f64>() as f32;
    }
    Ok(())
}

/// The gradients that each head writes its columns of.
struct ByRow<'a> {
    dq: Shared<'a>,
    dk: Shared<'a>,
    dv: Shared<'a>,
    da: Shared<'a>,
    db: Shared<'a>,
}

/// A head of one sequence.
struct Head<'a> {
    s: &'a Shape<'a>,
    input: &'a Input<'a>,
    saved: &'a [f32],
    d_o: &'a [f32],
    dfinal_state: Option<&'a [f32]>,
    rows: Range<usize>,
    task: usize,
    head: usize,
    place: Place,
}

impl Head<'_> {
    /// Returns this head's share of the gradients by a_log and dt_bias.
    fn backward(&self, grads: &ByRow, dinitial_state: Option<&Shared>) -> [f64; 2] {
        let (key, value, size) = (self.s.key_size, self.s.value_size, self.s.head_state());
        let most = CHUNK.min(self.rows.len());
        let lens = [size, 2 * most * key, 2 * most * key, 2 * most * value, 4 * most * CHUNK, most * CHUNK, most * key];
        let mut by_params = [0.0; 2];
        scratch::with(lens, |[dstate, kq, dkq, rd, pairs, decays, dk_to_end]| {
            match self.dfinal_state {
                Some(d) => dstate.copy_from_slice(&d[self.task * size..][..size]),
                None => dstate.fill(0.0),
            }
            for (chunk, row, n) in chunks(&self.rows).rev() {
                let (pairs, dpairs) = pairs[..4 * n * CHUNK].split_at_mut(2 * n * CHUNK);
                let buffers = Buffers {
                    dstate,
                    kq: &mut kq[..2 * n * key],
                    dkq: &mut dkq[..2 * n * key],
                    rd: &mut rd[..2 * n * value],
                    pairs,
                    dpairs,
                    decays,
                    dk_to_end: &mut dk_to_end[..n * key],
                };
                let [a_log, dt_bias] = self.chunk(chunk, row, n, buffers, grads);
                by_params[0] += a_log;
                by_params[1] += dt_bias;
            }
            if let Some(d) = dinitial_state {
                // SAFETY: this head's initial state, which no other task touches.
                unsafe { d.slice(self.task * size, size) }.copy_from_slice(dstate);
            }
        });
        by_params
    }
}
