//! One update, written as the formulas read: AdamW, and for the biases of loss-free balancing their own rule.
//!
//! `g` is first scaled by `clip / norm` where the global norm exceeds a positive `clip`; then, at step t,
//! `m <- b1 m + (1 - b1) g`, `v <- b2 v + (1 - b2) g^2`, and
//! `p <- p - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay p)`.
//!
//! A bias moves by `b <- b - gamma sign(g)`, g the load above the mean, and the mean of all is taken away; it counts in
//! no norm.

use backend::{AdamW, Params, State};

/// Applies `rule` to `state` and returns the gradients' global norm before clipping.
pub(crate) fn update(state: &mut State, gradients: &Params, rule: &AdamW) -> f32 {
    let trained = state.params.specs.iter().zip(&gradients.values).filter(|(spec, _)| spec.balance.is_none());
    let squares = trained.flat_map(|(_, g)| g).map(|&g| f64::from(g) * f64::from(g));
    let norm = squares.sum::<f64>().sqrt();
    let clip = f64::from(rule.clip);
    let scale = if clip > 0.0 && norm > clip { (clip / norm) as f32 } else { 1.0 };
    state.step += 1;
    if !norm.is_finite() {
        return norm as f32;
    }
    let unbias = |beta: f32| (1.0 - f64::from(beta).powf(state.step as f64)) as f32;
    let (unbias1, unbias2) = (unbias(rule.beta1), unbias(rule.beta2));
    for (i, spec) in state.params.specs.iter().enumerate() {
        if let Some(gamma) = spec.balance {
            let b = &mut state.params.values[i];
            for (b, &g) in b.iter_mut().zip(&gradients.values[i]) {
                *b -= if g == 0.0 { 0.0 } else { gamma * g.signum() };
            }
            let mean = b.iter().sum::<f32>() / b.len() as f32;
            b.iter_mut().for_each(|b| *b -= mean);
            continue;
        }
        let decay = if spec.decay { rule.weight_decay } else { 0.0 };
        let (p, m, v) = (&mut state.params.values[i], &mut state.m.values[i], &mut state.v.values[i]);
        for (j, g) in gradients.values[i].iter().enumerate() {
            let g = g * scale;
            m[j] = rule.beta1 * m[j] + (1.0 - rule.beta1) * g;
            v[j] = rule.beta2 * v[j] + (1.0 - rule.beta2) * g * g;
            let step = (m[j] / unbias1) / ((v[j] / unbias2).sqrt() + rule.eps);
            p[j] -= rule.lr * (step + decay * p[j]);
        }
    }
    norm as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use backend::{Init, ParamSpec};

    /// Two steps on one decaying and one plain scalar, worked by hand with exact binary constants.
    #[test]
    fn two_steps_by_hand() {
        let spec =
            |name: &str, decay| ParamSpec { name: name.into(), shape: vec![1], init: Init::Ones, decay, balance: None };
        let specs = [spec("a", true), spec("b", false)].into();
        let mut state = State::new(Params::init(specs, 0));
        let mut gradients = Params::zeros(state.params.specs.clone());
        gradients.values = vec![vec![3.0], vec![-4.0]];
        let rule = AdamW { lr: 0.5, beta1: 0.5, beta2: 0.75, eps: 0.0, weight_decay: 0.25, clip: 2.5 };
        // Norm 5 is clipped to 2.5: g = (1.5, -2). At step 1 m/unbias = g and sqrt(v/unbias) = |g|.
        assert_eq!(update(&mut state, &gradients, &rule), 5.0);
        assert_eq!(state.params.values, [[1.0 - 0.5 * (1.0 + 0.25)], [1.0 + 0.5]]);
        assert_eq!((state.m.values[0][0], state.v.values[0][0]), (0.75, 0.5625));
        // A zero gradient at step 2: m = 0.375, v = 0.421875, unbias 0.75 and 0.4375.
        gradients.values = vec![vec![0.0], vec![0.0]];
        assert_eq!(update(&mut state, &gradients, &rule), 0.0);
        let step = 0.5 / (0.421_875_f32 / 0.4375).sqrt();
        let want = 0.375 - 0.5 * (step + 0.25 * 0.375);
        assert!((state.params.values[0][0] - want).abs() < 1e-6, "{:?} {want}", state.params.values);
        assert_eq!(state.step, 2);
    }
}
