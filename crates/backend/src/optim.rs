//! AdamW with decoupled decay and clipping by the global norm: the rule every backend applies.

use crate::params::Params;

/// The rule of one update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled weight decay, applied to parameters that decay.
    pub weight_decay: f32,
    /// Global gradient norm above which gradients are scaled down; 0 leaves them.
    pub clip: f32,
}

/// What takes the place of the gradient of a balancing bias: each expert's load above the mean.
///
/// ```
/// assert_eq!(backend::excess_load(&[5, 0, 1]), [3.0, -2.0, -1.0]);
/// ```
pub fn excess_load(load: &[usize]) -> Vec<f32> {
    let mean = load.iter().sum::<usize>() as f64 / load.len().max(1) as f64;
    load.iter().map(|&n| (n as f64 - mean) as f32).collect()
}

/// What training changes: parameters, both moments and the number of updates made.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Parameters.
    pub params: Params,
    /// First moments.
    pub m: Params,
    /// Second moments.
    pub v: Params,
    /// Updates made so far.
    pub step: u64,
}

impl State {
    /// A fresh state around these parameters.
    pub fn new(params: Params) -> Self {
        let zeros = Params::zeros(params.specs.clone());
        Self { params, m: zeros.clone(), v: zeros, step: 0 }
    }
}
