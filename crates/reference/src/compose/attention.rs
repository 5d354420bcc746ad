//! Rotary positions and causal softmax attention, sequence by sequence.

use dfdx::prelude::*;

use super::Matrix;
use crate::{Layout, Real};

/// Rotates each head's halves `(a, b)` by the angle `position theta^(-2 i / head_size)` of pair i:
/// `(a cos - b sin, b cos + a sin)`.
///
/// # Errors
/// If the device fails.
pub fn rope<E: Real, D: Device<E>, T: Tape<E, D>>(
    x: Matrix<E, D, T>,
    heads: usize,
    theta: f64,
    layout: &Layout,
) -> Result<Matrix<E, D, T>, D::Err> {
    let shape @ (n, cols) = *x.shape();
    let size = cols / heads;
    let half = size / 2;
    let by_head = (n * heads, size);
    let (mut cos, mut sin) = (Vec::with_capacity(n * cols), Vec::with_capacity(n * cols));
    for position in layout.positions() {
        for column in 0..cols {
            let i = column % size;
            let angle = position as f64 * theta.powf(-2.0 * (i % half) as f64 / size as f64);
            cos.push(E::lift(angle.cos()));
            sin.push(E::lift(if i < half { -angle.sin() } else { angle.sin() }));
        }
    }
    let device = x.device().clone();
    let cos = device.try_tensor_from_vec(cos, by_head)?;
    let sin = device.try_tensor_from_vec(sin, by_head)?;
    let x = x.try_reshape_like(&by_head)?;
    // A roll by half a head swaps its halves; the sign is in `sin`.
    let swapped = x.retaped::<T>().try_roll::<Axis<1>>(half)?.try_mul(sin)?;
    x.try_mul(cos)?.try_add(swapped)?.try_reshape_like(&shape)
}

/// `softmax(q k^T / sqrt(head_size)) v` per head, over the tokens each one sees.
///
/// # Errors
/// If the device fails.
pub fn attention<E: Real, D: Device<E>, T: Tape<E, D>>(
    q: Matrix<E, D, T>,
    k: Matrix<E, D, T>,
    v: Matrix<E, D, T>,
    heads: usize,
    layout: &Layout,
) -> Result<Matrix<E, D, T>, D::Err> {
    type Heads = (usize, usize, usize, usize);
    let shape @ (_, cols) = *q.shape();
    let (batch, len, size) = (layout.batch(), layout.seq_len(), cols / heads);
    let split = (batch, len, heads, size);
    // Borders exist only in batches of one row, so all rows share the mask of the first.
    let masked = E::lift(-1e30);
    let mask = (0..len * len).map(|i| if layout.sees(i / len, i % len) { E::default() } else { masked });
    let mask = q.device().try_tensor_from_vec(mask.collect(), (len, len))?;
    // The product gives q an id of its own: q and k may be one value, and dfdx refuses to multiply a tensor by itself.
    let q = q.try_mul(E::lift(1.0 / (size as f64).sqrt()))?;
    let q = q.try_reshape_like(&split)?.try_permute::<Heads, Axes4<0, 2, 1, 3>>()?;
    let k = k.try_reshape_like(&split)?.try_permute::<Heads, Axes4<0, 2, 3, 1>>()?;
    let v = v.try_reshape_like(&split)?.try_permute::<Heads, Axes4<0, 2, 1, 3>>()?;
    let scores = q.try_matmul(k)?;
    let scores = scores.try_add(mask.try_broadcast_like::<_, Axes2<0, 1>>(&(batch, heads, len, len))?)?;
    let y = scores.try_softmax::<Axis<3>>()?.try_matmul(v)?;
    y.try_permute::<Heads, Axes4<0, 2, 1, 3>>()?.try_reshape_like(&shape)
}
