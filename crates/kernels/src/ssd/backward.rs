//! The backward pass.
//!
//! Chunks in reverse, with dS the gradient by the state after the chunk and M the pairs `c b^T e^(G[t] - G[s])`: the
//! gradient by dt x is `M^T dy + e^(G[last] - G) b dS`, that by M is `dy (dt x)^T`, and the state before gets
//! `e^G[last] dS + c^T (e^G dy)`.

use rayon::prelude::*;

use super::{Input, Shape, Task};
use crate::blocks::sum_partials;
use crate::decay::{CHUNK, Decay, add_pair_gradients, rate, softplus_slope};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::shared::Shared;
use crate::simd::{dot, vectorized};
use crate::{Result, Store, scratch};

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

/// A chunk's working memory.
struct Buffers<'a> {
    /// `[state_size, cols]`.
    dstate: &'a mut [f32],
    /// dt, `[heads, CHUNK]`.
    dt: &'a mut [f32],
    /// dt x, `[n, cols]`.
    xdt: &'a mut [f32],
    /// Its gradient.
    dxdt: &'a mut [f32],
    /// `e^G dy`, `[n, cols]`.
    decayed: &'a mut [f32],
    /// c S, `[n, cols]`.
    read: &'a mut [f32],
    /// c b^T, `[n, CHUNK]`.
    products: &'a mut [f32],
    /// Its gradient, of all heads.
    dproducts: &'a mut [f32],
    /// A head's decays of pairs, its M, and the gradient by M, each `[n, CHUNK]`.
    pairs: [&'a mut [f32]; 3],
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
            for chunk in (0..self.rows.len().div_ceil(CHUNK)).rev() {
                let (row, n) = (self.rows.start + chunk * CHUNK, CHUNK.min(self.rows.len() - chunk * CHUNK));
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
                self.chunk(pass, &pass.saved[self.saved(s, chunk)], row, n, &decays, buffers, grads, &mut by_params);
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

    fn chunk(
        &self,
        pass: &Pass,
        state: &[f32],
        row: usize,
        n: usize,
        decays: &[Decay],
        mut b: Buffers,
        grads: &ByRow,
        by_params: &mut [ByParams],
    ) {
        let Pass { s, input, dy, .. } = pass;
        let (size, states, cols, one) = (s.head_size, s.state_size, self.cols(s), Threads::One);
        let (width, bc_width) = (s.width(), s.groups * states);
        let start = row * width + self.heads.start * size;
        let bc_start = row * bc_width + self.group * states;
        let keys = Mat::strided(&input.b[bc_start..], n, states, bc_width);
        let queries = Mat::strided(&input.c[bc_start..], n, states, bc_width);
        let state_mat = Mat::new(state, states, cols);
        vectorized(
            #[inline(always)]
            || {
                for t in 0..n {
                    let rows = start + t * width..start + t * width + cols;
                    let (x, dy) = (&input.x[rows.clone()], &dy[rows]);
                    let (xdt, decayed) = (&mut b.xdt[t * cols..][..cols], &mut b.decayed[t * cols..][..cols]);
                    for (i, decay) in decays.iter().enumerate() {
                        let dt = b.dt[i * CHUNK + t];
                        for j in i * size..(i + 1) * size {
                            xdt[j] = dt * x[j];
                            decayed[j] = decay.from_start[t] * dy[j];
                        }
                    }
                }
            },
        );
        let products = MatMut::strided(b.products, n, n, CHUNK);
        gemm(one, products, Store::Overwrite, 1.0, queries, keys.t());
        gemm(one, MatMut::new(b.read, n, cols), Store::Overwrite, 1.0, queries, state_mat);
        let dstate = Mat::new(b.dstate, states, cols);
        gemm(one, MatMut::new(b.dxdt, n, cols), Store::Overwrite, 1.0, keys, dstate);
        b.dproducts[..n * CHUNK].fill(0.0);
        for (i, decay) in decays.iter().enumerate() {
            self.head(pass, state, row, n, i, decay, &mut b, grads, &mut by_params[i]);
        }

        let decayed = Mat::new(b.decayed, n, cols);
        let dproducts = Mat::strided(b.dproducts, n, n, CHUNK);
        let share = self.tile * s.seqs.rows() * bc_width + bc_start;
        // SAFETY: this tile's share of its group's columns of the chunk's rows, which no other task touches; so below.
        let dc = || unsafe { grads.dc.mat(share, n, states, bc_width) };
        gemm(one, dc(), Store::Overwrite, 1.0, decayed, state_mat.t());
        gemm(one, dc(), Store::Accumulate, 1.0, dproducts, keys);
        vectorized(
            #[inline(always)]
            || {
                for (t, row) in b.xdt.chunks_exact_mut(cols).enumerate() {
                    for (head, decay) in row.chunks_exact_mut(size).zip(decays) {
                        head.iter_mut().for_each(|x| *x *= decay.to_end[t]);
                    }
                }
            },
        );
        // SAFETY: as above.
        let db = || unsafe { grads.db.mat(share, n, states, bc_width) };
        gemm(one, db(), Store::Overwrite, 1.0, Mat::new(b.xdt, n, cols), Mat::new(b.dstate, states, cols).t());
        gemm(one, db(), Store::Accumulate, 1.0, dproducts.t(), queries);
        vectorized(
            #[inline(always)]
            || {
                for row in b.dstate.chunks_exact_mut(cols) {
                    for (head, decay) in row.chunks_exact_mut(size).zip(decays) {
                        head.iter_mut().for_each(|d| *d *= decay.whole);
                    }
                }
            },
        );
        gemm(one, MatMut::new(b.dstate, states, cols), Store::Accumulate, 1.0, queries.t(), decayed);
    }

    /// dx and ddt of a head, and its shares of the gradients by c b^T and by parameters.
    fn head(
        &self,
        pass: &Pass,
        state: &[f32],
        row: usize,
        n: usize,
        i: usize,
        decay: &Decay,
        b: &mut Buffers,
        grads: &ByRow,
        by_params: &mut ByParams,
    ) {
        let Pass { s, input, dy, .. } = pass;
        let (size, cols, width, one) = (s.head_size, self.cols(s), s.width(), Threads::One);
        let head = self.heads.start + i;
        let start = row * width + head * size;
        let [decays, m, dm] = &mut b.pairs;
        decay.pairs(decays);
        let dy_rows = Mat::strided(&dy[start..], n, size, width);
        let xdt = Mat::strided(&b.xdt[i * size..], n, size, cols);
        gemm(one, MatMut::strided(dm, n, n, CHUNK), Store::Overwrite, 1.0, dy_rows, xdt.t());
        let mut sums = [0.0f64; CHUNK];
        let mut total = 0.0f64;
        vectorized(
            #[inline(always)]
            || {
                for t in 0..n {
                    let at = t * CHUNK..t * CHUNK + CHUNK;
                    let decays = &decays[at.clone()];
                    let (m, dm, products) = (&mut m[at.clone()], &dm[at.clone()], &b.products[at.clone()]);
                    let dproducts = &mut b.dproducts[at];
                    for s in 0..CHUNK {
                        // Beyond the chunk's tokens lies what another pass left.
                        m[s] = if s <= t { products[s] * decays[s] } else { 0.0 };
                        dproducts[s] += if s <= t { dm[s] * decays[s] } else { 0.0 };
                    }
                    let columns = t * cols + i * size..t * cols + (i + 1) * size;
                    let by_end = decay.to_end[t] * dot(&b.xdt[columns.clone()], &b.dxdt[columns.clone()]);
                    sums[t] = f64::from(dot(&b.decayed[columns.clone()], &b.read[columns.clone()]) - by_end);
                    total += f64::from(by_end);
                    b.dxdt[columns].iter_mut().for_each(|d| *d *= decay.to_end[t]);
                }
                add_pair_gradients([(&**dm, &**m)], &mut sums[..n]);
                let mut kept = 0.0;
                for (state, dstate) in state.chunks_exact(cols).zip(b.dstate.chunks_exact(cols)) {
                    kept += dot(&state[i * size..(i + 1) * size], &dstate[i * size..(i + 1) * size]);
                }
                total += f64::from(decay.whole * kept);
            },
        );
        sums[n - 1] += total;
        Decay::gradient(&mut sums[..n]);
        let m = Mat::strided(m, n, n, CHUNK);
        let dxdt = MatMut::strided(&mut b.dxdt[i * size..], n, size, cols);
        gemm(one, dxdt, Store::Accumulate, 1.0, m.t(), dy_rows);

        let (d, rate) = (input.d[head], rate(input.a_log[head]));
        vectorized(
            #[inline(always)]
            || {
                for t in 0..n {
                    let rows = start + t * width..start + t * width + size;
                    let (x, dy) = (&input.x[rows.clone()], &dy[rows.clone()]);
                    let dxdt = &b.dxdt[t * cols + i * size..][..size];
                    let dt = b.dt[i * CHUNK + t];
                    // SAFETY: this head's columns of a row, which no other task touches.
                    let dx = unsafe { grads.dx.slice(rows.start, size) };
                    for j in 0..size {
                        dx[j] = dt * dxdt[j] + d * dy[j];
                    }
                    let by_decay = -f64::from(rate) * sums[t];
                    let at = (row + t) * s.heads + head;
                    let ddt = f64::from(dot(x, dxdt)) + by_decay;
                    let ddt = ddt as f32 * softplus_slope(input.dt[at] + input.dt_bias[head]);
                    // SAFETY: as above.
                    unsafe { grads.ddt.slice(at, 1)[0] = ddt };
                    by_params[0] += by_decay * f64::from(dt);
                    by_params[1] += f64::from(ddt);
                    by_params[2] += f64::from(dot(x, dy));
                }
            },
        );
    }
}
