//! The convolution in f64, one token after the other: the definition itself, for comparison.
//!
//! taps[t, w, d] = weight[t, d / head_size, w] or sum_r z[t, r] U[r, w, d], + static_w[w, d]; pre = sum_w taps x[t - w];
//! y = act(pre) (+ x). Backward by scattering: g = dy act'(pre); P[w, d] = g[d] x[t - w, d] is the gradient of the taps, and
//! taps g of x[t - w].

use crate::case::{Case, Op};
use crate::values::{Operands, Results};

/// Every result of a case, all streams.
pub fn reference(case: &Case, operands: &Operands) -> Results<f64> {
    let one = Case { streams: 1, ..case.clone() };
    Results::join((0..case.streams).map(|s| stream(&one, &operands.stream(case, s))).collect())
}

fn stream(case: &Case, input: &Operands) -> Results<f64> {
    let (n, d, w) = (case.rows(), case.d, case.width);
    let zeros = |len: usize| vec![0.0; len];
    let mut out = Results {
        y: zeros(n * d),
        final_state: zeros(input.state.len()),
        dx: zeros(n * d),
        dtaps: zeros(input.taps.len()),
        du: zeros(input.u.len()),
        dstatic_w: zeros(input.static_w.len()),
        dstate: zeros(input.state.len()),
    };
    let history = (w - 1) * d;
    for (s, (first, end)) in case.sequences().into_iter().enumerate() {
        // The sequence with its history before it, and the gradients of both.
        let rows = end - first + w - 1;
        let (mut x, mut dx) = (zeros(rows * d), zeros(rows * d));
        if case.state {
            let state = &input.state[s * history..(s + 1) * history];
            x.iter_mut().zip(state).for_each(|(x, &v)| *x = f64::from(v));
            let dfinal = &input.dfinal[s * history..(s + 1) * history];
            dx[(end - first) * d..].iter_mut().zip(dfinal).for_each(|(g, &v)| *g = f64::from(v));
        }
        x[history..].iter_mut().zip(&input.x[first * d..end * d]).for_each(|(x, &v)| *x = f64::from(v));
        for t in first..end {
            token(case, input, t, t - first + w - 1, &x, &mut dx, &mut out);
        }
        out.dx[first * d..end * d].copy_from_slice(&dx[history..]);
        if case.state {
            out.final_state[s * history..(s + 1) * history].copy_from_slice(&x[(end - first) * d..]);
            out.dstate[s * history..(s + 1) * history].copy_from_slice(&dx[..history]);
        }
    }
    out
}

/// One token: row `t` of the batch, row `at` of x and dx.
fn token(case: &Case, input: &Operands, t: usize, at: usize, x: &[f64], dx: &mut [f64], out: &mut Results<f64>) {
    let (d, w) = (case.d, case.width);
    let own = &input.taps[t * case.columns()..(t + 1) * case.columns()];
    let mut taps = vec![0.0; w * d];
    taps.iter_mut().zip(&input.static_w).for_each(|(tap, &v)| *tap = f64::from(v));
    match case.op {
        Op::Static => {}
        Op::HeadWise { head_size } => {
            for (k, row) in taps.chunks_exact_mut(d).enumerate() {
                row.iter_mut().enumerate().for_each(|(c, tap)| *tap += f64::from(own[c / head_size * w + k]));
            }
        }
        Op::LowRank { .. } => {
            for (&z, u) in own.iter().zip(input.u.chunks_exact(w * d)) {
                taps.iter_mut().zip(u).for_each(|(tap, &u)| *tap += f64::from(z) * f64::from(u));
            }
        }
    }
    let mut products = vec![0.0; w * d];
    for c in 0..d {
        let pre: f64 = (0..w).map(|k| taps[k * d + c] * x[(at - k) * d + c]).sum();
        let dy = f64::from(input.dy[t * d + c]);
        let sigmoid = 1.0 / (1.0 + (-pre).exp());
        let (act, slope) =
            if case.silu { (pre * sigmoid, sigmoid * (1.0 + pre * (1.0 - sigmoid))) } else { (pre, 1.0) };
        let residual = if case.residual { 1.0 } else { 0.0 };
        out.y[t * d + c] = act + residual * x[at * d + c];
        dx[at * d + c] += residual * dy;
        let g = dy * slope;
        for k in 0..w {
            products[k * d + c] = g * x[(at - k) * d + c];
            dx[(at - k) * d + c] += g * taps[k * d + c];
        }
    }
    out.dstatic_w.iter_mut().zip(&products).for_each(|(sum, p)| *sum += p);
    let dtaps = &mut out.dtaps[t * own.len()..(t + 1) * own.len()];
    match case.op {
        Op::Static => {}
        Op::HeadWise { head_size } => {
            for (k, row) in products.chunks_exact(d).enumerate() {
                row.iter().enumerate().for_each(|(c, p)| dtaps[c / head_size * w + k] += p);
            }
        }
        Op::LowRank { .. } => {
            for (r, u) in input.u.chunks_exact(w * d).enumerate() {
                let z = f64::from(own[r]);
                dtaps[r] = products.iter().zip(u).map(|(p, &u)| p * f64::from(u)).sum();
                let du = &mut out.du[r * w * d..(r + 1) * w * d];
                du.iter_mut().zip(&products).for_each(|(sum, p)| *sum += z * p);
            }
        }
    }
}
