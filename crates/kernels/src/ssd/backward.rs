//! The backward pass: the chunks in reverse.
//!
//! With dS the gradient by the state after the chunk and M the pairs `c b^T e^(G[t] - G[s])`: the
//! gradient by dt x is `M^T dy + e^(G[last] - G) b dS`, that by M is `dy (dt x)^T`, and the state before gets
//! `e^G[last] dS + c^T (e^G dy)`.

mod chunk;

use rayon::prelude::*;

use super::{Input, Shape, Task};
use crate::blocks::sum_partials;
use crate::decay::{CHUNK, chunks};
use crate::shared::Shared;
use crate::{Result, Store, scratch};
use chunk::Buffers;

/// Gradients, overwritten in full.
#[derive(Debug)]
pub struct Grads<'a> {
    /// By x.
    pub dx: &'a mut [f32],
    /// By b.
    pub db: &'a mut [f32],
    /// By c.
    pub dc: &'a mut [f32],
    /// By dt.
    pub ddt: &'a mut [f32],
    /// By a_log.
    pub da_log: &'a mut [f32],
    /// By dt_bias.
    pub ddt_bias: &'a mut [f32],
    /// By d.
    pub dd: &'a mut [f32],
    /// By the initial states, if asked for.
    pub dinitial_state: Option<&'a mut [f32]>,
}

/// A head's share of the gradients by a_log, dt_bias and d.
type ByParams = [f64; 3];

/// Gradients of everything the forward read, from those of y and, if there are any, of the final states.
///
/// # Errors
/// As [`forward`](super::forward).
pub fn backward(
    s: &Shape,
    input: &Input,
    saved: &[f32],
    dy: &[f32],
    dfinal_state: Option<&[f32]>,
    grads: Grads,
) -> Result<()> {
    const OP: &str = "ssd backward";
    s.check(OP, input)?;
    s.check_saved(OP, saved.len())?;
    s.check_x(OP, &[("dy", dy.len()), ("dx", grads.dx.len())])?;
    s.check_bc(OP, &[("db", grads.db.len()), ("dc", grads.dc.len())])?;
    s.check_dt(OP, &[("ddt", grads.ddt.len())])?;
    let by_head = [("da_log", grads.da_log.len()), ("ddt_bias", grads.ddt_bias.len()), ("dd", grads.dd.len())];
    s.check_heads(OP, &by_head)?;
    s.check_state(OP, "dfinal_state", dfinal_state.map(<[f32]>::len))?;
    s.check_state(OP, "dinitial_state", grads.dinitial_state.as_ref().map(|d| d.len()))?;

    let (tiles, len) = (s.tiles(), grads.db.len());
    // One tile's share is the gradient itself.
    let shares = if tiles > 1 { tiles * len } else { 0 };
    let (mut db, mut dc) = (vec![0.0; shares], vec![0.0; shares]);
    let dinitial_state = grads.dinitial_state.map(Shared::new);
    let by_row = ByRow {
        dx: Shared::new(grads.dx),
        db: Shared::new(if tiles > 1 { &mut db } else { &mut *grads.db }),
        dc: Shared::new(if tiles > 1 { &mut dc } else { &mut *grads.dc }),
        ddt: Shared::new(grads.ddt),
    };
    let pass = Pass { s, input, saved, dy, dfinal_state };
    let tasks = s.tasks();
    let run = |task: &Task| task.backward(&pass, &by_row, dinitial_state.as_ref());
    let partials: Vec<Vec<ByParams>> = tasks.par_iter().map(run).collect();
    if tiles > 1 {
        sum_partials(&db, grads.db, Store::Overwrite);
        sum_partials(&dc, grads.dc, Store::Overwrite);
    }
    let mut sums = vec![[0.0; 3]; s.heads];
    for (task, partial) in tasks.iter().zip(&partials) {
        for (sum, share) in sums[task.heads.clone()].iter_mut().zip(partial) {
            (0..3).for_each(|i| sum[i] += share[i]);
        }
    }
    for (head, [a_log, dt_bias, d]) in sums.into_iter().enumerate() {
        grads.da_log[head] = a_log as f32;
        grads.ddt_bias[head] = dt_bias as f32;
        grads.dd[head] = d as f32;
    }
    Ok(())
}

/// What all tasks read.
struct Pass<'a> {
    s: &'a Shape<'a>,
    input: &'a Input<'a>,
    saved: &'a [f32],
    dy: &'a [f32],
    dfinal_state: Option<&'a [f32]>,
}

/// The gradients that tasks write their columns of; db and dc tile after tile.
struct ByRow<'a> {
    dx: Shared<'a>,
    db: Shared<'a>,
    dc: Shared<'a>,
    ddt: Shared<'a>,
}

impl Task {
    /// Returns its heads' shares of the gradients by parameters.
    fn backward(&self, pass: &Pass, grads: &ByRow, dinitial_state: Option<&Shared>) -> Vec<ByParams> {
        let s = pass.s;
        let (size, states, cols, heads) = (s.head_size, s.state_size, self.cols(s), self.heads.len());
        let most = CHUNK.min(self.rows.len());
        let (rows, square) = (most * cols, most * CHUNK);
        let lens = [states * cols, heads * CHUNK, rows, rows, rows, rows, square, square, square, square, square];
        let mut by_params = vec![[0.0; 3]; heads];
        let mut decays = Vec::with_capacity(heads);
        scratch::with(lens, |[dstate, dt, xdt, dxdt, decayed, read, products, dproducts, decay, m, dm]| {
            match pass.dfinal_state {
                Some(d) => self.state_rows(s).for_each(|(from, to)| {
                    dstate[to..to + size].copy_from_slice(&d[from..from + size]);
                }),
                None => dstate.fill(0.0),
            }
            for (chunk, row, n) in chunks(&self.rows).rev() {
                self.gates(s, pass.input, row, n, dt, &mut decays);
                let buffers = Buffers {
                    dstate,
                    dt,
                    xdt: &mut xdt[..n * cols],
                    dxdt: &mut dxdt[..n * cols],
                    decayed: &mut decayed[..n * cols],
                    read: &mut read[..n * cols],
                    products,
                    dproducts,
                    pairs: [decay, m, dm],
                };
                self.backward_chunk(
                    pass,
                    &pass.saved[self.saved(s, chunk)],
                    row,
                    n,
                    &decays,
                    buffers,
                    grads,
                    &mut by_params,
                );
            }
            if let Some(d) = dinitial_state {
                for (to, from) in self.state_rows(s) {
                    // SAFETY: rows of this tile's heads, which no other task touches.
                    unsafe { d.slice(to, size) }.copy_from_slice(&dstate[from..from + size]);
                }
            }
        });
        by_params
    }
}
