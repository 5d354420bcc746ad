//! One chunk of a head.

use super::super::{normalise, solve};
use super::{ByRow, Head};
use crate::Store;
use crate::decay::{CHUNK, Decay, add_pair_gradients, rate, softplus_slope};
use crate::gemm::{Mat, MatMut, Threads, gemm};
use crate::simd::{dot, vectorized};

/// A chunk's working memory; K before Q and A before P, so that one product serves both.
pub(super) struct Buffers<'a> {
    /// `[key_size, value_size]`.
    pub(super) dstate: &'a mut [f32],
    /// Normed keys, then queries, `[2 n, key_size]`.
    pub(super) kq: &'a mut [f32],
    /// Their gradients.
    pub(super) dkq: &'a mut [f32],
    /// dr, then do, `[2 n, value_size]`.
    pub(super) rd: &'a mut [f32],
    /// A, then P, `[2 n, CHUNK]`.
    pub(super) pairs: &'a mut [f32],
    /// Their gradients.
    pub(super) dpairs: &'a mut [f32],
    /// `[n, CHUNK]`.
    pub(super) decays: &'a mut [f32],
    /// Gradient of the keys decayed to the end, `[n, key_size]`.
    pub(super) dk_to_end: &'a mut [f32],
}

impl Head<'_> {
    /// The gradients of the chunk's `n` rows from `row` on; returns its share of those by a_log and dt_bias.
    pub(super) fn chunk(&self, chunk: usize, row: usize, n: usize, mut b: Buffers, grads: &ByRow) -> [f64; 2] {
        let Self { s, input, saved, rows, head, place, .. } = self;
        let (key, value, one) = (s.key_size, s.value_size, Threads::One);
        let decay = input.decay(s, *head, row, n);
        let inverse = self.recompute(row, n, &decay, &mut b);
        let beta: [f32; CHUNK] =
            std::array::from_fn(|t| if t < n { input.beta((row + t) * s.heads + head) } else { 0.0 });

        let state = &saved[place.states + chunk * place.stride..][..key * value];
        let state = Mat::new(state, key, value);
        let written = Mat::new(&saved[place.written + (row - rows.start) * value..][..n * value], n, value);
        self.solve(row, n, &decay, &beta, &mut b);
        let rd = Mat::new(b.rd, 2 * n, value);
        let dstate = Mat::new(b.dstate, key, value);
        gemm(one, MatMut::strided(b.dpairs, 2 * n, n, CHUNK), Store::Overwrite, 1.0, rd, written.t());
        gemm(one, MatMut::new(b.dkq, 2 * n, key), Store::Overwrite, 1.0, rd, state.t());
        gemm(one, MatMut::new(b.dk_to_end, n, key), Store::Overwrite, 1.0, written, dstate.t());

        let mut sums = [0.0f64; CHUNK];
        self.pointwise(row, n, &decay, &beta, &mut b, &mut sums, grads);
        let kept = vectorized(
            #[inline(always)]
            || decay.whole * dot(&saved[place.states + chunk * place.stride..][..key * value], b.dstate),
        );
        sums[n - 1] += f64::from(kept);

        // [dk; dq] += dpairs k, and dk += dpairs^T [k; q].
        let dpairs = Mat::strided(b.dpairs, 2 * n, n, CHUNK);
        let kq = Mat::new(b.kq, 2 * n, key);
        let k = Mat::new(&b.kq[..n * key], n, key);
        gemm(one, MatMut::new(b.dkq, 2 * n, key), Store::Accumulate, 1.0, dpairs, k);
        gemm(one, MatMut::new(&mut b.dkq[..n * key], n, key), Store::Accumulate, 1.0, dpairs.t(), kq);
        self.through_norms(row, &inverse, &b, grads);
        let by_params = self.gates(row, n, &mut sums, grads);

        let (k, q) = b.kq.split_at_mut(n * key);
        vectorized(
            #[inline(always)]
            || {
                for t in 0..n {
                    let from_start = decay.from_start[t];
                    k[t * key..][..key].iter_mut().for_each(|k| *k *= -beta[t] * from_start);
                    q[t * key..][..key].iter_mut().for_each(|q| *q *= from_start);
                }
                b.dstate.iter_mut().for_each(|d| *d *= decay.whole);
            },
        );
        let (kq, rd) = (Mat::new(b.kq, 2 * n, key), Mat::new(b.rd, 2 * n, value));
        gemm(one, MatMut::new(b.dstate, key, value), Store::Accumulate, 1.0, kq.t(), rd);
        by_params
    }

    /// Normed keys and queries, decays, and the pairs `[A without beta; P without the scale]`. Returns the inverse norms.
    fn recompute(&self, row: usize, n: usize, decay: &Decay, b: &mut Buffers) -> [[f32; CHUNK]; 2] {
        let Self { s, input, head, .. } = self;
        let (key, width) = (s.key_size, s.heads * s.key_size);
        let (k, q) = b.kq.split_at_mut(n * key);
        let mut inverse = [[0.0; CHUNK]; 2];
        let at = row * width + head * key;
        normalise(&input.k[at..], key, width, &mut inverse[0], k);
        normalise(&input.q[at..], key, width, &mut inverse[1], q);
        decay.pairs(b.decays);
        let (kq, k) = (Mat::new(b.kq, 2 * n, key), Mat::new(&b.kq[..n * key], n, key));
        let pairs = MatMut::strided(b.pairs, 2 * n, n, CHUNK);
        gemm(Threads::One, pairs, Store::Overwrite, 1.0, kq, k.t());
        let (a, p) = b.pairs.split_at_mut(n * CHUNK);
        vectorized(
            #[inline(always)]
            || {
                for t in 0..n {
                    let decays = &b.decays[t * CHUNK..][..CHUNK];
                    // Beyond the chunk's tokens lies what another pass left.
                    let (a, p) = (&mut a[t * CHUNK..][..CHUNK], &mut p[t * CHUNK..][..CHUNK]);
                    for i in 0..CHUNK {
                        a[i] = if i < t { a[i] * decays[i] } else { 0.0 };
                        p[i] = if i <= t { p[i] * decays[i] } else { 0.0 };
                    }
                }
            },
        );
        inverse
    }

    /// `[dr; do]` in `rd`, and beta in A.
    fn solve(&self, row: usize, n: usize, decay: &Decay, beta: &[f32; CHUNK], b: &mut Buffers) {
        let (key, value, one) = (self.s.key_size, self.s.value_size, Threads::One);
        let width = self.s.heads * value;
        let scale = 1.0 / (key as f32).sqrt();
        let d_o = &self.d_o[row * width + self.head * value..];
        let (dr, d_o_rows) = b.rd.split_at_mut(n * value);
        vectorized(
            #[inline(always)]
            || {
                for t in 0..n {
                    for (d, x) in d_o_rows[t * value..][..value].iter_mut().zip(&d_o[t * width..][..value]) {
                        *d = scale * x;
                    }
                    // dk_to_end is written later: until then it holds the keys decayed to the end.
                    for (d, k) in b.dk_to_end[t * key..][..key].iter_mut().zip(&b.kq[t * key..][..key]) {
                        *d = decay.to_end[t] * k;
                    }
                    b.pairs[t * CHUNK..][..CHUNK].iter_mut().for_each(|a| *a *= beta[t]);
                }
            },
        );
        let (k_to_end, dstate) = (Mat::new(b.dk_to_end, n, key), Mat::new(b.dstate, key, value));
        gemm(one, MatMut::new(dr, n, value), Store::Overwrite, 1.0, k_to_end, dstate);
        let p = Mat::strided(&b.pairs[n * CHUNK..], n, n, CHUNK);
        gemm(one, MatMut::new(dr, n, value), Store::Accumulate, 1.0, p.t(), Mat::new(d_o_rows, n, value));
        solve::lower_transposed(&b.pairs[..n * CHUNK], n, dr, value);
    }

    /// Everything row by row: dv, db, the parts of dk and dq that pass by the state, dG, and in `dpairs` the gradients by
    /// the products k.k and q.k.
    fn pointwise(
        &self,
        row: usize,
        n: usize,
        decay: &Decay,
        beta: &[f32; CHUNK],
        b: &mut Buffers,
        sums: &mut [f64; CHUNK],
        grads: &ByRow,
    ) {
        let Self { s, input, head, .. } = self;
        let (key, value, width) = (s.key_size, s.value_size, s.heads * s.value_size);
        let (dk, dq) = b.dkq.split_at_mut(n * key);
        let (da, dp) = b.dpairs.split_at_mut(n * CHUNK);
        let (a, p) = b.pairs.split_at(n * CHUNK);
        let mut to_end = 0.0f64;
        vectorized(
            #[inline(always)]
            || {
                for t in 0..n {
                    let (k, q) = (&b.kq[t * key..][..key], &b.kq[(n + t) * key..][..key]);
                    let (dk, dq) = (&mut dk[t * key..][..key], &mut dq[t * key..][..key]);
                    let through_end = &b.dk_to_end[t * key..][..key];
                    let from_start = decay.from_start[t];
                    let by_state = -from_start * dot(k, dk);
                    let by_end = decay.to_end[t] * dot(k, through_end);
                    sums[t] += f64::from(from_start * dot(q, dq)) + f64::from(beta[t] * by_state) - f64::from(by_end);
                    to_end += f64::from(by_end);
                    for i in 0..key {
                        dk[i] = decay.to_end[t] * through_end[i] - beta[t] * from_start * dk[i];
                        dq[i] *= from_start;
                    }
                    let dr = &b.rd[t * value..][..value];
                    let at = (row + t) * width + head * value;
                    // SAFETY: this head's columns of a row, which no other task touches.
                    let dv = unsafe { grads.dv.slice(at, value) };
                    for (dv, dr) in dv.iter_mut().zip(dr) {
                        *dv = beta[t] * dr;
                    }
                    // dA = -dr v'^T: what is stored is dr v'^T.
                    let (da, dp) = (&mut da[t * CHUNK..][..CHUNK], &mut dp[t * CHUNK..][..CHUNK]);
                    for i in 0..CHUNK {
                        da[i] = if i < t { -da[i] } else { 0.0 };
                        dp[i] = if i <= t { dp[i] } else { 0.0 };
                    }
                    // A has beta in it, and is 0 from the diagonal on.
                    let by_beta = beta[t] * (dot(dr, &input.v[at..at + value]) + by_state);
                    let by_pairs = dot(&a[t * CHUNK..][..CHUNK], da);
                    // SAFETY: this head's column of a row, which no other task touches.
                    unsafe {
                        grads.db.slice((row + t) * s.heads + head, 1)[0] = (1.0 - beta[t]) * (by_beta + by_pairs)
                    };
                }
                add_pair_gradients([(da, a), (dp, p)], &mut sums[..n]);
                for t in 0..n {
                    let decays = &b.decays[t * CHUNK..][..CHUNK];
                    let (da, dp) = (&mut da[t * CHUNK..][..CHUNK], &mut dp[t * CHUNK..][..CHUNK]);
                    for i in 0..CHUNK {
                        da[i] *= beta[t] * decays[i];
                        dp[i] *= decays[i];
                    }
                }
            },
        );
        sums[n - 1] += to_end;
    }

    /// dk and dq of the normed rows become those of the rows given.
    fn through_norms(&self, row: usize, inverse: &[[f32; CHUNK]; 2], b: &Buffers, grads: &ByRow) {
        let (key, width) = (self.s.key_size, self.s.heads * self.s.key_size);
        let n = b.kq.len() / (2 * key);
        vectorized(
            #[inline(always)]
            || {
                for (part, grad) in [&grads.dk, &grads.dq].into_iter().enumerate() {
                    for t in 0..n {
                        let at = (part * n + t) * key;
                        let (x, dx) = (&b.kq[at..at + key], &b.dkq[at..at + key]);
                        let along = dot(x, dx);
                        // SAFETY: this head's columns of a row, which no other task touches.
                        let out = unsafe { grad.slice((row + t) * width + self.head * key, key) };
                        for i in 0..key {
                            out[i] = inverse[part][t] * (dx[i] - x[i] * along);
                        }
                    }
                }
            },
        );
    }

    /// da of the chunk from dG; returns its share of the gradients by a_log and dt_bias.
    fn gates(&self, row: usize, n: usize, sums: &mut [f64; CHUNK], grads: &ByRow) -> [f64; 2] {
        let Self { s, input, head, .. } = self;
        Decay::gradient(&mut sums[..n]);
        let mut by_params = [0.0; 2];
        for t in 0..n {
            let at = (row + t) * s.heads + head;
            let dg = sums[t] as f32;
            let da = -dg * rate(input.a_log[*head]) * softplus_slope(input.a[at] + input.dt_bias[*head]);
            // SAFETY: this head's column of a row, which no other task touches.
            unsafe { grads.da.slice(at, 1)[0] = da };
            by_params[0] += f64::from(dg * input.log_decay(*head, at));
            by_params[1] += f64::from(da);
        }
        by_params
    }
}
