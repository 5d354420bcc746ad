//! Mixtures of experts, densely: every expert runs on every token and a mask leaves out what was not chosen.

use backend::Moe;
use dfdx::prelude::*;

use super::{Matrix, swiglu};
use crate::Real;

/// The weights of all experts: gate and up `[E F, D]`, down `[E D, F]`.
#[derive(Debug)]
pub struct Experts<E: Dtype, D: Device<E>, T = NoneTape> {
    /// Gates.
    pub gate: Matrix<E, D, T>,
    /// Ups.
    pub up: Matrix<E, D, T>,
    /// Downs.
    pub down: Matrix<E, D, T>,
}

/// What a mixture gives.
#[derive(Debug)]
pub struct Mixture<E: Real, D: Device<E>, T> {
    /// The weighted sum of the chosen experts `[N, D]`, with the tape of both results.
    pub y: Matrix<E, D, T>,
    /// The auxiliary losses, weighted.
    pub aux: Tensor<(), E, D>,
    /// Tokens of each expert.
    pub load: Vec<usize>,
}

/// Runs the experts on `x [N, D]`, chosen by `softmax(logits [N, E])` plus `bias [E]` and weighted by the softmax alone.
///
/// # Errors
/// If the device fails.
pub fn moe<E: Real, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    logits: Matrix<E, D, T>,
    experts: Experts<E, D, T>,
    bias: Option<Vec<E>>,
    options: &Moe,
) -> Result<Mixture<E, D, T>, D::Err> {
    let (shape @ (n, d), routes) = (*x.shape(), *logits.shape());
    let (count, ffn) = (routes.1, experts.down.shape().1);
    let logits = logits.try_contiguous()?;
    let lse = logits.retaped::<T>().try_logsumexp::<_, Axis<1>>()?;
    let z: Tensor<(), E, D, T> = lse.try_square()?.try_mean()?.try_mul(E::lift(options.z_weight.into()))?;
    let probs = logits.try_softmax::<Axis<1>>()?;

    let chosen = choose(&probs.as_vec(), bias.as_deref(), count, options.top_k);
    let mut load = vec![0; count];
    let mut mask = vec![E::default(); n * count];
    for (token, &e) in chosen.iter().enumerate().map(|(pair, e)| (pair / options.top_k, e)) {
        load[e] += 1;
        mask[token * count + e] = E::ONE;
    }

    let scale = f64::from(options.aux_weight) * count as f64 / (options.top_k * n * n) as f64;
    let by_load = load.iter().map(|&l| E::lift(scale * l as f64)).collect();
    let by_load: Tensor<(usize,), E, D> = probs.device().try_tensor_from_vec(by_load, (count,))?;
    let by_load = by_load.try_broadcast_like::<_, Axis<0>>(&routes)?;
    let balance: Tensor<(), E, D, T> = probs.retaped::<T>().try_mul(by_load)?.try_sum()?;
    let (aux, aux_tape) = balance.try_add(z)?.split_tape();

    let mask = probs.device().try_tensor_from_vec(mask, routes)?;
    let mut weights = probs.try_mul(mask)?;
    if options.renormalize {
        let total = weights.retaped::<T>().try_sum::<_, Axis<1>>()?.try_broadcast_like::<_, Axis<1>>(&routes)?;
        weights = weights.try_div(total)?;
    }
    let (weights, weights_tape) = weights.try_permute::<(usize, usize), Axes2<1, 0>>()?.split_tape();
    let (gate, gate_tape) = experts.gate.try_reshape_like(&(count, ffn, d))?.split_tape();
    let (up, up_tape) = experts.up.try_reshape_like(&(count, ffn, d))?.split_tape();
    let (down, down_tape) = experts.down.try_reshape_like(&(count, d, ffn))?.split_tape();
    let (x, x_tape) = x.split_tape();
    let tape = [aux_tape, weights_tape, gate_tape, up_tape, down_tape].into_iter().fold(x_tape, |all, t| all.merge(t));
    let mut y = x.device().try_zeros_like(&shape)?.put_tape(tape);
    for e in 0..count {
        let index: Tensor<(), usize, D> = x.device().try_tensor_from_vec(vec![e], ())?;
        let times = |x: Matrix<E, D, T>, w: &Tensor<(usize, usize, usize), E, D>| {
            let w: Matrix<E, D, T> = w.retaped::<T>().try_select(index.clone())?;
            super::linear(x, w, None)
        };
        let hidden = swiglu(times(x.retaped::<T>(), &gate)?, times(x.retaped::<T>(), &up)?)?;
        let weight: Tensor<(usize,), E, D, T> = weights.retaped::<T>().try_select(index.clone())?;
        let weight = weight.try_broadcast_like::<_, Axis<1>>(&shape)?;
        y = y.try_add(times(hidden, &down)?.try_mul(weight)?)?;
    }
    Ok(Mixture { y, aux, load })
}

/// The `top_k` experts of each token, of equal scores the lowest first.
fn choose<E: Real>(probs: &[E], bias: Option<&[E]>, experts: usize, top_k: usize) -> Vec<usize> {
    let row = |probs: &[E]| {
        let score = |e: usize| probs[e].lower() + bias.map_or(0.0, |b| b[e].lower());
        let mut order: Vec<usize> = (0..experts).collect();
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
        order.truncate(top_k);
        order
    };
    probs.chunks(experts).flat_map(row).collect()
}
