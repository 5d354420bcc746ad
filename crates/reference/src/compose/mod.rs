//! The coarse ops, composed from dfdx primitives; their gradients are whatever dfdx makes of the composition.
//!
//! Values are matrices `[N, columns]`, N the tokens of all rows. Every function takes its inputs with tapes of their
//! own and returns its output with the tapes merged, on any dfdx device. They refuse only what the device refuses
//! (memory); shapes are the caller's to check, as [`backend::Tape`] does, and dfdx panics where they do not fit.

mod attention;
mod loss;
mod moe;
mod pointwise;
mod recurrent;
mod short_conv;

pub use attention::{attention, rope};
pub use loss::{Loss, cross_entropy};
pub use moe::{Experts, Mixture, moe};
pub use pointwise::{add, embedding, gelu, layer_norm, linear, rms_norm, silu, swiglu};
pub use recurrent::{gated_delta_rule, ssd};
pub use short_conv::{Dynamic, short_conv};

use dfdx::prelude::*;

/// A matrix of run-time size.
pub type Matrix<E, D, T = NoneTape> = Tensor<(usize, usize), E, D, T>;

/// A vector of run-time size.
pub type Vector<E, D, T = NoneTape> = Tensor<(usize,), E, D, T>;

/// The rows of `x` scaled by a constant each: how masks are applied.
fn scale_rows<E: Dtype, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    scale: Vec<E>,
) -> Result<Matrix<E, D, T>, D::Err> {
    let shape = *x.shape();
    let scale = x.device().try_tensor_from_vec(scale, (shape.0,))?;
    x.try_mul(scale.try_broadcast_like::<_, Axis<1>>(&shape)?)
}
