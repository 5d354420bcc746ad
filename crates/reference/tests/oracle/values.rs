//! The values of each composed op against its formula in plain loops: consistent gradients alone would not show that a
//! rotation turns the wrong way.

use dfdx::prelude::*;
use reference::Layout;
use reference::compose::{self, Dynamic, Matrix};

use crate::common::{distance, norm};

const N: usize = 6;
const D: usize = 8;
const HEADS: usize = 2;
/// Head size.
const S: usize = D / HEADS;

fn normal(dev: &Cpu, rows: usize, columns: usize) -> Matrix<f64, Cpu> {
    dev.sample_normal_like(&(rows, columns))
}

/// `f(n, d)` for every element of an `[N, D]` matrix.
fn matrix(f: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    (0..N * D).map(|i| f(i / D, i % D)).collect()
}

fn check(op: &str, have: Matrix<f64, Cpu>, want: impl Fn(usize, usize) -> f64) {
    let (have, want) = (have.as_vec(), matrix(want));
    assert!(distance(&have, &want) <= 1e-13 * norm(&want), "{op}: {have:?} against {want:?}");
}

fn sum(n: usize, f: impl Fn(usize) -> f64) -> f64 {
    (0..n).map(f).sum()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn ops_that_treat_tokens_alike() {
    let dev = Cpu::seed_from_u64(3);
    let (x, y, w) = (normal(&dev, N, D), normal(&dev, N, D), normal(&dev, D, D));
    let (gain, bias) = (dev.sample_normal_like(&(D,)), dev.sample_normal_like(&(D,)));
    let head_gain = dev.sample_normal_like(&(S,));
    let at = |n: usize, d: usize| x[[n, d]];

    let rows = vec![4, 0, 4, 5, 1, 2];
    check("embedding", compose::embedding(x.clone(), rows.clone()).unwrap(), |n, d| at(rows[n], d));
    check("linear", compose::linear(x.clone(), w.clone(), Some(bias.clone())).unwrap(), |n, d| {
        sum(D, |i| at(n, i) * w[[d, i]]) + bias[[d]]
    });
    check("add", compose::add(x.clone(), y.clone()).unwrap(), |n, d| at(n, d) + y[[n, d]]);
    check("rms_norm", compose::rms_norm(x.clone(), gain.clone(), 0.5).unwrap(), |n, d| {
        at(n, d) / (sum(D, |i| at(n, i).powi(2)) / D as f64 + 0.5).sqrt() * gain[[d]]
    });
    check("rms_norm of heads", compose::rms_norm(x.clone(), head_gain.clone(), 0.5).unwrap(), |n, d| {
        let mean = sum(S, |i| at(n, d / S * S + i).powi(2)) / S as f64;
        at(n, d) / (mean + 0.5).sqrt() * head_gain[[d % S]]
    });
    check("layer_norm", compose::layer_norm(x.clone(), gain.clone(), bias.clone(), 0.5).unwrap(), |n, d| {
        let mean = sum(D, |i| at(n, i)) / D as f64;
        let var = sum(D, |i| (at(n, i) - mean).powi(2)) / D as f64;
        (at(n, d) - mean) / (var + 0.5).sqrt() * gain[[d]] + bias[[d]]
    });
    check("swiglu", compose::swiglu(x.clone(), y.clone()).unwrap(), |n, d| at(n, d) * sigmoid(at(n, d)) * y[[n, d]]);
    check("gelu", compose::gelu(x.clone()).unwrap(), |n, d| {
        let v = at(n, d);
        // (1 + tanh(a)) / 2 = sigmoid(2 a)
        v * sigmoid(2.0 * (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v.powi(3)))
    });
}

#[test]
fn cross_entropy_over_the_labelled() {
    let logits = normal(&Cpu::seed_from_u64(4), N, D);
    let labels = [Some(3), None, Some(0), Some(7), None, Some(3)];
    let loss = compose::cross_entropy(logits.clone(), &labels).unwrap();
    let nll =
        |n: usize| labels[n].map_or(0.0, |label| -(logits[[n, label]].exp() / sum(D, |d| logits[[n, d]].exp())).ln());
    assert!((loss.mean.array() - sum(N, nll) / 4.0).abs() < 1e-14);
    assert!(distance(&loss.nll.as_vec(), &(0..N).map(nll).collect::<Vec<_>>()) < 1e-14);
}

/// Two rows of three tokens: positions 0, 1, 2 twice.
#[test]
fn ops_along_the_row() {
    let dev = Cpu::seed_from_u64(5);
    let layout = Layout::rows(2, 3);
    let [q, k, v] = [0; 3].map(|_| normal(&dev, N, D));
    let theta = 100.0_f64;
    check("rope", compose::rope(q.clone(), HEADS, theta, &layout).unwrap(), |n, d| {
        let (start, i) = (d / S * S, d % S % (S / 2));
        let (a, b) = (q[[n, start + i]], q[[n, start + i + S / 2]]);
        let angle = (n % 3) as f64 / theta.powf(2.0 * i as f64 / S as f64);
        if d % S < S / 2 { a * angle.cos() - b * angle.sin() } else { a * angle.sin() + b * angle.cos() }
    });
    check("attention", compose::attention(q.clone(), k.clone(), v.clone(), HEADS, &layout).unwrap(), |n, d| {
        let head = d / S * S;
        let weight = |m: usize| (sum(S, |i| q[[n, head + i]] * k[[m, head + i]]) / (S as f64).sqrt()).exp();
        let row = n / 3 * 3;
        sum(n - row + 1, |m| weight(row + m) * v[[row + m, d]]) / sum(n - row + 1, |m| weight(row + m))
    });

    const W: usize = 2;
    const R: usize = 3;
    let (static_w, weight) = (normal(&dev, W, D), normal(&dev, N, HEADS * W));
    let (z, u) = (normal(&dev, N, R), normal(&dev, R, W * D));
    let by_head = |n: usize, w: usize, d: usize| weight[[n, d / S * W + w]];
    let by_code = |n: usize, w: usize, d: usize| sum(R, |r| z[[n, r]] * u[[r, w * D + d]]);
    let conv = |n: usize, d: usize, taps: &dyn Fn(usize, usize, usize) -> f64| {
        sum(W.min(n % 3 + 1), |w| (taps(n, w, d) + static_w[[w, d]]) * v[[n - w, d]])
    };
    let composed = |dynamic| compose::short_conv(v.clone(), dynamic, Some(static_w.clone()), W, &layout).unwrap();
    check("static conv", composed(None), |n, d| conv(n, d, &|_, _, _| 0.0));
    check("head-wise conv", composed(Some(Dynamic::HeadWise(weight.clone()))), |n, d| conv(n, d, &by_head));
    check("low-rank conv", composed(Some(Dynamic::LowRank(z.clone(), u.clone()))), |n, d| conv(n, d, &by_code));
}
