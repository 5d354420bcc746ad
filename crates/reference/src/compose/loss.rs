//! Cross entropy with ignored labels.

use dfdx::prelude::*;

use super::{Matrix, Vector};
use crate::Real;

/// What the labels say of the logits.
#[derive(Debug)]
pub struct Loss<E: Real, D: Device<E>, T> {
    /// Mean negative log likelihood over the labelled tokens, in nats; 0 if there is none.
    pub mean: Tensor<(), E, D, T>,
    /// The same per token; 0 where there is no label.
    pub nll: Vector<E, D>,
}

/// Negative log likelihood of `labels` under `softmax(logits [N, V])`.
///
/// # Errors
/// If the device fails.
pub fn cross_entropy<E: Real, D: Device<E>, T: Tape<E, D>>(
    logits: Matrix<E, D, T>,
    labels: &[Option<usize>],
) -> Result<Loss<E, D, T>, D::Err> {
    let device = logits.device().clone();
    let n = (labels.len(),);
    let index: Tensor<_, usize, D> =
        device.try_tensor_from_vec(labels.iter().map(|label| label.unwrap_or(0)).collect(), n)?;
    let sign = labels.iter().map(|label| if label.is_some() { E::lift(-1.0) } else { E::default() }).collect();
    let sign: Vector<E, D> = device.try_tensor_from_vec(sign, n)?;
    let log_p: Vector<E, D, T> = logits.try_contiguous()?.try_log_softmax::<Axis<1>>()?.try_select(index)?;
    let (nll, tape) = log_p.try_mul(sign)?.split_tape();
    let labelled = labels.iter().flatten().count().max(1);
    let mean = nll.clone().put_tape(tape).try_sum::<(), _>()?.try_mul(E::lift(1.0 / labelled as f64))?;
    Ok(Loss { mean, nll })
}
