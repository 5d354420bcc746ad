//! Ops that treat every token alike: embedding, linear, norms, activations.

use dfdx::prelude::*;

use super::{Matrix, Vector};
use crate::Real;

/// Rows of `table [V, D]`, one per index.
///
/// # Errors
/// If the device fails.
pub fn embedding<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    table: Matrix<E, D, T>,
    rows: Vec<usize>,
) -> Result<Matrix<E, D, T>, D::Err> {
    let shape = (rows.len(),);
    let rows: Tensor<_, usize, D> = table.device().try_tensor_from_vec(rows, shape)?;
    table.try_gather(rows)
}

/// `x w^T (+ bias)`, `x [N, in]`, `w [out, in]`, `bias [out]`.
///
/// # Errors
/// If the device fails.
pub fn linear<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    w: Matrix<E, D, T>,
    bias: Option<Vector<E, D, T>>,
) -> Result<Matrix<E, D, T>, D::Err> {
    let y = x.try_matmul(w.try_permute::<(usize, usize), Axes2<1, 0>>()?)?;
    match bias {
        Some(bias) => add_rows(y, bias),
        None => Ok(y),
    }
}

/// `a + b`, where b may be a.
///
/// # Errors
/// If the device fails.
pub fn add<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    a: Matrix<E, D, T>,
    b: Matrix<E, D, T>,
) -> Result<Matrix<E, D, T>, D::Err> {
    // The product gives a an id of its own: dfdx refuses to add a tensor to itself.
    a.try_mul(E::ONE)?.try_add(b)
}

/// `x / sqrt(mean(x^2) + eps) * gain` over groups of `gain`'s length.
///
/// # Errors
/// If the device fails.
pub fn rms_norm<E: Real, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    gain: Vector<E, D, T>,
    eps: f64,
) -> Result<Matrix<E, D, T>, D::Err> {
    let (shape, group) = (*x.shape(), gain.shape().0);
    let groups = (shape.0 * shape.1 / group, group);
    let x = x.try_reshape_like(&groups)?;
    let square = x.retaped::<T>().try_square()?;
    let rms = square.try_mean::<_, Axis<1>>()?.try_add(E::lift(eps))?.try_sqrt()?;
    let y = x.try_div(rms.try_broadcast_like::<_, Axis<1>>(&groups)?)?;
    scale_columns(y, gain)?.try_reshape_like(&shape)
}

/// `(x - mean) / sqrt(var + eps) * gain + bias` over all columns, var the mean of squares.
///
/// # Errors
/// If the device fails.
pub fn layer_norm<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    gain: Vector<E, D, T>,
    bias: Vector<E, D, T>,
    eps: f64,
) -> Result<Matrix<E, D, T>, D::Err> {
    add_rows(scale_columns(x.try_normalize::<Axis<1>>(eps)?, gain)?, bias)
}

/// `x sigmoid(x)`.
///
/// # Errors
/// If the device fails.
pub fn silu<E: Dtype, D: Device<E>, T: Tape<E, D>>(x: Matrix<E, D, T>) -> Result<Matrix<E, D, T>, D::Err> {
    let gate = x.retaped::<T>().try_sigmoid()?;
    x.try_mul(gate)
}

/// `silu(gate) up`.
///
/// # Errors
/// If the device fails.
pub fn swiglu<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    gate: Matrix<E, D, T>,
    up: Matrix<E, D, T>,
) -> Result<Matrix<E, D, T>, D::Err> {
    silu(gate)?.try_mul(up)
}

/// `x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2`.
///
/// # Errors
/// If the device fails.
pub fn gelu<E: Dtype, D: Device<E>, T: Tape<E, D>>(x: Matrix<E, D, T>) -> Result<Matrix<E, D, T>, D::Err> {
    x.try_fast_gelu()
}

pub(super) fn scale_columns<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    scale: Vector<E, D, T>,
) -> Result<Matrix<E, D, T>, D::Err> {
    let shape = *x.shape();
    x.try_mul(scale.try_broadcast_like::<_, Axis<0>>(&shape)?)
}

pub(super) fn add_rows<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    row: Vector<E, D, T>,
) -> Result<Matrix<E, D, T>, D::Err> {
    let shape = *x.shape();
    x.try_add(row.try_broadcast_like::<_, Axis<0>>(&shape)?)
}
