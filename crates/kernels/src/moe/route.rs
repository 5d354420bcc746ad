//! The router: softmax, choice, sorting by expert, auxiliary losses; and the way back to the logits.

use rayon::prelude::*;

use super::args::{Options, Saved, Shape};
use crate::simd::{dot, exp, sum, vectorized};
use crate::{Result, blocks, check};

/// Chooses and weighs each token's experts and sorts the pairs.
pub(super) fn route(s: Shape, o: Options, logits: &[f32], bias: Option<&[f32]>, saved: &mut Saved) {
    let (e, k) = (s.experts, s.top_k);
    saved.probs.resize(s.tokens * e, 0.0);
    saved.lse.resize(s.tokens, 0.0);
    saved.choices.resize(s.pairs(), 0);
    saved.weights.resize(s.pairs(), 0.0);
    let block = blocks::rows(e);
    let softmax = saved.probs.par_chunks_mut(block * e).zip(saved.lse.par_chunks_mut(block));
    let chosen = saved.choices.par_chunks_mut(block * k).zip(saved.weights.par_chunks_mut(block * k));
    softmax.zip(chosen).zip(logits.par_chunks(block * e)).for_each(|(((probs, lse), (choices, weights)), logits)| {
        let rows = probs.chunks_exact_mut(e).zip(lse).zip(logits.chunks_exact(e));
        vectorized(
            #[inline(always)]
            || {
                for ((probs, lse), logits) in rows {
                    *lse = softmax_row(logits, probs);
                }
            },
        );
        let chosen = choices.chunks_exact_mut(k).zip(weights.chunks_exact_mut(k));
        for (probs, (choices, weights)) in probs.chunks_exact(e).zip(chosen) {
            match bias {
                None => choose(probs.len(), |e| probs[e], choices),
                Some(bias) => choose(probs.len(), |e| probs[e] + bias[e], choices),
            }
            for (w, &e) in weights.iter_mut().zip(&*choices) {
                *w = probs[e as usize];
            }
            if o.renormalize {
                let total: f32 = weights.iter().sum();
                weights.iter_mut().for_each(|w| *w /= total);
            }
        }
    });
    sort(s, saved);
    saved.aux = losses(s, o, saved);
}

/// Softmax of a row; returns the log of its denominator.
#[inline(always)]
fn softmax_row(logits: &[f32], probs: &mut [f32]) -> f32 {
    let max = logits.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    for (p, l) in probs.iter_mut().zip(logits) {
        *p = exp(l - max);
    }
    let total = sum(
        [probs],
        #[inline(always)]
        |[p]| p,
    );
    probs.iter_mut().for_each(|p| *p /= total);
    max + total.ln()
}

/// The experts of the largest scores, largest first, of equals the lowest. Scores of NaN still give different experts:
/// no token is lost.
fn choose(experts: usize, score: impl Fn(usize) -> f32, choices: &mut [u32]) {
    let mut found = 0;
    for e in 0..experts {
        let mut at = found;
        if found < choices.len() {
            found += 1;
        } else if score(e) > score(choices[found - 1] as usize) {
            at -= 1;
        } else {
            continue;
        }
        while at > 0 && score(e) > score(choices[at - 1] as usize) {
            choices[at] = choices[at - 1];
            at -= 1;
        }
        choices[at] = e as u32;
    }
}

/// Sorts pairs by expert, pairs of one expert in their order.
fn sort(s: Shape, saved: &mut Saved) {
    let Saved { choices, firsts, pairs, slots, .. } = saved;
    firsts.clear();
    firsts.resize(s.experts + 1, 0);
    for &e in &*choices {
        firsts[e as usize + 1] += 1;
    }
    for e in 0..s.experts {
        firsts[e + 1] += firsts[e];
    }
    let mut next = firsts.clone();
    pairs.resize(s.pairs(), 0);
    slots.resize(s.pairs(), 0);
    for (pair, &e) in choices.iter().enumerate() {
        let slot = &mut next[e as usize];
        pairs[*slot] = pair as u32;
        slots[pair] = *slot as u32;
        *slot += 1;
    }
}

/// `E / (k N^2)` times the weight: what count times a probability adds to the aux loss.
fn balance_scale(s: Shape, o: Options) -> f32 {
    o.aux_weight * s.experts as f32 / (s.top_k as f32 * (s.tokens as f32).powi(2))
}

/// The auxiliary losses, weighted.
fn losses(s: Shape, o: Options, saved: &Saved) -> f32 {
    let counts: Vec<f32> = saved.load().map(|n| n as f32).collect();
    let row = |p: &[f32]| f64::from(dot(p, &counts));
    let balance = if o.aux_weight == 0.0 { 0.0 } else { saved.probs.chunks_exact(s.experts).map(row).sum::<f64>() };
    let z: f64 = saved.lse.iter().map(|&l| f64::from(l) * f64::from(l)).sum();
    (f64::from(balance_scale(s, o)) * balance + f64::from(o.z_weight) * z / s.tokens as f64) as f32
}

/// Gradient of the logits from that of the pairs' weights, by slot, and of the auxiliary losses.
pub(super) fn backward(s: Shape, o: Options, saved: &Saved, dlogits: &mut [f32]) {
    let (e, k) = (s.experts, s.top_k);
    let scale = balance_scale(s, o);
    let balance: Vec<f32> = saved.load().map(|n| scale * n as f32).collect();
    let z = 2.0 * o.z_weight / s.tokens as f32;
    let block = blocks::rows(e);
    dlogits.par_chunks_mut(block * e).enumerate().for_each(|(b, dlogits)| {
        for (i, row) in dlogits.chunks_exact_mut(e).enumerate() {
            let n = b * block + i;
            let pairs = n * k..(n + 1) * k;
            let (choices, weights) = (&saved.choices[pairs.clone()], &saved.weights[pairs.clone()]);
            let probs = &saved.probs[n * e..][..e];
            let dweight = |j: usize| saved.dweights[saved.slots[n * k + j] as usize];
            row.copy_from_slice(&balance);
            if o.renormalize {
                let total: f32 = choices.iter().map(|&e| probs[e as usize]).sum();
                let mean: f32 = weights.iter().enumerate().map(|(j, w)| w * dweight(j)).sum();
                choices.iter().enumerate().for_each(|(j, &e)| row[e as usize] += (dweight(j) - mean) / total);
            } else {
                choices.iter().enumerate().for_each(|(j, &e)| row[e as usize] += dweight(j));
            }
            vectorized(
                #[inline(always)]
                || {
                    let shift = dot(row, probs) - z * saved.lse[n];
                    for (d, p) in row.iter_mut().zip(probs) {
                        *d = p * (*d - shift);
                    }
                },
            );
        }
    });
}

/// Moves the bias of loss-free balancing by one step: `bias[e] += gamma sign(mean - load[e])`, then takes the mean
/// away, which no choice depends on. `excess[e]` is `load[e] - mean`, of one pass or summed over several.
///
/// # Errors
/// Unequal sizes.
pub fn rebalance(gamma: f32, excess: &[f32], bias: &mut [f32]) -> Result<()> {
    check::size("rebalance", "excess", excess.len(), &[("experts", bias.len())])?;
    for (b, &x) in bias.iter_mut().zip(excess) {
        if x != 0.0 {
            *b -= gamma * x.signum();
        }
    }
    let mean = bias.iter().sum::<f32>() / bias.len().max(1) as f32;
    bias.iter_mut().for_each(|b| *b -= mean);
    Ok(())
}
