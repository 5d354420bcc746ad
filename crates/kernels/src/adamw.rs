//! AdamW with decoupled weight decay, and the sum of squares that clipping by the global norm needs.
//!
//! With g the gradient times `grad_scale`: `m = beta1 m + (1 - beta1) g`, `v = beta2 v + (1 - beta2) g^2`,
//! `p = (1 - lr weight_decay) p - lr mhat / (sqrt(vhat) + eps)`, where `mhat = m / (1 - beta1^step)` and
//! `vhat = v / (1 - beta2^step)` (Loshchilov and Hutter, 2019; the order of PyTorch's AdamW).

use rayon::prelude::*;

use crate::elementwise::check_equal;
use crate::simd::{LANES, vectorized};
use crate::{Error, Result, blocks};

/// One update's rule, the same for every tensor that decays alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// This update's number, from 1.
    pub step: u64,
    /// Factor of the gradient: less than 1 where the global norm is clipped.
    pub grad_scale: f32,
}

/// Updates one tensor and its moments in place.
///
/// # Errors
/// Unequal sizes; step 0.
pub fn update(rule: &Update, param: &mut [f32], grad: &[f32], m: &mut [f32], v: &mut [f32]) -> Result<()> {
    const OP: &str = "adamw";
    check_equal(OP, param.len(), &[("grad", grad.len()), ("m", m.len()), ("v", v.len())])?;
    if rule.step == 0 {
        let remedy = "count updates from 1";
        return Err(Error::Range { op: OP, name: "step", found: 0, range: "1..".into(), remedy });
    }
    let correction = |beta: f32| 1.0 - f64::from(beta).powf(rule.step as f64);
    let step_size = (f64::from(rule.lr) / correction(rule.beta1)) as f32;
    let v_scale = (1.0 / correction(rule.beta2).sqrt()) as f32;
    let keep = 1.0 - rule.lr * rule.weight_decay;
    const BLOCK: usize = blocks::ELEMENTS;
    let state = m.par_chunks_mut(BLOCK).zip(v.par_chunks_mut(BLOCK));
    param.par_chunks_mut(BLOCK).zip(grad.par_chunks(BLOCK)).zip(state).for_each(|((param, grad), (m, v))| {
        vectorized(
            #[inline(always)]
            || {
                for (((p, g), m), v) in param.iter_mut().zip(grad).zip(m).zip(v) {
                    let g = g * rule.grad_scale;
                    *m = rule.beta1 * *m + (1.0 - rule.beta1) * g;
                    *v = rule.beta2 * *v + (1.0 - rule.beta2) * (g * g);
                    *p = keep * *p - step_size * *m / ((*v).sqrt() * v_scale + rule.eps);
                }
            },
        );
    });
    Ok(())
}

/// Sum of squares in f64: tensors' sums added and rooted are the global norm.
pub fn sum_sq(x: &[f32]) -> f64 {
    let blocks = x.par_chunks(blocks::ELEMENTS).map(|x| {
        vectorized(
            #[inline(always)]
            || {
                let mut lanes = [0.0f64; LANES];
                let (chunks, tail) = x.as_chunks::<LANES>();
                for c in chunks {
                    for i in 0..LANES {
                        lanes[i] += f64::from(c[i]) * f64::from(c[i]);
                    }
                }
                for (l, &t) in lanes.iter_mut().zip(tail) {
                    *l += f64::from(t) * f64::from(t);
                }
                lanes.iter().sum::<f64>()
            },
        )
    });
    let blocks: Vec<f64> = blocks.collect();
    blocks.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;

    const RULE: Update =
        Update { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step: 1, grad_scale: 0.5 };

    #[test]
    fn three_updates_against_f64() {
        let n = 37;
        let (mut p, mut m, mut v) = (random(n, 1), vec![0.0; n], vec![0.0; n]);
        let (mut pw, mut mw, mut vw) = (wide(&p), vec![0.0f64; n], vec![0.0f64; n]);
        let [lr, b1, b2, eps, decay, scale] =
            [RULE.lr, RULE.beta1, RULE.beta2, RULE.eps, RULE.weight_decay, RULE.grad_scale].map(f64::from);
        for step in 1..=3 {
            let grad = random(n, 10 + step);
            update(&Update { step, ..RULE }, &mut p, &grad, &mut m, &mut v).unwrap();
            for i in 0..n {
                let g = f64::from(grad[i]) * scale;
                pw[i] -= lr * decay * pw[i];
                mw[i] = b1 * mw[i] + (1.0 - b1) * g;
                vw[i] = b2 * vw[i] + (1.0 - b2) * g * g;
                let mhat = mw[i] / (1.0 - b1.powi(step as i32));
                let vhat = vw[i] / (1.0 - b2.powi(step as i32));
                pw[i] -= lr * mhat / (vhat.sqrt() + eps);
            }
            assert_close("param", &p, &pw);
            assert_close("m", &m, &mw);
            assert_close("v", &v, &vw);
        }
    }

    #[test]
    fn sum_of_squares_keeps_f64_precision() {
        assert_eq!(sum_sq(&[]), 0.0);
        let x: Vec<f32> = random(100_003, 1);
        let want: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        assert!((sum_sq(&x) / want - 1.0).abs() < 1e-12);
    }

    #[test]
    fn same_bits_at_any_thread_count() {
        let n = 100_003;
        let (param, grad) = (random(n, 1), random(n, 2));
        assert_same_bits_at_any_thread_count(|| {
            let (mut p, mut m, mut v) = (param.clone(), vec![0.0; n], vec![0.0; n]);
            update(&RULE, &mut p, &grad, &mut m, &mut v).unwrap();
            vec![p, m, v, vec![sum_sq(&grad) as f32]]
        });
    }

    #[test]
    fn step_0_and_unequal_sizes_are_refused() {
        let zero = update(&Update { step: 0, ..RULE }, &mut [0.0], &[0.0], &mut [0.0], &mut [0.0]);
        assert_eq!(zero.unwrap_err().to_string(), "adamw: step = 0 is out of range 1..; count updates from 1");
        assert!(update(&RULE, &mut [0.0], &[0.0; 2], &mut [0.0], &mut [0.0]).is_err());
    }
}
