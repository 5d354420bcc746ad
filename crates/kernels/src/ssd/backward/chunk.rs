//! One chunk of a tile.

use super::super::Task;
use super::{ByParams, ByRow, Pass};
use crate::Store;
use crate::decay::{CHUNK, Decay, add_pair_gradients, rate, softplus_slope};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::simd::{dot, vectorized};

/// A chunk's working memory.
pub(super) struct Buffers<'a> {
    /// `[state_size, cols]`.
    pub(super) dstate: &'a mut [f32],
    /// dt, `[heads, CHUNK]`.
    pub(super) dt: &'a mut [f32],
    /// dt x, `[n, cols]`.
    pub(super) xdt: &'a mut [f32],
    /// Its gradient.
    pub(super) dxdt: &'a mut [f32],
    /// `e^G dy`, `[n, cols]`.
    pub(super) decayed: &'a mut [f32],
    /// c S, `[n, cols]`.
    pub(super) read: &'a mut [f32],
    /// c b^T, `[n, CHUNK]`.
    pub(super) products: &'a mut [f32],
    /// Its gradient, of all heads.
    pub(super) dproducts: &'a mut [f32],
    /// A head's decays of pairs, its M, and the gradient by M, each `[n, CHUNK]`.
    pub(super) pairs: [&'a mut [f32]; 3],
}

impl Task {
    /// The gradients of the chunk's `n` rows from `row` on; adds its heads' shares of those by parameters.
    pub(super) fn backward_chunk(
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
